"""`jaxseg tune`: searches for the settings of a training that give the best validation."""

import contextlib
import functools
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.errors import naming_overrides, resumable


@click.command()
@options.configuration
@options.data("instead of the one in the configuration")
@options.training_output("Folder of the search; an existing search continues.  [default: runs/NAME_tune]")
@click.option(
    "--trials",
    type=click.IntRange(1, 100_000),
    required=True,
    help="Total number of trials, including those of earlier calls.",
)
@click.option(
    "--search",
    "space",
    multiple=True,
    metavar="NAME=RANGE",
    help="A setting to search for, such as optimizer.learning_rate='1e-5..1e-2 log' or optimizer.name='adam|sgd', or a "
    "file of such lines; repeat it for more settings.  [default: learning rate and weight decay from a tenth to ten "
    "times their values, the batch at half, the same and twice its size]",
)
@options.seed(" of the sampled values.  [default: 0]", default=None)
@options.overrides
@click.option(
    "--full-trials",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Number of complete trials before a trial that is worse than the median is stopped early.",
)
@click.option("--keep-all", is_flag=True, help="Keep checkpoints and models of all trials, not only of the best one.")
@options.training_gpus
def tune(source, data, folder, trials, gpus, **others):
    """Search for the settings of a training that give the best validation.

    Every trial is a run in the sub-folder trials/; the first trial is the unchanged configuration. The folder also gets
    trials.csv, coordinates.png (one axis per setting, one line per trial) and best.yaml for `jaxseg train -t`. The same
    command continues a search that was interrupted, or adds trials with a larger --trials; -o is enough to name it.

    It needs optuna: pip install 'jaxseg[tune]'. If MLflow is installed, trials are logged to MLFLOW_TRACKING_URI, or to
    mlruns/ in the folder if that is not set.
    """
    if source is None and folder is None:
        raise click.UsageError("name a configuration with -t, or a search to continue: -o FOLDER")
    console.stage("checking settings and data")
    from jaxseg.training import run
    from jaxseg.tuning import study
    from jaxseg.tuning import tune as search
    from jaxseg.tuning.trials import BEST_FILE, table

    folder = folder or Path("runs") / f"{Path(source).stem}_tune"
    study.import_optuna()
    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    naming, hint = naming_overrides(others["overrides"]), functools.partial(_continue_hint, folder)
    with resumable(hint), contextlib.ExitStack() as stack, options.usage_errors(), naming:
        opened = search.open_search(
            source, folder, trials=trials, data=data, devices=devices, tell=console.say, **others
        )
        found = search.tune(stack.enter_context(opened))
    console.show(table(found))
    model = folder / search.RUNS / found.best.name / "model"
    console.say(f"The best settings are in {folder / BEST_FILE}, the model trained with them in {model}")


def _continue_hint(folder: Path) -> str:
    """Returns what to do after Ctrl-C: how to continue the search, if it has started."""
    from jaxseg.tuning.tune import BASE_FILE

    started = (folder / BASE_FILE).is_file()
    return "The same command continues the search and its unfinished trial." if started else ""
