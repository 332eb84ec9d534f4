"""Evaluation of a denoiser: levels of corruption, folders of masks, tables, pictures, bad input."""

import json

import numpy as np
import pytest
from flax import nnx
from mask_runs import write_masks
from PIL import Image

from jaxseg.masks.cohort import mask_file
from jaxseg.masks.segmentation import Segmentation
from jaxseg.post_dae import evaluate as restoration
from jaxseg.post_dae.corrupt import LEVELS
from jaxseg.post_dae.data import MaskFolder
from jaxseg.post_dae.model import DAEConfig
from jaxseg.post_dae.unseen import KINDS


class Answer(nnx.Module):
    """Returns a function of its input."""

    def __init__(self, answer, size: int = 64):
        self.cfg = DAEConfig(image_size=(size, size))
        self.answer = answer

    def __call__(self, x):
        return self.answer(x)


SAME, NOTHING = Answer(lambda x: x), Answer(lambda x: 0 * x)


@pytest.fixture
def source(tmp_path):
    return MaskFolder(write_masks(tmp_path / "truth", count=8, size=64), (64, 64))


def means(numbers: dict, measure: str, when: str) -> list:
    return [row[when][measure]["mean"] for row in numbers.values()]


@pytest.mark.full
def test_an_identity_model_has_equal_numbers_before_and_after(tmp_path):
    source = MaskFolder(write_masks(tmp_path / "truth", count=16, size=64), (64, 64))  # two batches
    found = restoration.examine_levels(SAME, source)
    rows = found.numbers["corruption"]
    assert list(rows) == [*LEVELS, *KINDS]
    assert list(LEVELS) == ["clean", "light", "original", "strong", "heavy"]
    for measure in ("dice", "hausdorff_95", "hausdorff"):
        assert means(rows, measure, "before") == means(rows, measure, "after")
    assert means(rows, "dice", "before")[0] == 1
    assert means(rows, "hausdorff", "before")[0] == 0
    dice = means(rows, "dice", "before")[: len(LEVELS)]
    assert dice == sorted(dice, reverse=True)
    assert found.numbers == restoration.examine_levels(SAME, source).numbers
    assert {rows["clean"]["before"]["dice"]["count"]} == {16}


@pytest.mark.full
def test_an_empty_result_has_a_dice_of_0_and_no_distance(source):
    found = restoration.examine_levels(NOTHING, source)
    rows = found.numbers["corruption"]
    assert set(means(rows, "dice", "after")) == {0.0}
    assert means(rows, "hausdorff", "after") == [None] * len(rows)
    assert rows["heavy"]["after"]["hausdorff"] == {
        "mean": None,
        "std": None,
        "median": None,
        "count": 0,
        "left_out": 8,
    }
    assert json.loads(json.dumps(found.numbers)) == found.numbers
    assert "0 -> 8" in found.table
    assert " - " in found.table


def test_the_table_and_the_picture_show_every_level(source):
    found = restoration.examine_levels(SAME, source)
    lines = found.table.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:4] == ["corruption", "Dice", "Dice", "Hausdorff"]
    assert [line.split()[0] for line in lines if line and line.split()[0] in LEVELS] == list(LEVELS)
    assert "8 masks of 64 x 64, distances in pixels" in found.table
    assert found.picture.width > 900


def test_the_baselines_stand_beside_the_network(source):
    found = restoration.examine_levels(NOTHING, source, known=source)
    rows = found.numbers["corruption"]
    assert list(rows["clean"]) == ["before", "mean shape", "seven nearest", "after"]
    assert rows["clean"]["mean shape"] == rows["heavy"]["mean shape"]
    for measure in ("mean shape", "seven nearest"):
        assert 0.5 < rows["several"][measure]["dice"]["mean"] <= 1
    assert "without a" in found.table
    assert found.table.count("nearest") == 2
    assert max(map(len, found.table.splitlines())) <= 80


@pytest.mark.slow
def test_distances_are_in_mm_if_the_spacing_is_known(source):
    pixels, mm = (restoration.examine_levels(SAME, source, spacing=s).numbers for s in (None, (0.5, 0.5)))
    assert (pixels["unit"], mm["unit"]) == ("pixels", "mm")
    for level in ("original", "heavy"):
        one, other = (x["corruption"][level]["before"]["hausdorff"]["mean"] for x in (pixels, mm))
        assert other == pytest.approx(0.5 * one)


