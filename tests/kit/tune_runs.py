"""Searches of tiny runs."""

import csv
import math

import jax
from tiny_runs import SHORT, overrides

from jaxseg.tuning import tune

RATE = "optimizer.learning_rate"
RATES = f"{RATE}=1e-4..1e-2 log"
SETTINGS = overrides(**SHORT)


def search(folder, trials, *space, source="demo", told=None, **options):
    options = {"overrides": SETTINGS if source else (), "devices": jax.devices()[:1]} | options
    with tune.open_search(
        source, folder, trials=trials, space=space, tell=(told if told is not None else []).append, **options
    ) as under_way:
        return tune.tune(under_way)


def rows(folder) -> list[dict]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def score_of(config) -> float:
    """Returns a score that is highest at the configuration's own learning rate, 3e-3."""
    return 1 / (1 + abs(math.log10(config.optimizer.learning_rate / 3e-3)))
