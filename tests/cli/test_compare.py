"""`jaxseg compare` on the command line: messages, exit codes, and one line for every error."""

import csv

import numpy as np
import pytest
from block_masks import blocks
from PIL import Image


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Makes two folders of two images with two classes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate("AB"):
        for k, image in enumerate(("one", "two")):
            (tmp_path / folder / image).mkdir(parents=True)
            for name, mask in zip(("heart", "lung"), blocks(2, seed=5 * i + k), strict=True):
                Image.fromarray(mask).save(tmp_path / folder / image / f"{name}.png")
    return tmp_path


def rows_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_comparison_prints_the_summary_and_its_files(pair, jaxseg_command):
    words = ("compare", "--prediction", "A", "--truth", "B", "-o", "t.csv")
    code, out, err = jaxseg_command(*words, "--tolerance", "1mm", "--spacing", "0.5")
    assert code == 0, err
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["class", "n", "dice", "95 %", "nsd", "hd95", "assd"]
    assert [line[:2] for line in lines[1:]] == [["heart", "2"], ["lung", "2"]]
    assert lines[1][5].endswith(" mm")
    assert "2 compared, 0 failed; the results are in . (t.csv, t.summary.csv, t.png)" in err
    dice = [float(row["dice"]) for row in rows_of(pair / "t.csv") if row["class"] == "heart"]
    assert float(lines[1][2]) == pytest.approx(np.mean(dice), abs=1e-4)
    code, out, _ = jaxseg_command(*words, "--classes", "lung")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["class", "lung"]


def test_what_is_missing_and_what_failed_is_named(pair, jaxseg_command):
    (pair / "B" / "one" / "lung.png").unlink()
    (pair / "A" / "three").mkdir()
    Image.fromarray(blocks()[0]).save(pair / "A" / "three" / "heart.png")
    (pair / "B" / "two" / "heart.png").write_bytes(b"x")
    code, _, err = jaxseg_command("compare", "--prediction", "A", "--truth", "B", "-o", "t.csv")
    assert code == 1
    assert "Failed: two: heart.png: " in err
    assert "Missing in truth: all masks of three" in err
    assert "Missing in truth: class lung of every image" in err
    assert "1 compared, 1 failed" in err
    assert len(rows_of(pair / "t.missing.csv")) == 2


def test_many_missing_masks_are_counted(pair, jaxseg_command):
    for i in range(30):
        (pair / "A" / f"more {i}").mkdir()
        Image.fromarray(blocks()[0]).save(pair / "A" / f"more {i}" / "heart.png")
    code, _, err = jaxseg_command("compare", "--prediction", "A", "--truth", "B", "-o", "t.csv")
    assert code == 0
    assert err.count("Missing in truth") == 20
    assert "... and 10 more are missing" in err


def test_annotators_are_compared_with_their_consensus(pair, jaxseg_command):
    words = ("compare", "--truth", "A", "--truth", "B", "--consensus", "staple", "-o", "t.csv")
    code, out, err = jaxseg_command(*words)
    assert code == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()] == ["class", "A: heart", "B: heart", "A: lung", "B: lung"]
    assert {row["annotator"] for row in rows_of(pair / "t.csv")} == {"A", "B"}


def test_label_maps_have_named_levels(pair, jaxseg_command):
    (pair / "C").mkdir()
    for name in ("one", "two"):
        levels = np.zeros((24, 40), np.uint8)
        levels[:, :20], levels[:, 20:] = 127, 255
        Image.fromarray(levels).save(pair / "C" / f"{name}.png")
    words = ("compare", "--prediction", "A", "--truth", "C", "-o", "t.csv")
    code, out, err = jaxseg_command(*words, "--label", "127=heart", "--label", "255=lung")
    assert code == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == ["heart", "lung"]
    code, _, err = jaxseg_command(*words)
    assert code == 2
    assert "or the levels of a label map with --label" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tolerance", "2"), "--tolerance: a tolerance is a length in mm or px"),
        (("--spacing", "a,1"), "--spacing: 'a' is not a number of mm"),
        (("--spacing", "0"), "--spacing: the spacing must be 1 to 3 positive numbers"),
        (("--tolerance", "2mm"), "the spacing of the pixels is unknown"),
        (("--classes", "liver"), "liver"),
        (("--truth", "B"), "2 truths need a consensus"),
        (("--prediction", "none"), "--prediction: none: no such file or folder"),
        (("-o", "x.txt"), "x.txt must end in .csv"),
    ],
)
def test_errors_are_one_line(pair, jaxseg_command, options, words):
    arguments = ["compare", "--prediction", "A", "--truth", "B", "-o", "t.csv", *options]
    code, out, err = jaxseg_command(*arguments)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert not (pair / "t.csv").exists()
