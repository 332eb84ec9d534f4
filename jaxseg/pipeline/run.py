"""Runs the stages of a pipeline one after the other. Each resumes, and the record of the pipeline lists them."""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg.anatomy.folders import segment_folder
from jaxseg.anatomy.from_masks import measure_folder
from jaxseg.anatomy.recall import RecallingSegmenter
from jaxseg.comparison.folders import Comparison, compare_folders
from jaxseg.comparison.sources import Place, list_places
from jaxseg.files import atomic_file, printable, relative
from jaxseg.folder_runs.folder import FolderResult
from jaxseg.folder_runs.inputs import stamp_of
from jaxseg.folder_runs.ledger import Kind, Ledger, locked_folder
from jaxseg.folder_runs.stream import Outcome
from jaxseg.masks.confidence import read_confidence, spreadsheet_text
from jaxseg.masks.pictures import parse_levels
from jaxseg.pipeline import tables
from jaxseg.pipeline.config import CompareConfig, MeasureConfig, ReportConfig
from jaxseg.pipeline.plan import FOLDERS, RECORD, REPORT, REVIEW, SIDES, Plan
from jaxseg.post_dae.denoise import Postprocess
from jaxseg.report.build import write_report
from jaxseg.settings import to_mapping
from jaxseg.text_table import Table

_KIND = Kind(
    mark="jaxseg_pipeline", foreign="is not the record of a pipeline; name another output folder, or remove it"
)
_FORMAT = ("output_type", "preview")  # settings of masks that the summaries of their folders do not hold
_PER_IMAGE = ("segment", "restore", "measure")  # stages with a run over the images, which may have changed settings


@dataclasses.dataclass(frozen=True)
class Watch:
    """Who watches a stage.

    Attributes:
      progress: called as (number of items done, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image of a stage that works on single images.
      tell: called with the name of an image, why it failed or "", and notes, by the stages compare and report.
    """

    progress: Callable[[int, int, str], None] = lambda done, total, name: None
    report: Callable[[Outcome], None] = lambda outcome: None
    tell: Callable[[str, str, tuple[str, ...]], None] = lambda name, reason, notes: None


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """What a pipeline did.

    Attributes:
      stages: name of a stage -> what it did: counts of images "done", "skipped" and "failed", or of the masks to check.
      failed: name of an image -> stage and reason of its first failure.
      tables: the summary: what was done, and with true masks what each stage changed.
      record: path of `pipeline.json`, which holds the same.
      report: path of the page; None without the stage.
    """

    stages: dict[str, dict[str, Any]]
    failed: dict[str, str]
    tables: tuple[Table, ...]
    record: Path
    report: Path | None


def run_pipeline(
    plan: Plan,
    *,
    overwrite: bool = False,
    watch: Callable[[str], contextlib.AbstractContextManager[Watch]] = lambda stage: contextlib.nullcontext(Watch()),
) -> PipelineResult:
    """Segments, restores, checks, measures, compares and reports, as the configuration says.

    Images that fail are recorded, and the others are processed. A second call does only what is missing: images that
    are new or have changed, and the tables and pages that depend on them. A call that was killed is continued.

    Args:
      plan: result of `jaxseg.pipeline.plan.make_plan`.
      overwrite: redo the stages whose settings have changed, and those after them; all stages if none has changed.
      watch: name of a stage -> a context that yields its `Watch`.

    Returns:
      The counts, the failures and the summary.

    Raises:
      ValueError: the output folder holds results of other settings or of another input, or no image could be processed.
      OSError: a file cannot be read or written, the disk is full, or another process is writing to the folder.
    """
    with locked_folder(plan.output):
        return _Chain(plan, watch, overwrite=overwrite)()


class _Record(Ledger):
    """The record of a pipeline, `pipeline.json`: its settings, what each stage did, and the summary."""

    ENTRIES = "stages"


