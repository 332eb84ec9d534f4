"""`jaxseg evaluate`: measures a trained model on a split of its data."""

import sys
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import label


@click.command()
@click.option(
    "--run", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run."
)
@options.data("if it has moved")
@click.option("--split", help="train, val or test.  [default: test if the data have it, else val]")
@click.option("--step", type=click.IntRange(1), help="Step of the checkpoint.  [default: the best by validation]")
@click.option(
    "--masks",
    multiple=True,
    type=click.Path(path_type=Path),
    help="For Post-DAE: a folder of masks from another source, such as a segmenter, or a .jsonl or .parquet file of "
    "`jaxseg segment`; repeat it for more. They are measured before and after restoration, instead of a split.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="With --masks: folder or file of the true masks, with the same file names.",
)
@label
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the files with the numbers.  [default: that of the run]",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="For SegAE: fit a calibration of the predicted Dice on the split, except train, and store it in the run's "
    "model.",
)
@options.training_gpus
def evaluate(folder, data, split, step, masks, truth, levels, output, calibrate, gpus):
    """Evaluate the best checkpoint of a run; the numbers are also written to evaluation_SPLIT.json in its folder.

    For PAX-Ray, evaluation_SPLIT.csv lists the IoU and Dice of each class.

    For SegAE, the table also shows the errors of calibrated predictions, and the picture their reliability.

    Post-DAE is measured by Dice and Hausdorff distance before and after restoration, with levels of the corruption it
    was trained with and kinds of damage that it never saw, beside baselines that need no network. The models of
    annotators who disagree are measured by the Dice of the clean mask and of sampled masks, and by the distances of
    sampled masks and annotators, beside baselines, as means with standard errors. Unless --step is given, the last
    checkpoint is measured as well, in the same table and in evaluation_SPLIT.csv.
    """
    if bool(masks) != (truth is not None):
        raise click.UsageError("--masks and --truth belong together")
    if levels and not masks:
        raise click.UsageError("--label belongs to --masks and --truth; a split is read as in training")
    if calibrate and (masks or step):
        raise click.UsageError("--calibrate: it cannot be combined with --masks and --step; leave them out")
    if masks and (split or step or data):
        raise click.UsageError("--masks: it cannot be combined with --split, --step and --input; leave them out")
    console.stage("reading the run and its data")
    from jaxseg.training import run
    from jaxseg.training.log import headline

    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    if masks:
        with options.usage_errors():
            settings = {"levels": levels, "devices": devices, "output": output}
            run.compare_masks(folder, masks, truth, **settings, show=console.show)
        console.say(f"All numbers are in {(output or folder) / 'evaluation_masks.json'}")
        return
    tables = []

    def show(table: str) -> None:
        tables.append(table)
        console.show(table)

    def show_scores(scores: dict) -> None:
        if tables and sys.stdout.isatty():  # for people, the tables are enough
            return
        numbers = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
        shown = headline(numbers).items()
        console.show_rows((name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in shown)

    callbacks = {"tell": console.say, "show": show, "on_scores": show_scores}
    with options.usage_errors():
        options_of_run = {"step": step, "data": data, "output": output, "calibrate": calibrate}
        run.evaluate(folder, split, devices=devices, **options_of_run, **callbacks)
