"""`jaxseg tune`: searches for the settings of a training that give the best validation."""

import contextlib
from pathlib import Path

import click

from jaxseg.cli import options


@click.command()
@click.option("-t", "--config", "source", help="A YAML file, or the name of one that comes with jaxseg, as for train.")
@click.option("-i", "--input", "data", type=click.Path(path_type=Path), help="Folder of the data.")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the search; one that is there goes on.  [runs/NAME_tune]",
)
@click.option(
    "--trials", type=click.IntRange(1, 100_000), required=True, help="How many in all, with those that are there."
)
@click.option(
    "--search",
    "space",
    multiple=True,
    metavar="NAME=RANGE",
    help="What to search for, again for more: optimizer.learning_rate=1e-5..1e-2 log, optimizer.name=adam|sgd; or a "
    "file of such lines.  [default: the learning rate from a tenth to ten times, the weight decay likewise, the batch "
    "at half, whole and double size]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of the values drawn.  [default: 0]")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Replace a setting: trainer.epochs=2.")
@click.option(
    "--full-trials",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="None is cut short for falling behind the median before so many are complete.",
)
@click.option("--keep-all", is_flag=True, help="Keep checkpoints and models of all trials, not of the best alone.")
@options.training_gpus
def tune(source, data, folder, trials, gpus, **others):
    """Search for the settings of a training that give the best validation.

    Every trial is a run in trials/ of the folder; the first is the configuration as it is. The folder also gets
    trials.csv, coordinates.png (an axis a setting, a line a trial) and best.yaml, which `jaxseg train -t` takes. The
    same command goes on with a search that was cut short, or with more --trials; -o alone names it too.

    Needs optuna: pip install 'jaxseg[tune]'. Where MLflow is installed, trials are logged to MLFLOW_TRACKING_URI, else
    to mlruns/ in the folder.
    """
    from jaxseg.training import run
    from jaxseg.tuning import study
    from jaxseg.tuning import tune as search
    from jaxseg.tuning.trials import BEST_FILE, table

    if source is None and folder is None:
        raise click.UsageError("name a configuration with -t, or a search to go on with: -o FOLDER")
    folder = folder or Path("runs") / f"{Path(source).stem}_tune"
    study.import_optuna()
    with options.usage_errors("--gpus"):
        devices = run.training_devices(gpus)
    with contextlib.ExitStack() as stack:
        with options.usage_errors("--config, --search, --output"):
            opened = search.open_search(
                source, folder, trials=trials, data=data, devices=devices, tell=options.say, **others
            )
            under_way = stack.enter_context(opened)
        found = search.tune(under_way)
    click.echo(table(found))
    model = folder / search.RUNS / found.best.name / "model"
    options.say(f"The best settings are in {folder / BEST_FILE}, the model trained with them in {model}")
