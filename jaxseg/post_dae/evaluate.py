"""Evaluation of a denoiser: Dice and Hausdorff distances of masks before and after, as a table and a plot.

Beside them stand the baselines of `jaxseg.post_dae.baselines`, which need no network.

Masks are thresholded at 0.5. Distances are between outlines at the network's size. An empty mask has no distance and is
left out of the mean distances, which state their number of masks; its Dice is included.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.draw.plots import Panel, paired_bars
from jaxseg.images.picture import ImageError
from jaxseg.masks.cohort import is_cohort_file
from jaxseg.nn.metrics import dice, hausdorff
from jaxseg.post_dae.baselines import Shapes
from jaxseg.post_dae.corrupt import LEVELS, SIDE, corrupt
from jaxseg.post_dae.data import MaskFolder
from jaxseg.post_dae.unseen import KINDS, apply_kind
from jaxseg.text_table import text_table
from jaxseg.training.batches import evaluation_batches
from jaxseg.training.reader import listed
from jaxseg.training.task import Examination

BATCH = 8
WHEN = ("before", "after")
BASELINES = ("mean shape", "seven nearest")
MEASURES = {"dice": "Dice", "hausdorff_95": "Hausdorff 95 %", "hausdorff": "Hausdorff"}

Spacing = tuple[float, float] | None
Part = tuple[str, np.ndarray, np.ndarray]  # name of the row; given and true masks, (B, H, W, C) each


def examine_levels(
    model, source: Sequence, *, known: Sequence = (), spacing: Spacing = None, on_error: str = "stop"
) -> Examination:
    """Measures how the model restores damaged masks: every level of `LEVELS`, and every unseen kind of `KINDS`.

    A mask is damaged in the same way every time.

    Args:
      model: in evaluation mode: masks (B, H, W, C) -> (B, H, W, C) in [0, 1].
      source: records {"mask": (H, W, C)}, with `name(i)`.
      known: the training masks, as records, for the baselines; empty: they are left out.
      spacing: distance of rows and of columns in millimetres; None: distances are in pixels.
      on_error: "stop" raises if a record is bad, "skip" leaves it out.

    Raises:
      RecordError: a record is bad; with "skip", all records are bad.
    """
    shapes = Shapes(known, on_error=on_error) if len(known) else None
    return _examination(model, _corrupted(source, on_error), "corruption", spacing, shapes)


def compare_folders(
    model,
    masks: Mapping[str, Path],
    truth: Path,
    *,
    channels: int = 1,
    grey: str = "soft",
    labels: Sequence[str] = (),
    classes: Sequence[str] = (),
    known: Sequence = (),
    spacing: Spacing = None,
) -> Examination:
    """Measures how the model restores masks in folders, compared with the true masks of the same names.

    Names are file names without suffix. The masks may be empty or full; the true masks may not.

    Args:
      model: as in `examine_levels`; masks are resized to its size.
      masks: one folder per row, such as that of a segmenter at one stage of its training; or a .jsonl or .parquet
        file, whose classes are the channels.
      truth: folder or file of the true masks.
      channels, grey, labels, classes: how masks are read; see `MaskFolder`.
      known: as in `examine_levels`; bad records are left out, and the baselines if there is no good one.
      spacing: as in `examine_levels`.

    Raises:
      ValueError: a folder holds no masks, or its names differ from those of the truth; a mask is bad.
    """
    options = {"size": tuple(model.cfg.image_size), "channels": channels, "grey": grey, "labels": tuple(labels)}

    def opened(place: Path, **more) -> MaskFolder:
        return MaskFolder(place, **options, classes=() if is_cohort_file(place) else tuple(classes), **more)

    true = opened(truth)
    pairs = {row: _paired(opened(folder, blank=True), true) for row, folder in masks.items()}
    parts = ((row, x["given"], x["truth"]) for row, source in pairs.items() for x in _batches(source, "stop"))
    shapes = None
    with contextlib.suppress(ValueError):  # none of the training masks can be read as these masks are
        shapes = Shapes(known, on_error="skip") if len(known) else None
    found = _examination(model, parts, "masks", spacing, shapes)
    if len(known) and shapes is None:
        note = "no baselines: none of the training masks can be read as these masks are"
        return dataclasses.replace(found, table=f"{found.table}\n{note}")
    return found


def mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
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
    """A source of pairs of a mask and its true mask."""

    made: MaskFolder
    true: MaskFolder

    def __len__(self) -> int:
        return len(self.true)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"given": _named(self.made, i), "truth": _named(self.true, i)}

    def name(self, i: int) -> str:
        return self.true.name(i)


def _named(source: MaskFolder, i: int) -> np.ndarray:
    """Returns a mask; an error names its folder."""
    try:
        return source[i]["mask"]
    except ImageError as error:
        raise ImageError(f"in {source.root}: {error}") from None


def _paired(made: MaskFolder, true: MaskFolder) -> _Pairs:
    """Pairs masks with the true masks of the same names; raises ValueError if a counterpart is missing."""
    files = [_by_name(source) for source in (made, true)]
    for have, lack, folder in ((*files, true.root), (*files[::-1], made.root)):
        if missing := [have[name].name for name in have if name not in lack]:
            raise ValueError(f"{folder} has no counterpart of {listed(missing)}; both folders need the same file names")
    return _Pairs(dataclasses.replace(made, files=tuple(files[0][name] for name in files[1])), true)


def _by_name(source: MaskFolder) -> dict[str, Path]:
    found = {path.stem: path for path in source.files}
    if len(found) < len(source):
        twice = [name for name, count in collections.Counter(path.stem for path in source.files).items() if count > 1]
        raise ValueError(f"{source.root}: several files have the name {listed(twice)}")
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
        for kind in KINDS:
            pairs = zip(batch["mask"], batch["index"], strict=True)
            yield kind, np.stack([apply_kind(kind, mask, int(index)) for mask, index in pairs]), batch["mask"]


def _batches(source: Sequence, on_error: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the good records in batches; the last may be smaller."""
    with contextlib.closing(evaluation_batches(source, _whole, batch_size=BATCH, on_error=on_error)) as batches:
        for batch in batches:
            kept = batch.pop("weight") > 0
            if kept.any():
                yield {name: values[kept] for name, values in batch.items()}


