"""Builds the LIDC set of slices with several annotators from LIDC-IDRI as the archive distributes it.

The layout is that of learn-vae-noisy-label, which `jaxseg.annotators.data.lidc_slices` reads: in each of
`{train,validate,test}/` the files `scans/*.tif`, `masks/GT/*.tif` and `masks/annots/*.tif` share the name
`pid_{patient}_nod_{k}_slice_{z}.tif`; tables are in meta/. Each finished patient has a line in the ledger
meta/patients.jsonl, written when all its slices are on disk. A second run only makes patients that it lacks, and those
whose series have changed; slices of other patients are removed.

Source: Armato et al. 2011, doi 10.1118/1.3528204; rCampSemp/learn-vae-noisy-label.
"""

import dataclasses
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from jaxseg import __version__, files
from jaxseg.annotators.data import SPLITS
from jaxseg.annotators.lidc.annotations import Reading, read_lidc_xml
from jaxseg.annotators.lidc.crops import Settings, cut_slices, describe
from jaxseg.annotators.lidc.nodules import find_nodules
from jaxseg.annotators.lidc.records import (
    MADE_BY,
    SUMMARY,
    open_ledger,
    plain,
    read_settings,
    write_json,
)
from jaxseg.annotators.lidc.series import Series, find_files, read_slices
from jaxseg.annotators.lidc.summary import conclude, draw_summary
from jaxseg.datasets.dataset_summary import PreparedSet, Progress, watched
from jaxseg.files import is_full, printable, sweep
from jaxseg.folder_runs.ledger import changed_settings, locked_folder, refuse_changed
from jaxseg.images.tiff import need_tifffile, write_tiff

_log = logging.getLogger(__name__)

FOLDERS = ("scans", "masks/GT", "masks/annots")
_SLICE = re.compile(r"pid_(.+)_nod_\d+_slice_\d+\.tif")