def test_folders_of_masks_are_measured_against_the_truth(source, tmp_path):
    for name, move in (("early", 9), ("late", 2)):
        (tmp_path / name).mkdir()
        for path in source.files:
            mask = np.asarray(Image.open(path))
            Image.fromarray(np.roll(mask, move, 1)).save(tmp_path / name / path.name)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "early" / source.files[0].name)
    rows = {name: tmp_path / name for name in ("early", "late")}
    found = restoration.compare_folders(SAME, rows, tmp_path / "truth")
    early, late = (found.numbers["masks"][name]["before"] for name in rows)
    assert early["dice"]["mean"] < late["dice"]["mean"] < 1
    assert late["hausdorff"]["mean"] == pytest.approx(2, abs=0.01)
    assert (early["hausdorff"]["count"], early["hausdorff"]["left_out"]) == (7, 1)
    assert early["dice"]["count"] == 8
    assert set(found.numbers["masks"]["late"]) == {"before", "after"}
    found = restoration.compare_folders(SAME, rows, tmp_path / "truth", known=source)
    assert found.numbers["masks"]["late"]["seven nearest"]["dice"]["mean"] > 0.5
    write_masks(tmp_path / "training", count=3, size=64)
    known = MaskFolder(tmp_path / "training", (64, 64))
    for path in known.files:
        path.write_bytes(b"")
    found = restoration.compare_folders(SAME, rows, tmp_path / "truth", known=known)
    assert set(found.numbers["masks"]["late"]) == {"before", "after"}
    assert "no baselines" in found.table


def test_a_missing_counterpart_is_named(source, tmp_path):
    (tmp_path / "given").mkdir()
    for path in source.files[1:]:
        (tmp_path / "given" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"given has no counterpart of mask_00.png"):
        restoration.compare_folders(SAME, {"given": tmp_path / "given"}, tmp_path / "truth")
    (tmp_path / "given" / "other.png").write_bytes(source.files[0].read_bytes())
    (tmp_path / "given" / "mask_00.png").write_bytes(source.files[0].read_bytes())
    with pytest.raises(ValueError, match=r"truth has no counterpart of other.png"):
        restoration.compare_folders(SAME, {"given": tmp_path / "given"}, tmp_path / "truth")


@pytest.mark.full
def test_an_empty_true_mask_is_an_error(source, tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(source.files[3])
    with pytest.raises(ValueError, match=r"mask_03.png: .*empty"):
        restoration.examine_levels(SAME, source)
    found = restoration.examine_levels(SAME, source, on_error="skip")
    assert found.numbers["corruption"]["clean"]["before"]["dice"]["count"] == 7


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_masks_of_a_run_in_one_file_are_compared_with_a_folder(source, tmp_path, kind):
    early = mask_file(kind, tmp_path, {4: "lung"})
    early.open()
    for path in source.files:
        with Image.open(path) as image:
            bits = np.packbits(np.asarray(image)[None] > 127, axis=2)
        early.add(path.stem, path.name, Segmentation(("lung",), (4,), (64, 64), bits))
    early.finish()
    found = restoration.compare_folders(SAME, {"run": early.path}, tmp_path / "truth")
    assert found.numbers["masks"]["run"]["before"]["dice"] == {
        "mean": 1,
        "std": 0,
        "median": 1,
        "count": 8,
        "left_out": 0,
    }
    (tmp_path / "truth" / "mask_03.png").unlink()
    with pytest.raises(ValueError, match=r"truth has no counterpart of mask_03.png"):
        restoration.compare_folders(SAME, {"run": early.path}, tmp_path / "truth")


def test_folders_of_classes_are_compared_and_files_with_all_classes_are_read_as_they_are(tmp_path):
    for place in ("truth", "given"):
        for folder in ("lungs", "hearts"):
            write_masks(tmp_path / place / folder, count=3, size=64)
    classes = {"channels": 2, "classes": ("lungs=lung", "hearts=heart")}
    found = restoration.compare_folders(SAME, {"run": tmp_path / "given"}, tmp_path / "truth", **classes)
    assert means(found.numbers["masks"], "dice", "before") == [1]
    assert found.numbers["masks"]["run"]["before"]["dice"]["count"] == 6
    with pytest.raises((ValueError, OSError), match="masks.jsonl") as error:
        restoration.compare_folders(SAME, {"run": tmp_path / "masks.jsonl"}, tmp_path / "truth", **classes)
    assert "lungs" not in str(error.value)
