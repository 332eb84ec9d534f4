"""Two real processes, started from the command line and connected by the loopback interface, train as one does."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from parity_kit import KIT
from tiny_runs import without_wall_times

from jaxseg.training.log import read_metrics
from jaxseg.weights.store import open_model

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("plain")]
PROGRAM = KIT / "plain_network.py"
LIMIT_S = 180
SETTINGS = {
    "seed": 5,
    "data.size": 32,
    "data.train": 16,
    "data.val": 6,
    "model.width": 4,
    "optimizer.name": "sgd",  # Adam would amplify rounding differences
    "optimizer.learning_rate": 0.01,
    "trainer.epochs": 2,
    "trainer.batch_size": 8,
    "trainer.max_steps": "null",
    "trainer.validate_every": 1,
    "trainer.checkpoint_every": 1,
    "trainer.log_every": 1,
    "trainer.keep_last": 5,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train(folder: Path, *processes: list[str], devices: int) -> list[str]:
    """Runs `jaxseg train` in one process per option list, all at the same time; returns the output of each."""
    command = [sys.executable, str(PROGRAM), "train", "-o", str(folder)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    logs = [folder.with_name(f"{folder.name}-{i}.txt") for i in range(len(processes))]  # a pipe could fill up
    started, end = [], time.monotonic() + LIMIT_S
    try:
        for options, log in zip(processes, logs, strict=True):
            with log.open("w") as file:
                started.append(subprocess.Popen([*command, *options], env=environment, stdout=file, stderr=file))
        codes = [process.wait(max(end - time.monotonic(), 1)) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    texts = [log.read_text() for log in logs]
    assert codes == [0] * len(started), "\n".join(texts)
    return texts


def hosts(count: int) -> list[list[str]]:
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(count)]
    return [[*where, "--process-id", str(i)] for i in range(count)]


def settings() -> list[str]:
    pairs = [("--set", f"{name}={value}") for name, value in SETTINGS.items()]
    return ["-t", "demo", *(word for pair in pairs for word in pair)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Returns the folders of two runs: by two processes with two devices each, and by one process with four."""
    folder = tmp_path_factory.mktemp("runs")
    two, one = folder / "two", folder / "one"
    train(two, *([*options, *settings()] for options in hosts(2)), devices=2)
    train(one, settings(), devices=4)
    return two, one


def measured(run: Path) -> list[dict]:
    return [without_wall_times(entry) for entry in read_metrics(run / "metrics.jsonl")]


def close_entries(found: list[dict], wanted: list[dict]):
    assert [(e["split"], e["step"]) for e in found] == [(e["split"], e["step"]) for e in wanted]
    for a, b in zip(found, wanted, strict=True):
        tolerance = {"rel": 1e-5, "abs": 0} if a["split"] == "train" else {"abs": 5e-3}  # because masks are thresholded
        for name in (name for name in a if name != "split"):
            assert a[name] == pytest.approx(b[name], **tolerance), (a["split"], a["step"], name)


def close_models(found: Path, wanted: Path):
    a, b = (nnx.to_pure_dict(nnx.state(open_model(folder / "model").read())) for folder in (found, wanted))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4, err_msg=str(path))


def test_two_processes_measure_the_same_as_one(runs):
    two, one = runs
    close_entries(measured(two), measured(one))
    assert [e["step"] for e in measured(two) if e["split"] == "train"] == [1, 2, 3, 4]  # every step once


def test_two_processes_end_with_the_same_model_as_one(runs):
    close_models(*runs)


def test_the_folder_holds_the_same_files_as_that_of_one_process(runs):
    two, one = ({p.name for p in run.iterdir()} for run in runs)
    assert two == one
    steps = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in runs]
    assert steps == [["2", "4"], ["2", "4"]]


def test_one_process_resumes_the_run_of_two(runs, tmp_path):
    two, one = runs
    shutil.copytree(two, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    shutil.rmtree(tmp_path / "run/model")
    text = train(tmp_path / "run", ["--resume"], devices=4)[0]
    assert "after step 2 of 4" in text
    close_entries(measured(tmp_path / "run"), measured(one))
    close_models(tmp_path / "run", one)
