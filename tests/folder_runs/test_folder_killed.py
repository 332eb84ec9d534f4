"""A run that is killed or interrupted at any moment leaves only complete results, and the next run adds the rest."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, draw, finish, statuses, summary, tree
from parity_kit import KIT

from jaxseg.journal import journal_of
from jaxseg.masks import cohort
from jaxseg.masks.read import read_masks

pytestmark = pytest.mark.slow

COUNT = 25


@pytest.fixture(scope="module")
def server():
    """Starts a run in a new process and kills it when there are this many results, or a moment later."""
    command = [sys.executable, KIT / "fake_segmenter.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:

        def run(kill, count, source, output, output_type="npy", *, later=0.0, seconds=0.002, **options) -> int:
            program.stdin.write(json.dumps([str(source), str(output), output_type, seconds, options]) + "\n")
            program.stdin.flush()
            process = int(program.stdout.readline())
            end = time.monotonic() + 10
            while time.monotonic() < end and len(results(output)) < count:
                time.sleep(0.0005)
            time.sleep(later)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, kill)
            return int(program.stdout.readline())

        yield run
        program.stdin.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for i in range(COUNT):
        draw(folder / f"{i}.png", size=(300 + i, 400))
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, dict[str, str]]:
    """Returns the results of an undisturbed run."""
    folder = tmp_path_factory.mktemp("expected")
    for output_type in ("npy", "png", "json"):
        finish(source, folder / output_type, output_type)
    return {output_type: tree(folder / output_type) for output_type in ("npy", "png", "json")}


def temporaries(output: Path) -> list[Path]:
    return list(output.glob(".jaxseg-*"))


def results(output: Path) -> list[str]:
    return [path.name for path in output.glob("[!.]*") if path.name != "summary.json"]


@pytest.mark.parametrize("output_type", ["npy", "png", "json"])
def test_killed_runs_leave_complete_results_and_the_next_run_adds_the_rest(
    server, source, expected, tmp_path, output_type
):
    rng, found = random.Random(0), {}
    for count in range(0, COUNT, 3):
        later = rng.choice([0, rng.uniform(0, 0.01)])
        assert server(signal.SIGKILL, count, source, tmp_path, output_type, later=later) in (-signal.SIGKILL, 0)
        whole = {name: digest for name, digest in tree(tmp_path).items() if not name.startswith(".jaxseg-")}
        assert found.items() <= whole.items() <= expected[output_type].items()
        if output_type == "png":
            assert len(whole) == 3 * len(results(tmp_path))  # one PNG per class, or no folder
        found = whole
    assert len(found) > 0
    finish(source, tmp_path, output_type)
    assert tree(tmp_path) == expected[output_type]
    assert temporaries(tmp_path) == []
    assert summary(tmp_path)["complete"]
    assert len(statuses(tmp_path)) == COUNT
    assert set(statuses(tmp_path).values()) <= {"done", "skipped"}


def test_results_of_other_settings_do_not_outlive_a_killed_overwrite(server, source, expected, tmp_path):
    """After the kill, results of both settings exist side by side; no old result may count as a new one."""
    finish(source, tmp_path)
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(b"old")
    other = {"threshold": 0.7}
    killed = server(signal.SIGKILL, 0, source, tmp_path, later=0.06, seconds=0.02, overwrite=True, settings=other)
    assert killed == -signal.SIGKILL
    assert any(path.read_bytes() == b"old" for path in tmp_path.glob("*.npy"))
    if summary(tmp_path)["settings"] == other:
        with pytest.raises(ValueError, match="threshold"):
            finish(source, tmp_path)
    finish(source, tmp_path, settings=other, overwrite=summary(tmp_path)["settings"] != other)
    assert tree(tmp_path) == expected["npy"]


@pytest.mark.parametrize("count", [0, 1, 12])
def test_ctrl_c_leaves_no_partial_file_and_a_correct_account(server, source, expected, tmp_path, count):
    output = tmp_path / "output"
    assert server(signal.SIGINT, count, source, output, later=0.01, seconds=0.02) == 130
    assert temporaries(output) == []
    found = tree(output)
    assert found.items() <= expected["npy"].items()
    if (output / "summary.json").exists():
        assert not summary(output)["complete"]
        assert {f"{name}.npy" for name, status in statuses(output).items() if status == "done"} <= found.keys()
    _, outcomes = finish(source, output)
    assert len(outcomes) == COUNT - len(found)  # complete results are not made again
    assert tree(output) == expected["npy"]


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_a_killed_run_loses_no_complete_image_of_a_file_with_all_masks(server, source, tmp_path, kind):
    path, known = tmp_path / cohort.file_name(kind), set()
    lines = path if kind == "coco-lines" else journal_of(path)
    later = 0.0
    while len(known) < 8 and later < 10:
        later += 0.1  # the start of a run takes a while
        server(signal.SIGKILL, 0, source, tmp_path, kind, later=later, seconds=0.1)
        found = set(cohort.image_names(lines if lines.exists() else path)) if lines.exists() or path.exists() else set()
        assert known <= found
        known = found
    _, outcomes = finish(source, tmp_path, kind)
    assert len(known) >= 8
    assert len(outcomes) == COUNT - len(known)  # complete images are not computed again
    assert sorted(cohort.image_names(path)) == sorted(str(i) for i in range(COUNT))
    if kind == "coco-lines":
        assert len(path.read_bytes().splitlines()) == COUNT + 1
    segmenter = FakeSegmenter()
    for image in sorted(source.iterdir()):
        (wanted,) = segmenter.predict([segmenter.prepare(image)])
        np.testing.assert_array_equal(read_masks(path, image=image).masks, wanted.masks)
    assert temporaries(tmp_path) == []
