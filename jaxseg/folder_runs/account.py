"""The account of a run over files: what is made of which image, what is done, and what stands in the way."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

from jaxseg import __version__
from jaxseg.files import atomic_file, safe_name, sha256, sweep
from jaxseg.folder_runs.inputs import SUMMARY_FILE, Job, folded
from jaxseg.images.read import stem
from jaxseg.masks.write import WRITERS

# The settings that only some kinds of products depend on; on all others every kind does.
_ONLY_OF = {
    "classes": (*WRITERS, "preview"),
    "labelmap": ("dicom-seg",),
    "features": ("measurements", "drawing"),
    "original_values": ("measurements",),
}


@dataclasses.dataclass(frozen=True)
class Product:
    """One thing that a run makes of every image.

    Attributes:
      kind: its name in the account, such as "npy" or "preview".
      place: the output's path without suffix -> the file or folder that is made.
      write: (job, segmentation) -> notes for the user; makes it, whole or not at all.
      check: image -> None; raises where nothing can be made of such a file, before anything is computed.
    """

    kind: str
    place: Callable[[Path], Path]
    write: Callable[..., list[str]]
    check: Callable[[Path], None] | None = None


@dataclasses.dataclass
class Run:
    """A run over a file or folder; `files` grows while it goes on.

    Attributes:
      output: folder of the results.
      products: what is made of each image.
      settings: all that the products depend on; results of other settings in `output` are never mixed in.
      files: output name -> {"source", "status": "done", "skipped", "failed" or "pending", "outputs", ...}. "outputs"
        holds, for each kind of product, its path in the folder and the stamp of the image that it is made from, so
        that a run which was killed resumes (outputs appear whole); the stamp is empty where it is out of date.
      earlier: the same for images that this run does not touch.
      merged: file made of all results of a folder -> that folder.
      moved: former paths of images that were recognised by their content.
    """

    output: Path
    products: tuple[Product, ...]
    settings: dict
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    earlier: dict[str, dict] = dataclasses.field(default_factory=dict)
    merged: dict[str, str] = dataclasses.field(default_factory=dict)
    moved: list[str] = dataclasses.field(default_factory=list)
    complete: bool = False

    def key(self, job: Job) -> str:
        """Returns the key of a job in `files`."""
        return job.base.relative_to(self.output).as_posix()

    def finished(self, jobs: list[Job]) -> list[Job]:
        """Returns the jobs whose products are there."""
        return [job for job in jobs if self.files[self.key(job)]["status"] in ("done", "skipped")]

    def count(self, status: str) -> int:
        """Returns how many files have this status."""
        return sum(entry["status"] == status for entry in self.files.values())

    def write_summary(self) -> None:
        """Writes `summary.json`."""
        counts = {status: self.count(status) for status in ("done", "skipped", "failed", "pending")}
        content = {"jaxseg": __version__, "complete": self.complete, "products": [p.kind for p in self.products]}
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
    _check_free(jobs, run, previous)
    todo = []
    for job in jobs:
        key = run.key(job)
        entry = previous.pop(key, {"outputs": {}})
        places = {product.kind: product.place(job.base) for product in run.products}
        if not overwrite:
            _check_same_image(job, run, entry)
            if entry.get("source", str(job.source.resolve())) != str(job.source.resolve()):
                run.moved.append(entry["source"])
        if not overwrite and job.stamp and all(_is_whole(job, entry, kind, place) for kind, place in places.items()):
            run.files[key] = entry | {"source": str(job.source.resolve()), "status": "skipped"}
            continue
        todo.append(job)
        # What is not there yet appears whole, so the stamp may be written down before; what is there is out of date.
        stamps = {kind: () if os.path.lexists(place) else job.stamp for kind, place in places.items()}
        run.files[key] = _entry(run, job, "pending", stamps, entry)
    run.earlier = previous
    for folder in {run.output, *(job.base.parent for job in jobs)}:
        sweep(folder)
    run.write_summary()  # on disk before the first result is: a run that is killed leaves no doubt what is whose
    return todo


def done(run: Run, job: Job, notes: list[str], seconds: dict) -> None:
    """Writes down that a job's products are there; their stamp was taken before the image was read."""
    previous = run.files[run.key(job)]
    entry = _entry(run, job, "done", {product.kind: job.stamp for product in run.products}, previous)
    for product in run.products:
        entry["outputs"][product.kind]["extent"] = _extent(product.place(job.base))
    run.files[run.key(job)] = entry | {"notes": notes, "sha256": sha256(job.source), "seconds": seconds}


def conclude(run: Run) -> None:
    """Writes down that the run is complete."""
    run.complete = True
    run.write_summary()


def failed(run: Run, job: Job, reason: str, notes: list[str], seconds: dict) -> None:
    """Writes down that a job failed; what is left of its products is out of date."""
    entry = _entry(run, job, "failed", {product.kind: () for product in run.products}, run.files[run.key(job)])
    run.files[run.key(job)] = entry | {"reason": reason, "notes": notes, "seconds": seconds}


