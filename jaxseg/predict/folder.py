"""Segments files and folders: skips what is done, reports what failed, replaces nothing of another origin."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg import __version__
from jaxseg.files import atomic_file, safe_name, sha256, sweep
from jaxseg.images.write import WRITERS, merge_coco, output_path
from jaxseg.predict.inputs import SUMMARY_FILE, Job, find_images, folded, plan
from jaxseg.predict.segment import Segmenter
from jaxseg.predict.stream import Outcome, stream

__all__ = ["Job", "Run", "begin", "describe", "find_images", "merge_folder", "merged_path", "plan", "segment_files"]


@dataclasses.dataclass
class Run:
    """A run over a file or folder; `files` grows while it goes on.

    Attributes:
      output: folder of the results.
      output_type: key of `jaxseg.images.write.WRITERS`.
      settings: all that the masks depend on; results of other settings in `output` are never mixed in.
      files: output name -> {"source", "status": "done", "skipped", "failed" or "pending", "stamp", ...}. The stamp
        is that of the source that the output is made from, so that a run which was killed resumes (outputs appear
        whole); empty where the output is out of date.
      earlier: the same for results in `output` that this run does not touch.
      merged: COCO file of a whole folder -> that folder.
    """

    output: Path
    output_type: str
    settings: dict
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    earlier: dict[str, dict] = dataclasses.field(default_factory=dict)
    merged: dict[str, str] = dataclasses.field(default_factory=dict)
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
        content |= {"settings": self.settings, "counts": counts, "merged": self.merged}
        content["files"] = self.earlier | self.files
        with atomic_file(self.output / SUMMARY_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
            what = f"holds the {entry['output_type']} result" if entry else "is nothing that jaxseg wrote"
            raise ValueError(f"{run.path(job)} is in the way: it {what}; name another output folder, or remove it")
        if there and not overwrite and not _same_image(job, entry):
            raise ValueError(
                f"{run.path(job)} was made from {entry['source']}, not from {job.source}; name another output folder, "
                "or replace it with --overwrite"
            )
        extent = _extent(run.path(job)) if there else 0
        whole = extent > 0 and entry.get("extent", extent) == extent  # a killed run noted none; outputs appear whole
        if whole and job.stamp and entry.get("stamp") == job.stamp and not overwrite:
            run.files[key] = entry | {"source": str(job.source.resolve()), "status": "skipped"}
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
    outcomes = stream(
        todo,
        lambda job: segmenter.prepare(job.source),
        segmenter.predict,
        _writer(run, segmenter),
        batch_size=segmenter.batch_size,
        readers=readers,
        writers=writers,
    )
    try:
        for outcome in outcomes:
            run.files[run.key(outcome.item)] = _account(run, outcome)
            yield outcome
        run.complete = True
    finally:
        run.write_summary()


def merged_path(run: Run, source: Path) -> Path:
    """Returns where the COCO file of the folder `source` goes, `<its name>.json` unless an image's file has that name.

    Raises:
      ValueError: a file of another origin stands there.
    """
    name = safe_name(source.resolve().name)
    taken = {folded(Path(key)) for key in (*run.files, *run.earlier, SUMMARY_FILE)}
    while folded(Path(f"{name}.json")) in taken:
        name += "_all"
    path = run.output / f"{name}.json"
    origin = str(source.resolve())
    if os.path.lexists(path) and run.merged.get(path.name) != origin:
        raise ValueError(
            f"{path} is in the way: it was not made from {source}; name another output folder, or remove it"
        )
    run.merged[path.name] = origin
    return path


def merge_folder(jobs: list[Job], run: Run, path: Path, segmenter: Segmenter) -> Path:
    """Writes the folder's COCO file from those of the images that are done."""
    parts = [run.path(job) for job in jobs if run.files[run.key(job)]["status"] in ("done", "skipped")]
    return merge_coco(parts, path, segmenter.card.class_names)


def _writer(run: Run, segmenter: Segmenter) -> Callable:
    def write(job: Job, _, segmentation) -> Path:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return WRITERS[run.output_type](
            segmentation, job.base, source=str(job.source), categories=segmenter.card.class_names
        )

    return write


def _entry(run: Run, job: Job, status: str, stamp: tuple[int, ...]) -> dict:
    return {"source": str(job.source.resolve()), "output_type": run.output_type, "status": status, "stamp": stamp}


def _account(run: Run, outcome: Outcome) -> dict:
    """The entry of what is done; its stamp was taken before the source was read, lest it changed since."""
    seconds = {"seconds": {stage: round(value, 4) for stage, value in outcome.seconds.items()}}
    if outcome.error is not None:
        return _entry(run, outcome.item, "failed", ()) | {"reason": describe(outcome.error)} | seconds
    result = {"output": str(outcome.result), "notes": list(outcome.notes)}
    result |= {"sha256": sha256(outcome.item.source), "extent": _extent(outcome.result)}
    return _entry(run, outcome.item, "done", outcome.item.stamp) | result | seconds


def describe(error: Exception) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def _same_image(job: Job, entry: dict) -> bool:
    """Whether a result was made from this image, which may have been moved since; two patients' names may agree."""
    if entry["source"] == str(job.source.resolve()):
        return True
    return job.source.is_file() and entry.get("sha256") == sha256(job.source)


def _extent(path: Path) -> int:
    """Bytes of a file, or number of files in a folder: tells a result that was emptied since."""
    return sum(1 for _ in path.iterdir()) if path.is_dir() else path.stat().st_size if path.exists() else 0


def _previous(run: Run, overwrite: bool) -> dict[str, dict]:
    """The account of an earlier run into the same folder; refuses one with other settings."""
    path = run.output / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(summary["settings"])
        run.merged = dict(summary.get("merged", {}))
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
