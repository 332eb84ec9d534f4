"""`jaxseg evaluate`: measures a trained model on a split of its data."""

from pathlib import Path

import click

from jaxseg.cli import options


@click.command()
@click.option(
    "--run", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run."
)
@click.option("-i", "--input", "data", type=click.Path(path_type=Path), help="Folder of the data, where it has moved.")
@click.option("--split", help="train, val or test.  [default: test where there is one, else val]")
@click.option("--step", type=click.IntRange(1), help="Step of the checkpoint.  [default: the best by validation]")
@click.option(
    "--masks",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Of a model of masks: a folder of masks from elsewhere, such as of a segmenter; again for more. Measured "
    "before and after, in place of a split.",
)
@click.option(
    "--truth", type=click.Path(path_type=Path, file_okay=False), help="With --masks: the true ones, of the same names."
)
@options.training_gpus
def evaluate(folder, data, split, step, masks, truth, gpus):
    """Evaluate a run's best checkpoint; the numbers also go into evaluation_SPLIT.json in its folder.

    For Post-DAE that is Dice and Hausdorff distance before and after, at several levels of corruption, as a table and
    in evaluation_SPLIT.png. For annotators who disagree it is the Dice of the clean mask, the distances of sampled
    masks and annotators, and baselines that need no network, as means with standard errors.
    """
    from jaxseg.training import run

    if bool(masks) != (truth is not None):
        raise click.UsageError("--masks and --truth belong together")
    if masks and (split or step or data):
        raise click.UsageError("--masks: with it --split, --step and --input mean nothing; leave them out")
    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    if masks:
        with options.usage_errors("--run, --masks, --truth"):
            run.compare_masks(folder, masks, truth, devices=devices, show=click.echo)
        return
    with options.usage_errors("--run, --split, --step"):
        scores = run.evaluate(folder, split, devices=devices, step=step, data=data, tell=options.say, show=click.echo)
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            click.echo(f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{value}")
