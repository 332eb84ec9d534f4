"""What a denoiser makes of corrupted masks: Dice and Hausdorff distances before and after, as table and picture.

Masks are cut at 0.5. Distances are those of the outlines at the network's size. An empty mask has none, and is left
out of their means, which say of how many masks they are; its Dice counts.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.images.checks import ImageError
from jaxseg.nn.metrics import dice, hausdorff
from jaxseg.post_dae.bars import Panel, paired_bars
from jaxseg.post_dae.corrupt import LEVELS, SIDE, corrupt
from jaxseg.post_dae.data import MaskFolder
from jaxseg.text_table import text_table
from jaxseg.training.batches import evaluation_batches
from jaxseg.training.reader import listed
from jaxseg.training.task import Examination

BATCH = 8
WHEN = ("before", "after")
MEASURES = {"dice": "Dice", "hausdorff_95": "Hausdorff 95 %", "hausdorff": "Hausdorff"}

Spacing = tuple[float, float] | None
Part = tuple[str, np.ndarray, np.ndarray]  # a row's name, given and true masks, (B, H, W, C) each


def examine_levels(model, source: Sequence, *, spacing: Spacing = None, on_error: str = "stop") -> Examination:
    """Returns what the model makes of the masks of a source, corrupted to every level of `LEVELS`.

    A mask is corrupted in the same way whenever it is examined.

    Args:
      model: in evaluation mode: masks (B, H, W, C) -> (B, H, W, C) in [0, 1].
      source: of records {"mask": (H, W, C)}, with `name(i)`.
      spacing: distance of rows and of columns in millimetres; None: distances are in pixels.
      on_error: "stop" raises where a record is bad, "skip" leaves it out.

    Raises:
      RecordError: a record is bad; or with "skip", all are.
    """
    return _examination(model, _corrupted(source, on_error), "corruption", spacing)


def compare_folders(
    model, masks: Mapping[str, Path], truth: Path, *, channels: int = 1, grey: str = "soft", spacing: Spacing = None
) -> Examination:
    """Returns what the model makes of masks in folders, measured against the true ones of the same names.

    Names are those of the files without suffix. The masks may be empty or full, the true ones not.

    Args:
      model: as of `examine_levels`; masks are resized to its size.
      masks: a folder a row, such as of a segmenter at one stage of its training.
      truth: folder of the true masks.
      channels, grey: how masks are read; see `MaskFolder`.
      spacing: as of `examine_levels`.

    Raises:
      ValueError: a folder holds no masks, or not just those of the truth; a mask is bad.
    """
    options = {"size": tuple(model.cfg.image_size), "channels": channels, "grey": grey}
    true = MaskFolder(truth, **options)
    pairs = {row: _paired(MaskFolder(folder, **options, blank=True), true) for row, folder in masks.items()}
    parts = ((row, x["given"], x["truth"]) for row, source in pairs.items() for x in _batches(source, "stop"))
    return _examination(model, parts, "masks", spacing)


def mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN where there is none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def measure(masks: np.ndarray, truth: np.ndarray, *, spacing: Spacing = None) -> dict[str, np.ndarray]:
    """Returns "dice", "hausdorff_95" and "hausdorff" of (B, H, W, C) bool masks, (B, C) each; NaN where undefined."""
    masks, truth = (np.ascontiguousarray(np.moveaxis(x, 3, 1)) for x in (masks, truth))
    percentiles = {"hausdorff_95": 95, "hausdorff": 100}
    distances = {name: hausdorff(masks, truth, percentile=p, spacing=spacing) for name, p in percentiles.items()}
    return {"dice": dice(masks, truth)} | distances


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """A source of masks and the true ones."""

    made: MaskFolder
    true: MaskFolder

    def __len__(self) -> int:
        return len(self.true)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"given": _named(self.made, i), "truth": _named(self.true, i)}

    def name(self, i: int) -> str:
        return self.true.name(i)


def _named(source: MaskFolder, i: int) -> np.ndarray:
    """Reads a mask; an error names its folder."""
    try:
        return source[i]["mask"]
    except ImageError as error:
        raise ImageError(f"in {source.root}: {error}") from None


def _paired(made: MaskFolder, true: MaskFolder) -> _Pairs:
    """Brings masks into the order of the true ones, and refuses those without counterparts."""
    files = [_by_name(source) for source in (made, true)]
    for have, lack, folder in ((*files, true.root), (*files[::-1], made.root)):
        if missing := [have[name].name for name in have if name not in lack]:
            raise ValueError(f"{folder} has no counterpart of {listed(missing)}; both folders need the same names")
    return _Pairs(dataclasses.replace(made, files=tuple(files[0][name] for name in files[1])), true)


def _by_name(source: MaskFolder) -> dict[str, Path]:
    found = {path.stem: path for path in source.files}
    if len(found) < len(source):
        twice = [name for name, count in collections.Counter(path.stem for path in source.files).items() if count > 1]
        raise ValueError(f"{source.root}: several files are called {listed(twice)}")
    return found


def _corrupted(source: Sequence, on_error: str) -> Iterator[Part]:
    for batch in _batches(source, on_error):
        keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(batch["index"].astype(np.uint32))
        for level, how in LEVELS.items():
            masks = batch["mask"]
            if how is not None:
                how = how.scaled(masks.shape[1] / SIDE)
                one = jax.vmap(lambda key, mask, how=how: corrupt(key, mask[None], how)[0])
                masks = np.asarray(one(keys, jnp.asarray(masks)))
            yield level, masks, batch["mask"]


def _batches(source: Sequence, on_error: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the good records in batches; the last may be smaller."""
    with contextlib.closing(evaluation_batches(source, _whole, batch_size=BATCH, on_error=on_error)) as batches:
        for batch in batches:
            kept = batch.pop("weight") > 0
            if kept.any():
                yield {name: values[kept] for name, values in batch.items()}


