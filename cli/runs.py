"""What the commands that read masks or run over files share: options, making predictors, and showing results."""

import collections
import concurrent.futures
import contextlib
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.progress import COMPILING, Forecast, download_progress, item_progress
from jaxseg.files import printable, start_sha256
from jaxseg.summaries import summary_files


@contextlib.contextmanager
def starting(weights: tuple | Path | str | None = None) -> Iterator[None]:
    """Leaves out the collection of garbage while the body imports modules or makes a network, which leave little.

    What was there before is left out of all collections: mostly modules, which are no garbage.

    Args:
      weights: one place or several, whose digests another thread computes meanwhile.
    """
    thread = concurrent.futures.ThreadPoolExecutor(1)
    for place in map(Path, weights if isinstance(weights, tuple) else filter(None, [weights])):
        found = [path for path in (place / "params", place / "model" / "params") if path.is_dir()]
        if not found and (not place.is_file() or place.suffix == ".safetensors"):
            continue
        start_sha256((found or [place])[0], thread)
    thread.shutdown(wait=False)
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


of_anatomy = options.combined(
    click.option(
        "--groups",
        type=click.Choice(["original", "cxas-0.0.20"]),
        default="original",
        show_default=True,
        help="Version of the groups of classes. cxas-0.0.20: with the vertebra C7 in `all vertebrae`, in `cervical "
        "spine` and in SCD, as CXAS since 0.0.20. original: without it, as CXAS up to 0.0.16.",
    ),
    click.option(
        "--check-orientation",
        type=click.Choice(["warn", "fix", "off"]),
        default="warn",
        show_default=True,
        help="What to do about images that look inverted or turned. warn: a note. fix: segment the corrected image and "
        "turn the masks back to the file. It needs a reference for the weights: the published weights have one, and "
        "`jaxseg register --build-reference` builds others; without one, warn does nothing.",
    ),
)


def _class_levels(_context: click.Context, _option: click.Parameter, levels: tuple[str, ...]) -> dict[int, str] | None:
    """Returns the names of the levels in the options `--label`; None without the option."""
    if not levels:
        return None
    from jaxseg.masks.pictures import parse_levels

    try:
        return parse_levels(levels)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


label = click.option(
    "--label",
    "levels",
    multiple=True,
    callback=_class_levels,
    metavar="LEVEL=NAME",
    help="Name of a class in label maps, which are png files or arrays with one value per class, such as 127=heart; "
    "repeat it for more classes.",
)


@contextlib.contextmanager
def shown(what: str, *, first: str = COMPILING) -> Iterator[dict[str, Callable]]:
    """Yields the arguments `progress` and `report` of a run over a folder, which show it on the terminal.

    Args:
      what: name of the items, such as "images".
      first: what the bar says before the first item is done.
    """
    notes, forecast = Notes(what), Forecast(what)
    hint = "The same command continues where it stopped."

    def report(outcome) -> None:
        forecast.report(outcome)
        show_outcome(outcome, notes)

    with resumable(lambda: hint), item_progress(what, first=first) as show:

        def progress(done: int, total: int, name: str) -> None:
            show(done, total, name)
            forecast.progress(done, total, name)

        yield {"progress": progress, "report": report}
    notes.finish()


class Notes:
    """Shows every note and every advice to install a package once for a run, with the first of its files.

    Args:
      what: name of the items, such as "images".
    """

    def __init__(self, what: str):
        self.what = what
        self.counts: collections.Counter = collections.Counter()
        self.advice: set[str] = set()

    def show(self, source: Path, notes: Iterable[str]) -> None:
        """Shows the notes on a file that are new."""
        for note in notes:
            text = note.removeprefix(f"{source.name}: ")
            self.counts[text] += 1
            if self.counts[text] == 1:
                console.say(f"Warning: {printable(note)}")

    def brief(self, reason: str) -> str:
        """Returns the reason of a failure; advice at its end to install a package is left out if already shown."""
        what, _, advice = reason.partition("; pip install ")
        if advice in self.advice:
            return what
        self.advice |= {advice} if advice else set()
        return reason

    def finish(self) -> None:
        """Shows how many more files have a note."""
        for text, count in self.counts.items():
            if count > 1:
                what = self.what if count > 2 else self.what.removesuffix("s")
                console.say(f"Warning: {count - 1} more {what}: {printable(text)}")


