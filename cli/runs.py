"""A run of a network over a file or a folder: what `segment` and `extract` share."""

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from jaxseg import registry
from jaxseg.cli import options
from jaxseg.cli.progress import download_progress, progress
from jaxseg.files import printable


@dataclasses.dataclass(frozen=True)
class Design:
    """What a command makes of each image (`products`), what that depends on, and of all images at last.

    A merge is a suffix and a function (jobs, run, path) that writes the file of that suffix from all results.
    """

    products: list
    settings: dict
    merges: list[tuple[str, Callable]]


def run_images(source, output, *, recursive, overwrite, report, design, **settings) -> None:
    """Runs and exits with 1 where something failed.

    Args:
      source, output, recursive, overwrite, report: of the command line.
      design: (Segmenter, all that its predictions depend on) -> Design.
      settings: of `make_segmenter`.
    """
    start = time.perf_counter()
    from jaxseg import files
    from jaxseg.anatomy.products import segment_files
    from jaxseg.folder_runs import folder

    if report:
        _refuse_report(report)
    with options.usage_errors("--input"):
        sources = folder.find_images(source, recursive=recursive, output=output)
    segmenter, identity = make_segmenter(**settings)
    plan = design(segmenter, identity)
    run = folder.Run(output, tuple(plan.products), plan.settings)
    jobs = folder.plan(sources, source, output)
    output.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output):
        todo = folder.begin(jobs, run, overwrite=overwrite)
        merges = [(merge, folder.merged_path(run, source, suffix)) for suffix, merge in plan.merges]
        loaded = time.perf_counter()
        if todo:
            segmenter.compile()
        with progress(len(todo), "images") as step:
            for outcome in segment_files(todo, segmenter, run):
                tell(outcome, step)
        for merge, path in merges:
            merge(jobs, run, path)
        folder.conclude(run)
    seconds = {"start": loaded - start, "compile": segmenter.compile_seconds}
    seconds["images"] = time.perf_counter() - loaded - segmenter.compile_seconds
    if report:
        _write_report(report, run, segmenter, seconds)
    options.say(conclusion(run))
    if run.count("failed"):
        sys.exit(1)


def make_segmenter(
    *, model, gpus, weights, labels_file, batch_size, threshold, classes, preprocessing, intensity, dtype
):
    """The Segmenter of the command's options, and all that its predictions depend on.

    `classes` are as `labels.select` takes them, or a function that gives them of a label set.
    """
    from jaxseg.anatomy.segment import Segmenter
    from jaxseg.card import CARD_FILE
    from jaxseg.devices import select_devices
    from jaxseg.vocabulary import labels
    from jaxseg.weights.load import load, model_path

    if model is None and weights and (model_path(weights) / CARD_FILE).is_file():
        name, weights = weights, None
    else:
        with options.usage_errors("--model"):
            entry = registry.find(model or "cxas")
        name = entry.name
        if entry.class_names and not (weights and weights.is_dir()):  # before the weights are read
            with options.usage_errors("--classes"):
                labels.select(entry.class_names, classes(entry.class_names) if callable(classes) else classes)
    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    names = labels.read_names(labels_file) if labels_file else None
    with download_progress() as update:
        network = load(name, weights, dtype=dtype, class_names=names, progress=update)
    with options.usage_errors("--classes, --batch-size"):
        segmenter = Segmenter(
            network,
            threshold=threshold,
            classes=classes(network.card.class_names) if callable(classes) else classes,
            batch_size=batch_size,
            devices=devices,
            preprocessing=preprocessing,
            intensity=intensity,
        )
    card = network.card
    identity = {
        "model": card.model,
        "weights_sha256": card.params_sha256 or card.source_sha256,
        "threshold": threshold,
        "labels_sha256": hashlib.sha256(json.dumps(card.class_names).encode()).hexdigest(),
        "preprocessing": preprocessing or card.preprocessing,
        "intensity": intensity,
        "dtype": dict(card.config)["dtype"],
        "denoise": None,
    }
    return segmenter, identity


