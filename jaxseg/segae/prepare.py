"""Builds SegAE's training data from CTs with labels; masks come from networks, or are degraded labels.

`jaxseg.segae.layout` describes the layout. Beside the cases are quality.csv, with one line per mask, and summary.json.
"""

import csv
import dataclasses
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg import __version__
from jaxseg.datasets.dataset_summary import SUMMARY, PreparedSet, Progress, read_summary, watched
from jaxseg.datasets.degrade import degrade
from jaxseg.datasets.volume_cache import Cache
from jaxseg.files import atomic_file, atomic_folder, is_full, printable, safe_name, sweep
from jaxseg.folder_runs.ledger import changed_settings, locked_folder, refuse_changed
from jaxseg.segae import sources
from jaxseg.segae.index import OVERLAP, Volumes, index_cases, usable_organs, usable_slices
from jaxseg.segae.label_table import LabelTable
from jaxseg.segae.layout import MADE_BY, SPLITS, read_layout
from jaxseg.segae.segmenter import Segmenter, SegmenterSettings, read_segmenter, train_segmenter
from jaxseg.segae.sources import Scan
from jaxseg.vocabulary import organs
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.nifti import need_nibabel, write_nifti
from jaxseg.volumes.pair import check_ct
from jaxseg.volumes.read import read_volume, stem
from jaxseg.volumes.volume import Volume

_log = logging.getLogger(__name__)

COLUMNS = (
    "split",
    "case",
    "organ",
    "dap_id",
    "file",
    "degradation",
    "dice_3d",
    "gt_voxels",
    "mask_voxels",
    "slices_with_20px_overlap",
)
DICE_RANGE = (0.1, 0.98)  # Dice of degraded masks, at even distances
SEGMENTER = "segmenter.safetensors"  # file of the network that `segmenter` trains
TRIES = 8  # tries to degrade a mask, each with a higher Dice, until it shares enough pixels with the truth


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a data set, which summary.json keeps.

    Attributes:
      per_organ: number of degraded masks per organ of a case, at least 1.
      least_slices: smallest number of slices with at least 20 pixels of an organ; organs with fewer are left out.
      val_fraction: fraction of the cases for validation, in [0, 1).
      seed: random seed of the degraded masks, and of the choice of validation cases.
      canonical: turn the volumes to the patient's axes.
      pseudo: masks come from a network instead of degraded labels.
      labels: label -> name of the organ; {}: labels are classes of the DAP-Atlas.
      segmenter: masks of a small network that is trained on the training cases are added to the degraded labels.
      stages: number of stages of its training, 5 to 10.
      steps: number of its optimisation steps, at least 50.

    Raises:
      ValueError: a value is out of range.
    """

    per_organ: int = 10
    least_slices: int = 3
    val_fraction: float = 0.2
    seed: int = 0
    canonical: bool = dataclasses.field(default=False, kw_only=True)
    pseudo: bool = dataclasses.field(default=False, kw_only=True)
    labels: Mapping[int, str] = dataclasses.field(default_factory=dict, kw_only=True)
    segmenter: bool = dataclasses.field(default=False, kw_only=True)
    stages: int = dataclasses.field(default=8, kw_only=True)
    steps: int = dataclasses.field(default=1000, kw_only=True)

    def __post_init__(self):
        if self.per_organ < 1 or self.least_slices < 1:
            raise ValueError(f"per_organ, {self.per_organ}, and least_slices, {self.least_slices}, must be at least 1")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction}")
        if self.segmenter and self.pseudo:
            raise ValueError("masks come from a network that is trained here or from given ones: leave one out")
        if not 5 <= self.stages <= 10 or self.steps < 50:
            raise ValueError(f"stages must be 5 to 10 and steps at least 50, got {self.stages} and {self.steps}")

    @property
    def network(self) -> SegmenterSettings:
        """The settings of the network that `segmenter` trains."""
        return SegmenterSettings(stages=self.stages, steps=self.steps, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of building a case.

    Attributes:
      case: name of the case.
      split: its split, "train" or "val".
      masks: number of masks.
      left_out: number of masks that share too few pixels with the truth, and were not written.
      error: the reason why the case failed; "" if it did not.
      notes: lines for the user about labels that were left out.
    """

    case: str
    split: str
    masks: int = 0
    left_out: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.error:
            return f"{self.case}: {self.error}"
        few = f"{self.left_out} without {OVERLAP} pixels of the truth in a slice left out"
        return "; ".join(
            [f"{self.case}: {self.masks} masks for {self.split}", *[few] * bool(self.left_out), *self.notes]
        )


