"""`jaxseg train`: trains a model as a configuration says, or resumes a run that was interrupted."""

import contextlib
import functools
import shlex
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.errors import naming_overrides, resumable
from jaxseg.cli.progress import step_callbacks


@click.command()
@options.configuration
@options.data("instead of the one in the configuration")
@options.training_output("Folder of the run.  [default: runs/NAME]")
@click.option(
    "--resume",
    is_flag=True,
    help="Resume the run in the folder exactly where it was interrupted; its data may have moved (-i).",
)
@options.overrides
@click.option(
    "--evaluate",
    "split",
    type=click.Choice(["val", "test"]),
    help="Evaluate the best checkpoint on this split at the end, as `jaxseg evaluate` does.",
)
@options.training_gpus
@click.option(
    "--hosts", is_flag=True, help="Train on several hosts that JAX finds by itself: Slurm, Cloud TPU, Kubernetes, MPI."
)
@click.option("--coordinator", metavar="HOST:PORT", help="Address of the first of several hosts.")
@click.option("--num-processes", type=click.IntRange(1), help="Number of hosts.")
@click.option("--process-id", type=click.IntRange(0), help="Number of this host, from 0.")
def train(source, data, folder, resume, overrides, split, gpus, hosts, **others):
    """Train a model.

    The folder gets the resolved configuration, the versions, metrics.jsonl, checkpoints, pictures, and model/: the best
    model by validation, for --weights of other commands.
    """
    if source is None and folder is None:
        raise click.UsageError("name a configuration with -t, or a run to resume: -o RUN --resume")
    console.say(f"Reading {folder if source is None else source} ...")  # before the heavy imports
    from jaxseg import xla
    from jaxseg.devices import only_cpus
    from jaxseg.training import run
    from jaxseg.training.config.config import open_run, stored_folder
    from jaxseg.training.log import METRICS_FILE, headline
    from jaxseg.training.mesh import join_hosts

    with options.usage_errors("--config"):
        folder = folder or stored_folder(source) or Path("runs") / Path(source).stem
    if hosts or any(value is not None for value in others.values()):
        with options.usage_errors():
            join_hosts(*others.values())
    with options.usage_errors(), naming_overrides(overrides):
        config = open_run(source, folder, data=data, overrides=overrides, resume=resume, tell=console.say)
    if config.trainer.keep_memory and only_cpus(gpus):
        xla.keep_freed_memory()  # before the devices start
    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    hint = functools.partial(_resume_hint, folder)
    with resumable(hint), naming_overrides(overrides), contextlib.ExitStack() as stack:
        callbacks = step_callbacks(stack, "steps", every=config.trainer.log_every)
        try:
            scores = run.train(config, folder, devices=devices, split=split, tell=console.say, **callbacks)
        except run.MissingSplitError as error:
            raise click.UsageError(f"--evaluate: {error}") from None
    if split is not None:
        with options.usage_errors("--evaluate"):
            scores = run.evaluate(folder, split, devices=devices, tell=console.say, show=console.show)
        scores = {name: value for name, value in scores.items() if isinstance(value, float)}
    console.show_rows((name, f"{value:.4f}") for name, value in headline(scores).items())
    console.say(f"The run is in {folder}, its model in {folder / 'model'}; {METRICS_FILE} lists all scores")


def _resume_hint(folder: Path) -> str:
    """Returns what to do after Ctrl-C: how to resume the run, if it has started."""
    from jaxseg.training.checkpoint import has_checkpoint
    from jaxseg.training.loop import CHECKPOINTS
    from jaxseg.training.run import CONFIG_FILE

    if not (folder / CONFIG_FILE).is_file():
        return ""
    where = "after its newest checkpoint" if has_checkpoint(folder / CHECKPOINTS) else "at step 1, without a checkpoint"
    return f"Resume the run {where}:\n  jaxseg train -o {shlex.quote(str(folder))} --resume"
