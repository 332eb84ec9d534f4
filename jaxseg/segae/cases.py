"""Cases whose masks are scored: folders in TotalSegmentator's layout, or a CT with a volume of labels."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxseg.files import printable
from jaxseg.segae.scorer import MaskScore, Request, Scorer
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import SUFFIXES, read_labels, read_volume, stem, suffix_of
from jaxseg.volumes.volume import Volume, VolumeError

MASKS = "segmentations"  # folder of a case's masks
_READERS, _VOXELS = 4, 2**28  # masks that are read ahead, and how many voxels these may have together
_BAD = (ValueError, OSError, MemoryError)  # what is wrong with one mask or case, and leaves the others


@dataclasses.dataclass(frozen=True)
class Case:
    """A CT and its masks.

    Attributes:
      name: of the case.
      ct: file, or folder of DICOM slices; None where the case has none.
      masks: organ's name -> file.
      labels: in place of masks, a volume of labels.
      table: of it, label -> organ.
      problem: why it cannot be scored.
      source: where the CT is, for cases whose names do not tell.
    """

    name: str
    ct: Path | None
    masks: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    labels: Path | None = None
    table: Mapping[int, Organ] = dataclasses.field(default_factory=dict)
    problem: str = ""
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the organs."""
        return tuple(self.masks) or tuple(organ.name for organ in self.table.values())

    def fingerprint(self) -> str:
        """Hangs on the names, sizes and times of all files, as far as they are there."""
        digest = hashlib.sha256(repr(sorted((k, organ.id) for k, organ in self.table.items())).encode())
        for path in (self.ct, self.labels, *(self.masks[name] for name in sorted(self.masks))):
            for file in sorted(path.iterdir()) if path is not None and path.is_dir() else [path]:
                if file is not None:
                    digest.update(f"{file.name}\0{_stamp(file)}\n".encode())
        return digest.hexdigest()


@dataclasses.dataclass
class Record:
    """What became of a case.

    Attributes:
      case: its name.
      fingerprint: of its files, taken before they were read.
      scores: organ's name -> its score.
      absent: organ's name -> why there is none: "empty", or "no class" of the DAP-Atlas.
      failed: organ's name -> what is wrong with its mask; "" stands for the case itself.
      notes: remarks on its volumes.
    """

    case: str
    fingerprint: str = ""
    scores: dict[str, MaskScore] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def find_cases(root: Path) -> tuple[Case, ...]:
    """Returns the cases CASE/ct.nii.gz with CASE/segmentations/ORGAN.nii.gz, by name; other volumes will do too.

    Raises:
      ValueError: there is none. OSError: a folder cannot be read.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = tuple(case for case in map(_case, folders) if case is not None)
    if not found:
        hint = "; this is a case itself: name the folder above it" if (root / MASKS).is_dir() else ""
        raise ValueError(f"{root}: holds no case; the layout is CASE/ct.nii.gz and CASE/{MASKS}/ORGAN.nii.gz{hint}")
    return found


def _case(folder: Path) -> Case | None:
    """The case of a folder; None where it has neither a CT nor masks."""
    cts = [folder / f"ct{suffix}" for suffix in (*SUFFIXES, "") if (folder / f"ct{suffix}").exists()]
    masks = folder / MASKS
    if not cts and not masks.is_dir():
        return None
    files = [path for path in sorted(masks.iterdir()) if suffix_of(path)] if masks.is_dir() else []
    files = [path for path in files if not path.name.startswith(".")]
    counts = collections.Counter(map(stem, files))
    twice = [name for name, count in counts.items() if count > 1]
    problems = {
        "there is no ct.nii.gz": not cts,
        f"there are {' and '.join(path.name for path in cts)}; keep one": len(cts) > 1,
        f"there is no folder {MASKS}": not masks.is_dir(),
        f"several files are masks of {', '.join(twice[:3])}": bool(twice),
    }
    problem = printable("; ".join(text for text, wrong in problems.items() if wrong))
    return Case(folder.name, cts[0] if cts else None, {stem(path): path for path in files}, problem=problem)


def score_cases(cases: Iterable[Case], scorer: Scorer, *, canonical: bool = False) -> Iterator[Record]:
    """Yields what becomes of each case, in order; a bad mask or a bad case does not stop the others.

    Args:
      cases: read one after the other; masks of several cases may share a batch.
      scorer: of the masks, which finds their organs.
      canonical: turn volumes to the patient's axes.
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
    """Reads a case, and notes in its record what cannot be scored."""

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
        unnamed = sorted(set(np.unique(labels.array).tolist()) - {0, *case.table})
        if unnamed:
            shown = ", ".join(map(str, unnamed[:10])) + (", ..." if len(unnamed) > 10 else "")
            record.notes.append(f"{labels.name}: labels without a name are left out: {shown}")
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
    """Yields (item, function(item)) in order, with a few made ahead in threads."""
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
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{Path(str(error.filename)).name}: {error.strerror}")
    return printable(str(error)) or type(error).__name__
