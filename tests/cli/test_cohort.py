"""`--part`, `--files` and `jaxseg merge` on the command line."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxseg.folder_runs import inputs

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture
def images(tmp_path):
    """Returns a folder with seven X-rays."""
    (tmp_path / "xrays").mkdir()
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30), np.uint8)
        Image.fromarray(noise).save(tmp_path / "xrays" / f"{number}.png")
    return tmp_path / "xrays"


@pytest.fixture
def run(jaxseg_command, tiny, tmp_path, monkeypatch):
    """Returns a function that runs a command with the tiny network in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def command(name, *options):
        return jaxseg_command(name, "--weights", tiny, "-g", "cpu", *options)

    return command


def slurm(monkeypatch, task, count) -> None:
    for name, value in (("ID", task), ("COUNT", count), ("MIN", 1)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def give(monkeypatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))


def test_parts_of_a_table_are_merged(run, jaxseg_command, images):
    options = ["-i", images, "-f", "area,CTR"]
    for part in ("1/2", "2/2"):
        code, _, err = run("extract", *options, "-o", "out", "--part", part)
        assert code == 0, err
        assert f"summary.{part.replace('/', '-of-')}.json" in err
    code, _, err = jaxseg_command("merge", "out")
    assert (code, err) == (
        0,
        "2 parts, 7 done, 0 failed; the results are in out/xrays.csv, out/summary.json\n",
    )
    run("extract", *options, "-o", "whole")
    assert (images.parent / "out" / "xrays.csv").read_bytes() == (images.parent / "whole" / "xrays.csv").read_bytes()
    code, _, err = jaxseg_command("merge", "out")
    assert (code, err) == (0, "out: nothing to merge; there are no parts\n")


def test_a_task_of_a_slurm_array_takes_its_part(run, jaxseg_command, images, monkeypatch):
    slurm(monkeypatch, 2, 2)
    code, _, err = run("segment", "-i", images, "-o", "out", "-ot", "npz")
    assert code == 0
    assert "part 2/2, as this is a task of a Slurm job array (--part none processes all files)" in err
    code, _, err = jaxseg_command("merge", "out")
    assert code == 1
    assert err.splitlines()[0] == "Missing: part 1 of 2: no summary; run it"
    assert err.splitlines()[1].endswith("nothing was merged (--partial merges what there is)")
    code, _, err = jaxseg_command("merge", "out", "--partial")
    assert code == 0
    assert err.startswith("Warning: part 1 of 2: no summary; run it\n")
    code, _, err = run("segment", "-i", images, "-o", "all", "-ot", "npz", "--part", "none")
    assert "7 done" in err
    assert "Slurm" not in err
    code, _, err = run("segment", "-i", images / "3.png", "-o", "one", "-ot", "npz")  # a file has no parts
    assert "1 done" in err
    slurm(monkeypatch, 9, 2)
    code, _, err = run("segment", "-i", images, "-o", "out")
    assert code == 2
    assert "Error: --part: the ids of the Slurm array are not consecutive" in err


def test_files_come_from_a_list_or_from_standard_input(run, images, monkeypatch):
    (images.parent / "list.txt").write_text("3.png\n\n#1.png\n0.png\r\n3.png\n")
    (images / "#1.png").write_bytes((images / "1.png").read_bytes())
    code, _, err = run("segment", "-i", images, "--files", "list.txt", "-o", "out", "-ot", "npy")
    assert (code, "3 done" in err) == (0, True)
    assert sorted(path.name for path in (images.parent / "out").glob("*.npy")) == ["#1.npy", "0.npy", "3.npy"]
    give(monkeypatch, f"xrays/2.png\n{images}/none.png\n".encode())
    code, _, err = run("segment", "--files", "-", "-o", "mirrored", "-ot", "npy")
    assert code == 1
    assert "1 done, 0 skipped, 1 failed" in err
    assert "none.png: [Errno 2] No such file or directory" in err
    entries = json.loads((images.parent / "mirrored" / "summary.json").read_text())["files"]
    assert {key: entry["status"] for key, entry in entries.items()} == {"xrays/2": "done", "xrays/none": "failed"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "out"], "Error: Missing option '-i' / '--input'."),
        (["-o", "out", "-i", "xrays", "--part", "3"], "Error: --part: a part is I/N, such as 3/8, got '3'"),
        (["-o", "out", "-i", "xrays", "--part", "3/2"], "a part is I/N with I from 1 to N"),
        (["-o", "out", "-i", "xrays/0.png", "--files", "list.txt"], "--input: xrays/0.png is not a folder"),
        (["-o", "out", "--files", "empty.txt"], "--files: the list names no file"),
        (["-o", "out", "--files", "nul.txt"], "--files: the list has NUL bytes; write one path per line"),
        (["-o", "out", "--files", "nowhere.txt"], "--files: File 'nowhere.txt' does not exist"),
    ],
)
def test_wrong_options_are_one_line(run, images, options, words):
    (images.parent / "list.txt").write_text("0.png\n")
    (images.parent / "empty.txt").write_text("\n \n")
    (images.parent / "nul.txt").write_bytes(b"0.png\0001.png\0")
    code, _, err = run("segment", *options)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (images.parent / "out").exists()


def test_a_list_that_is_too_long_is_refused(run, images, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_LIST", 3)
    (images.parent / "list.txt").write_text("0.png\n")
    code, _, err = run("segment", "-i", images, "-o", "out", "--files", "list.txt")
    assert (code, "--files: it has more than 3 bytes" in err) == (2, True)


def test_the_help_of_merge_names_everything_that_it_writes(jaxseg_command):
    code, said, _ = jaxseg_command("merge", "--help")
    text = " ".join(said.split())
    assert code == 0
    for word in ("the table (.csv or .parquet) of jaxseg score", "confidence.csv", "masks.jsonl or masks.parquet"):
        assert word in text
    assert "The parts stay." in text


def test_a_merge_without_results_is_one_line(jaxseg_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target, words in (
        ("none", "none is not a folder of results"),
        ("r.csv", "r.csv: there are no scores of jaxseg"),
    ):
        code, _, err = jaxseg_command("merge", target)
        assert (code, err) == (1, f"Error: {words}\n")


def test_merged_files_can_be_switched_off(run, jaxseg_command, images):
    run("segment", "-i", images, "-o", "out", "-ot", "json", "--no-merged")
    assert not (images.parent / "out" / "xrays.json").exists()
    run("segment", "-i", images, "-o", "out", "-ot", "json", "--part", "1/1", "--no-merged")
    _, _, err = jaxseg_command("merge", "out")
    assert err.endswith("the results are in out/summary.json\n")
    run("segment", "-i", images, "-o", "out", "-ot", "json")
    assert (images.parent / "out" / "xrays.json").is_file()
    run("extract", "-i", images, "-o", "numbers", "-f", "area", "--no-merged")
    assert not (images.parent / "numbers" / "xrays.csv").exists()