@dataclasses.dataclass(frozen=True)
class Study:
    """A CT and its annotations.

    Attributes:
      series: the CT.
      xml: path of the annotation file.
      reading: content of the annotation file.
    """

    series: Series
    xml: Path
    reading: Reading


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one patient: the numbers of its nodules and written slices, or an `error` (else "")."""

    patient: str
    split: str
    nodules: int = 0
    slices: int = 0
    error: str = ""

    def __str__(self) -> str:
        return f"{self.patient}: {self.slices} slices of {self.nodules} nodules in {self.split}"


@dataclasses.dataclass(frozen=True)
class PreparedLIDC(PreparedSet):
    """What `prepare_lidc` did; its items are patients.

    Attributes:
      slices: number of slices that were written.
      damaged: path of an annotation file that cannot be read -> reason.
      empty_splits: the wanted splits that have no slice, because too few patients have suitable nodules.
    """

    slices: int = 0
    damaged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    empty_splits: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """The studies in a folder tree.

    Attributes:
      patients: patient -> studies; both are sorted.
      damaged: path of an annotation file that cannot be read -> reason.
      notes: one line for each other file or folder that is left out.
    """

    patients: dict[str, tuple[Study, ...]]
    damaged: dict[str, str]
    notes: list[str]


def prepare_lidc(
    dicom_root: str | Path,
    output: str | Path,
    *,
    xml_root: str | Path | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    least_readers: int = 2,
    least_pixels: int = 31,
    most_pixels: int | None = None,
    clahe: bool = False,
    grouping: str = "pylidc",
    progress: Progress | None = None,
    report: Callable[[Outcome], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> PreparedLIDC:
    """Builds a training set with several annotators from LIDC-IDRI, its tables and, with matplotlib, meta/summary.png.

    A patient that fails does not stop the others. A second call makes only what is missing.

    Args:
      dicom_root: folder of the DICOM series, see `find_studies`.
      output: folder of the set.
      xml_root: folder of the annotation files; None: they lie among the DICOM series.
      val_fraction: share of the patients for validation.
      test_fraction: share of the patients for testing; the sum of both is below 1.
      seed: random seed of the split.
      least_readers: a nodule is used if at least this number of readers outlined it.
      least_pixels: smallest number of pixels of the consensus in a slice that is used.
      most_pixels: largest number of them; None: the size of a crop.
      clahe: whether to equalise the contrast of the crops, see `Settings`.
      grouping: which annotations are one nodule, "pylidc" or "readers", see `Settings`.
      progress: called as (number of finished patients, their total, text about the last), first with 0 and "".
      report: called with the Outcome of every patient.
      notify: called with a line for each file that is left out or damaged, before the first patient is made.

    Raises:
      ValueError: an option is out of range, no CT has annotations, or the output folder holds something else, such as a
        set with other settings.
      OSError: a file cannot be read or written, or another process is writing to the set.
    """
    output = Path(output)
    numbers = (val_fraction, test_fraction, seed, least_readers, least_pixels, most_pixels)
    settings = Settings(*numbers, clahe=clahe, grouping=grouping)
    need_tifffile()  # the set is written as TIFF
    found = find_studies(Path(dicom_root), Path(xml_root) if xml_root else None)
    for note in [*found.notes, *(f"{path}: {error}" for path, error in found.damaged.items())] if notify else ():
        notify(note)
    failed, slices = {}, 0
    with locked_folder(output):
        splits = begin(found.patients, output, settings)
        for outcome in watched(prepare(found.patients, output, settings, splits), len(splits), progress):
            slices += outcome.slices
            if outcome.error:
                failed[outcome.patient] = outcome.error
            if report is not None:
                report(outcome)
        counts = conclude(output, settings, found.damaged | failed, found.notes)
        draw_summary(counts, output)
    empty = tuple(split for split in _used_splits(settings) if not counts["slices"].get(split))
    made, existing = len(splits) - len(failed), len(found.patients) - len(splits)
    notes = tuple(found.notes)
    return PreparedLIDC(output / SUMMARY, made, existing, failed, notes, slices, found.damaged, empty)


def find_studies(root: Path, xml_root: Path | None = None) -> Found:
    """Finds CTs and their annotations in a folder tree and pairs them by their Series Instance UID.

    Args:
      root: folder of DICOM series, such as a download from the archive.
      xml_root: folder of the XML files; None: they are in `root`.

    Returns:
      The studies by patient, and what was left out.

    Raises:
      ValueError: no CT has annotations, a series is in two folders, or a series has two different annotation files.
      OSError: a folder or file cannot be read.
    """
    found, texts, left_out = find_files(root)
    texts = find_files(xml_root)[1] if xml_root else texts
    patients: dict[str, list[Study]] = {}
    damaged: dict[str, str] = {}
    notes, used = [f"left out: {each}" for each in left_out], {}
    for path in texts:
        try:
            reading = read_lidc_xml(path)
        except ValueError as error:
            damaged[printable(str(path))] = str(error).removeprefix(f"{path.name}: ")
            continue
        if reading is None:  # the file belongs to a chest X-ray
            continue
        series = found.get(reading.series)
        if series is None:
            notes.append(f"left out: {path}: no CT series {printable(reading.series) or 'without UID'} was found")
            continue
        if series.uid in used:
            if files.sha256(path) == files.sha256(used[series.uid]):
                notes.append(f"left out: {path}: identical to {used[series.uid]}")
                continue
            raise ValueError(f"{used[series.uid]} and {path} both annotate the series {series.uid}; remove one of them")
        used[series.uid] = path
        patients.setdefault(series.patient, []).append(Study(series, path, reading))
    notes += [
        f"left out: {series.folder}: no annotations of it were read" for uid, series in found.items() if uid not in used
    ]
    if not patients:
        counts = f"{len(found)} CT series and {len(texts)} XML files"
        reasons = [f"{path}: {reason}" for path, reason in damaged.items()] + notes
        raise ValueError(
            f"{root}: of {counts}, none belong together; check that both are from LIDC-IDRI"
            + "".join(f"\n{reason}" for reason in reasons)
        )
    ordered = {name: tuple(sorted(patients[name], key=lambda s: s.series.uid)) for name in sorted(patients)}
    return Found(ordered, damaged, notes)


def begin(patients: Mapping[str, Sequence[Study]], out: Path, settings: Settings) -> dict[str, str]:
    """Checks that a folder can hold the set, removes what an interrupted run left, and assigns patients to splits.

    Slices of patients without a record are removed, and so are records and slices of patients whose series differ from
    those in the record.

    Args:
      patients: patient -> studies.
      out: folder of the set.
      settings: the settings of the set.

    Returns:
      The patients that are not done yet, and the split of each. The split depends only on the seed and on the patients
      with a nodule that enough readers outlined; a patient with a record keeps its split.

    Raises:
      ValueError: the folder holds something else, or a set made with other settings.
      OSError: a file cannot be read or written.
    """
    stored, wanted = read_settings(out), plain(settings)
    if stored is None and out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise ValueError(f"{out}: holds files that `jaxseg prepare lidc` did not write; name another folder")
    if stored is not None and "grouping" not in stored:
        raise ValueError(f"{out}: was made by an earlier version, whose masks differ slightly; name another folder")
    if stored is not None:
        changed = changed_settings(stored, wanted)
        refuse_changed(f"{out}: was made", changed, "name another folder, or use those settings")
    for folder in ["meta", *(f"{split}/{name}" for split in _used_splits(settings) for name in FOLDERS)]:
        (out / folder).mkdir(parents=True, exist_ok=True)
        sweep(out / folder)
    write_json(out / SUMMARY, {"made_by": MADE_BY, "jaxseg": __version__, "settings": wanted})
    ledger = open_ledger(out, settings)
    shared = _share(patients, settings, {name: record["split"] for name, record in ledger.entries.items()})
    for name, studies in patients.items():
        if name in ledger.entries and ledger.entries[name].get("series") != [study.series.uid for study in studies]:
            del ledger.entries[name]
    ledger.write()
    _remove_slices(out, _used_splits(settings), keep=set(ledger.entries))
    return {name: split for name, split in shared.items() if name not in ledger.entries}


def prepare(
    patients: Mapping[str, Sequence[Study]], out: Path, settings: Settings, splits: Mapping[str, str]
) -> Iterator[Outcome]:
    """Makes the patients that `begin` returned. A patient that fails has no record, and the others continue.

    Args:
      patients: patient -> studies.
      out: folder of the set.
      settings: the settings of the set.
      splits: patient -> split, from `begin`.

    Yields:
      The outcome of each patient.

    Raises:
      OSError: a record cannot be written, the disk is full, or an error is not from the operating system (it has no
        errno).
    """
    ledger = open_ledger(out, settings)
    for patient, split in splits.items():
        try:
            record = make_patient(patient, patients[patient], out / split, settings)
        except (ValueError, OSError) as error:
            if is_full(error) or isinstance(error, OSError) and error.errno is None:
                raise
            _log.debug("%s failed", patient, exc_info=error)
            yield Outcome(patient, split, error=printable(" ".join(str(error).split())))
            continue
        ledger.record(patient, {"split": split} | record)
        slices = sum(len(nodule["slices"]) for nodule in record["nodules"])
        yield Outcome(patient, split, len(record["nodules"]), slices)


def make_patient(patient: str, studies: Sequence[Study], folder: Path, settings: Settings) -> dict[str, Any]:
    """Writes the slices of one patient; nodules are numbered across its studies.

    Args:
      patient: number of the patient, as in file names.
      studies: the patient's studies.
      folder: folder of the split.
      settings: the settings of the set.

    Returns:
      The patient's record: "series", the UIDs; "small", the number of marks of nodules below 3 mm; "no_nodules", the
      number of marks of non-nodules; "empty", the number of annotations that enclose no pixel; "nodules", a list of
      the dicts of `describe`, with "nodule_no" and "series".

    Raises:
      ValueError: a file is damaged, or annotations do not fit their CT.
      OSError: a file cannot be read or written.
    """
    nodules: list[dict[str, Any]] = []
    outlined = sum(len(study.reading.annotations) for study in studies)
    made: dict[str, dict[str, Any]] = {}
    for study in studies:
        slices = read_slices(study.series)
        try:
            found = find_nodules(study.reading.annotations, slices.stack, settings.grouping)
        except ValueError as error:
            raise ValueError(f"{study.xml.name}: {error}") from None
        for nodule in found:
            number = len(nodules)
            described = describe(nodule, slices.stack, settings)
            for z, arrays in cut_slices(nodule, slices, described["slices"], clahe=settings.clahe):
                made[f"pid_{patient}_nod_{number}_slice_{z}.tif"] = arrays
            nodules.append(described | {"nodule_no": number, "series": study.series.uid})
    for name, arrays in made.items():  # written only when all is read, so that a failed patient leaves no file
        for sub, array in arrays.items():
            write_tiff(folder / sub / name, array)
    return {
        "series": [study.series.uid for study in studies],
        "small": sum(study.reading.small for study in studies),
        "no_nodules": sum(study.reading.no_nodules for study in studies),
        "empty": outlined - sum(len(nodule["readers"]) for nodule in nodules),
        "nodules": nodules,
    }


def _share(patients: Mapping[str, Sequence[Study]], settings: Settings, there: Mapping[str, str]) -> dict[str, str]:
    """Returns patient -> split, by a random order that depends on seed and names; patients in `there` keep theirs."""
    promising = [name for name, studies in patients.items() if _most_readers(studies) >= settings.least_readers]
    order = sorted(promising, key=lambda name: (zlib.crc32(f"{settings.seed} {name}".encode()), name))
    fractions = {name: part for name, part in settings.fractions.items() if name != "train"}
    enough = len(order) > len(fractions)  # enough for at least one patient in each split
    counts = {name: max(round(part * len(order)), int(enough and part > 0)) for name, part in fractions.items()}
    for split in there.values():
        counts[split] = counts.get(split, 0) - 1
    splits = dict(there)
    for name in order:
        if name not in splits:
            splits[name] = next((split for split, count in counts.items() if split != "train" and count > 0), "train")
            counts[splits[name]] = counts.get(splits[name], 0) - 1
    return {name: splits.get(name, "train") for name in patients}


def _most_readers(studies: Sequence[Study]) -> int:
    """Returns the largest number of readers who outlined something in one study."""
    return max(len({annotation.reader for annotation in study.reading.annotations}) for study in studies)


def _remove_slices(out: Path, splits: Sequence[str], *, keep: Set[str]) -> None:
    """Removes the slices that this command wrote, except those of the patients in `keep`."""
    for folder in (out / split / name for split in splits for name in FOLDERS):
        for path in folder.glob("pid_*.tif"):
            match = _SLICE.fullmatch(path.name)
            if match and match[1] not in keep:
                path.unlink()


def _used_splits(settings: Settings) -> list[str]:
    return [split for split in SPLITS if settings.fractions[split]]
