"""`jaxseg evaluate`: measures a trained model on a split of its data."""

from pathlib import Path

import click

from jaxseg.cli import options
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
    type=click.Path(path_type=Path, file_okay=False),
    help="For Post-DAE: a folder of masks from another source, such as a segmenter; repeat it for more folders. They "
    "are measured before and after restoration, instead of a split.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --masks: folder of the true masks, with the same file names.",
)
@label
@options.training_gpus
def evaluate(folder, data, split, step, masks, truth, levels, gpus):
    """Evaluate the best checkpoint of a run; the numbers are also written to evaluation_SPLIT.json in its folder.

    Post-DAE is measured by Dice and Hausdorff distance before and after restoration, at several levels of corruption,
    as a table and in evaluation_SPLIT.png. The models of annotators who disagree are measured by the Dice of the clean
    mask and the distances of sampled masks and annotators, beside baselines that need no network, as means with
    standard errors.
    """
    from jaxseg.training import run

    if bool(masks) != (truth is not None):
        raise click.UsageError("--masks and --truth belong together")
    if levels and not masks:
        raise click.UsageError("--label belongs to --masks and --truth; a split is read as in training")
    if masks and (split or step or data):
        raise click.UsageError("--masks: it cannot be combined with --split, --step and --input; leave them out")
    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    if masks:
        with options.usage_errors():
            run.compare_masks(folder, masks, truth, levels=levels, devices=devices, show=click.echo)
        return
    with options.usage_errors():
        scores = run.evaluate(folder, split, devices=devices, step=step, data=data, tell=options.say, show=click.echo)
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            click.echo(f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{value}")