def _whole(record: dict, rng: np.random.Generator) -> dict:
    return record


def _examination(model, parts: Iterable[Part], title: str, spacing: Spacing) -> Examination:
    """Restores and measures every part."""
    restore = jax.jit(type(model).__call__)
    found = collections.defaultdict(lambda: {when: collections.defaultdict(list) for when in WHEN})
    for row, given, truth in parts:
        padded = np.concatenate([given, np.zeros((BATCH - len(given), *given.shape[1:]), given.dtype)])
        restored = np.asarray(restore(model, padded))[: len(given)]
        for when, masks in zip(WHEN, (given, restored), strict=True):
            for name, values in measure(masks > 0.5, truth > 0.5, spacing=spacing).items():
                found[row][when][name].append(values.ravel())
    rows = {
        row: {when: {name: _summary(np.concatenate(x)) for name, x in of.items()} for when, of in both.items()}
        for row, both in found.items()
    }
    unit, size = "pixels" if spacing is None else "mm", list(model.cfg.image_size)
    numbers = {"size": size, "unit": unit, title: rows}
    return Examination(numbers, _table(rows, title, unit, size), _picture(rows, title, unit, size))


def _summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, standard deviation and median of the values that are not NaN, null where there is none; and counts."""
    there = values[~np.isnan(values)]
    statistics = {"mean": np.mean, "std": np.std, "median": np.median}
    numbers = {name: float(function(there)) if there.size else None for name, function in statistics.items()}
    return numbers | {"count": int(there.size), "left_out": int(values.size - there.size)}


def _table(rows: Mapping, title: str, unit: str, size: Sequence[int]) -> str:
    """Returns the means before and after, and the numbers of masks without a distance."""
    header = [title, *(f"{label} {when}" for label in MEASURES.values() for when in WHEN), "without distance"]
    lines = []
    for row, both in rows.items():
        cells = [_cell(both[when][name]["mean"], 4 if name == "dice" else 2) for name in MEASURES for when in WHEN]
        left_out = " -> ".join(str(both[when]["hausdorff"]["left_out"]) for when in WHEN)
        lines.append([row, *cells, left_out])
    return f"{text_table(header, lines)}\n{_caption(rows, unit, size)}"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _caption(rows: Mapping, unit: str, size: Sequence[int]) -> str:
    total = max(sum(both["before"]["hausdorff"][x] for x in ("count", "left_out")) for both in rows.values())
    return f"means of {total} masks of {size[0]} x {size[1]}, distances in {unit}; an empty mask has none"


def _picture(rows: Mapping, title: str, unit: str, size: Sequence[int]):
    panels = []
    for name, label in MEASURES.items():
        pairs = [tuple((both[when][name]["mean"], both[when][name]["std"]) for when in WHEN) for both in rows.values()]
        top, digits = (1.0, 3) if name == "dice" else (None, 1)
        panels.append(Panel(label if name == "dice" else f"{label} ({unit})", tuple(pairs), top, digits))
    return paired_bars(
        panels, list(rows), title=title, series=WHEN, caption=_caption(rows, unit, size) + "; lines: one deviation"
    )
