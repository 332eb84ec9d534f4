"""Runs over files and folders: they skip what is done, report what failed, and replace nothing of another origin."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxseg import files
from jaxseg.folder_runs import merged
from jaxseg.folder_runs.account import Product, Run, begin, conclude, done, failed, merged_name, merged_path
from jaxseg.folder_runs.inputs import Job, listing
from jaxseg.folder_runs.merged import Merged
from jaxseg.folder_runs.parts import locked
from jaxseg.folder_runs.stream import Outcome, stream
from jaxseg.interrupts import uninterrupted
from jaxseg.summaries import SUMMARY_FILE

MEASURED = 20  # files at the start of a run whose results are measured


@dataclasses.dataclass(frozen=True)
class FileResult:
    """What a run did with one file.

    Attributes:
      source: the file.
      status: "done", "skipped" (the results existed) or "failed".
      outputs: kind of result, such as "npy" or "preview" -> its path. Empty if the file failed.
      reason: why the file failed; None if it did not.
      notes: remarks on the file, for the user.
    """

    source: Path
    status: str
    outputs: dict[str, Path]
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FolderResult:
    """What a run over a file or a folder did.

    Attributes:
      files: one FileResult per file, in the order of the files.
      summary: path of `summary.json` in the output folder, which lists the same and the results of earlier runs; for a
        part, path of the summary of the part.
      merged: the files that were made from all results together, such as a table, and those that hold the masks of all
        images.
      settings: everything that the results depend on.
      products: the kinds of results that were made from each file.
      entries: the files' entries in `summary.json`, by key.
      seconds: from the first file to the end.
    """

    files: tuple[FileResult, ...]
    summary: Path
    merged: tuple[Path, ...]
    settings: dict
    products: tuple[str, ...]
    entries: dict[str, dict]
    seconds: float

    def __iter__(self) -> Iterator[FileResult]:
        """Yields what the run did with each file."""
        return iter(self.files)

    @property
    def done(self) -> int:
        """Number of files that were processed."""
        return self._count("done")

    @property
    def skipped(self) -> int:
        """Number of files whose results existed already."""
        return self._count("skipped")

    @property
    def failed(self) -> int:
        """Number of files that failed."""
        return self._count("failed")

    def _count(self, status: str) -> int:
        return sum(file.status == status for file in self.files)


def run(
    jobs: list[Job],
    record: Run,
    work: Callable[[list[Job], Run], Iterator[Outcome]],
    *,
    prepare: Callable[[], None] | None = None,
    merges: Sequence[Merged] = (),
    source: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> FolderResult:
    """Does the jobs that are not done yet, keeps account of them in `summary.json`, and merges the results.

    The steps of every run: lock the output folder, find the jobs that are not done, process them, write the merged
    files, and write the summary. The next run resumes one that was interrupted. A part of a run does its jobs only, and
    leaves the merged files to `jaxseg merge`. A run without parts that has all images of earlier parts replaces them.

    Args:
      jobs: as `plan` returns them, those of all parts.
      record: the run's output folder, products and settings, and what becomes of its files.
      work: (jobs to do, run) -> Outcomes, as `process` yields them.
      prepare: called before the first job if there is one, for example to compile.
      merges: the files to make from all results.
      source: the file or folder that the user named; merged files are named after it.
      overwrite: do all jobs again, and allow that settings have changed.
      progress: called as (number of files processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every file that was processed: `item.source`, `error` (None if it
        succeeded), `notes`.

    Raises:
      ValueError: results in the output folder were made with other settings or are of another origin.
      OSError: the output folder cannot be written, the disk is full, or another process is writing to the folder.
    """
    record.output.mkdir(parents=True, exist_ok=True)
    with locked(record.output / SUMMARY_FILE, record.part) as log:
        if record.part is not None:
            record.facts = _facts(jobs, record, merges, source)
            jobs, merges = [job for job in jobs if record.part.holds(job.name)], ()
        todo = begin(jobs, record, overwrite=overwrite)
        paths = [merged_path(record, source, each.suffix) for each in merges]
        _notify(progress, 0, len(todo), "")
        if todo and prepare is not None:
            prepare()
        start = time.perf_counter()
        for number, outcome in enumerate(work(todo, record), 1):
            if log is not None:
                _log(log, outcome)
            if report is not None:
                report(outcome)
            _notify(progress, number, len(todo), outcome.item.source.name)
        joint = [product.joint for product in record.products if product.joint is not None]
        for file in joint:
            file.finish()
        for each, path in zip(merges, paths, strict=True):
            if each.suffix.startswith("."):
                entries = [(job.name, record.files[record.key(job)]) for job in jobs]
            else:
                entries = sorted((record.earlier | record.files).items())
            merged.update(record, each, path, entries, changed=bool(todo))
        conclude(record)
    paths += [file.path for file in joint if file.path.exists()]
    return _result(jobs, record, tuple(paths), time.perf_counter() - start)


def _facts(jobs: list[Job], run: Run, merges: Sequence[Merged], source: Path | None) -> dict:
    """Returns what `jaxseg merge` must know about a part: all files of the run, and the files to make from them."""
    facts: dict[str, Any] = {"listed": listing(jobs)}
    if source is not None:
        origin = files.relative(run.output, str(source.resolve()))
        made = [dataclasses.asdict(each) | {"name": merged_name(source)} for each in merges]
        facts |= {"input": origin, "merges": made}
    return facts


def _log(path: Path, outcome: Outcome) -> None:
    """Appends a line about a file to the log of a part: time, status, seconds, name and reason."""
    status, reason = ("done", "") if outcome.error is None else ("failed", describe(outcome.error))
    words = [time.strftime("%Y-%m-%d %H:%M:%S"), status, f"{sum(outcome.seconds.values()):.3f}", outcome.item.name]
    with path.open("a", encoding="utf-8") as file:
        file.write("\t".join(map(files.printable, [*words, *[reason] * bool(reason)])) + "\n")


def process(
    todo: list[Job], run: Run, read: Callable, compute: Callable, write: Callable, *, batch_size: int, **options: Any
) -> Iterator[Outcome]:
    """Does jobs with `jaxseg.folder_runs.stream.stream`, yields their Outcomes, and keeps account of them in `run`.

    `write` returns a list: of notes for the user (str), and of facts that the summary holds about the file (dict).
    `options` are those of `stream`: `fetch`, `readers` and `writers`.

    Ctrl-C and SIGTERM take effect after the job that is being finished; a second one takes effect at once.

    Raises:
      OSError: the disk is full. The results so far are kept, and the next run resumes.
    """
    outcomes = stream(todo, read, compute, write, batch_size=batch_size, **options)
    try:
        yield from _recorded(outcomes, run)
    finally:
        run.write_summary()


def _recorded(outcomes: Iterator[Outcome], run: Run) -> Iterator[Outcome]:
    with uninterrupted() as pause, contextlib.closing(outcomes):
        for number, outcome in enumerate(outcomes):
            seconds = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
            if outcome.error is None:
                outcome.notes += tuple(note for note in outcome.result if isinstance(note, str))
                facts = [found for found in outcome.result if isinstance(found, dict)]
                done(run, outcome.item, list(outcome.notes), seconds, *facts)
                if number < MEASURED:
                    outcome.size = sum(_size(product, outcome.item) for product in run.products)
            elif files.is_full(outcome.error):  # every other file would fail too
                raise outcome.error
            else:
                failed(run, outcome.item, describe(outcome.error), list(outcome.notes), seconds)
            yield outcome
            pause()


def _size(product: Product, job: Job) -> int:
    """Returns the number of bytes of a product of a job."""
    if product.joint is not None:
        return round(product.joint.mean_size)
    path = product.place(job.base)
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def describe(error: Exception) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def writer(run: Run) -> Callable:
    """Returns the function (job, what was read, what was computed) that writes all products of a job."""

    def write(job: Job, *made) -> list[str | dict]:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return [note for product in run.products for note in product.write(job, *made)]

    return write


def _notify(progress: Callable[[int, int, str], None] | None, done: int, total: int, name: str) -> None:
    if progress is not None:
        progress(done, total, name)


def _result(jobs: list[Job], run: Run, paths: tuple[Path, ...], seconds: float) -> FolderResult:
    found = []
    for job in jobs:
        entry = run.files[run.key(job)]
        reason = entry["reason"] if entry["status"] == "failed" else None
        places = {product.kind: run.output / entry["outputs"][product.kind]["path"] for product in run.products}
        outputs = places if reason is None else {}
        found.append(FileResult(job.source, entry["status"], outputs, reason, tuple(entry.get("notes", ()))))
    kinds = tuple(product.kind for product in run.products)
    return FolderResult(tuple(found), run.summary, paths, run.settings, kinds, run.files, seconds)