def prepare_segae(
    cts: str | Path,
    labels: str | Path,
    output: str | Path,
    *,
    pseudo: str | Path | None = None,
    label_names: str | Path | None = None,
    per_organ: int = 10,
    least_slices: int = 3,
    val_fraction: float = 0.2,
    seed: int = 0,
    canonical: bool = False,
    segmenter: bool = False,
    stages: int = 8,
    steps: int = 1000,
    progress: Progress | None = None,
    report: Callable[[Outcome], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> PreparedSet:
    """Builds SegAE's training data from CTs with labels. A second call builds only the cases that are missing.

    A case that fails does not stop the others.

    Args:
      cts: folder of the CTs, see `jaxseg.segae.sources.find_scans`.
      labels: folder of the labels, which may be the same folder.
      output: folder of the data set.
      pseudo: folder of masks of a network; None: the labels are degraded.
      label_names: JSON or CSV file that maps labels to organs, see `jaxseg.segae.label_table.read_table`; None: the
        table that the NIfTI files have in their headers, else labels are classes of the DAP-Atlas, with a note.
      per_organ: number of degraded masks per organ of a case, at least 1.
      least_slices: smallest number of slices with at least 20 pixels of an organ; organs with fewer are left out.
      val_fraction: fraction of the cases for validation, in [0, 1).
      seed: random seed of the degraded masks, and of the choice of validation cases.
      canonical: whether to turn the volumes to the patient's axes.
      segmenter: whether to train a small network on the training cases, see `jaxseg.segae.segmenter`, and to add its
        masks to the degraded ones. The network is kept in the data set, and used for cases that are added later.
      stages: number of stages of its training of which the masks are used, 5 to 10.
      steps: number of its optimisation steps, at least 50.
      progress: called as (number of finished cases, their total, text about the last), first with 0 and "".
      report: called with the Outcome of every case.
      notify: called with each note, before the first case is built.

    Raises:
      ValueError: an option is out of range, no CT has labels, the table of labels is invalid, or the output folder
        holds something else, such as a data set with other settings.
      OSError: a folder cannot be read or written, or another process is writing to the data set.
    """
    output = Path(output)
    scans, notes = sources.find_scans(Path(cts), Path(labels), Path(pseudo) if pseudo else None)
    need_nibabel()  # the data set is written as NIfTI
    shared = sources.table_of_scans(scans, label_names)
    table, notes = shared.organs, (*notes, *_remarks(shared))
    names = {} if shared.note else {str(label): organ.name for label, organ in table.items()}
    options = {"canonical": canonical, "pseudo": pseudo is not None, "labels": names}
    options |= {"segmenter": segmenter, "stages": stages, "steps": steps}
    if not segmenter and (stages, steps) != (Settings.stages, Settings.steps):
        raise ValueError("stages and steps belong to segmenter: leave them out, or train one")
    if segmenter and not (output / SEGMENTER).is_file():
        notes = (*notes, f"first, a network is trained with {steps} steps")
    settings = Settings(per_organ, least_slices, val_fraction, seed, **options)
    for note in notes if notify is not None else ():
        notify(note)
    failed = {}
    with locked_folder(output):
        splits = begin(scans, output, settings)
        for outcome in watched(prepare(scans, output, settings, table, splits), len(splits), progress):
            if outcome.error:
                failed[outcome.case] = outcome.error
            if report is not None:
                report(outcome)
    made, existing = len(splits) - len(failed), len(scans) - len(splits)
    return PreparedSet(output / SUMMARY, made, existing, failed, notes)


def _remarks(table: LabelTable) -> list[str]:
    """Returns lines for the user about an assumed table, or about names without a class."""
    if table.note:
        return [table.note]
    others = ", ".join(name for name, _ in table.others.values())
    return [f"no class of the DAP-Atlas, and ignored: {others}"] if others else []


def begin(scans: Sequence[Scan], out: Path, settings: Settings) -> dict[str, str]:
    """Checks that the data set can be written to a folder, and assigns cases to splits.

    Existing cases stay in their split, so cases can be added later. Cases that the data set's network has learned from
    are always training cases.

    Args:
      scans: all cases.
      out: folder of the data set; it is made if it does not exist.
      settings: settings of the data set.

    Returns:
      Name -> split of the cases that are not built yet.

    Raises:
      ValueError: the folder holds other files, a data set with other settings, or a damaged network.
    """
    stored = _summary(out)
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    if stored is None and out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise ValueError(f"{out}: holds files that `jaxseg prepare segae` did not write; name another folder")
    if stored is not None:
        defaults = {field.name: field.default for field in dataclasses.fields(Settings) if field.kw_only}
        before = {name: defaults[name] for name in ("segmenter", "stages", "steps")} | stored["settings"]
        refuse_changed(f"{out}: was made", changed_settings(before, wanted), "name another folder")
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        sweep(out / split)
    if stored is None:
        _write_summary(out, settings, {}, {})
    names = [scan.name for scan in scans]
    existing = {name: split for split in SPLITS for name in names if (out / split / name).is_dir()}
    count = round(settings.val_fraction * len(names))
    count = min(max(count, 1), len(names) - 1) if settings.val_fraction else 0
    learned = _learned(out, settings)
    others = set(names) - set(existing) - learned
    todo = sorted(others, key=lambda name: (zlib.crc32(f"{settings.seed} {name}".encode()), name))
    missing = max(0, count - sum(split == "val" for split in existing.values()))
    splits = {name: "val" if place < missing else "train" for place, name in enumerate(todo)}
    splits |= dict.fromkeys(learned - set(existing), "train")
    return {name: splits[name] for name in names if name in splits}


def _learned(out: Path, settings: Settings) -> set[str]:
    """Returns the names of the cases that the network of the data set has learned from."""
    path = out / SEGMENTER
    return set(read_segmenter(path, settings.network).cases) if settings.segmenter and path.is_file() else set()


def prepare(
    scans: Sequence[Scan], out: Path, settings: Settings, table: Mapping[int, Organ], splits: Mapping[str, str]
) -> Iterator[Outcome]:
    """Builds the cases that `begin` returned, each completely or not at all, and then quality.csv and summary.json.

    A case that fails does not stop the others.

    Args:
      scans: all cases.
      out: folder of the data set.
      settings: settings of the data set.
      table: label -> organ.
      splits: result of `begin`.

    Yields:
      The outcome of each case.
    """
    failed: dict[str, str] = {}
    network = _network(scans, out, settings, table, splits) if settings.segmenter and splits else None
    for scan in scans:
        if scan.name not in splits:
            continue
        split = splits[scan.name]
        try:
            made = _make(scan, out / split / scan.name, settings, table, network)
            yield dataclasses.replace(made, split=split)
        except (ValueError, OSError) as error:
            if is_full(error) or isinstance(error, OSError) and error.errno is None:
                raise
            _log.debug("%s failed", scan.name, exc_info=error)
            failed[scan.name] = printable(" ".join(str(error).split()))
            yield Outcome(scan.name, split, error=failed[scan.name])
    conclude(out, settings, failed)


def conclude(out: Path, settings: Settings, failed: Mapping[str, str]) -> None:
    """Measures every mask of the data set, and writes quality.csv and summary.json.

    Args:
      out: folder of the data set.
      settings: settings of the data set.
      failed: case -> reason why it could not be built.

    Raises:
      ValueError: a volume of the data set is damaged.
    """
    rows, cases = [], {}
    layout = read_layout(out) if any(any((out / split).iterdir()) for split in SPLITS) else {}
    pairs = [(split, case) for split, found in layout.items() for case in found]
    indexed, _ = index_cases(out, [case for _, case in pairs], Volumes(Cache(0)))
    for (split, case), (items, problems) in zip(pairs, indexed, strict=True):
        if problems:
            raise ValueError(f"{problems[0]}; remove this case and run again")
        cases[case.name] = {"split": split, "organs": len(case.masks), "masks": len(items)}
        for item in items:
            file = f"{item.path.parent.name}/{item.path.name}"
            way = stem(item.path).rpartition("_")[2] if stem(item.path).startswith("degraded_") else ""
            measured = round(item.dice, 4), item.truth_voxels, item.mask_voxels, len(item.slices)
            rows.append((split, case.name, item.organ, item.label, file, way, *measured))
    with atomic_file(out / "quality.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    _write_summary(out, settings, cases, failed)


def _network(
    scans: Sequence[Scan], out: Path, settings: Settings, table: Mapping[int, Organ], splits: Mapping[str, str]
) -> Segmenter:
    """Returns the network of the data set, which is trained on the training cases if it does not exist yet."""
    path, options = out / SEGMENTER, settings.network
    if path.is_file():
        return read_segmenter(path, options)
    chosen = [scan for scan in scans if splits.get(scan.name) == "train" or (out / "train" / scan.name).is_dir()]
    labelled = sources.labelled_volumes(chosen, table, canonical=settings.canonical)
    network = train_segmenter(labelled, max(1, len(chosen)), options)
    network.write(path)
    return network


def _make(
    scan: Scan, folder: Path, settings: Settings, table: Mapping[int, Organ], network: Segmenter | None
) -> Outcome:
    """Writes a case, except masks that the training would leave out."""
    ct = read_volume(scan.ct, canonical=settings.canonical)
    check_ct(ct)
    labels, notes = sources.read_classes(scan.label, ct, table, canonical=settings.canonical)
    taken = usable_organs(labels.array, settings.least_slices)
    if not taken:
        shares = f"{OVERLAP} pixels in {settings.least_slices} slices or more"
        raise ValueError(f"{labels.name}: no organ of the table has {shares}; do its labels need --names-table?")
    masks = left_out = 0
    with atomic_folder(folder) as temporary:
        write_nifti(temporary / "ct.nii.gz", _small(ct.array), ct.affine)
        write_nifti(temporary / "label.nii.gz", labels.array, ct.affine)
        predicted = _predicted(scan, ct, settings, table, taken, network)
        for label, name, mask in _masks(scan, labels.array, taken, settings, predicted):
            if mask is None:
                left_out += 1
                continue
            organ = organs.NAMES[label].replace(" ", "-").replace("_", "-")
            path = temporary / f"{organ}_{label}"
            path.mkdir(exist_ok=True)
            write_nifti(path / f"{name}.nii.gz", mask, ct.affine)
            masks += 1
        if not masks:
            raise ValueError(f"none of its {left_out} masks shares {OVERLAP} pixels with the labels in any slice")
    return Outcome(scan.name, "", masks, left_out, notes=notes)


def _predicted(
    scan: Scan,
    ct: Volume,
    settings: Settings,
    table: Mapping[int, Organ],
    taken: Sequence[int],
    network: Segmenter | None,
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yields class, name of the stage and mask of each organ in every stage of a network."""
    for path in scan.stages:
        for label, mask in sources.read_predicted(path, ct, table, taken, canonical=settings.canonical):
            yield label, safe_name(sources.stage_name(path)), mask
    for name, found in network.segment(ct.array) if network is not None else ():
        yield from ((label, name, found == label) for label in taken)


def _masks(
    scan: Scan,
    classes: np.ndarray,
    taken: Sequence[int],
    settings: Settings,
    predicted: Iterator[tuple[int, str, np.ndarray]],
) -> Iterator[tuple[int, str, np.ndarray | None]]:
    """Yields class, name and array of each mask; the array is None if it shares too few pixels with the truth."""
    for label, name, mask in predicted:
        yield label, name, mask if usable_slices(classes == label, mask) else None
    if scan.stages:
        return
    for label in taken:
        truth = classes == label
        for k, wanted in enumerate(np.linspace(*DICE_RANGE, settings.per_organ)):
            mask, kind = _degraded(truth, float(wanted), (settings.seed, zlib.crc32(scan.name.encode()), label, k))
            yield label, f"degraded_{k:02}_{kind}", mask


def _degraded(truth: np.ndarray, wanted: float, seeds: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """Returns a degraded mask with usable slices and its kind; after each failure, a higher Dice is tried."""
    kind = ""
    for attempt in range(TRIES):
        rng = np.random.default_rng([*seeds, *[attempt] * bool(attempt)])
        mask, kind = degrade(rng, truth, wanted + (DICE_RANGE[1] - wanted) * attempt / (TRIES - 1))
        if usable_slices(truth, mask):
            return mask, kind
    return None, kind


def _small(array: np.ndarray) -> np.ndarray:
    """Returns a CT as int16 if this loses nothing, else as int32 or float32."""
    small = array.astype(np.int16, copy=False) if abs(array).max() < 2**15 else array
    if np.array_equal(small, array):
        return small
    return array.astype(np.int32) if array.dtype.kind in "iu" else array.astype(np.float32)


def _summary(out: Path) -> dict | None:
    found = read_summary(out / SUMMARY, MADE_BY)
    if found is not None and not isinstance(found.get("settings"), dict):
        raise ValueError(f"{out}: its summary.json is damaged and has no settings; name another folder")
    return found


def _write_summary(out: Path, settings: Settings, cases: Mapping, failed: Mapping[str, str]) -> None:
    masks = {split: sum(case["masks"] for case in cases.values() if case["split"] == split) for split in SPLITS}
    content = {
        "made_by": MADE_BY,
        "jaxseg": __version__,
        "settings": dataclasses.asdict(settings),
        "masks": masks,
        "cases": cases,
        "failed": dict(failed),
    }
    with atomic_file(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
