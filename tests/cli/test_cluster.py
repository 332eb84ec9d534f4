"""`--ray`: commands on a cluster of two nodes write what they write without it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scoring_files
from parity_kit import KIT
from ray_runs import VARIABLES, two_nodes
from run_trees import compared, phantoms, saved_model

COUNT = 8


@pytest.fixture(scope="module")
def nodes():
    with two_nodes() as found:
        yield found


@pytest.fixture(scope="module")
def inputs(plain, tmp_path_factory):
    """Returns a folder with phantoms and a model of the plain network; one file of the phantoms is damaged."""
    folder = tmp_path_factory.mktemp("inputs")
    phantoms(folder / "xrays", COUNT)
    (folder / "xrays" / "damaged.png").write_bytes(b"no picture")
    saved_model(folder / "model")
    return folder


def run(folder, *arguments) -> tuple[int, str]:
    """Runs a command with the plain network in a folder; returns its exit code and what it said."""
    variables = os.environ | VARIABLES | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(KIT / "plain_network.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


@pytest.mark.full
@pytest.mark.parametrize(("command", "extra"), [("segment", ["-ot", "json"]), ("extract", ["-f", "area", "--preview"])])
def test_images_on_two_nodes_give_the_results_of_one_computer(nodes, inputs, command, extra):
    options = [command, "-i", "xrays", "--weights", "model", *extra]
    code, said = run(inputs, *options, "-o", command, "--ray", nodes.address)
    assert (code, f"{COUNT} done, 0 skipped, 1 failed; the results are in {command}/" in said) == (1, True), said
    assert "Failed: " in said
    assert "damaged.png: not a png or jpg file, or damaged" in said
    assert f"images {COUNT + 1}/{COUNT + 1}: " in said
    assert run(inputs, *options, "-o", f"{command} single")[0] == 1
    assert compared(inputs / command) == compared(inputs / f"{command} single")
    code, said = run(inputs, *options, "-o", command, "--ray", nodes.address)
    assert (code, f"0 done, {COUNT} skipped, 1 failed" in said) == (1, True), said
    assert "done before" in said
    code, said = run(inputs, *options, "-o", command, "--ray", nodes.address, "--threshold", "0.3")
    assert (code, "made with other settings: threshold" in said, "Traceback" in said) == (1, True, False), said


@pytest.mark.full
def test_scores_of_two_nodes_are_those_of_one_computer(nodes, tmp_path):
    scoring_files.save(tmp_path / "model")
    for number in range(4):
        folder = tmp_path / "cases" / f"s{number}" / "segmentations"
        folder.mkdir(parents=True)
        np.save(folder.parent / "ct.npy", scoring_files.ct(number))
        np.save(folder / "liver.npy", scoring_files.box(number + 1, number + 4))
    options = ["score", "--dataset", "cases", "--weights", "model"]
    code, said = run(tmp_path, *options, "-o", "scores.csv", "--rank", "trust", "--ray", nodes.address)
    assert (code, "4 done, 0 skipped, 0 failed; the results are in scores.csv" in said) == (0, True), said
    assert "0 done, 4 were there, 0 with failures: scores.csv" in said
    assert run(tmp_path, *options, "-o", "single.csv", "--rank", "trust")[0] == 0
    for end in ("csv", "trust.csv"):
        assert (tmp_path / f"scores.{end}").read_text() == (tmp_path / f"single.{end}").read_text()


@pytest.mark.full
def test_without_an_address_ray_starts_on_this_computer(inputs):
    code, said = run(inputs, "segment", "-i", "xrays/001.png", "-o", "local", "--weights", "model", "--ray")
    assert (code, said.splitlines()[-1]) == (
        0,
        "1 done, 0 skipped, 0 failed; the results are in local/summary.json",
    ), said


@pytest.mark.full
def test_an_address_without_a_cluster_is_one_error(inputs):
    code, said = run(
        inputs, "segment", "-i", "xrays", "-o", "none", "--weights", "model", "--ray", "127.0.0.1:9", "-g", "cpu"
    )
    assert code == 1
    assert said.splitlines()[-1].startswith("Error: no Ray cluster can be used at 127.0.0.1:9: ")
    assert not (inputs / "none").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "1/2"], "--part: with --ray, the parts are chosen by the number of workers; leave it out"),
        (["--report", "run.json"], "--report: it describes the devices of one computer; leave it out with --ray"),
        (["-g", "0,1"], "--gpus: with --ray, the kinds of devices are auto, cpu, gpu, got '0,1'"),
    ],
)
def test_options_that_do_not_fit_a_cluster_are_refused(jaxseg_command, images, tmp_path, options, words):
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", *options, "--ray")
    assert (code, words in err, err.count("\n")) == (2, True, 1), err


def test_scores_on_a_cluster_need_a_data_set(jaxseg_command, images):
    code, _, err = jaxseg_command("score", "--ct", images, "--label-volume", images, "--ray", "auto")
    assert (code, "--ray belongs to --dataset" in err) == (2, True), err
