"""Scores all masks of a data set or of a volume of labels, and keeps the scores in a CSV from which a run resumes."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from jaxseg.draw.pictures import save_picture
from jaxseg.files import Locked, printable, relative, sweep
from jaxseg.folder_runs.parts import Part, as_part, locked
from jaxseg.parquet import is_parquet
from jaxseg.segae.cases import Case, Record, find_cases, score_cases
from jaxseg.segae.label_table import table_of
from jaxseg.segae.score import choose_orientation, open_scorer
from jaxseg.segae.score_table import ORDERS, Row, ScoreTable, ordered, rows_of
from jaxseg.segae.scorer import Scorer
from jaxseg.segae.worst import worst_picture
from jaxseg.vocabulary.organs import totalsegmentator
from jaxseg.volumes.nifti import SUFFIXES as NIFTI
from jaxseg.volumes.nifti import need_nibabel
from jaxseg.volumes.read import stem

COLUMNS = ("auto", "v1", "v2", "present")  # choices of organs for the columns of a data set's CSV
WORST = 20  # masks in a picture that an earlier run left and that is drawn again


@dataclasses.dataclass(frozen=True)
class DatasetScores:
    """The scores of a data set, or of a volume of labels.

    Attributes:
      records: what became of each case that this call scored.
      rows: all scored masks, those of earlier runs included; the lowest predicted Dice is first.
      skipped: number of cases that an earlier run had scored.
      files: what was written -> its path: "table", "slices", "annotate", "trust" and "worst", as far as requested or
        left by an earlier run; of a part, "journal".
    """

    records: tuple[Record, ...]
    rows: tuple[Row, ...]
    skipped: int
    files: dict[str, Path]

    def __iter__(self) -> Iterator[Record]:
        """Yields what became of each case that this call scored."""
        return iter(self.records)

    @property
    def done(self) -> int:
        """Number of cases that this call scored without a failure."""
        return len(self.records) - self.failed

    @property
    def failed(self) -> int:
        """Number of cases of this call in which a mask, or the case itself, could not be scored."""
        return sum(bool(record.failed) for record in self.records)


@dataclasses.dataclass(frozen=True)
class _Output:
    """Where scores are written, and which files are written beside the CSV.

    Attributes:
      output: the CSV; None: nothing is written.
      overwrite: discard the scores that the CSV holds.
      per_slice: write NAME.slices.csv.
      rank: "annotate" or "trust": write NAME.annotate.csv (worst mask first) or NAME.trust.csv (best mask first).
      worst: number of masks in the picture NAME.worst.png; None: no picture.
      part: the part of the cases; None: all.

    Raises:
      ValueError: an option is out of range, or needs an output.
    """

    output: Path | None
    overwrite: bool = dataclasses.field(default=False, kw_only=True)
    per_slice: bool = dataclasses.field(default=False, kw_only=True)
    rank: str | None = None
    worst: int | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        if self.output is not None and self.output.suffix.lower() not in (".csv", ".parquet"):
            raise ValueError(f"{self.output.name} is neither a .csv nor a .parquet file; name the table to write")
        if self.output is not None:
            is_parquet(self.output)  # checked now, so that an error is raised before the first case
        if self.rank is not None and self.rank not in ORDERS:
            raise ValueError(f"rank must be one of {', '.join(ORDERS)}, got {self.rank!r}")
        if self.worst is not None and self.worst < 1:
            raise ValueError(f"worst must be at least 1, got {self.worst}")
        if self.output is None and (self.overwrite or self.per_slice or self.rank or self.worst):
            raise ValueError("overwrite, per_slice, rank and worst need an output, the CSV to write")
        if self.part is not None and self.output is None:
            raise ValueError("a part needs an output, the CSV that the parts share")
        if self.part is not None and (self.per_slice or self.rank or self.worst):
            raise ValueError(
                "per_slice, rank and worst need all cases; merge the parts, then repeat the call without a part"
            )


def score_dataset(
    dataset: str | Path,
    output: str | Path | None = None,
    model: str | Path | nnx.Module | Scorer = "segae",
    *,
    organs: str = "auto",
    canonical: bool | None = None,
    overwrite: bool = False,
    per_slice: bool = False,
    rank: str | None = None,
    worst: int | None = None,
    embeddings: str | Path | None = None,
    files: Sequence[Path] | None = None,
    part: Part | str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Record], None] | None = None,
    **options: Any,
) -> DatasetScores:
    """Scores every mask of a data set in TotalSegmentator's layout, and writes the scores to a CSV.

    A bad mask or a bad case does not stop the others. If the CSV exists, cases are scored only if they are new, failed
    before, or have changed files.

    Args:
      dataset: folder of CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz; .nii, .npy and .npz files, and folders of
        DICOM slices for CTs, can take the place of .nii.gz.
      output: table with one row per case and one column per organ: a .csv, with "n/a" in cells without a score, or a
        .parquet, in which they are missing; None: nothing is written.
      model: as in `jaxseg.score`.
      organs: columns of the CSV. "auto": the 104 names of TotalSegmentator v1, and other names that the data set has;
        "v1": only the 104, as the original; "v2": the 117 names of v2; "present": the names that the data set has.
      canonical: turn volumes to the patient's axes; None: as the model was trained.
      overwrite: score the cases again that the CSV holds.
      per_slice: also write NAME.slices.csv, with one line per scored slice.
      rank: also write the order in which to "annotate" masks (worst first, NAME.annotate.csv) or to "trust" them (best
        first, NAME.trust.csv).
      worst: also draw this number of masks with the lowest predicted Dice to NAME.worst.png; at most 60 are drawn.
      embeddings: file of text embeddings, for a model that is stored without them.
      files: the folders of the cases to score; None: all of the data set.
      part: score only this part of the cases, such as "3/8", so that 8 processes share them; `jaxseg.merge_scores`
        writes the CSV from the results of the parts. None: all cases.
      progress: called as (number of cases with scores, number of cases, name of the last), first with the cases that an
        earlier run scored and "".
      report: called with the `Record` of each case that is scored, after its scores are on disk.
      **options: options of `Scorer`: slices, names, average, calibrated, batch_size, devices, threads.

    Returns:
      The scores. Files beside the CSV that an earlier run left are written again too.

    Raises:
      ValueError: the folder has no case; the model does not score masks; an option is out of range; or the CSV was
        not written by jaxseg, or was written with other settings.
      OSError: a file of the model is missing, the results cannot be written, or another run is writing to their folder.

    Example:
      >>> import dataclasses, jax, jaxseg, numpy as np
      >>> from pathlib import Path
      >>> Path("cases/s1/segmentations").mkdir(parents=True)
      >>> ct, liver = np.zeros((4, 40, 40), np.int16), np.zeros((4, 40, 40), np.uint8)
      >>> ct[:, 5:35], liver[:, 10:30, 10:30] = -500, 1
      >>> np.save("cases/s1/ct.npy", ct)
      >>> np.save("cases/s1/segmentations/liver.npy", liver)
      >>> model = jaxseg.create("segae", backbone="resnet18", width=4)
      >>> model.card = dataclasses.replace(model.card, input_size=(32, 32))
      >>> model.embeddings.set_value(jax.numpy.ones((145, 512)))  # instead of label_embedding.pkl
      >>> found = jaxseg.score_dataset("cases", "scores.csv", model)
      >>> found.rows[0].case, found.rows[0].organ, 0 <= found.rows[0].score.mean <= 1
      ('s1', 'liver', True)
      >>> Path("scores.csv").read_text().split(",")[0]
      'CT_Sample'

    Source: Chen et al. 2024, arXiv:2406.00327; `inference_TotalSegmentator.py` of Schuture/Quality-Sentinel.
    """
    if organs not in COLUMNS:
        raise ValueError(f"organs must be one of {', '.join(COLUMNS)}, got {organs!r}")
    wanted = _Output(_path(output), rank, worst, as_part(part), overwrite=overwrite, per_slice=per_slice)
    cases = find_cases(Path(dataset), files)
    _check_readable(path for case in cases for path in (case.ct, *case.masks.values()))
    scorer = open_scorer(model, embeddings=embeddings, **options)
    run = _Run(cases, scorer, choose_orientation(scorer, canonical), progress, report)
    return run(wanted, _columns(cases, organs), "dataset")


def score_labels(
    ct: str | Path,
    labels: str | Path,
    output: str | Path | None = None,
    model: str | Path | nnx.Module | Scorer = "segae",
    *,
    label_names: str | Path | None = None,
    canonical: bool | None = None,
    overwrite: bool = False,
    per_slice: bool = False,
    rank: str | None = None,
    worst: int | None = None,
    embeddings: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Record], None] | None = None,
    **options: Any,
) -> DatasetScores:
    """Scores every label of a volume of labels as the mask of an organ.

    Args:
      ct: a volume file (NIfTI, .npy or .npz) in Hounsfield units, or a folder of DICOM slices.
      labels: a volume file of labels, with the voxels of the CT.
      output: table, .csv or .parquet, with one row for the CT and one column per organ; None: nothing is written.
      model: as in `jaxseg.score`.
      label_names: JSON or CSV file that maps labels to organs, see `jaxseg.segae.label_table.read_table`; None: the
        table in the header of a NIfTI file, as TotalSegmentator writes it, else labels are classes of the DAP-Atlas,
        with a note.
      canonical: as in `score_dataset`.
      overwrite: as in `score_dataset`.
      per_slice: as in `score_dataset`.
      rank: as in `score_dataset`.
      worst: as in `score_dataset`.
      embeddings: as in `score_dataset`.
      progress: as in `score_dataset`.
      report: as in `score_dataset`.
      **options: options of `Scorer`.

    Returns:
      The scores; a label that is missing in the volume is in `records[0].absent`.

    Raises:
      ValueError: as in `score_dataset`, or the table of labels is invalid.
      OSError: a file is missing, or the results cannot be written.
    """
    wanted = _Output(_path(output), overwrite=overwrite, per_slice=per_slice, rank=rank, worst=worst)
    for path in (ct, labels):
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file")
    labels = Path(labels)
    _check_readable([Path(ct), labels])
    table = table_of(labels, label_names, names=options.get("names", "right"))
    ct = Path(ct).resolve()
    name = stem(ct) or ct.name
    name = ct.parent.name if name == "ct" else name  # CASE/ct.nii.gz
    source = str(ct) if wanted.output is None else relative(wanted.output.parent, str(ct))
    meaning: dict[str, Any] = {"table": table.organs, "others": table.others, "assumed": table.note}
    case = Case(name, ct, labels=labels, source=source, **meaning)
    scorer = open_scorer(model, embeddings=embeddings, **options)
    run = _Run((case,), scorer, choose_orientation(scorer, canonical), progress, report)
    return run(wanted, case.names, "labels")


@dataclasses.dataclass(frozen=True)
class _Run:
    """Scores cases with a Scorer, with or without a table on disk."""

    cases: Sequence[Case]
    scorer: Scorer
    canonical: bool
    progress: Callable[[int, int, str], None] | None
    report: Callable[[Record], None] | None

    def __call__(self, wanted: _Output, columns: Sequence[str], kind: str) -> DatasetScores:
        if wanted.output is None:
            records = self._score(self.cases)
            return DatasetScores(records, tuple(ordered(row for each in records for row in rows_of(each))), 0, {})
        part = wanted.part
        with _lock(wanted.output, part) as log:
            sweep(wanted.output.parent)
            todo = [case for case in self.cases if part is None or part.holds(case.name)]
            facts = None if part is None else _facts(self.cases, todo)
            options: dict[str, Any] = {"overwrite": wanted.overwrite, "part": part, "facts": facts}
            table = ScoreTable(wanted.output, columns, self._settings(kind), **options)
            count, todo = len(todo), [case for case in todo if not table.has(case)]
            records = self._score(todo, table, count=count, log=log)
            table.conclude()
            rows, files = tuple(table.ordered()), {"journal": table.journal}
            if part is None:
                files = {"table": table.path} | self._write_beside(table, wanted)
        return DatasetScores(records, rows, count - len(records), files)

    def _score(
        self,
        todo: Sequence[Case],
        table: ScoreTable | None = None,
        *,
        count: int | None = None,
        log: Path | None = None,
    ) -> tuple[Record, ...]:
        count = len(todo) if count is None else count
        before, start = count - len(todo), time.perf_counter()
        records = []
        self._notify(before, count, "")
        for case, record in zip(todo, score_cases(todo, self.scorer, canonical=self.canonical), strict=True):
            if table is not None:
                table.add(case, record)
            if log is not None:
                _log(log, record, time.perf_counter() - start)
                start = time.perf_counter()
            records.append(record)
            if self.report is not None:
                self.report(record)
            if table is not None:  # the slices are in the journal of the table, not in memory
                record.scores = {row.organ: row.score for row in table.rows(case.name)}
            self._notify(before + len(records), count, record.case)
        return tuple(records)

    def _notify(self, done: int, count: int, name: str) -> None:
        if self.progress is not None:
            self.progress(done, count, name)

    def _settings(self, kind: str) -> dict:
        """Everything that scores depend on."""
        return self.scorer.settings | {"kind": kind, "canonical": self.canonical}

    def _write_beside(self, table: ScoreTable, wanted: _Output) -> dict[str, Path]:
        """Writes the requested files beside the CSV, and again those that an earlier run left."""
        files = {}
        if wanted.per_slice or table.beside("slices.csv").exists():
            files["slices"] = table.write_slices()
        for order in ORDERS:
            if wanted.rank == order or table.beside(f"{order}.csv").exists():
                files[order] = table.write_order(order)
        picture = table.beside("worst.png")
        rows = table.ordered()[: wanted.worst or WORST]
        if rows and (wanted.worst or picture.exists()):
            drawn = worst_picture(rows, self.cases, canonical=self.canonical)
            if drawn is not None:
                save_picture(drawn, picture)
                files["worst"] = picture
        return files


@contextlib.contextmanager
def _lock(table: Path, part: Part | None) -> Iterator[Path | None]:
    """Makes the folder of a table and holds its lock; yields the log of a part.

    Raises:
      BlockingIOError: another run excludes this one, which is not a fault of the caller's options.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(locked(table, part))
        except Locked as error:
            raise BlockingIOError(str(error)) from None
        yield log


