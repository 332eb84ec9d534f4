"""What the commands that run over files share: making predictors from options, and showing results."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg import registry
from jaxseg.cli import options
from jaxseg.cli.progress import download_progress, progress
from jaxseg.files import printable


@contextlib.contextmanager
def shown(what: str) -> Iterator[dict[str, Callable]]:
    """Yields the arguments `progress` and `report` of a run over a folder, which show it on the terminal.

    Args:
      what: name of the items, such as "images".
    """
    with contextlib.ExitStack() as stack:
        step = None

        def show_progress(done: int, total: int, name: str) -> None:
            nonlocal step
            if step is None:
                step = stack.enter_context(progress(total, what))
            else:
                step(name)

        yield {"progress": show_progress, "report": show_outcome}


def show_outcome(outcome) -> None:
    """Shows the notes on a file, and why it failed."""
    from jaxseg.folder_runs.folder import describe

    for note in outcome.notes:
        options.say(f"Warning: {printable(note)}")
    if outcome.error is not None:
        source = outcome.item.source
        reason = describe(outcome.error).removeprefix(f"{source.name}: ")
        options.say(f"Failed: {printable(str(source))}: {printable(reason)}")


def finish(result) -> None:
    """Prints the last line of a run, and exits with 1 if a file failed."""
    counts = f"{result.done} done, {result.skipped} skipped, {result.failed} failed"
    options.say(f"{counts}: {result.summary} lists them")
    if result.failed:
        sys.exit(1)


def run_images(source, output, *, recursive, report, segmenter_options, job, postprocess=None, **settings) -> None:
    """Finds images, makes the Segmenter, runs a job of `jaxseg.anatomy.folders`, and shows what it did.

    Args:
      source, output, recursive, report: from the command line.
      segmenter_options: of `make_segmenter`.
      job: (source, output, Segmenter, **settings) -> FolderResult.
      postprocess: Segmenter -> its `postprocess`; None: there is none.
      **settings: further options of the job.
    """
    start = time.perf_counter()
    from jaxseg.folder_runs import folder

    if report:
        _refuse_report(report)
    with options.usage_errors("--input"):
        files = folder.find_images(source, recursive=recursive, output=output)
    segmenter = make_segmenter(**segmenter_options)
    if postprocess is not None:
        segmenter.postprocess = postprocess(segmenter)
    with shown("images") as callbacks:
        result = job(source, output, segmenter, files=files, **settings, **callbacks)
    if report:
        seconds = {"start": time.perf_counter() - start - result.seconds, "compile": segmenter.compile_seconds}
        _write_report(report, result, segmenter, seconds | {"images": result.seconds - segmenter.compile_seconds})
    finish(result)


def make_segmenter(
    *, model, gpus, weights, labels_file, batch_size, threshold, classes, preprocessing, intensity, dtype
):
    """Returns the Segmenter of the command's options.

    `classes` are as `jaxseg.vocabulary.labels.select` takes them, or a function that returns them for a label set.
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
        return Segmenter(
            network,
            threshold=threshold,
            classes=classes(network.card.class_names) if callable(classes) else classes,
            batch_size=batch_size,
            devices=devices,
            preprocessing=preprocessing,
            intensity=intensity,
        )


def make_denoiser(*, weights, gpus="auto", **settings):
    """Returns the Denoiser of the command's options."""
    from jaxseg.devices import select_devices
    from jaxseg.post_dae.denoise import Denoiser
    from jaxseg.weights.load import load

    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    with options.usage_errors("the model of masks"):
        return Denoiser(load(weights), devices=devices, **settings)


def denoising(segmenter, weights: Path, classes: str | None, **settings):
    """Returns the `postprocess` that restores a segmenter's masks of some classes.

    Args:
      segmenter: the Segmenter.
      weights: of the model of masks.
      classes: labels or groups; None: the classes of the model of masks.
      **settings: of `make_denoiser`.
    """
    from jaxseg.masks.read import select

    denoiser = make_denoiser(weights=weights, **settings)
    with options.usage_errors("--denoise-classes"):
        names = denoiser.card.class_names
        if classes is not None:
            names = tuple(segmenter.names[k] for k in select(segmenter.names, classes))
        elif not set(names) <= set(segmenter.names):
            raise ValueError("name those classes that the model of masks restores, such as 'right lung,left lung'")
    return denoiser.postprocess(names)


def _refuse_report(path: Path) -> None:
    """Raises if a report cannot be written, or would replace a file that is not a report."""
    with options.usage_errors("--report"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "summary.json":
            raise ValueError(f"{path}: this is the name of the summary of the output folder; use another name")
        if path.exists() and b'"environment"' not in path.read_bytes()[:100]:
            raise ValueError(f"{path} is not a jaxseg report; name another file")


def _write_report(path: Path, result, segmenter, seconds: dict[str, float]) -> None:
    from jaxseg.devices import environment
    from jaxseg.files import atomic_file

    content = {"environment": environment(), "settings": result.settings, "products": list(result.products)}
    content |= {"devices": [str(device) for device in segmenter.devices], "batch_size": segmenter.batch_size}
    content |= {"seconds": {stage: round(value, 3) for stage, value in seconds.items()}, "files": result.entries}
    content["weights"] = {name: getattr(segmenter.card, name) for name in ("source", "source_sha256", "params_sha256")}
    _refuse_report(path)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
