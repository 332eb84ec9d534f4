"""Runs on a Ray cluster: a lost node loses no file, dying workers are replaced, and what a cluster lends to workers."""

import json
import sys
import time

import pytest
from ray_runs import started, two_nodes
from run_trees import Slow, compared, phantoms, saved_model

import jaxseg
from jaxseg.folder_runs.on_ray import need_ray, parts_of_a_worker, workers_of

COUNT, SECONDS = 24, 0.7


def ended(program) -> list:
    """Returns the lines that a program said until its end."""
    lines = [json.loads(line) for line in program.stdout]
    assert program.wait(300) == 0
    return lines


@pytest.mark.full
def test_a_run_that_loses_a_node_equals_a_run_on_one_computer(plain, tmp_path):
    source, model = phantoms(tmp_path / "xrays", COUNT), saved_model(tmp_path / "model")
    single = jaxseg.Segmenter(jaxseg.load(model), postprocess=Slow(0))
    jaxseg.segment_folder(source, tmp_path / "single", single, output_type="png")
    output = tmp_path / "masks"
    with two_nodes() as nodes, started("segment", nodes.address, source, output, model, SECONDS) as driver:
        seen = until_both_parts_run(output)
        nodes.lose_the_second()
        *progress, result = ended(driver)
    assert all(3 <= lines < COUNT / 2 for lines in seen), seen  # no part was near its end
    assert (result["parts"], result["failed"]) == (2, 0)
    assert result["done"] + result["skipped"] == COUNT
    assert result["skipped"] <= 1  # a file that the lost worker finished, but did not report yet
    names = {path.name for path in source.iterdir()}
    assert len(names.intersection(result["reported"])) == len(result["reported"]) == result["done"]
    assert [done for done, _, _ in progress] == [*range(len(progress))]
    assert progress[-1][:2] == [COUNT, COUNT]
    (files, summary), (wanted_files, wanted) = compared(output), compared(tmp_path / "single")
    assert files == wanted_files
    at_hand = [key for key, entry in summary["files"].items() if "sha256" not in entry]
    assert len(at_hand) <= 1  # a result that was complete when its worker died, before it was recorded
    for key in at_hand:
        assert summary["files"][key]["source"] == wanted["files"][key]["source"]
        summary["files"][key] = wanted["files"][key]
    assert summary == wanted
    assert sorted(path.name for path in output.glob("run.*")) == []  # the parts are merged


def until_both_parts_run(output) -> list[int]:
    """Waits until the logs of both parts name three files, and returns how many they name."""
    end = time.monotonic() + 180
    lines: list[int] = []
    while time.monotonic() < end:
        lines = [path.read_bytes().count(b"\n") for path in output.glob("run.*-of-2.log")]
        if len(lines) == 2 and min(lines) >= 3:
            return lines
        time.sleep(0.05)
    raise AssertionError(f"the two parts have done {lines} files")


@pytest.mark.full
def test_a_part_whose_worker_dies_runs_again_on_another_one(tmp_path):
    with started("mortal", tmp_path, 2) as driver:
        (result,) = ended(driver)
    assert result == {"parts": 1, "done": 1, "skipped": 0, "failed": 0, "reported": ["the model"]}
    workers = [path.name.split("-")[2] for path in tmp_path.iterdir()]
    assert len(set(workers)) == 3


@pytest.mark.full
def test_a_part_at_which_every_worker_dies_ends_the_run(tmp_path):
    with started("mortal", tmp_path, 99) as driver:
        (result,) = ended(driver)
    assert result["error"].startswith("ConnectionError: 3 workers died while computing part 1/1; the last: ")
    assert "\n" not in result["error"]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("nodes", "gpus", "count", "reserved"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], "auto", 2, {"num_cpus": 4}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 4.0}], "auto", 6, {"num_cpus": 0, "num_gpus": 1}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 0.0}], "gpu", 2, {"num_cpus": 0, "num_gpus": 1}),
        ([{"CPU": 8.0, "GPU": 2.0}], "cpu", 1, {"num_cpus": 8}),
    ],
)
def test_each_worker_has_a_gpu_or_a_node(nodes, gpus, count, reserved):
    assert workers_of(nodes, gpus) == (count, reserved)


@pytest.mark.parametrize(
    ("nodes", "gpus", "words"),
    [
        ([{"CPU": 8.0}], "gpu", "no node of the Ray cluster has a GPU"),
        ([{"CPU": 0.0}, {}], "auto", "no node of the Ray cluster has a CPU"),
        ([{"CPU": 8.0}], "0,1", "a cluster computes on auto, cpu, gpu, got '0,1'"),
    ],
)
def test_a_cluster_without_such_devices_is_refused(nodes, gpus, words):
    with pytest.raises(ValueError, match=words):
        workers_of(nodes, gpus)


@pytest.mark.parametrize(
    ("files", "workers", "parts"), [(1, 4, 1), (400, 4, 1), (401, 4, 2), (3000, 2, 15), (377_110, 8, 16)]
)
def test_a_part_has_about_a_hundred_files_unless_these_are_too_many_parts(files, workers, parts):
    assert parts_of_a_worker(files, workers) == parts


def test_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxseg\[ray\]'"):
        need_ray()
