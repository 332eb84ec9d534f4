"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

import sys
import time
from pathlib import Path

import click

from jaxseg import registry
from jaxseg.cli import options
from jaxseg.cli.progress import download_progress, progress
from jaxseg.files import printable

OUTPUT_TYPES = ("json", "npy", "npz", "jpg", "png")
PREPROCESSING = ("cxas", "paxray", "paxray_folder")


@click.command()
@click.option("-i", "--input", "source", required=True, type=click.Path(path_type=Path), help="Image or folder.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results."
)
@click.option(
    "-ot",
    "--output_type",
    type=click.Choice(OUTPUT_TYPES),
    help="png/jpg: a folder an image, a picture a class; npy/npz: (classes, H, W) bool; json: COCO with run lengths.  "
    "[default: png; npy for -m paxray]",
)
@options.gpus
@click.option(
    "-m",
    "--model",
    help="`jaxseg models` lists them.  [default: what a model directory's card says, else UNet_ResNet50_default]",
)
@options.weights
@options.labels
@click.option("--batch-size", type=click.IntRange(1), help="Images at once.  [default: one a device]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="A pixel belongs to a class where its sigmoid exceeds this.",
)
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
@click.option(
    "--preprocessing",
    type=click.Choice(PREPROCESSING),
    help="How images become the network's input.  [default: what the weights were trained with]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Arithmetic; bfloat16 is meant for accelerators and changes masks at their edges.  [default: the model's]",
)
@click.option("--recursive", is_flag=True, help="Sub-folders too; they are mirrored in the output.")
@click.option("--overwrite", is_flag=True, help="Redo images whose results are there.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write versions, device, hashes and seconds a file here.",
)
def segment(source, output, output_type, gpus, model, recursive, overwrite, report, **settings):
    """Segment the anatomy in chest X-rays (png, jpg, dcm).

    A folder goes on past bad files: each is named with its reason, summary.json in the output folder lists all, and
    the exit code is 1. A second run skips what is done. Masks have the size of their image.
    """
    start = time.perf_counter()
    from jaxseg import files
    from jaxseg.predict import folder

    if report:
        _refuse_report(report)
    with options.usage_errors("--input"):
        sources = folder.find_images(source, recursive=recursive, output=output)
    segmenter, identity = _segmenter(model, gpus, **settings)
    output_type = output_type or registry.find(segmenter.card.model).output_type
    run = folder.Run(output, output_type, identity)
    jobs = folder.plan(sources, source, output)
    output.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output):
        todo = folder.begin(jobs, run, overwrite=overwrite)
        merged = folder.merged_path(run, source) if output_type == "json" and source.is_dir() else None
        loaded = time.perf_counter()
        if todo:
            segmenter.compile()
        with progress(len(todo), "images") as step:
            for outcome in folder.segment_files(todo, segmenter, run):
                _tell(outcome, step)
        if merged:
            folder.merge_folder(jobs, run, merged, segmenter)
    seconds = {"start": loaded - start, "compile": segmenter.compile_seconds}
    seconds["images"] = time.perf_counter() - loaded - segmenter.compile_seconds
    if report:
        _write_report(report, run, segmenter, seconds)
    options.say(_conclusion(run))
    if run.count("failed"):
        sys.exit(1)


def _segmenter(model_name, gpus, weights, labels_file, batch_size, threshold, classes, preprocessing, dtype):
    """The Segmenter of the command's options, and all that its masks depend on."""
    from jaxseg import labels
    from jaxseg.card import CARD_FILE
    from jaxseg.devices import select_devices
    from jaxseg.predict.segment import Segmenter
    from jaxseg.weights.load import load, model_path

    if model_name is None and weights and (model_path(weights) / CARD_FILE).is_file():
        name, weights = weights, None
    else:
        with options.usage_errors("--model"):
            name = registry.find_available(model_name or "cxas").name
    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    names = labels.read_names(labels_file) if labels_file else None
    with download_progress() as update:
        model = load(name, weights, dtype=dtype, class_names=names, progress=update)
    with options.usage_errors("--classes, --batch-size"):
        segmenter = Segmenter(
            model,
            threshold=threshold,
            classes=classes,
            batch_size=batch_size,
            devices=devices,
            preprocessing=preprocessing,
        )
    card = model.card
    identity = {
        "model": card.model,
        "weights_sha256": card.params_sha256 or card.source_sha256,
        "threshold": threshold,
        "classes": list(segmenter.names),
        "preprocessing": preprocessing or card.preprocessing,
        "dtype": dict(card.config)["dtype"],
    }
    return segmenter, identity


def _tell(outcome, step) -> None:
    from jaxseg.predict.folder import describe

    name = outcome.item.source.name
    for note in outcome.notes:
        options.say(f"Warning: {printable(note)}")
    if outcome.error is not None:
        reason = describe(outcome.error).removeprefix(f"{name}: ")
        options.say(f"Failed: {printable(str(outcome.item.source))}: {printable(reason)}")
    step(name)


def _conclusion(run) -> str:
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
    import json

    from jaxseg.files import atomic_file
    from jaxseg.predict.report import environment

    content = {"environment": environment(), "settings": run.settings, "output_type": run.output_type}
    content |= {"devices": [str(device) for device in segmenter.devices], "batch_size": segmenter.batch_size}
    content |= {"seconds": {stage: round(value, 3) for stage, value in seconds.items()}, "files": run.files}
    content["weights"] = {name: getattr(segmenter.card, name) for name in ("source", "source_sha256", "params_sha256")}
    _refuse_report(path)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
