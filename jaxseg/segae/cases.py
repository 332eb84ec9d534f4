"""Finds, reads and scores the masks of cases: folders in TotalSegmentator's layout, or a CT with a volume of labels."""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxseg.files import printable
from jaxseg.segae.layout import MASKS, cts_in, twice_in, volumes_in
from jaxseg.segae.scorer import MaskScore, Request, Scorer, StoredScore
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import read_labels, read_volume, stem
from jaxseg.volumes.volume import Volume, VolumeError

_log = logging.getLogger(__name__)

_READERS, _VOXELS = 4, 2**28  # largest number of masks that are read ahead, and of their voxels together
_BAD = (ValueError, OSError, MemoryError)  # errors of one mask or case, which do not stop the others


@dataclasses.dataclass(frozen=True)
class Case:
    """A CT and its masks, which are separate files or the labels of one volume.

    Attributes:
      name: name of the case.
      ct: file, or folder of DICOM slices; None if it is missing.
      masks: name of the organ -> file of its mask.
      labels: volume of labels, instead of masks.
      table: label of that volume -> organ.
      others: label of that volume -> (name, reason) of labels whose names have no class in the DAP-Atlas.
      assumed: remark on the table if it is not stated by a file; "" otherwise.
      problem: the reason why the case cannot be scored; "" if there is none.
      source: path of the CT, for a case whose name does not identify it.
    """

    name: str
    ct: Path | None
    masks: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    labels: Path | None = None
    table: Mapping[int, Organ] = dataclasses.field(default_factory=dict)
    others: Mapping[int, tuple[str, str]] = dataclasses.field(default_factory=dict)
    assumed: str = ""
    problem: str = ""
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the masks."""
        return tuple(self.masks) or tuple(organ.name for organ in self.table.values())

    def fingerprint(self) -> str:
        """Returns a digest of the label table and of the names, sizes and modification times of all files."""
        digest = hashlib.sha256(repr(sorted((k, organ.id) for k, organ in self.table.items())).encode())
        for path in (self.ct, self.labels, *(self.masks[name] for name in sorted(self.masks))):
            for file in sorted(path.iterdir()) if path is not None and path.is_dir() else [path]:
                if file is not None:
                    digest.update(f"{file.name}\0{_stamp(file)}\n".encode())
        return digest.hexdigest()


@dataclasses.dataclass
class Record:
    """The result of scoring a case.

    Attributes:
      case: name of the case.
      fingerprint: digest of its files, taken before they were read.
      scores: name of the mask -> its score.
      absent: name of the mask -> why it has no score: "empty", or "no class: ..." if the DAP-Atlas lacks the organ.
      failed: name of the mask -> its error; the key "" means the case itself.
      notes: remarks about its volumes.
    """

    case: str
    fingerprint: str = ""
    scores: dict[str, MaskScore | StoredScore] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def find_cases(root: Path, folders: Sequence[Path] | None = None) -> tuple[Case, ...]:
    """Returns the cases in a folder, sorted by name; only the names of files are read.

    Args:
      root: folder of CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz. Other formats of volumes are possible, and a
        folder CASE/ct of DICOM slices.
      folders: the folders of the cases; None: all folders in `root`. One that is not the folder of a case is a case
        with a problem.

    Raises:
      ValueError: the folder is missing or has no case, or two cases have the same name.
      OSError: a folder cannot be read.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if folders is not None:
        counts = collections.Counter(folder.name for folder in folders)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{counts[twice[0]]} cases are called {printable(twice[0])}; rename them")
        none = "there is no folder of a case at this path"
        return tuple(
            (_case(folder) if folder.is_dir() else None) or Case(folder.name, None, problem=none)
            for folder in sorted(folders, key=lambda folder: folder.name)
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = tuple(case for case in map(_case, folders) if case is not None)
    if not found:
        hint = "; this folder is itself a case: name the folder above it" if (root / MASKS).is_dir() else ""
        raise ValueError(f"{root}: has no case; the layout is CASE/ct.nii.gz and CASE/{MASKS}/ORGAN.nii.gz{hint}")
    return found


def _case(folder: Path) -> Case | None:
    """Returns the case in a folder; None if the folder has neither a CT nor masks."""
    cts, masks = cts_in(folder), folder / MASKS
    if not cts and not masks.is_dir():
        return None
    files = volumes_in(masks)
    twice = twice_in(files)
    problems = {
        "there is no ct.nii.gz": not cts,
        f"there are {' and '.join(path.name for path in cts)}; keep one": len(cts) > 1,
        f"there is no folder {MASKS}": not masks.is_dir(),
        f"several files are masks of {', '.join(twice[:3])}": bool(twice),
    }
    problem = printable("; ".join(text for text, wrong in problems.items() if wrong))
    return Case(folder.name, cts[0] if cts else None, {stem(path): path for path in files}, problem=problem)


def score_cases(cases: Iterable[Case], scorer: Scorer, *, canonical: bool = False) -> Iterator[Record]:
    """Yields the result of each case, in order; a bad mask or a bad case does not stop the others.

    Args:
      cases: the cases, read one after the other. Masks of several cases may share a batch.
      scorer: scores the masks and finds their organs.
      canonical: whether to reorient volumes to the patient's axes.
    """
    records: collections.deque[Record] = collections.deque()
    asked: collections.deque[tuple[Record, str]] = collections.deque()
    read = _Reader(scorer, canonical=canonical)

    def requests() -> Iterator[Request]:
        for case in cases:
            record = Record(case.name, case.fingerprint())
            records.append(record)
            try:
                for name, request in read(case, record):
                    asked.append((record, name))
                    yield request
            except _BAD as error:
                record.failed[""] = _words(error)

    for score in scorer.scores(requests()):
        record, name = asked.popleft()
        while records[0] is not record:
            yield records.popleft()
        record.scores[name] = score
    yield from records


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads the masks of a case, and records those that cannot be scored."""

    scorer: Scorer
    canonical: bool = dataclasses.field(kw_only=True)

    def __call__(self, case: Case, record: Record) -> Iterator[tuple[str, Request]]:
        if case.problem:
            raise VolumeError(case.problem)
        ct = read_volume(case.ct, canonical=self.canonical)
        record.notes += [*check_ct(ct), *ct.notes]
        for name, organ, mask in self._labelled(case, ct, record) if case.labels else self._masks(case, ct, record):
            if mask.any():
                yield name, Request(ct.array, mask, organ)
            else:
                record.absent[name] = "empty"

    def _labelled(self, case: Case, ct: Volume, record: Record) -> Iterator[tuple[str, Organ, np.ndarray]]:
        labels = read_labels(case.labels, canonical=self.canonical)
        check_pair(ct, labels)
        present = np.unique(labels.array).tolist()
        unnamed = sorted(set(present) - {0, *case.table, *case.others})
        if case.assumed:
            record.notes.append(case.assumed)
            if present[-1] > max(case.table):
                raise VolumeError(
                    f"{labels.name}: has the label {present[-1]}, but classes of the DAP-Atlas end at "
                    f"{max(case.table)}; name a table of its labels with --label-names"
                )
        record.absent |= {name: f"no class: {why}" for k, (name, why) in case.others.items() if k in present}
        if unnamed:
            shown = ", ".join(map(str, unnamed[:10])) + (", ..." if len(unnamed) > 10 else "")
            record.notes.append(f"{labels.name}: labels without a name are ignored: {shown}")
        for label, organ in case.table.items():
            yield organ.name, organ, labels.array == label

    def _masks(self, case: Case, ct: Volume, record: Record) -> Iterator[tuple[str, Organ, np.ndarray]]:
        known = {}
        for name in case.masks:
            try:
                known[name] = self.scorer.organ(name)
            except ValueError as error:
                record.absent[name] = f"no class: {error}"
        readers = max(1, min(_READERS, _VOXELS // ct.array.size))
        for name, mask in _ahead(lambda name: self._mask(case.masks[name], ct), known, readers):
            if isinstance(mask, Exception):
                record.failed[name] = _words(mask)
            else:
                record.notes += mask.notes
                yield name, known[name], mask.array

    def _mask(self, path: Path, ct: Volume) -> Volume | Exception:
        try:
            mask = read_volume(path, canonical=self.canonical)
            check_pair(ct, mask)
            return check_mask(mask)
        except _BAD as error:
            return error


def _ahead(function: Callable, items: Iterable, count: int) -> Iterator[tuple]:
    """Yields (item, function(item)) in order, while threads compute the next items."""
    waiting: collections.deque = collections.deque()
    with ThreadPoolExecutor(count, thread_name_prefix="jaxseg-mask") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > count:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _stamp(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _words(error: Exception) -> str:
    _log.debug("a mask or a case failed", exc_info=error)
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{Path(str(error.filename)).name}: {error.strerror}")
    return printable(str(error)) or type(error).__name__
