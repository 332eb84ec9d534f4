"""Segments files and folders: finding images, naming outputs, skipping what is done, reporting what failed."""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg import __version__
from jaxseg.files import atomic_file, safe_name, sweep
from jaxseg.images.read import SUFFIXES
from jaxseg.images.write import WRITERS, merge_coco, output_path
from jaxseg.predict.segment import Segmenter
from jaxseg.predict.stream import Outcome, stream

SUMMARY_FILE = "summary.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to do: its path, the output's path without suffix, and the source's size and time (its stamp)."""

    source: Path
    base: Path
    stamp: tuple[int, ...]


@dataclasses.dataclass
class Run:
    """A run over a file or folder; `files` grows while it goes on.

    Attributes:
      output: folder of the results.
      output_type: key of `jaxseg.images.write.WRITERS`.
      settings: all that the masks depend on; results of other settings in `output` are never mixed in.
      files: output name -> {"source", "status": "done", "skipped", "failed" or "pending", "stamp", ...}. The stamp
        is that of the source that the output was made from; empty where the output is missing or out of date.
      earlier: the same for results in `output` that this run does not touch.
    """

    output: Path
    output_type: str
    settings: dict
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    earlier: dict[str, dict] = dataclasses.field(default_factory=dict)
    complete: bool = False

    def path(self, job: Job) -> Path:
        """Returns the file or folder that a job makes."""
        return output_path(job.base, self.output_type)

    def key(self, job: Job) -> str:
        """Returns the key of a job in `files`."""
        return self.path(job).relative_to(self.output).as_posix()

    def count(self, status: str) -> int:
        """Returns how many files have this status."""
        return sum(entry["status"] == status for entry in self.files.values())

    def write_summary(self) -> None:
        """Writes `summary.json`."""
        counts = {status: self.count(status) for status in ("done", "skipped", "failed", "pending")}
        content = {"jaxseg": __version__, "complete": self.complete, "output_type": self.output_type}
        content |= {"settings": self.settings, "counts": counts, "files": self.earlier | self.files}
        with atomic_file(self.output / SUMMARY_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_images(path: Path, *, recursive: bool = False, output: Path | None = None) -> list[Path]:
    """Returns the image files that `path` means, sorted; what is hidden, or in the folder `output`, is left out.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: a folder holds no image, or would be searched through its own results.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{path}: cannot read {path.suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}"
            )
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    own = _inside(output, path) if recursive and output else None
    if own == Path():
        raise ValueError(f"{path}: with --recursive the output must be another folder; masks would be taken for images")
    images = sorted(
        file
        for file in (_walk(path, own) if recursive else path.iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not images:
        hint = "" if recursive else " (--recursive looks into sub-folders)"
        raise ValueError(f"{path}: no {', '.join(SUFFIXES)} file in this folder{hint}")
    return images


def _walk(root: Path, own: Path | None) -> Iterator[Path]:
    """Every file below `root`, but for hidden folders, the folder `own` and other folders of results."""

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and here / name != (own and root / own) and not _is_output(here / name)
        ]
        yield from (here / name for name in files)


def _is_output(folder: Path) -> bool:
    return _starts_with(folder / SUMMARY_FILE, b'"jaxseg"')


def plan(sources: list[Path], root: Path, output: Path) -> list[Job]:
    """Returns a job for every image: the output is named after the file up to its last dot.

    Sub-folders are mirrored. Images that would get the same output name ("a.png", "a.jpg"), or that of a
    mirrored folder or of the summary, keep their suffix in it ("a_png", "a_jpg").
    """
    folders = [s.parent.relative_to(root) if root.is_dir() else Path() for s in sources]
    wanted = [folder / safe_name(s.stem) for folder, s in zip(folders, sources, strict=True)]
    counts = collections.Counter(_folded(path) for path in wanted)
    counts.update({_folded(path) for folder in folders for path in (folder, *folder.parents)})
    counts.update({_folded(Path(SUMMARY_FILE)), _folded(Path(SUMMARY_FILE).with_suffix(""))})
    taken = {key for key, count in counts.items() if count == 1}
    jobs = []
    for source, path in zip(sources, wanted, strict=True):
        if counts[_folded(path)] > 1:
            name = path.name + source.suffix.replace(".", "_")
            while _folded(path.with_name(name)) in taken:
                name += "_"
            path = path.with_name(name)
            taken.add(_folded(path))
        jobs.append(Job(source, output / path, _stamp(source)))
    return jobs


def begin(jobs: list[Job], run: Run, *, overwrite: bool = False) -> list[Job]:
    """Returns the jobs that are not done yet, and writes down that they are pending.

    Raises:
      ValueError: the output folder holds results made with other settings and `overwrite` is False, or things of
        another origin where results are to go; nothing was changed then.
    """
    run.output.mkdir(parents=True, exist_ok=True)
    previous = _previous(run, overwrite)
    todo = []
    for job in jobs:
        key, there = run.key(job), os.path.lexists(run.path(job))
        entry = previous.pop(key, {})
        if there and entry.get("output_type") != run.output_type:
            raise ValueError(
                f"{run.path(job)} is in the way: {SUMMARY_FILE} lists no {run.output_type} result of that name; name "
                "another output folder, or remove it"
            )
        if there and not overwrite and _origin(entry["source"]) != _origin(job.source):
            raise ValueError(
                f"{run.path(job)} was made from {entry['source']}, not from {job.source}; name another output folder, "
                "or replace it with --overwrite"
            )
        if there and job.stamp and entry.get("stamp") == job.stamp and not overwrite:
            run.files[key] = entry | {"source": str(job.source), "status": "skipped"}
        else:
            todo.append(job)
            run.files[key] = _entry(run, job, "pending", () if there else job.stamp)
    run.earlier = previous
    for folder in {run.output, *(job.base.parent for job in jobs)}:
        sweep(folder)
    run.write_summary()  # on disk before the first result is: a run that is killed leaves no doubt what is whose
    return todo


def segment_files(
    todo: list[Job], segmenter: Segmenter, run: Run, *, readers: int = 2, writers: int = 2
) -> Iterator[Outcome]:
    """Segments the jobs that `begin` returned and yields their Outcomes; `run` keeps the account."""
    write = _writer(run, segmenter)
    read = lambda job: segmenter.prepare(job.source)  # noqa: E731
    try:
        for outcome in stream(
            todo, read, segmenter.predict, write, batch_size=segmenter.batch_size, readers=readers, writers=writers
        ):
            run.files[run.key(outcome.item)] = _account(run, outcome)
            yield outcome
        run.complete = True
    finally:
        run.write_summary()


def merged_path(jobs: list[Job], run: Run, name: str) -> Path:
    """Returns where the COCO file of a whole folder goes, `<name>.json` unless an image's file has that name.

    Raises:
      ValueError: a file that is not such a file of jaxseg stands there.
    """
    taken = {_folded(run.path(job)) for job in jobs} | {_folded(run.output / SUMMARY_FILE)}
    path = run.output / f"{safe_name(name)}.json"
    while _folded(path) in taken:
        path = path.with_name(f"{path.stem}_all.json")
    if os.path.lexists(path) and not _starts_with(path, b"masks written by jaxseg"):
        raise ValueError(f"{path} is in the way: jaxseg did not write it; name another output folder, or remove it")
    return path


def merge_folder(jobs: list[Job], run: Run, path: Path, segmenter: Segmenter) -> Path:
    """Writes the folder's COCO file from those of the images that are done."""
    parts = [run.path(job) for job in jobs if run.files[run.key(job)]["status"] in ("done", "skipped")]
    return merge_coco(parts, path, segmenter.card.class_names)


def _starts_with(path: Path, words: bytes) -> bool:
    """Whether the words stand in the first 500 bytes of a file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return words in file.read(500)


def _origin(path: str | Path) -> Path:
    return Path(path).resolve()


def _writer(run: Run, segmenter: Segmenter) -> Callable:
    def write(job: Job, _, segmentation) -> Path:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return WRITERS[run.output_type](
            segmentation, job.base, source=str(job.source), categories=segmenter.card.class_names
        )

    return write


def _entry(run: Run, job: Job, status: str, stamp: tuple[int, ...]) -> dict:
    return {"source": str(job.source), "output_type": run.output_type, "status": status, "stamp": stamp}


def _account(run: Run, outcome: Outcome) -> dict:
    """The entry of what is done; its stamp was taken before the source was read, lest it changed since."""
    seconds = {"seconds": {stage: round(value, 4) for stage, value in outcome.seconds.items()}}
    if outcome.error is not None:
        return _entry(run, outcome.item, "failed", ()) | {"reason": describe(outcome.error)} | seconds
    result = {"output": str(outcome.result), "notes": list(outcome.notes)}
    return _entry(run, outcome.item, "done", outcome.item.stamp) | result | seconds


def describe(error: Exception) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def _previous(run: Run, overwrite: bool) -> dict[str, dict]:
    """The account of an earlier run into the same folder; refuses one with other settings."""
    path = run.output / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(summary["settings"])
        files = {key: entry | {"stamp": tuple(entry["stamp"])} for key, entry in summary["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no summary of jaxseg; name another output folder, or remove it") from None
    if settings != run.settings and not overwrite:
        changed = sorted(k for k in run.settings.keys() | settings.keys() if run.settings.get(k) != settings.get(k))
        raise ValueError(
            f"{run.output} holds masks made with another {', '.join(changed)}; name another folder, or redo them "
            "with --overwrite"
        )
    if settings == run.settings:
        return files
    return {key: entry | {"status": "stale", "stamp": ()} for key, entry in files.items()}


def _stamp(path: Path) -> tuple[int, ...]:
    """Size and time of a file: another file under the same name is done again."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def _inside(path: Path, folder: Path) -> Path | None:
    """`path` as seen from `folder`, or None where it lies elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def _folded(path: Path) -> str:
    return str(path).lower()
