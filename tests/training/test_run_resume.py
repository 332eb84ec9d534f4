"""A run that is killed, interrupted or out of disk space at any moment resumes exactly where it stopped."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from parity_kit import KIT
from tiny_runs import STEPS, TIMEOUT_S, Server, command, finished, metrics, steps

from jaxseg.training.log import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain")]


@pytest.fixture(scope="module")
def server():
    """Yields a function that starts runs; processes that are still alive are ended after the test."""
    program = [sys.executable, str(KIT / "tiny_runs.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Server(process.stdin, process.stdout)
        process.stdin.close()


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory) -> Path:
    """Returns the folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    server.start(command(folder), folder.parent / "output")
    assert server.end() == 0, (folder.parent / "output").read_text()
    return folder


def taken(folder: Path) -> int:
    """Returns the last step in the log of a run that may still be running."""
    return max((entry["step"] for entry in read_metrics(folder / "metrics.jsonl")), default=0)


def end_after(server, folder, output, step, signal_number, *, later=0.0) -> int:
    """Runs until `step` is in the log and for `later` seconds more, sends the signal, and returns the exit code."""
    process = server.start(command(folder, "--resume"), output)
    end = time.monotonic() + TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end and taken(folder) < step:
            os.kill(process, 0)
            time.sleep(0.002)
        time.sleep(later)
        os.kill(process, signal_number if time.monotonic() < end else signal.SIGKILL)
    return server.end()


def finish(server, folder, output) -> None:
    server.start(command(folder, "--resume"), output)
    assert server.end() == 0, output.read_text()


def check_same(folder: Path, expected: Path) -> None:
    assert metrics(folder) == metrics(expected)
    assert steps(folder) == steps(expected)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in expected.iterdir())
    assert [p.read_bytes() for p in pictures(folder)] == [p.read_bytes() for p in pictures(expected)]
    one, other = finished(folder), finished(expected)
    assert one.keys() == other.keys()
    assert any("optimizer" in name for name in one)
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert different == []
    assert all(np.isfinite(array).all() for array in one.values())


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "pictures").iterdir())


@pytest.mark.full
def test_a_run_killed_ten_times_at_random_resumes_with_equal_bits_and_numbers(server, expected, tmp_path):
    """A checkpoint is written after every step, so most kills happen while one is being written."""
    rng, folder, output = random.Random(0), tmp_path / "run", tmp_path / "output"
    killed, half_written, restarts = 0, 0, []
    for i in range(10):
        code = end_after(server, folder, output, i, signal.SIGKILL, later=rng.uniform(0, 0.3))
        killed += code == -signal.SIGKILL
        half_written += any((folder / "checkpoints").glob("*-tmp"))
        restarts.append((steps(folder) or [0])[-1])
    assert killed == 10
    assert half_written > 0
    assert len(set(restarts)) > 4  # the run made progress in between
    assert restarts[-1] < STEPS
    finish(server, folder, output)
    assert f"resuming after step {restarts[-1]} of {STEPS}" in output.read_text()
    check_same(folder, expected)


@pytest.mark.full
def test_a_run_that_is_interrupted_or_out_of_disk_space_says_so_and_resumes(server, expected, tmp_path):
    folder, output = tmp_path / "run", tmp_path / "output"
    code = end_after(server, folder, output, 4, signal.SIGTERM)  # the command receives it as Ctrl-C
    assert code == 1, output.read_text()
    assert output.read_text().splitlines()[-2:] == [
        "Stopped. Resume the run after its newest checkpoint:",
        f"  jaxseg train -o {folder} --resume",
    ]
    assert "Traceback" not in output.read_text()
    assert 0 < steps(folder)[-1] < STEPS
    check_full_disk(server, folder, output)
    finish(server, folder, output)
    check_same(folder, expected)


def check_full_disk(server, folder, output) -> None:
    """The run ends with a one-line error, and earlier checkpoints are kept."""
    before = steps(folder)
    # With this limit, writing a checkpoint fails as on a full disk.
    server.start(command(folder, "--resume"), output, max_file_bytes=30_000)
    assert server.end() == 1
    progress = ("Reading ", "steps ", "step ", "resuming after ")
    errors = [line for line in output.read_text().splitlines() if not line.startswith(progress)]
    assert len(errors) == 1, errors
    assert errors[0].startswith(("Error: a checkpoint could not be written", "Error: the model could not be written"))
    assert errors[0].endswith(": File too large; the checkpoints before it are kept")
    assert steps(folder) == before
