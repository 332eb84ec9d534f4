"""`jaxseg prepare`: builds training data in the layouts that the methods read."""

import sys
from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.progress import progress

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def prepare():
    """Build training data in the layout that a method reads."""


@prepare.command()
@click.argument("cts", type=_FOLDER)
@click.argument("labels", type=_FOLDER)
@click.option(
    "--pseudo",
    type=_FOLDER,
    help="Labels that a network predicted, CASE/STAGE.nii.gz, numbered as LABELS.  [default: LABELS are degraded]",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the data set."
)
@click.option(
    "--names-table",
    "table_file",
    cls=options.RenamedOption,
    earlier=("--names",),
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON or CSV of labels and organs.  [default: labels are classes of the DAP-Atlas]",
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
def segae(cts, labels, pseudo, output, table_file, **settings):
    """Build SegAE's training data from CTS with LABELS.

    A case is CTS/CASE.nii.gz with LABELS/CASE.nii.gz, or CASE/ct.nii.gz with CASE/label.nii.gz. NPZ, NPY and folders of
    DICOM slices are possible too. A second run builds the cases that are missing.
    """
    from jaxseg import files
    from jaxseg.segae import label_table
    from jaxseg.segae import prepare as segae_prepare

    with options.usage_errors("CTS, LABELS, --pseudo"):
        scans, notes = segae_prepare.find_scans(cts, labels, pseudo)
    table = label_table.read_table(table_file) if table_file else label_table.dap_table()
    names = {str(label): organ.name for label, organ in table.items()} if table_file else {}
    chosen = segae_prepare.Settings(pseudo=pseudo is not None, labels=names, **settings)
    for note in notes:
        options.say(note)
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    with files.only_writer(output):
        with options.usage_errors("--output"):
            splits = segae_prepare.begin(scans, output, chosen)
        with progress(len(splits), "cases") as step:
            for outcome in segae_prepare.prepare(scans, output, chosen, table, splits):
                failed += bool(outcome.error)
                step(f"{outcome.case}: {outcome.error or f'{outcome.masks} masks for {outcome.split}'}")
    there = len(scans) - len(splits)
    options.say(f"{len(splits) - failed} cases made, {there} were there, {failed} failed; {output / 'summary.json'}")
    if failed:
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
    from jaxseg.annotators import mnist as mnist_prepare

    chosen = mnist_prepare.Settings(**settings)
    _make_whole(
        mnist_prepare.prepare_mnist(raw, output, chosen),
        output,
        chosen.train + chosen.validate + chosen.test,
        "digits",
        "RAW, --output",
    )


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
def lidc(dicom_root, output, xml_root, **settings):
    """Build the set of lung nodules from LIDC-IDRI in DICOM_ROOT: DICOM series and one XML file per CT.

    The set has slices of 64 x 64 pixels with the masks of all readers, each patient in only one split, and tables and a
    plot that describe it (in meta). A second run makes only what is missing.
    """
    from jaxseg import files
    from jaxseg.annotators.lidc import crops as lidc_crops
    from jaxseg.annotators.lidc import prepare as lidc_prepare
    from jaxseg.annotators.lidc import summary as lidc_summary
    from jaxseg.draw.pictures import save_picture
    from jaxseg.draw.plots import count_bars

    with options.usage_errors("--val-fraction, --test-fraction, --least-pixels, --most-pixels"):
        chosen = lidc_crops.Settings(**settings)
    with options.usage_errors("DICOM_ROOT, --xml"):
        found = lidc_prepare.find_studies(dicom_root, xml_root)
    patients, failed, slices = found.patients, dict(found.damaged), 0
    for line in [*found.notes, *(f"{path}: {error}" for path, error in failed.items())]:
        options.say(line)
    output.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output):
        with options.usage_errors("--output"):
            splits = lidc_prepare.begin(patients, output, chosen)
        with progress(len(splits), "patients", every=10) as step:
            for outcome in lidc_prepare.prepare(patients, output, chosen, splits):
                slices += outcome.slices
                if outcome.error:
                    failed[outcome.patient] = outcome.error
                    options.say(f"{outcome.patient}: {outcome.error}")
                step(f"{outcome.patient}: {outcome.slices} slices of {outcome.nodules} nodules in {outcome.split}")
        counts = lidc_summary.conclude(output, chosen, failed, found.notes)
        tables = {title: counts[name] for name, title in lidc_summary.PANELS.items()}
        picture = count_bars(tables, caption=lidc_summary.caption(counts))
        if picture is not None:
            save_picture(picture, output / "meta" / "summary.png")
    for split, wanted in chosen.fractions.items():
        if wanted and not counts["slices"].get(split):
            options.say(f"{split} has no slice: too few patients have suitable nodules")
    there, bad = len(patients) - len(splits), len(set(failed) & set(splits))
    made = f"{len(splits) - bad} patients made ({slices} slices), {there} already done, {bad} failed"
    unread = f", {len(found.damaged)} XML files could not be read" if found.damaged else ""
    options.say(f"{made}{unread}; {output / lidc_prepare.SUMMARY}")
    if failed:
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
def phantom(kind, output, train, validate, test, size, seed):
    """Build a set of phantoms: images computed from formulas, with which training can be tried without patient data.

    A nodule has four slices.
    """
    from jaxseg.datasets.phantom_sets import prepare_phantoms

    counts = {"train": train, "validate": validate, "test": test}
    making = prepare_phantoms(kind, output, counts, seed=seed, size=size or (64 if kind == "annotators" else 256))
    _make_whole(making, output, sum(counts.values()), "phantoms", "--output")


def _make_whole(making, output, total, what, option):
    """Shows progress of an iterator that builds a whole set, and reports its summary file."""
    with options.usage_errors(option), progress(total, what, every=max(1, total // 10)) as step:
        for line in making:
            step(line)
    options.say(f"{total} {what} made; {output / 'summary.json'}")