class _Chain:
    """A pipeline that runs: its plan, its record, and what the stages found so far."""

    def __init__(self, plan: Plan, watch: Callable[[str], Any], *, overwrite: bool):
        self.plan, self.watch = plan, watch
        cfg = plan.config.segment
        settings = {"input": relative(plan.output, str(plan.source.resolve())), "config": plan.config.without_places()}
        settings |= {name: getattr(cfg, name) for name in _FORMAT}
        self.ledger = _Record(plan.output / RECORD, settings, kind=_KIND)
        if "input" in self.ledger.changed:
            raise ValueError(f"{plan.output} holds results of another input; name another folder")
        self.redo = self._stages_to_redo(overwrite=overwrite)
        self.stages: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.done = list(plan.names)
        self.names = plan.names
        self.without: dict[str, list[str]] = {}  # stage -> names of the results of images that it does not have
        self.ledger.write(complete=False, redo=self.redo)

    def __call__(self) -> PipelineResult:
        plan, config = self.plan, self.plan.config
        segmented = self._run("segment", self._segment)
        if plan.restoring is not None:
            self._run("restore", functools.partial(self._restore, plan.restoring))
        doubtful = self._check(segmented, config.confidence.review_below) if config.confidence is not None else []
        if config.measure is not None:
            self._run("measure", functools.partial(self._measure, config.measure))
        if plan.truth is not None and config.compare is not None:
            for side in SIDES if plan.restoring else SIDES[:1]:
                work = functools.partial(self._compare, config.compare, plan.truth, side)
                self._whole(f"compare {side}", self._comparison_inputs(config.compare, plan.truth, side), work)
        found = tables.summary(plan, self.stages, doubtful)
        if config.report is not None:
            first = [image for image, _ in doubtful]
            work = functools.partial(self._report, config.report, found, first)
            self._whole("report", self._report_inputs(config.report, found, first), work)
        content = [dataclasses.asdict(table) for table in found]
        self.ledger.write(complete=True, summary={"failed": self.failed, "tables": content})
        page = plan.output / REPORT if config.report is not None else None
        return PipelineResult(self.stages, self.failed, found, plan.output / RECORD, page)

    def _stages_to_redo(self, *, overwrite: bool) -> list[str]:
        """Returns the stages whose results are replaced: now, or by a call with `overwrite` that was killed.

        Raises:
          ValueError: results were made with other settings, and may not be replaced.
        """
        left = [name for name in self.ledger.facts.get("redo", []) if name in _PER_IMAGE]
        changed = {name: settings for name, settings in self._changed().items() if name not in left}
        if not overwrite and changed:
            names = "; ".join(f"{name}: {', '.join(settings)}" for name, settings in changed.items())
            raise ValueError(
                f"{self.plan.output} holds results made with other settings ({names}); name another folder, or redo "
                "these stages and those after them with --overwrite"
            )
        if not overwrite:
            return left
        first = min((_PER_IMAGE.index(name) for name in changed), default=0)
        return [name for name in _PER_IMAGE if name in left or name in _PER_IMAGE[first:]]

    def _changed(self) -> dict[str, list[str]]:
        """Returns the stages whose results were made with other settings -> the names of these settings."""
        found = self.plan.changed()
        for stage in SIDES if self.plan.restoring else SIDES[:1]:
            found[stage] = sorted({*found.get(stage, ()), *(set(_FORMAT) & set(self.ledger.changed))})
        return {stage: found[stage] for stage in _PER_IMAGE if found.get(stage)}

    def _run(self, stage: str, work: Callable[..., FolderResult]) -> FolderResult:
        """Does a stage that works on single images, for those that no stage before it failed to process."""
        with self.watch(stage) as watch:

            def progress(done: int, total: int, name: str) -> None:
                if stage in self.redo:  # the run has marked its earlier results as outdated
                    self.redo.remove(stage)
                    self.ledger.write(redo=self.redo)
                watch.progress(done, total, name)

            options = {"overwrite": stage in self.redo, "files": self.done, "names": self.names}
            result = work(**options, progress=progress, report=watch.report)
        counts = {"done": result.done, "skipped": result.skipped, "failed": result.failed}
        self.stages[stage] = {"images": len(result.files)} | counts
        self.ledger.record(stage, self.stages[stage])
        for file in result.files:
            if file.status == "failed":
                self.failed[self._name(file.source)] = f"{stage}: {printable(str(file.reason))}"
        self.done = [file.source for file in result.files if file.status != "failed"]
        done = set(self.done)
        self.without[stage] = [name for image, name in self.names.items() if image not in done]
        if not self.done:
            name, reason = next(iter(self.failed.items()))
            raise ValueError(f"no image could be processed; the first, {name}: {reason}")
        return result

    def _name(self, image: Path) -> str:
        root = self.plan.source
        return printable(image.relative_to(root).as_posix() if root.is_dir() else image.name)

    def _segment(self, **options: Any) -> FolderResult:
        cfg = self.plan.config.segment
        options |= {"output_type": cfg.output_type, "preview": cfg.preview}
        return segment_folder(self.plan.source, self.plan.folder("segment"), self.plan.segmenter, **options)

    def _restore(self, restoring: Postprocess, **options: Any) -> FolderResult:
        plan, cfg = self.plan, self.plan.config.segment
        segmenter = RecallingSegmenter(plan.model, plan.folder("segment"), restoring, **plan.options)
        options |= {"output_type": cfg.output_type, "preview": cfg.preview}
        return segment_folder(plan.source, plan.folder("restore"), segmenter, **options)

    def _measure(self, cfg: MeasureConfig, **options: Any) -> FolderResult:
        plan = self.plan
        options |= {"original_values": cfg.original_values, "table": cfg.table, "groups": plan.segmenter.groups}
        return measure_folder(plan.source, plan.folder("measure"), cfg.features, plan.masks, **options)

    def _check(self, segmented: FolderResult, least: float) -> list[tuple[str, dict[str, Any]]]:
        """Writes the list of the masks that a person should check, the least sure first.

        Returns:
          Name of the results of an image, and the row of a mask, for each mask to check.
        """
        masks, found = 0, list[tuple[str, dict[str, Any]]]()
        rows: list[tuple[float, list[str]]] = []
        for key, entry in segmented.entries.items():
            if entry["status"] == "failed":
                continue
            image, own = read_confidence(self.plan.folder("segment") / entry["outputs"]["confidence"]["path"])
            masks += len(own)
            for row in own:
                sure = row["confidence"]
                if not row["pixels"] or sure is None or sure < least:
                    found.append((key, row))
                    why = f"the confidence is below {least:g}" if row["pixels"] else "the mask is empty"
                    rows.append((-1.0 if sure is None else sure, [image, row["class"], tables.number(sure), why]))
        rows.sort(key=lambda row: row[0])
        header = ["filename", "class", "confidence", "reason"]
        _write_csv(self.plan.output / REVIEW, [header, *(list(map(spreadsheet_text, row)) for _, row in rows)])
        self.stages["confidence"] = {"masks": masks, "to_check": len(rows)}
        self.ledger.record("confidence", self.stages["confidence"])
        return found

    def _whole(self, stage: str, inputs: Any, work: Callable[[Watch], dict[str, Any]]) -> None:
        """Does a stage that makes its files from all images at once, unless it was done with the same inputs."""
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        entry = self.ledger.entries.get(stage, {})
        if entry.get("inputs") != digest or not all((self.plan.output / name).is_file() for name in entry["files"]):
            with self.watch(stage) as watch:
                entry = {"inputs": digest} | work(watch)
            self.ledger.record(stage, entry)
        self.stages[stage] = {name: value for name, value in entry.items() if name not in ("inputs", "files")}
        for name, reason in entry["failed"].items():
            self.failed.setdefault(name, f"{stage}: {reason}")

    def _comparison_inputs(self, cfg: CompareConfig, truth: Path, side: str) -> Any:
        levels, roots = parse_levels(cfg.labels) or None, (self.plan.folder(side), truth)
        masks = [_stamps(list_places(root, levels=levels)) for root in roots]
        return [to_mapping(cfg), *masks, self.without[side]]

    def _compare(self, cfg: CompareConfig, truth: Path, side: str, watch: Watch) -> dict[str, Any]:
        plan, folder = self.plan, self.plan.folder("compare")
        folder.mkdir(exist_ok=True)
        settings: dict[str, Any] = {"tolerance": cfg.tolerance, "spacing_mm": cfg.spacing_mm, "classes": cfg.classes}
        settings |= {"levels": parse_levels(cfg.labels) or None, "progress": watch.progress, "report": watch.tell}
        settings |= {"without": self.without[side]}
        path = folder / f"{FOLDERS[side]}.csv"
        found = compare_folders(plan.folder(side), truth, path, **settings)
        return _comparison_entry(found, plan.output)

    def _report_inputs(self, cfg: ReportConfig, found: Sequence[Table], doubtful: list[str]) -> Any:
        plan = self.plan
        images = [(self._name(image), stamp_of(image)) for image in self.done]
        masks = _stamps(list_places(plan.masks))
        content = [dataclasses.asdict(table) for table in found]
        return [to_mapping(cfg), images, masks, content, doubtful, self._sure()]

    def _sure(self) -> str:
        return FOLDERS["segment"] if self.plan.restoring and self.plan.config.confidence else ""

    def _report(self, cfg: ReportConfig, found: Sequence[Table], doubtful: list[str], watch: Watch) -> dict[str, Any]:
        plan, images, count = self.plan, self._shown(doubtful, cfg.most), 0
        watch.progress(0, len(images), "")

        def on_image(image: Path, reason: str, notes: tuple[str, ...]) -> None:
            nonlocal count
            count += 1
            watch.tell(image.name, reason, notes)
            watch.progress(count, len(images), image.name)

        options: dict[str, Any] = {
            "title": cfg.title or plan.source.resolve().name,
            "features": cfg.features,
            "classes": cfg.classes,
        }
        options |= {"intensity": cfg.intensity, "root": plan.source if plan.source.is_dir() else None}
        options |= {"tables": found, "confidence": plan.folder("segment") if self._sure() else None}
        failures = write_report(images, plan.masks, plan.output / REPORT, on_image=on_image, **options)
        failed = {self._name(image): printable(reason) for image, reason in failures}
        return {"images": len(images) - len(failures), "failed": failed, "files": [REPORT]}

    def _shown(self, doubtful: Sequence[str], most: int) -> list[Path]:
        """Returns the images of the page in their order; if there are too many, those with masks to check first."""
        if len(self.done) <= most:
            return self.done
        first = set(doubtful)
        ordered = sorted(self.done, key=lambda image: self.names[image] not in first)  # the sorting is stable
        chosen = set(ordered[:most])
        return [image for image in self.done if image in chosen]


def _stamps(places: dict[str, Place]) -> list[Any]:
    """Returns the name, size and time of every file with masks."""
    found: list[Any] = []
    for name, place in sorted(places.items()):
        inside = sorted(place.path.iterdir()) if place.path.is_dir() else [place.path]
        found.append((name, [(path.name, *stamp_of(path)) for path in place.files or inside]))
    return found


def _comparison_entry(found: Comparison, output: Path) -> dict[str, Any]:
    """Returns what the record holds about a comparison."""
    files = [path.relative_to(output).as_posix() for path in found.files.values()]
    lacking = sum(not what.name for what in found.missing)
    failed = {printable(name): reason for name, reason in found.failed.items()}
    return {"images": found.images, "failed": failed, "files": files, "images_without": lacking}


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
