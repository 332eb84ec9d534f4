"""The account of a run over files: what is made from which image, and what is already done."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jaxseg import journal, summaries
from jaxseg.files import relative, resolved, safe_name, sha256, sweep
from jaxseg.folder_runs.conflicts import check_free, check_same_image, same_content
from jaxseg.folder_runs.inputs import Job, folded
from jaxseg.folder_runs.ledger import Kind, Ledger, refuse_changed
from jaxseg.folder_runs.parts import Part, remove_parts
from jaxseg.images.read import stem
from jaxseg.masks import cohort
from jaxseg.masks.write import WRITERS
from jaxseg.summaries import NAME, NUMBER, SUMMARY_FILE, is_summary, number_of, part_summaries, summary_files

# Settings that only some kinds of products depend on. All products depend on every other setting.
_ONLY_OF = {
    "classes": (
        *(*WRITERS, *cohort.TYPES, "preview", "confidence", "probabilities"),
        *("registered_mask", "registered_preview"),
    ),
    "edges": (*WRITERS, *cohort.TYPES, "preview"),
    "tta": ("confidence",),
    "shape_check": ("confidence",),
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
    "edges": ("preprocessing", "original"),
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
    joint: cohort.RunMasks | None = None


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
      made_from: name of a file made from all results -> [digest of what it was made from, its size in bytes].
      moved: former paths of images that were recognised by their content.
      complete: whether the run reached its end.
      ledger: the file that holds all this; `begin` opens it.
      part: the part of the files on which the run works; None: all of them.
      facts: what `jaxseg merge` must know about a part besides its entries, as JSON holds it.
      number: number of a run in a folder with parts, larger than those before; 0 in other folders.
    """

    output: Path
    products: tuple[Product, ...]
    settings: dict
    note: str = ""
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    earlier: dict[str, dict] = dataclasses.field(default_factory=dict)
    merged: dict[str, str] = dataclasses.field(default_factory=dict)
    made_from: dict[str, list] = dataclasses.field(default_factory=dict)
    moved: list[str] = dataclasses.field(default_factory=list)
    complete: bool = False
    ledger: Ledger | None = None
    part: Part | None = None
    facts: dict = dataclasses.field(default_factory=dict)
    number: int = 0

    @property
    def summary(self) -> Path:
        """Path of the summary: `summary.json`, or that of the part."""
        return self.output / (SUMMARY_FILE if self.part is None else f"summary.{self.part.tag}.json")

    def key(self, job: Job) -> str:
        """Returns the key of a job in `files`."""
        return job.base.relative_to(self.output).as_posix()

    def finished(self, jobs: list[Job]) -> list[Job]:
        """Returns the jobs whose products exist."""
        return [job for job in jobs if self.files[self.key(job)]["status"] in ("done", "skipped")]

    def count(self, status: str) -> int:
        """Returns how many files have this status."""
        return sum(entry["status"] == status for entry in self.files.values())

    def open_ledger(self, *, wanted: Callable[[str, dict], bool] | None = None) -> set[str]:
        """Opens the ledger of the run, which adds the settings of earlier runs to `settings`.

        It knows the entries of the other summaries in the folder, too.

        Args:
          wanted: (key, entry) -> whether an entry of another summary is needed; None: all are.

        Returns:
          The keys of the entries in the run's own summary.
        """
        kind = Kind(read_entry=functools.partial(_read_entry, self.output), unrecorded=_UNRECORDED)
        self.ledger = ledger = Ledger(self.summary, self.settings, kind=kind)
        own, self.number = set(ledger.entries), number_of(ledger.facts)
        others = [path for path in summary_files(self.output) if path != self.summary]
        if others or self.part is not None:
            self.number = 1 + ledger.join(others, wanted=wanted)
        self.settings = ledger.settings
        merged = ledger.facts.get("merged", {})
        self.merged = {name: resolved(self.output, source) for name, source in merged.items()}
        self.made_from = dict(ledger.facts.get("merged_from", {}))
        return own

    def write_summary(self) -> None:
        """Writes the summary as a whole; the ledger must be open."""
        counts = {status: self.count(status) for status in ("done", "skipped", "failed", "pending")}
        products = [product.kind for product in self.products]
        entries = self.earlier | self.files
        self.ledger.entries = {key: stored(self.output, entry) for key, entry in entries.items()}
        merged = {name: relative(self.output, source) for name, source in self.merged.items()}
        facts = {"note": self.note, "products": products, "counts": counts, "merged": merged}
        facts |= {"merged_from": self.made_from} if self.made_from else {}
        facts |= ({NUMBER: self.number} if self.number else {}) | self.facts
        self.ledger.write(complete=self.complete, **facts)


