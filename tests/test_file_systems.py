"""Commands on file systems that lack calls, on full disks and on read-only folders."""

import shutil
import subprocess

import numpy as np
import pytest
from child_commands import read_only, run_commands, small_disk
from parity_kit import DATA
from PIL import Image
from tiny_runs import command
from torch_writer import save

pytestmark = pytest.mark.system("gcc", "unshare")
CHANGED = {"trainer__epochs": 1, "trainer__max_steps": 1, "trainer__ema": None, "trainer__pictures_every": 0}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Returns the compiled library that makes calls fail."""
    path = tmp_path_factory.mktemp("library") / "network_share.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, DATA / "network_share.c", "-ldl"], check=True)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Returns a folder with a run, images and their masks."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40), np.uint8)
        Image.fromarray(noise).save(folder / f"images/{i}.png")
    commands = [
        command(folder / "run", **CHANGED),
        ["segment", "-i", "images", "-o", "masks", "--weights", "run", "-g", "cpu"],
    ]
    for code, said in run_commands(*commands, folder=folder):
        assert code == 0, said
    return folder


@pytest.mark.full
@pytest.mark.parametrize("call", ["chmod", "fsync_folder", "fsync_read_only", "flock"])
def test_a_call_that_a_file_system_lacks_is_no_error(library, work, tmp_path, call):
    share = tmp_path / "share"
    share.mkdir()
    commands = [
        command(share / "run", **CHANGED),
        ["segment", "-i", work / "images", "-o", share / "masks", "--weights", share / "run", "-g", "cpu", "--preview"],
        ["prepare", "phantom", "--kind", "xray", "-o", share / "set", "--train", 1, "--validate", 1, "--test", 0],
        ["report", "-i", work / "images", "--masks", share / "masks", "-o", share / "report.html"],
    ]
    found = run_commands(*commands, folder=tmp_path, LD_PRELOAD=str(library), LACKS=call, PLACE="/share")
    assert [code for code, _ in found] == [0, 0, 0, 0], found
    again = run_commands(commands[1], folder=tmp_path)
    assert "0 done, 20 skipped, 0 failed" in again[0][1]


def full(work, name: str, size: str, arguments: list) -> str:
    """Runs a command on a disk of this size; returns what it printed besides progress and the note of the model."""
    disk = work / f"disk_of_{name}"
    disk.mkdir(exist_ok=True)
    ((code, said),) = run_commands(arguments, folder=work, prefix=small_disk(disk, size))
    assert code == 1, said
    progress = (
        "Reading ",
        "steps ",
        "step ",
        "images ",
        "phantoms ",
        "trial ",
        "searched: ",
        "a trial ",
        "Warning: the model run: ",
    )
    lines = [line for line in said.splitlines() if not line.startswith(progress)]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.full
@pytest.mark.parametrize("size", ["4k", "60k"])
def test_a_full_disk_ends_a_training_with_one_line(work, size):
    arguments = command(work / "disk_of_train/run", **CHANGED)
    line = full(work, "train", size, arguments)
    assert line.startswith("Error: ")
    assert "No space left on device" in line


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "size", "arguments"),
    [
        ("segment", "40k", ["-i", "images", "-o", "OUT/masks", "--weights", "run", "-g", "cpu", "--preview"]),
        ("extract", "24k", ["-i", "images", "-o", "OUT/table", "--weights", "run", "-g", "cpu", "-f", "area", "-s"]),
        ("export", "12k", ["--weights", "run", "-o", "OUT/model.stablehlo", "--platforms", "cpu"]),
        ("report", "8k", ["-i", "images", "--masks", "masks", "-o", "OUT/report.html"]),
        ("show", "4k", ["-i", "images/0.png", "--masks", "masks", "-o", "OUT/picture.png"]),
        ("prepare", "40k", ["phantom", "--kind", "xray", "-o", "OUT/set", "--train", "9"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_full_disk_is_one_line_and_ends_a_command_at_once(work, name, size, arguments):
    disk = str(work / f"disk_of_{name}")
    line = full(work, name, size, [name, *(word.replace("OUT", disk) for word in arguments)])
    assert line.startswith(f"Error: {disk}/")
    assert line.endswith(": No space left on device")


@pytest.mark.full
@pytest.mark.parametrize("size", ["4k", "40k"])
def test_a_full_disk_is_one_line_in_a_conversion(work, kit, size):
    save(work / "x.pth", kit.weights("scm_tiny"))
    line = full(work, "convert", size, ["convert", "x.pth", work / "disk_of_convert/model"])
    assert line == f"Error: {work}/disk_of_convert/model: No space left on device"


@pytest.mark.full
def test_the_numbers_of_a_read_only_run_are_printed_before_the_file_fails(work):
    shutil.rmtree(work / "locked", ignore_errors=True)
    shutil.copytree(work / "run", work / "locked")
    evaluation = ["evaluate", "--run", "locked", "-g", "cpu"]
    first, second = run_commands(
        evaluation, [*evaluation, "-o", "numbers"], folder=work, prefix=read_only(work / "locked")
    )
    assert first[0] == 1
    lines = first[1].splitlines()
    assert any(line.startswith("dice\t") for line in lines)
    assert lines[-1].startswith("Error: locked/evaluation_val.json: Read-only file system; the numbers were shown")
    assert lines[-1].endswith("with -o")
    assert second[0] == 0
    assert (work / "numbers/evaluation_val.json").is_file()