def merged_path(run: Run, source: Path, suffix: str) -> Path:
    """Returns where a file made of all results of `source` goes: its name and `suffix`, unless an image has that name.

    Raises:
      ValueError: a file of another origin stands there.
    """
    name = safe_name(source.resolve().name if source.is_dir() else stem(source))
    entries = (*run.files.values(), *run.earlier.values())
    taken = {folded(Path(output["path"])) for entry in entries for output in entry["outputs"].values()}
    while folded(Path(f"{name}{suffix}")) in {*taken, SUMMARY_FILE}:
        name += "_all"
    path = run.output / f"{name}{suffix}"
    origin = str(source.resolve())
    known = run.merged.get(path.name)
    ours = known is not None and (known == origin or any(Path(image).is_relative_to(known) for image in run.moved))
    if os.path.lexists(path) and not ours:
        raise ValueError(
            f"{path} is in the way: it was not made from {source}; name another output folder, or remove it"
        )
    run.merged[path.name] = origin
    return path


def _entry(run: Run, job: Job, status: str, stamps: dict[str, tuple], previous: dict) -> dict:
    """An entry with the products' stamps; other kinds are out of date if the image is another now."""
    source = str(job.source.resolve())
    outputs = {kind: output for kind, output in previous["outputs"].items() if kind not in stamps}
    moved = previous.get("source", source) != source
    changed = [kind for kind, output in outputs.items() if output["stamp"] and (moved or output["stamp"] != job.stamp)]
    if changed:
        stamp = job.stamp if _same_content(job, previous) else ()
        outputs |= {kind: outputs[kind] | {"stamp": stamp} for kind in changed}
    for product in run.products:
        place = product.place(job.base).relative_to(run.output).as_posix()
        outputs[product.kind] = {"path": place, "stamp": stamps[product.kind]}
    return {"source": source, "status": status, "outputs": outputs}


def _check_free(jobs: list[Job], run: Run, previous: dict[str, dict]) -> None:
    """Refuses to replace what jaxseg did not write, or what belongs to another image or another kind."""
    owners = {
        output["path"]: (key, kind) for key, entry in previous.items() for kind, output in entry["outputs"].items()
    }
    taken: dict[str, Job] = {}
    for job in jobs:
        for product in run.products:
            place = product.place(job.base)
            other = taken.setdefault(folded(place), job)
            if other is not job:
                raise ValueError(f"{other.source} and {job.source} would both become {place}; rename one of them")
            owner = owners.get(place.relative_to(run.output).as_posix())
            if not os.path.lexists(place) or owner == (run.key(job), product.kind):
                continue
            what = f"holds the {owner[1]} result" if owner else "is nothing that jaxseg wrote"
            raise ValueError(f"{place} is in the way: it {what}; name another output folder, or remove it")


def _check_same_image(job: Job, run: Run, entry: dict) -> None:
    """Refuses to mix results of two images that have one name."""
    for output in entry["outputs"].values():
        if os.path.lexists(run.output / output["path"]) and not _same_image(job, entry):
            raise ValueError(
                f"{run.output / output['path']} was made from {entry['source']}, not from {job.source}; name another "
                "output folder, or replace it with --overwrite"
            )


def _same_image(job: Job, entry: dict) -> bool:
    """Whether a result was made from this image, which may have been moved since; two patients' names may agree."""
    return entry["source"] == str(job.source.resolve()) or _same_content(job, entry)


def _same_content(job: Job, entry: dict) -> bool:
    try:
        return "sha256" in entry and entry["sha256"] == sha256(job.source)
    except OSError:  # it cannot be read; the run says why
        return False


def _is_whole(job: Job, entry: dict, kind: str, place: Path) -> bool:
    """Whether a product is there, of this state of the image, and as large as it was made."""
    output = entry["outputs"].get(kind)
    if output is None or output["stamp"] != job.stamp:
        return False
    extent = _extent(place)
    return extent > 0 and output.get("extent", extent) == extent  # a killed run noted none; outputs appear whole


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
        files = {key: _read_entry(entry) for key, entry in summary["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no summary of jaxseg; name another output folder, or remove it") from None
    changed = sorted(key for key in run.settings.keys() & settings.keys() if run.settings[key] != settings[key])
    if changed and not overwrite:
        raise ValueError(
            f"{run.output} holds results made with another {', '.join(changed)}; name another folder, or redo them "
            "with --overwrite"
        )
    run.settings = settings | run.settings  # `segment` and `extract` have some settings of their own
    if changed:
        files = {key: _outdated(entry, changed) for key, entry in files.items()}
    return files


def _read_entry(entry: dict) -> dict:
    outputs = {
        str(kind): output | {"path": str(output["path"]), "stamp": tuple(output["stamp"])}
        for kind, output in entry["outputs"].items()
    }
    return entry | {"source": str(entry["source"]), "outputs": outputs}


def _outdated(entry: dict, changed: list[str]) -> dict:
    """The entry, with the products that depend on one of the changed settings out of date."""
    outputs = entry["outputs"]
    kinds = [kind for kind in outputs if any(kind in _ONLY_OF.get(setting, (kind,)) for setting in changed)]
    if not kinds:
        return entry
    outputs = outputs | {kind: outputs[kind] | {"stamp": ()} for kind in kinds}
    return entry | {"status": "stale", "outputs": outputs}
