"""`jaxseg prepare`: builds training data in the layout that a method reads."""

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
    "--pseudo", type=_FOLDER, help="Masks by a network: CASE/STAGE.nii.gz, labelled as LABELS. Else these are degraded."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the layout."
)
@click.option(
    "--names",
    "table_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON or CSV of labels and organs.  [default: labels are classes of the DAP-Atlas]",
)
@click.option(
    "--per-organ",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Degraded masks for every organ of a case, of a Dice from 0.1 to 0.98.",
)
@click.option(
    "--least-slices",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Take organs that have 20 pixels or more in so many slices.",
)
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Of the cases, for validation.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of degrading and of that choice.")
@click.option("--canonical", is_flag=True, help="Turn volumes to the patient's axes; the original does not.")
def segae(cts, labels, pseudo, output, table_file, **settings):
    """Build SegAE's training data from CTS with LABELS.

    A case is CTS/CASE.nii.gz with LABELS/CASE.nii.gz, or CASE/ct.nii.gz with CASE/label.nii.gz; npz, npy and folders
    of DICOM slices will do too. A second run makes what is missing.
    """
    from jaxseg import files
    from jaxseg.data import segae_prepare, segae_sources

    with options.usage_errors("CTS, LABELS, --pseudo"):
        scans, notes = segae_sources.find_scans(cts, labels, pseudo)
    table = segae_sources.read_table(table_file) if table_file else segae_sources.dap_table()
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
