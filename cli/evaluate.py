"""`jaxseg evaluate`: measures a trained model on a split of its data."""

from pathlib import Path

import click

from jaxseg.cli import options


@click.command()
@click.option(
    "--run", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run."
)
@click.option("-i", "--input", "data", type=click.Path(path_type=Path), help="Folder of the data, where it has moved.")
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--step", type=click.IntRange(1), help="Step of the checkpoint.  [default: the best by validation]")
@options.training_gpus
def evaluate(folder, data, split, step, gpus):
    """Evaluate a run's best checkpoint; the numbers also go into evaluation_SPLIT.json in its folder."""
    from jaxseg.train import run

    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    with options.usage_errors("--run, --split, --step"):
        scores = run.evaluate(folder, split, devices=devices, step=step, data=data, tell=options.say)
    for name, value in scores.items():
        click.echo(f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{value}")
