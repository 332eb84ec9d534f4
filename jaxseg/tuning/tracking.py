"""The trials of a search in MLflow, where it is installed; without it nothing is done."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STORE, EXPERIMENT = "mlruns", "jaxseg tune"


def track(
    folder: Path,
    name: str,
    *,
    parameters: Mapping[str, object],
    entries: Sequence[Mapping],
    tags: Mapping[str, str],
    tell: Callable[[str], None],
) -> bool:
    """Logs a trial to MLflow once it has ended; returns whether it is there now.

    The server is the user's, of MLFLOW_TRACKING_URI, else there is a database in `mlruns/` of the folder. A server that
    cannot be reached does not stop a search; it is told of.

    Args:
      folder: of the search.
      name: of the trial.
      parameters: setting -> value.
      entries: of the trial's `metrics.jsonl`; what is not finite is left out.
      tags: what else is kept.
      tell: called with a line for the user.
    """
    try:
        import mlflow
    except ImportError:
        return False
    try:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            (folder / STORE).mkdir(exist_ok=True)  # a database: newer MLflow no longer writes plain folders
            mlflow.set_tracking_uri(f"sqlite:///{(folder / STORE / 'mlflow.db').resolve().as_posix()}")
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=name):
            mlflow.log_params(dict(parameters))
            mlflow.set_tags(dict(tags))
            for entry in entries:
                mlflow.log_metrics(_metrics(entry), step=int(entry["step"]))
    except Exception as error:  # a network, a database and a server can fail in any way
        reason = " ".join(str(error).split())[:200]
        tell(f"MLflow has not taken {name}: {type(error).__name__}: {reason}")
        return False
    return True


def _metrics(entry: Mapping) -> dict[str, float]:
    """The numbers of an entry, under names that MLflow takes."""
    split = entry["split"]
    numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "step"}
    return {re.sub(r"[^\w\-./ ]", "_", f"{split}/{k}"): float(v) for k, v in numbers.items() if math.isfinite(v)}