def _facts(cases: Sequence[Case], mine: Sequence[Case]) -> dict:
    """Returns what `jaxseg.merge_scores` must know about a part: all cases, and those of the part."""
    digest = hashlib.sha256("\n".join(case.name for case in cases).encode("utf-8", "surrogateescape"))
    return {"listed": {"files": len(cases), "digest": digest.hexdigest()}, "cases": [case.name for case in mine]}


def _log(path: Path, record: Record, seconds: float) -> None:
    """Appends a line about a case to the log of a part: time, status, seconds, name and reasons."""
    reasons = "; ".join(": ".join(filter(None, reason)) for reason in record.failed.items())
    words = [time.strftime("%Y-%m-%d %H:%M:%S"), "failed" if reasons else "done", f"{seconds:.3f}", record.case]
    with path.open("a", encoding="utf-8") as file:
        file.write("\t".join(map(printable, [*words, *[reasons] * bool(reasons)])) + "\n")


def _check_readable(paths: Iterable[Path | None]) -> None:
    """Raises ValueError before a run if one of the files is NIfTI and nibabel is not installed."""
    if any(path is not None and path.name.lower().endswith(NIFTI) for path in paths):
        need_nibabel()


def _columns(cases: Sequence[Case], organs: str) -> list[str]:
    """Returns the organs of the CSV of a data set."""
    present = sorted({name for case in cases for name in case.names})
    if organs == "present":
        return present
    known = list(totalsegmentator(2 if organs == "v2" else 1))
    return known + [name for name in present if name not in known] if organs == "auto" else known


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