def mask_products(
    segmenter, settings: dict, output_type: str | None, *, labelmap: bool, preview: bool, masks: bool = True
) -> list:
    """The products `masks` (in the given format, else the model's) and `preview`, as far as they are wanted.

    What they alone depend on is added to `settings`.
    """
    from jaxseg.anatomy import products

    card = segmenter.card
    found = []
    if masks or preview:
        settings["classes"] = list(segmenter.names)
    if labelmap and not (masks and output_type == "dicom-seg"):
        raise click.UsageError("--labelmap: for DICOM SEG; ask for it with -ot dicom-seg")
    if masks:
        output_type = output_type or registry.find(card.model).output_type
        if output_type == "dicom-seg":
            settings["labelmap"] = labelmap
        found.append(products.masks(output_type, card.class_names, card.model, labelmap=labelmap))
    if preview:
        found.append(products.previews(segmenter.intensity))
    return found


def mask_merges(segmenter, products: list, source: Path) -> list[tuple[str, Callable]]:
    """The merge of a folder's COCO files, where there are any."""
    from jaxseg.anatomy.products import merge_masks

    if not (source.is_dir() and any(product.kind == "json" for product in products)):
        return []
    return [(".json", functools.partial(merge_masks, segmenter=segmenter))]


def make_denoiser(*, weights, gpus="auto", **settings):
    """The Denoiser of the command's options, and all that its results depend on."""
    from jaxseg.devices import select_devices
    from jaxseg.post_dae.denoise import Denoiser
    from jaxseg.weights.load import load

    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    with options.usage_errors("the model of masks"):
        model = load(weights)
        denoiser = Denoiser(model, devices=devices, **settings)
    identity = {"weights_sha256": model.card.params_sha256 or model.card.source_sha256}
    return denoiser, identity | {name: getattr(denoiser, name) for name in ("threshold", "largest_component", "union")}


def chain_denoiser(segmenter, settings: dict, weights: Path, classes: str | None, **options_of_denoiser) -> None:
    """Lets a segmenter's masks of the classes be restored before they are given out; notes it in `settings`."""
    from jaxseg.masks.read import select

    denoiser, identity = make_denoiser(weights=weights, **options_of_denoiser)
    with options.usage_errors("--denoise-classes"):
        names = denoiser.card.class_names
        if classes is not None:
            names = tuple(segmenter.names[k] for k in select(segmenter.names, classes))
        elif not set(names) <= set(segmenter.names):
            raise ValueError(
                "name those of the classes that the model of masks restores, such as 'right lung,left lung'"
            )
    segmenter.after = functools.partial(denoiser.segmentations, names=names)
    settings["denoise"] = identity | {"classes": list(names)}


def tell(outcome, step) -> None:
    """Shows what became of a file."""
    from jaxseg.folder_runs.folder import describe

    name = outcome.item.source.name
    for note in outcome.notes:
        options.say(f"Warning: {printable(note)}")
    if outcome.error is not None:
        reason = describe(outcome.error).removeprefix(f"{name}: ")
        options.say(f"Failed: {printable(str(outcome.item.source))}: {printable(reason)}")
    step(name)


def conclusion(run) -> str:
    """Returns the last line of a run."""
    parts = [f"{run.count('done')} done", f"{run.count('skipped')} were there", f"{run.count('failed')} failed"]
    return f"{', '.join(parts)}: {run.output / 'summary.json'} lists them"


def _refuse_report(path: Path) -> None:
    """Raises where a report cannot be written, or would replace what is no report."""
    with options.usage_errors("--report"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "summary.json":
            raise ValueError(f"{path}: that name belongs to the account of the output folder")
        if path.exists() and b'"environment"' not in path.read_bytes()[:100]:
            raise ValueError(f"{path} is no report of jaxseg; name another file")


def _write_report(path: Path, run, segmenter, seconds: dict[str, float]) -> None:
    from jaxseg.environment import environment
    from jaxseg.files import atomic_file

    content = {"environment": environment(), "settings": run.settings, "products": [p.kind for p in run.products]}
    content |= {"devices": [str(device) for device in segmenter.devices], "batch_size": segmenter.batch_size}
    content |= {"seconds": {stage: round(value, 3) for stage, value in seconds.items()}, "files": run.files}
    content["weights"] = {name: getattr(segmenter.card, name) for name in ("source", "source_sha256", "params_sha256")}
    _refuse_report(path)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