def begin(jobs: list[Job], run: Run, *, overwrite: bool = False) -> list[Job]:
    """Returns the jobs that are not done yet, and records that they are pending.

    Args:
      jobs: all jobs of the run.
      run: the run; its settings and files are completed.
      overwrite: do every job, and allow that settings have changed, except those of a part.

    Raises:
      ValueError: the output folder holds results made with other settings and `overwrite` is False, or files of
        another origin at the paths of the results. In this case nothing was changed.
    """
    run.output.mkdir(parents=True, exist_ok=True)
    made = [product for product in run.products if product.joint is None]
    planned = [(run.key(job), job, product.kind, product.place(job.base)) for job in jobs for product in made]
    joint = {product.kind: product.joint for product in run.products if product.joint is not None}
    own = run.open_ledger(wanted=None if run.part is None else _wanted(run, jobs, planned))
    ledger = run.ledger
    if run.part is None:
        ledger.refuse_changed_settings(overwrite=overwrite)
    else:
        refuse_changed(f"{run.output} holds results made", ledger.changed, "name another folder for the parts")
    previous = {key: _outdated(entry, ledger.changed) for key, entry in ledger.entries.items()}
    check_free(run.output, planned, previous, {kind: file.path for kind, file in joint.items()})
    for kind, file in joint.items():
        file.open(places_of(previous, kind))
    todo = [job for job in jobs if not _skip(job, run, previous.pop(run.key(job), {"outputs": {}}), overwrite)]
    if run.part is None:
        run.earlier = {key: without_part(entry) for key, entry in previous.items()}
    else:
        run.earlier = {key: entry for key, entry in previous.items() if key in own}
    for folder in {run.output, *(job.base.parent for job in jobs)}:
        sweep(folder)
    run.write_summary()  # before the first result: after a kill it is known which results are whose
    if run.part is None and ledger.changed:  # all results of parts are outdated, and `summary.json` lists them
        drop_parts(run.output, joint)
    return todo


def done(run: Run, job: Job, notes: list[str], seconds: dict, *facts: dict) -> None:
    """Records that a job's products exist, and facts about them. Their stamp was taken before the image was read."""
    previous = run.files[run.key(job)]
    entry = _entry(run, job, "done", {product.kind: job.stamp for product in run.products}, previous)
    for product in run.products:
        if product.joint is None:
            entry["outputs"][product.kind]["extent"] = extent_of(product.place(job.base))
    for fact in facts:
        entry = fact | entry
    _record(run, job, entry | {"notes": notes, "sha256": sha256(job.source), "seconds": seconds})


def failed(run: Run, job: Job, reason: str, notes: list[str], seconds: dict) -> None:
    """Records that a job failed. Products of it that still exist are outdated."""
    entry = _entry(run, job, "failed", {product.kind: () for product in run.products}, run.files[run.key(job)])
    _record(run, job, entry | {"reason": reason, "notes": notes, "seconds": seconds})


def conclude(run: Run) -> None:
    """Records that the run is complete. A run without parts then replaces parts of which it has all results."""
    joint = [product.kind for product in run.products if product.joint is not None]
    replaces = _replaces_parts(run)
    if replaces:
        for kind in joint:
            join_masks(run, kind)
    run.complete = True
    run.write_summary()
    if replaces:
        drop_parts(run.output, joint)


def join_masks(run: Run, kind: str) -> Path | None:
    """Joins the files of parts that hold masks of many images into one, and records it as the place of the masks.

    Returns:
      The file; None if there are no masks.
    """
    path, entries = run.output / cohort.file_name(kind), run.earlier | run.files
    holders = cohort.find_holders(run.output, places_of(entries, kind))
    if holders:
        cohort.join(holders, path)
    for entry in entries.values():
        if kind in entry["outputs"]:
            entry["outputs"][kind] = entry["outputs"][kind] | {"path": path.name}
    return path if holders else None


