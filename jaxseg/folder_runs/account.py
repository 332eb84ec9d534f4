"""The account of a run over files: what is made from which image, and what is already done."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

from jaxseg.files import relative, resolved, safe_name, sha256, sweep
from jaxseg.folder_runs.conflicts import check_free, check_same_image, same_content
from jaxseg.folder_runs.inputs import SUMMARY_FILE, Job, folded
from jaxseg.folder_runs.ledger import Kind, Ledger
from jaxseg.images.read import stem
from jaxseg.masks import cohort
from jaxseg.masks.write import WRITERS

# Settings that only some kinds of products depend on. All products depend on every other setting.
_ONLY_OF = {
    "classes": (*WRITERS, *cohort.TYPES, "preview", "registered_mask", "registered_preview"),
    "labelmap": ("dicom-seg",),
    "strict_projection": ("dicom-seg",),
    "features": ("measurements", "drawing"),
    "original_values": ("measurements",),
    "groups": ("measurements", "drawing"),
    "reference": ("registered", "metadata", "affine", "registered_mask", "registered_preview"),
}
# Settings that earlier versions did not record -> (a setting that the same runs recorded, the value that they used).
_UNRECORDED = {
    "groups": ("features", "original"),
    "orientation": ("preprocessing", "as stored"),
    "strict_projection": ("labelmap", True),
}


@dataclasses.dataclass(frozen=True)
class Product:
    """One thing that a run makes from every image.

    Attributes:
      kind: its name in the account, such as "npy" or "preview".
      place: the output's path without suffix -> the file or folder that is made.
      write: (job, results of reading and computing) -> notes for the user, and dicts of facts that the summary holds
        about the image. Writes the product whole or not at all.
      check: image -> None. Raises if nothing can be made from such a file, before anything is computed.
      joint: the file that holds the results of all images, to which `write` adds those of one; None: each image has
        its own file or folder.
    """

    kind: str
    place: Callable[[Path], Path]
    write: Callable[..., list]
    check: Callable[[Path], None] | None = None
    joint: cohort.MaskFile | None = None


@dataclasses.dataclass
class Run:
    """A run over a file or a folder. `files` grows while it works.

    Attributes:
      output: folder of the results.
      products: what is made from each image.
      settings: everything that the products depend on. Results of different settings are never mixed in one folder.
      note: what users of the results must know about the model; the card's.
      files: output name -> {"source", "status": "done", "skipped", "failed" or "pending", "outputs", ...}. "outputs"
        holds, for each kind of product, its path in the folder and the stamp of the image from which it was made, so
        that a run that was killed can resume (outputs appear whole). The stamp of an outdated product is empty.
      earlier: the same for images that this run does not touch.
      merged: name of a file made from all results of a folder -> that folder.
      moved: former paths of images that were recognised by their content.
      complete: whether the run reached its end.
      ledger: the file that holds all this; `begin` opens it.
    """

    output: Path
    products: tuple[Product, ...]
    settings: dict
    note: str = ""
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    earlier: dict[str, dict] = dataclasses.field(default_factory=dict)
    merged: dict[str, str] = dataclasses.field(default_factory=dict)
    moved: list[str] = dataclasses.field(default_factory=list)
    complete: bool = False
    ledger: Ledger | None = None

    def key(self, job: Job) -> str:
        """Returns the key of a job in `files`."""
        return job.base.relative_to(self.output).as_posix()

    def finished(self, jobs: list[Job]) -> list[Job]:
        """Returns the jobs whose products exist."""
        return [job for job in jobs if self.files[self.key(job)]["status"] in ("done", "skipped")]

    def count(self, status: str) -> int:
        """Returns how many files have this status."""
        return sum(entry["status"] == status for entry in self.files.values())

    def open_ledger(self) -> Ledger:
        """Opens the ledger of the output folder, which adds the settings of earlier runs to `settings`."""
        kind = Kind(read_entry=functools.partial(_read_entry, self.output), unrecorded=_UNRECORDED)
        self.ledger = Ledger(self.output / SUMMARY_FILE, self.settings, kind=kind)
        self.settings = self.ledger.settings
        merged = self.ledger.facts.get("merged", {})
        self.merged = {name: resolved(self.output, source) for name, source in merged.items()}
        return self.ledger

    def write_summary(self) -> None:
        """Writes `summary.json` as a whole; the ledger must be open."""
        counts = {status: self.count(status) for status in ("done", "skipped", "failed", "pending")}
        products = [product.kind for product in self.products]
        entries = self.earlier | self.files
        self.ledger.entries = {key: stored(self.output, entry) for key, entry in entries.items()}
        merged = {name: relative(self.output, source) for name, source in self.merged.items()}
        facts = {"note": self.note, "products": products, "counts": counts, "merged": merged}
        self.ledger.write(complete=self.complete, **facts)


def begin(jobs: list[Job], run: Run, *, overwrite: bool = False) -> list[Job]:
    """Returns the jobs that are not done yet, and records that they are pending.

    Args:
      jobs: all jobs of the run.
      run: the run; its settings and files are completed.
      overwrite: do every job, and allow that settings have changed.

    Raises:
      ValueError: the output folder holds results made with other settings and `overwrite` is False, or files of
        another origin at the paths of the results. In this case nothing was changed.
    """
    run.output.mkdir(parents=True, exist_ok=True)
    ledger = run.open_ledger()
    ledger.refuse_changed_settings(overwrite=overwrite)
    previous = {key: _outdated(entry, ledger.changed) for key, entry in ledger.entries.items()}
    own = [product for product in run.products if product.joint is None]
    planned = [(run.key(job), job, product.kind, product.place(job.base)) for job in jobs for product in own]
    joint = {product.kind: product.joint.path for product in run.products if product.joint is not None}
    check_free(run.output, planned, previous, joint)
    for product in run.products:
        if product.joint is not None:
            product.joint.open()
    todo = [job for job in jobs if not _skip(job, run, previous.pop(run.key(job), {"outputs": {}}), overwrite)]
    run.earlier = previous
    for folder in {run.output, *(job.base.parent for job in jobs)}:
        sweep(folder)
    run.write_summary()  # before the first result: after a kill it is known which results are whose
    return todo


def done(run: Run, job: Job, notes: list[str], seconds: dict, *facts: dict) -> None:
    """Records that a job's products exist, and facts about them. Their stamp was taken before the image was read."""
    previous = run.files[run.key(job)]
    entry = _entry(run, job, "done", {product.kind: job.stamp for product in run.products}, previous)
    for product in run.products:
        if product.joint is None:
            entry["outputs"][product.kind]["extent"] = _extent(product.place(job.base))
    for fact in facts:
        entry = fact | entry
    _record(run, job, entry | {"notes": notes, "sha256": sha256(job.source), "seconds": seconds})


