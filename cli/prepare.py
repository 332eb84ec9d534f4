"""`jaxseg prepare`: builds training data in the layouts that the methods read."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.progress import item_progress

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def prepare():
    """Build training data in the layout that a method reads."""


@prepare.command()
@click.argument("cts", type=_FOLDER)
@click.argument("labels", type=_FOLDER, required=False)
@click.option(
    "--pseudo",
    type=_FOLDER,
    help="Labels that a network predicted, CASE/STAGE.nii.gz, numbered as LABELS, or CASE/STAGE/ORGAN.nii.gz.  "
    "[default: LABELS are degraded]",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the data set."
)
@click.option(
    "--names-table",
    "label_names",
    cls=options.RenamedOption,
    earlier=("--names",),
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON or CSV of labels and organs.  [default: the table in the headers of the NIfTI files; without one, "
    "classes of the DAP-Atlas]",
)
@click.option(
    "--per-organ",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of degraded masks per organ of a case, with a Dice from 0.1 to 0.98.",
)
@click.option(
    "--least-slices",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Leave out organs with fewer slices that have at least 20 pixels of them.",
)
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Fraction of the cases for validation.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--canonical", is_flag=True, help="Turn volumes to the patient's axes; the original does not.")
@click.option(
    "--segmenter",
    is_flag=True,
    help="Train a small network on the training cases, and add its masks at several stages to the degraded ones.",
)
@click.option(
    "--stages",
    type=click.IntRange(5, 10),
    default=8,
    show_default=True,
    help="With --segmenter: number of stages of its training.",
)
@click.option(
    "--steps",
    type=click.IntRange(50),
    default=1000,
    show_default=True,
    help="With --segmenter: number of optimisation steps.",
)
def segae(cts, labels, output, **settings):
    """Build SegAE's training data from CTS with LABELS, by default the folder CTS itself with a folder for each case.

    A case is CTS/CASE.nii.gz with LABELS/CASE.nii.gz, CASE/ct.nii.gz with CASE/label.nii.gz, or CASE/ct.nii.gz with
    CASE/segmentations/ORGAN.nii.gz as in TotalSegmentator's data set. NPZ, NPY and folders of DICOM slices are possible
    too. A second run builds the cases that are missing.
    """
    from jaxseg.segae.prepare import prepare_segae

    with _shown("cases") as show:
        made = prepare_segae(cts, labels or cts, output, **settings, progress=show, notify=console.say)
    counts = f"{made.made} cases made, {made.existing} were there, {len(made.failed)} failed"
    console.say(f"{counts}; {made.summary} lists them")
    if made.failed:
        sys.exit(1)


_OUTPUT = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the set."
)
_SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the set.")


@prepare.command()
@click.argument("raw", type=_FOLDER)
@_OUTPUT
@click.option("--train", type=click.IntRange(1), default=1000, show_default=True, help="Digits for training.")
@click.option("--validate", type=click.IntRange(0), default=200, show_default=True, help="Digits for validation.")
@click.option("--test", type=click.IntRange(0), default=200, show_default=True, help="Digits for testing.")
@click.option(
    "--noise",
    type=click.FloatRange(0, 10),
    default=0.36,
    show_default=True,
    help="Standard deviation of the noise on images with values from 0 to 1.",
)
@_SEED
def mnist(raw, output, **settings):
    """Build a set with noisy annotators from the four files of MNIST in RAW, compressed (.gz) or not.

    There are three annotators: one draws too large a shape, one too small a shape, and one a wrong shape.
    """
    from jaxseg.annotators.mnist import prepare_mnist

    with _shown("digits", _tenth) as show:
        made = prepare_mnist(raw, output, **settings, progress=show)
    console.say(f"{made.made} digits made; {made.summary} describes the set")


@prepare.command()
@click.argument("dicom_root", type=_FOLDER)
@_OUTPUT
@click.option("--xml", "xml_root", type=_FOLDER, help="Folder of the XML files.  [default: DICOM_ROOT]")
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the patients for validation.",
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the patients for testing.",
)
@_SEED
@click.option(
    "--least-readers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Use nodules that at least this number of readers outlined.",
)
@click.option(
    "--least-pixels",
    type=click.IntRange(1),
    default=31,
    show_default=True,
    help="Smallest consensus of a used slice in pixels; 31 in the published set.",
)
@click.option(
    "--most-pixels",
    type=click.IntRange(1),
    help="Use slices whose consensus has at most this number of pixels.  [default: no limit]",
)
@click.option("--clahe", is_flag=True, help="Equalise the contrast of the crops by CLAHE in the lung window.")
@click.option(
    "--grouping",
    type=click.Choice(["pylidc", "readers"]),
    default="pylidc",
    show_default=True,
    help="Which annotations are one nodule. pylidc: close ones, as in the original. readers: close ones of different "
    "readers, measured in millimetres.",
)
def lidc(dicom_root, output, **settings):
    """Build the set of lung nodules from LIDC-IDRI in DICOM_ROOT: DICOM series and one XML file per CT.

    The set has slices of 64 x 64 pixels with the masks of all readers, each patient in only one split, and tables and a
    plot that describe it (in meta). A second run makes only what is missing.
    """
    from jaxseg.annotators.lidc.prepare import prepare_lidc

    def report(outcome):
        if outcome.error:
            console.say(f"{outcome.patient}: {outcome.error}")

    callbacks = {"report": report, "notify": console.say}
    with _shown("patients", lambda total: 10) as show:
        made = prepare_lidc(dicom_root, output, **settings, progress=show, **callbacks)
    for split in made.empty_splits:
        console.say(f"{split} has no slice: too few patients have suitable nodules")
    counts = f"{made.made} patients made ({made.slices} slices), {made.existing} already done"
    unread = f", {len(made.damaged)} XML files could not be read" if made.damaged else ""
    console.say(f"{counts}, {len(made.failed)} failed{unread}; {made.summary} lists them")
    if made.failed or made.damaged:
        sys.exit(1)


@prepare.command()
@click.option(
    "--kind",
    type=click.Choice(["annotators", "xray"]),
    required=True,
    help="annotators: nodules with several annotators, like the LIDC set. xray: chest X-rays, like PAX-Ray.",
)
@_OUTPUT
@click.option("--train", type=click.IntRange(1), default=60, show_default=True, help="Phantoms for training.")
@click.option("--validate", type=click.IntRange(0), default=12, show_default=True, help="Phantoms for validation.")
@click.option("--test", type=click.IntRange(0), default=12, show_default=True, help="Phantoms for testing.")
@click.option("--size", type=click.IntRange(32, 2048), help="Side of images in pixels.  [default: 64; 256 for xray]")
@_SEED
def phantom(kind, output, **settings):
    """Build a set of phantoms: images computed from formulas, with which training can be tried without patient data.

    A nodule has four slices.
    """
    from jaxseg.datasets.phantom_sets import prepare_phantoms

    with _shown("phantoms", _tenth) as show:
        made = prepare_phantoms(kind, output, **settings, progress=show)
    console.say(f"{made.made} phantoms made; {made.summary} describes the set")


def _tenth(total: int) -> int:
    return max(1, total // 10)


@contextlib.contextmanager
def _shown(what: str, every: Callable[[int], int] = lambda total: 1) -> Iterator[Callable]:
    """Yields the argument `progress` of a function that builds a data set, which shows it on the terminal.

    Errors are usage errors until the first call of the argument.

    Args:
      what: name of the items, such as "cases".
      every: number of items -> a plain line is printed only for every N-th of them.
    """
    console.stage("checking options and data")
    hint = "The same command makes what is missing."
    with resumable(lambda: hint), contextlib.ExitStack() as checks, item_progress(what, every=every) as show:
        checks.enter_context(options.usage_errors())

        def show_checked(done: int, total: int, text: str) -> None:
            checks.pop_all()
            show(done, total, text)

        yield show_checked
