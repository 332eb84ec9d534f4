"""What a search found: a table of its trials, `trials.csv`, `best.yaml`, a picture, and MLflow if it is installed."""

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxseg.draw.pictures import save_picture
from jaxseg.draw.plots import Axis, parallel_coordinates
from jaxseg.files import atomic_file
from jaxseg.text_table import text_table
from jaxseg.training.config.config import read_config, write_config
from jaxseg.tuning.space import Parameter

TABLE_FILE, BEST_FILE, PICTURE_FILE = "trials.csv", "best.yaml", "coordinates.png"
MLFLOW_STORE, MLFLOW_EXPERIMENT = "mlruns", "jaxseg tune"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
      number: from 0.
      state: "complete"; "pruned": stopped early, because others were better or the loss was not finite; "failed": the
        settings do not fit together, or they do not fit the data or the memory.
      value: the best validation; of a pruned trial the last one; None if there is none.
      values: setting -> number or choice.
      note: why the trial is not complete, or which trial its result was taken from.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, float | int | str]
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the trial's run in the folder `trials`."""
        return f"{self.number:04d}"


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      target: name of the number to maximise.
      trials: all trials that have ended: complete ones first, from the best to the worst, equal ones by number.
    """

    target: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The best complete trial; None if no trial is complete."""
        return self.trials[0] if self.trials and self.trials[0].state == COMPLETE else None


def ranked(target: str, trials: Sequence[Trial]) -> Found:
    """Returns trials in the order of `Found`; pruned and failed ones by number."""
    complete = sorted((t for t in trials if t.state == COMPLETE), key=lambda t: (-t.value, t.number))
    return Found(target, (*complete, *sorted((t for t in trials if t.state != COMPLETE), key=lambda t: t.number)))


def table(found: Found, count: int = 5) -> str:
    """Returns the best trials as a text table, followed by the number of trials in each state."""
    complete = [trial for trial in found.trials if trial.state == COMPLETE]
    header = ["trial", found.target, *(complete[0].values if complete else ())]
    rows = [[t.name, f"{t.value:.4f}", *map(shown, t.values.values())] for t in complete[:count]]
    states = [(state, sum(t.state == state for t in found.trials)) for state in (COMPLETE, PRUNED, FAILED)]
    counts = ", ".join(f"{number} {state}" for state, number in states if number)
    return f"{text_table(header, rows)}\n{counts}"


def shown(value: float | int | str) -> str:
    """Returns a value as text for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(folder: Path, runs: Path, found: Found, space: Sequence[Parameter]) -> None:
    """Writes `trials.csv`, `best.yaml` if a trial is complete, and `coordinates.png` if trials have values.

    Args:
      folder: of the search.
      runs: folder with the runs of its trials.
      found: all trials that have ended.
      space: the parameters of the search.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    paths = [parameter.path for parameter in space]
    writer.writerow(["trial", "state", found.target, *paths, "note"])
    for trial in sorted(found.trials, key=lambda trial: trial.number):
        value = "" if trial.value is None else repr(trial.value)
        writer.writerow([trial.name, trial.state, value, *(trial.values[path] for path in paths), trial.note])
    with atomic_file(folder / TABLE_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    if found.best:
        write_config(read_config(runs / found.best.name / "config.yaml"), folder / BEST_FILE)
    plotted = [trial for trial in found.trials if trial.value is not None]
    if plotted:
        picture = _picture(found.target, plotted, space)
        if picture is not None:
            save_picture(picture, folder / PICTURE_FILE)


def _picture(target: str, plotted: Sequence[Trial], space: Sequence[Parameter]):
    axes = [Axis(p.path, tuple(t.values[p.path] for t in plotted), p.low, p.high, p.log, p.choices) for p in space]
    axes.append(Axis(target, tuple(trial.value for trial in plotted)))
    short = sum(trial.state != COMPLETE for trial in plotted)
    title = f"{len(plotted)} trials" + (f", {short} of them stopped early (thin)" if short else "")
    return parallel_coordinates(axes, title=title, faint=[trial.state != COMPLETE for trial in plotted])


def track(
    folder: Path,
    name: str,
    *,
    parameters: Mapping[str, object],
    entries: Sequence[Mapping],
    tags: Mapping[str, str],
    tell: Callable[[str], None],
) -> bool:
    """Logs a trial that has ended to MLflow; returns whether it was logged. Without MLflow nothing is done.

    The server is that of MLFLOW_TRACKING_URI if it is set, else a database in `mlruns/` of the folder. A server that
    cannot be reached does not stop a search; the user gets a message.

    Args:
      folder: of the search.
      name: of the trial.
      parameters: setting -> value.
      entries: entries of the trial's `metrics.jsonl`; numbers that are not finite are left out.
      tags: further texts to log.
      tell: called with each message for the user.
    """
    try:
        import mlflow
    except ImportError:
        return False
    try:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            (folder / MLFLOW_STORE).mkdir(exist_ok=True)  # a database: newer MLflow no longer writes plain folders
            mlflow.set_tracking_uri(f"sqlite:///{(folder / MLFLOW_STORE / 'mlflow.db').resolve().as_posix()}")
        mlflow.set_experiment(MLFLOW_EXPERIMENT)
        with mlflow.start_run(run_name=name):
            mlflow.log_params(dict(parameters))
            mlflow.set_tags(dict(tags))
            for entry in entries:
                mlflow.log_metrics(_metrics(entry), step=int(entry["step"]))
    except Exception as error:  # a network, a database and a server can fail in any way
        reason = " ".join(str(error).split())[:200]
        tell(f"MLflow did not accept {name}: {type(error).__name__}: {reason}")
        return False
    return True


def _metrics(entry: Mapping) -> dict[str, float]:
    """Returns the numbers of an entry, under names that MLflow accepts."""
    split = entry["split"]
    numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "step"}
    return {re.sub(r"[^\w\-./ ]", "_", f"{split}/{k}"): float(v) for k, v in numbers.items() if math.isfinite(v)}
