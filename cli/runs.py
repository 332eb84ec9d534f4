"""What the commands that read masks or run over files share: options, making predictors, and showing results."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from jaxseg.cli import options
from jaxseg.cli.progress import download_progress, progress
from jaxseg.files import printable


def class_levels(_context: click.Context, _option: click.Parameter, levels: tuple[str, ...]) -> dict[int, str] | None:
    """Returns the names of the levels in the options `--label`; None without the option."""
    from jaxseg.masks.pictures import parse_levels

    try:
        return parse_levels(levels) if levels else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


label = click.option(
    "--label",
    "levels",
    multiple=True,
    callback=class_levels,
    metavar="LEVEL=NAME",
    help="Name of a class in label maps, which are png files or arrays with one value per class, such as 127=heart; "
    "repeat it for more classes.",
)


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


def run_images(
    source, output, *, recursive, report, job, settings, postprocess=None, classes=None, **segmenter_options
) -> None:
    """Finds images, makes the Segmenter, runs a job of `jaxseg.anatomy.folders`, and shows what it did.

    Args:
      source, output, recursive, report: from the command line.
      job: (source, output, Segmenter, **settings) -> FolderResult.
      settings: options of the job.
      postprocess: Segmenter -> its `postprocess`; None: there is none.
      classes: as `jaxseg.Segmenter` takes them.
      **segmenter_options: other options of `make_segmenter`.
    """
    start = time.perf_counter()
    from jaxseg.anatomy import folders
    from jaxseg.folder_runs.inputs import find_images

    if report:
        with options.usage_errors("--report"):
            folders.check_report(report)
    with options.usage_errors("--input"):
        files = find_images(source, recursive=recursive, output=output)
    segmenter = make_segmenter(classes=classes, **segmenter_options)
    if postprocess is not None:
        segmenter.postprocess = postprocess(segmenter)
    with shown("images") as callbacks:
        result = job(source, output, segmenter, files=files, **settings, **callbacks)
    if report:
        before = time.perf_counter() - start - result.seconds
        with options.usage_errors("--report"):
            folders.write_report(report, result, segmenter, start_seconds=before)
    finish(result)


def make_segmenter(*, model, gpus, weights, labels_file, dtype, classes, **segmenter_options):
    """Returns the Segmenter of the command's options; `segmenter_options` are those of `jaxseg.Segmenter`."""
    from jaxseg.anatomy.segment import Segmenter, check_classes
    from jaxseg.devices import select_devices
    from jaxseg.weights.load import choose_model, load

    with options.usage_errors("--model"):
        name, weights = choose_model(model, weights)
    with options.usage_errors("--classes"):
        check_classes(classes, name, weights)
    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    names = options.class_names(labels_file)
    with download_progress() as update:
        network = load(name, weights, dtype=dtype, class_names=names, progress=update)
    with options.usage_errors():
        return Segmenter(network, classes=classes, devices=devices, **segmenter_options)


def make_denoiser(*, weights, gpus="auto", option="--weights", **settings):
    """Returns the Denoiser of the command's options; `option` is the one that names the weights."""
    from jaxseg.devices import select_devices
    from jaxseg.post_dae.denoise import Denoiser
    from jaxseg.weights.load import load

    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    with options.usage_errors(option):
        return Denoiser(load(weights), devices=devices, **settings)