def show_outcome(outcome, notes: Notes) -> None:
    """Shows the notes on a file, and why it failed."""
    from jaxseg.folder_runs.folder import describe

    source = outcome.item.source
    notes.show(source, outcome.notes)
    if outcome.error is not None:
        reason = describe(outcome.error).removeprefix(f"{source.name}: ")
        console.say(f"Failed: {printable(str(source))}: {printable(notes.brief(reason))}")


def show_note(card) -> None:
    """Shows what the card of a model says that its users must know."""
    if card.note:
        console.say(f"Warning: the model {card.title}: {card.note}")


def finish(result) -> None:
    """Prints the last line of a run, and exits with 1 if a file failed."""
    counts = f"{result.done} done, {result.skipped} skipped, {result.failed} failed"
    files = ", ".join(path.name for path in (*result.merged, result.summary))
    console.say(f"{counts}; the results are in {result.summary.parent} ({files})")
    if result.failed:
        sys.exit(1)


def run_images(
    source,
    output,
    *,
    listed,
    part,
    address,
    recursive,
    report,
    job,
    settings,
    gpus,
    postprocess=None,
    shape_check=None,
    classes=None,
    **segmenter_options,
) -> None:
    """Finds images, makes the Segmenter, runs a job of `jaxseg.anatomy.folders`, and shows what it did.

    Args:
      source, output, listed, part, address, recursive, report, gpus: from the command line.
      job: (source, output, model=Segmenter, **settings) -> FolderResult; it can be pickled.
      settings: options of the job.
      postprocess: (names of the masks, value of `--gpus`) -> the `postprocess` of the Segmenter; None: there is none.
      shape_check: the same for the `shape_check` of the Segmenter.
      classes: as `jaxseg.Segmenter` takes them.
      **segmenter_options: other options of `make_segmenter`.
    """
    start = time.perf_counter()
    ray = cluster.connect(address, gpus=gpus, part=part, report=report)
    with starting():
        from jaxseg.anatomy import folders
        from jaxseg.folder_runs.inputs import find_images

    if report:
        with options.usage_errors("--report"):
            folders.check_report(report)
    source, files = cohort.find_files(
        source, listed, functools.partial(find_images, recursive=recursive, output=output)
    )
    here = cluster.devices_here(address, gpus)
    part = cohort.part_of(part, many=source.is_dir()) if address is None else None
    if shape_check is not None:
        segmenter_options["shape_check"] = functools.partial(shape_check, gpus=here)
    segmenter_options["later"] = address is None and not summary_files(Path(output))  # else all may be done already
    segmenter = make_segmenter(classes=classes, gpus=here, **segmenter_options)
    if postprocess is not None:
        segmenter.postprocess = postprocess(segmenter.names, here)
    if address is not None:
        _run_on_cluster(ray, source, output, files, segmenter, functools.partial(job, **settings), gpus)
        return
    with shown("images") as callbacks:
        result = job(source, output, model=segmenter, files=files, part=part, **settings, **callbacks)
    if report:
        _write_report(report, result, segmenter, start)
    finish(result)


def fetched(weights: Path | str | None, option: str = "--weights") -> Path | None:
    """Returns the path of weights; those on the Hugging Face Hub are downloaded, with a progress bar.

    Args:
      weights: what `option` names.
      option: for errors.
    """
    from jaxseg.weights.hub import local_path

    with download_progress() as update, options.usage_errors(option):
        return None if weights is None else local_path(weights, progress=update)


def _write_report(path, result, segmenter, start) -> None:
    """Writes the report of a run that began at the time `start`."""
    from jaxseg.anatomy import folders

    before = time.perf_counter() - start - segmenter.compile_seconds - result.seconds
    with options.usage_errors("--report"):
        folders.write_report(path, result, segmenter, start_seconds=before)


