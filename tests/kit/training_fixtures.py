"""Fixtures: runs without training for the tests of searches, and small PAX-Ray runs."""

import json

import pytest
from paxray_runs import PAXRAY
from tune_runs import score_of

from jaxseg.training.config.config import write_config


@pytest.fixture
def configured(shared, tmp_path):
    """Returns a function that makes the configuration of a small network on the sample, with some settings changed."""
    from jaxseg.training import run

    def make(*settings, folder="run"):
        overrides = [*PAXRAY, *settings]
        return run.open_run("paxray_sample", tmp_path / folder, data=shared / "data/paxray", overrides=overrides)

    return make


@pytest.fixture
def quick(monkeypatch):
    """Replaces training by runs with two invented validations; returns the configurations of these runs."""
    from jaxseg.training import run
    from jaxseg.tuning import tune

    trained = []

    def train(config, folder, *, on_validation, **_):
        folder.mkdir(parents=True, exist_ok=True)
        write_config(config, folder / "config.yaml")
        for name in ("checkpoints", "model"):
            (folder / name).mkdir(exist_ok=True)
        score = score_of(config)
        trained.append(config)
        on_validation(1, score / 2)
        entries = [{"split": "val", "step": 4 * i, "epoch": i, "dice": score * i / 2} for i in (1, 2)]
        entries.append({"split": "train", "step": 8, "epoch": 2, "loss": 0.5, "dice": 9.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(tune, "_checked", lambda *_: ("dice", "the data"))
    return trained