def drop_parts(output: Path, joint: Iterable[str]) -> None:
    """Removes the files of all parts in a folder; `summary.json` must have their entries.

    Args:
      output: the folder.
      joint: the kinds of products of which parts have files with the results of many images.
    """
    found = part_summaries(output)
    masks = [path for kind in joint for path in cohort.part_files(output, kind)]
    remove_parts([*found, *map(journal.journal_of, found), *masks], output / SUMMARY_FILE)


def places_of(entries: Mapping[str, dict], kind: str) -> dict[str, str]:
    """Returns the path of the valid product of a kind for each key that has one, relative to the output folder."""
    made = {key: entry["outputs"].get(kind, {}) for key, entry in entries.items()}
    return {key: output["path"] for key, output in made.items() if output.get("stamp")}


def merged_name(source: Path) -> str:
    """Returns the name, without suffix, of a file made from all results of a folder or a file."""
    return safe_name(source.resolve().name if source.is_dir() else stem(source))


def merged_path(run: Run, source: Path, suffix: str, *, name: str | None = None) -> Path:
    """Returns the path of a file made from all results of `source`, and records it in `run.merged`.

    The file has the name of `source`, with "_all" appended if an image's results have that name already. A suffix that
    does not start with a dot is the whole name of a file made from all results in the folder, also of other sources.

    Args:
      run: the run; its files must be known.
      source: the file or folder that the user named.
      suffix: of the file.
      name: name of the file; None: that of the source.

    Raises:
      ValueError: a file of another origin has this path.
    """
    if not suffix.startswith("."):
        name = ""
    else:
        name = merged_name(source) if name is None else safe_name(name)
    entries = (*run.files.values(), *run.earlier.values())
    taken = {folded(Path(output["path"])) for entry in entries for output in entry["outputs"].values()}
    taken |= {product.joint.path.name for product in run.products if product.joint is not None}
    while folded(Path(f"{name}{suffix}")) in taken or is_summary(f"{name}{suffix}"):
        name += "_all"
    path = run.output / f"{name}{suffix}"
    origin = str((source if name else run.output).resolve())
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
            entry = without_part(entry) | {"source": source, "status": "skipped"}
            run.files[run.key(job)] = entry | _of_part(run, job)
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
    return {"source": source, "status": status, "outputs": outputs} | _of_part(run, job)


def _of_part(run: Run, job: Job) -> dict:
    """The fields that entries have only in the summary of a part."""
    return {} if run.part is None else {NUMBER: run.number, NAME: job.name}


def without_part(entry: dict) -> dict:
    """Returns an entry without the fields that entries have only in the summary of a part."""
    return {name: value for name, value in entry.items() if name not in (NUMBER, NAME)}


def _wanted(run: Run, jobs: list[Job], planned: list[tuple[str, Job, str, Path]]) -> Callable[[str, dict], bool]:
    """Returns the function that chooses the entries of other summaries that concern a part.

    Without it, each part would hold the entries of all parts in memory.
    """
    keys = set(map(run.key, jobs))
    places = {path.relative_to(run.output).as_posix() for *_, path in planned}
    return lambda key, entry: (
        key in keys or not places.isdisjoint(output["path"] for output in entry["outputs"].values())
    )


def _replaces_parts(run: Run) -> bool:
    """Whether a run without parts has all results of the parts in its folder, for all images that still exist."""
    paths = [] if run.part is not None else part_summaries(run.output)
    kinds, keys = {product.kind for product in run.products}, set[str]()
    for document in summaries.read(paths):
        if not kinds.issuperset(document.get("products", ())):
            return False
        keys |= document["files"].keys() - run.files.keys()
    return bool(paths) and not any(os.path.exists(run.earlier[key]["source"]) for key in keys)


def _exists(job: Job, key: str, product: Product) -> bool:
    return os.path.lexists(product.place(job.base)) if product.joint is None else product.joint.has(key)


def _is_whole(job: Job, key: str, entry: dict, product: Product) -> bool:
    """Whether a product exists, was made from the image in its present state, and has the size that was recorded."""
    output = entry["outputs"].get(product.kind)
    if output is None or output["stamp"] != job.stamp:
        return False
    if product.joint is not None:
        return product.joint.has_valid(key)
    extent = extent_of(product.place(job.base))
    return extent > 0 and output.get("extent", extent) == extent  # a killed run recorded none; outputs appear whole


def extent_of(path: Path) -> int:
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