def _run_on_cluster(ray, source, output, files, segmenter, job, gpus) -> None:
    """Runs a job of `run_images` on a Ray cluster, and merges its parts."""
    from jaxseg.folder_runs.merge import merge_folder

    job, merge = functools.partial(job, source, output, files=files), functools.partial(merge_folder, output)
    options = {"gpus": gpus, "folder": cluster.folder_of([source, output, *files])}
    with shown("images", first=cluster.WAITING) as callbacks:
        succeeded = cluster.run(ray, job, segmenter, len(files), merge, **options, callbacks=callbacks)
    if not succeeded:
        sys.exit(1)


@starting()
def make_segmenter(
    *,
    weights=None,
    classes=None,
    groups="original",
    check_orientation="warn",
    shape_check=None,
    later=False,
    **network_options,
):
    """Returns the Segmenter of the command's options.

    Args:
      weights: a path, or a tuple of several; None or (): the published weights.
      classes, groups, check_orientation: as `jaxseg.Segmenter` takes them.
      shape_check: names of the masks -> the `shape_check` of the Segmenter; None: there is none.
      later: whether one network is compiled while its numbers are read.
      **network_options: other options of `load_network`.
    """
    from jaxseg.anatomy.orientation import find_reference
    from jaxseg.anatomy.segment import Segmenter
    from jaxseg.vocabulary import labels

    places = weights if isinstance(weights, tuple) and weights else (weights or None,)
    later = later and len(places) == 1
    network_options |= {"classes": classes, "groups": groups, "later": later}
    loaded = [load_network(weights=place, **network_options) for place in places]
    network, place, settings = loaded[0]
    settings |= {"classes": classes, "groups": groups, "check_orientation": check_orientation}
    if shape_check is not None:
        with options.usage_errors("--classes"):
            names = (network.model if later else network).card.class_names
            settings["shape_check"] = shape_check([names[i] for i in labels.select(names, classes, groups=groups)])
    with options.usage_errors():
        networks = network if len(loaded) == 1 else [network for network, _, _ in loaded]
        segmenter = Segmenter(networks, reference=find_reference(place), **settings)
    if later:
        segmenter.compile()  # now, so that damaged weights leave no output folder
    return segmenter


def inference_devices(gpus: str) -> list:
    """Returns the devices that `--gpus` names. On CPUs, the memory of a batch is kept for the next one."""
    from jaxseg import xla
    from jaxseg.devices import only_cpus, select_devices

    if only_cpus(gpus):
        xla.keep_freed_memory()
    with options.usage_errors("--gpus"):
        return select_devices(gpus)


def load_network(
    *, model, gpus, weights, labels_file, dtype, classes=None, groups="original", later=False, **segmenter_options
):
    """Returns the network of the command's options, its name or place, and the options of `jaxseg.Segmenter`.

    With `later`, `jaxseg.weights.load.opened` opens it, so that its numbers are read while it is compiled.
    """
    from jaxseg.anatomy.segment import check_classes
    from jaxseg.weights.load import choose_model, load, opened

    weights = fetched(weights)
    with options.usage_errors("--model"):
        name, weights = choose_model(model, weights)
    with options.usage_errors("--classes"):
        check_classes(classes, name, weights, groups=groups)
    devices = inference_devices(gpus)
    names = options.class_names(labels_file)
    with download_progress() as update:
        network = (opened if later else load)(name, weights, dtype=dtype, class_names=names, progress=update)
    show_note(network.model.card if later else network.card)
    return network, weights or name, {"devices": devices} | segmenter_options


def make_denoiser(*, weights, gpus="auto", option="--weights", **settings):
    """Returns the Denoiser of the command's options; `option` is the one that names the weights."""
    from jaxseg.post_dae.denoise import Denoiser
    from jaxseg.weights.load import load

    devices = inference_devices(gpus)
    weights = fetched(weights, option)
    with options.usage_errors(option):
        found = Denoiser(load(weights), devices=devices, **settings)
    show_note(found.card)
    return found