def failed(run: Run, job: Job, reason: str, notes: list[str], seconds: dict) -> None:
    """Records that a job failed. Products of it that still exist are outdated."""
    entry = _entry(run, job, "failed", {product.kind: () for product in run.products}, run.files[run.key(job)])
    _record(run, job, entry | {"reason": reason, "notes": notes, "seconds": seconds})


def conclude(run: Run) -> None:
    """Records that the run is complete."""
    run.complete = True
    run.write_summary()


def merged_path(run: Run, source: Path, suffix: str) -> Path:
    """Returns the path of a file made from all results of `source`, and records it in `run.merged`.

    The file has the name of `source`, with "_all" appended if an image's results have that name already.

    Raises:
      ValueError: a file of another origin has this path.
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


def _skip(job: Job, run: Run, entry: dict, overwrite: bool) -> bool:
    """Records a job as skipped if all its products exist and are up to date, otherwise as pending."""
    source = str(job.source.resolve())
    if not overwrite:
        check_same_image(job, run.output, entry)
        if entry.get("source", source) != source:
            run.moved.append(entry["source"])
        if job.stamp and all(_is_whole(job, run.key(job), entry, product) for product in run.products):
            run.files[run.key(job)] = entry | {"source": source, "status": "skipped"}
            return True
    # A product that does not exist yet will appear whole, so it can get its stamp now; one that exists is outdated.
    stamps = {product.kind: () if _exists(job, run.key(job), product) else job.stamp for product in run.products}
    run.files[run.key(job)] = _entry(run, job, "pending", stamps, entry)
    return False


def _record(run: Run, job: Job, entry: dict) -> None:
    """Sets the entry of a job that has ended, and appends it to the journal of `summary.json`."""
    run.files[run.key(job)] = entry
    run.ledger.record(run.key(job), stored(run.output, entry))


def _entry(run: Run, job: Job, status: str, stamps: dict[str, tuple], previous: dict) -> dict:
    """An entry with the products' stamps. Products of other kinds are outdated if the image has changed."""
    source = str(job.source.resolve())
    outputs = {kind: output for kind, output in previous["outputs"].items() if kind not in stamps}
    moved = previous.get("source", source) != source
    changed = [kind for kind, output in outputs.items() if output["stamp"] and (moved or output["stamp"] != job.stamp)]
    if changed:
        stamp = job.stamp if same_content(job, previous) else ()
        outputs |= {kind: outputs[kind] | {"stamp": stamp} for kind in changed}
    for product in run.products:
        place = product.place(job.base).relative_to(run.output).as_posix()
        outputs[product.kind] = {"path": place, "stamp": stamps[product.kind]}
    return {"source": source, "status": status, "outputs": outputs}


def _exists(job: Job, key: str, product: Product) -> bool:
    return os.path.lexists(product.place(job.base)) if product.joint is None else product.joint.has(key)


def _is_whole(job: Job, key: str, entry: dict, product: Product) -> bool:
    """Whether a product exists, was made from the image in its present state, and has the size that was recorded."""
    output = entry["outputs"].get(product.kind)
    if output is None or output["stamp"] != job.stamp:
        return False
    if product.joint is not None:
        return product.joint.has(key)
    extent = _extent(product.place(job.base))
    return extent > 0 and output.get("extent", extent) == extent  # a killed run recorded none; outputs appear whole


def _extent(path: Path) -> int:
    """Number of bytes of a file, or of files in a folder. It shows if a result was emptied later."""
    return sum(1 for _ in path.iterdir()) if path.is_dir() else path.stat().st_size if path.exists() else 0


def stored(output: Path, entry: dict) -> dict:
    """Returns an entry as `summary.json` holds it: with the path of its image relative to the output folder."""
    return entry | {"source": relative(output, entry["source"])}


def _read_entry(output: Path, entry: dict) -> dict:
    outputs = {
        str(kind): output | {"path": str(output["path"]), "stamp": tuple(output["stamp"])}
        for kind, output in entry["outputs"].items()
    }
    return entry | {"source": resolved(output, str(entry["source"])), "outputs": outputs}


def _outdated(entry: dict, changed: list[str]) -> dict:
    """The entry, with the products that depend on one of the changed settings marked as outdated."""
    outputs = entry["outputs"]
    kinds = [kind for kind in outputs if any(kind in _ONLY_OF.get(setting, (kind,)) for setting in changed)]
    if not kinds:
        return entry
    outputs = outputs | {kind: outputs[kind] | {"stamp": ()} for kind in kinds}
    return entry | {"status": "stale", "outputs": outputs}