def _whole(record: dict, rng: np.random.Generator) -> dict:
    return record


def _examination(
    model, parts: Iterable[Part], title: str, spacing: Spacing, shapes: Shapes | None = None
) -> Examination:
    """Restores and measures every part, and returns the result."""
    restore = jax.jit(type(model).__call__)

    def by_network(given: np.ndarray) -> np.ndarray:
        padded = np.concatenate([given, np.zeros((BATCH - len(given), *given.shape[1:]), given.dtype)])
        return np.asarray(restore(model, padded))[: len(given)] > 0.5

    methods = {"before": lambda given: given > 0.5}
    methods |= dict(zip(BASELINES, (shapes.mean, shapes.nearest), strict=True)) if shapes else {}
    methods["after"] = by_network
    found = collections.defaultdict(lambda: {method: collections.defaultdict(list) for method in methods})
    for row, given, truth in parts:
        for method, restored in methods.items():
            for name, values in measure(restored(given), truth > 0.5, spacing=spacing).items():
                found[row][method][name].append(values.ravel())
    rows = {
        row: {method: {name: _summary(np.concatenate(x)) for name, x in of.items()} for method, of in each.items()}
        for row, each in found.items()
    }
    unit, size = "pixels" if spacing is None else "mm", list(model.cfg.image_size)
    numbers = {"size": size, "unit": unit, title: rows}
    return Examination(numbers, _table(rows, title, unit, size), _picture(rows, title, unit, size))


def _summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Returns mean, standard deviation and median of the values that are not NaN, None without any; and counts."""
    there = values[~np.isnan(values)]
    statistics = {"mean": np.mean, "std": np.std, "median": np.median}
    numbers = {name: float(function(there)) if there.size else None for name, function in statistics.items()}
    return numbers | {"count": int(there.size), "left_out": int(values.size - there.size)}


def _table(rows: Mapping, title: str, unit: str, size: Sequence[int]) -> str:
    """Returns the means before and after, and the numbers of masks without a distance; then those of the baselines."""
    header = [title, *(f"{label} {when}" for label in MEASURES.values() for when in WHEN), "without distance"]
    lines = []
    for row, each in rows.items():
        cells = [_cell(each[when][name]["mean"], 4 if name == "dice" else 2) for name in MEASURES for when in WHEN]
        left_out = " -> ".join(str(each[when]["hausdorff"]["left_out"]) for when in WHEN)
        lines.append([row, *cells, left_out])
    tables = [text_table(header, lines)]
    if BASELINES[0] in next(iter(rows.values())):
        header = ["without a network", *(f"{label} {name}" for label in ("Dice", "Hausdorff") for name in BASELINES)]
        shown = [(name, method) for name in ("dice", "hausdorff") for method in BASELINES]
        cells = ([_cell(each[m][n]["mean"], 4 if n == "dice" else 2) for n, m in shown] for each in rows.values())
        tables.append(text_table(header, [[row, *line] for row, line in zip(rows, cells, strict=True)]))
    return "\n\n".join(tables) + f"\n{_caption(rows, unit, size)}"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _caption(rows: Mapping, unit: str, size: Sequence[int]) -> str:
    total = max(sum(both["before"]["hausdorff"][x] for x in ("count", "left_out")) for both in rows.values())
    return f"means of {total} masks of {size[0]} x {size[1]}, distances in {unit}; empty masks have no distance"


def _picture(rows: Mapping, title: str, unit: str, size: Sequence[int]):
    panels = []
    for name, label in MEASURES.items():
        pairs = [tuple((both[when][name]["mean"], both[when][name]["std"]) for when in WHEN) for both in rows.values()]
        top, digits = (1.0, 3) if name == "dice" else (None, 1)
        panels.append(Panel(label if name == "dice" else f"{label} ({unit})", tuple(pairs), top, digits))
    return paired_bars(
        panels,
        list(rows),
        title=title,
        series=WHEN,
        caption=_caption(rows, unit, size) + "; lines: one standard deviation",
    )
