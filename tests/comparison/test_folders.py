"""Folders are paired by name, tables hold the scores of every pair, and what is missing or damaged is named."""

import csv
import json

import fake_segmenter
import numpy as np
import pytest
from block_masks import blocks, segmentation
from dicom_files import RAMP, write_dicom
from PIL import Image

import jaxseg
from jaxseg.comparison import folders
from jaxseg.comparison.scores import score_mask
from jaxseg.comparison.staple import consensus
from jaxseg.masks import write

NAMES = ("lung", "heart", "spine")


def rows_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save(folder, name, masks, kind="npz", names=NAMES) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write.WRITERS[kind](segmentation(masks, names), folder / name, source=f"{name}.png", categories=names)


@pytest.fixture
def pair(tmp_path):
    """Returns two folders with three images of three classes, in different formats, and their masks."""
    masks = {}
    for i, name in enumerate(("a", "sub/b", "sub/c")):
        masks[name] = blocks(seed=i), blocks(seed=10 + i)
        save(tmp_path / "A", name, masks[name][0], "png")
        save(tmp_path / "B", name, masks[name][1], "json")
    return tmp_path / "A", tmp_path / "B", masks


def test_every_pair_and_class_is_a_row(pair, tmp_path):
    first, second, masks = pair
    found = jaxseg.compare_folders(first, second, tmp_path / "t.csv")
    assert (found.images, found.failed, found.missing) == (3, {}, ())
    rows = rows_of(tmp_path / "t.csv")
    assert [row["image"] for row in rows] == ["a"] * 3 + ["sub/b"] * 3 + ["sub/c"] * 3
    assert {(row["image"], row["class"]) for row in rows} == {(image, name) for image in masks for name in NAMES}
    for row in rows:
        mine, true = (side[NAMES.index(row["class"])] for side in masks[row["image"]])
        expected = score_mask(mine, true)
        assert float(row["dice"]) == pytest.approx(expected.dice, abs=1e-9)
        assert float(row["hd95"]) == pytest.approx(expected.hd95, abs=1e-9)
        assert (row["unit"], row["empty"]) == ("px", "")


def test_images_may_be_left_out(pair, tmp_path):
    found = jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv", without=["sub/b", "unknown"])
    assert {row["image"] for row in rows_of(tmp_path / "t.csv")} == {"a", "sub/c"}
    assert [(what.side, what.image) for what in found.missing] == [("prediction", "sub/b")]
    with pytest.raises(ValueError, match="the folders share no image"):
        jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv", without=list(pair[2]))


def test_the_summary_is_that_of_the_table(pair, tmp_path):
    found = jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv")
    rows, summary = rows_of(tmp_path / "t.csv"), rows_of(tmp_path / "t.summary.csv")
    assert len(summary) == len(found.summary) == 3 * 8
    for row in summary:
        values = [float(other[row["measure"]]) for other in rows if other["class"] == row["class"]]
        assert (int(row["n"]), int(row["left_out"])) == (3, 0)
        assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-8, abs=1e-9)
        assert float(row["median"]) == pytest.approx(np.median(values), rel=1e-8, abs=1e-9)
        assert min(values) - 1e-9 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) <= max(values) + 1e-9
    assert set(found.files) == {"csv", "summary.csv", "png"}
    with Image.open(found.files["png"]) as plot:
        assert plot.width > 1000


def test_the_result_is_the_same_with_one_thread(pair, tmp_path, monkeypatch):
    jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv")
    monkeypatch.setattr(folders.os, "sched_getaffinity", lambda _: {0})
    jaxseg.compare_folders(*pair[:2], tmp_path / "u.csv")
    for end in ("csv", "summary.csv"):
        assert (tmp_path / f"t.{end}").read_text() == (tmp_path / f"u.{end}").read_text()


def test_what_is_missing_on_either_side_is_named_once(pair, tmp_path):
    first, second, _ = pair
    save(first, "only", blocks(), "png")
    (second / "sub" / "c.json").unlink()
    (first / "a" / "heart.png").unlink()
    for image in ("a", "sub/b", "sub/c"):
        Image.fromarray(np.ones((24, 40), bool)).save(first / image / "liver.png")
    found = jaxseg.compare_folders(first, second, tmp_path / "t.csv")
    missing = {(what.side, what.image, what.name) for what in found.missing}
    assert missing == {
        ("truth", "only", ""),
        ("truth", "sub/c", ""),
        ("prediction", "a", "heart"),
        ("truth", "", "liver"),  # of every image
    }
    assert len(rows_of(tmp_path / "t.missing.csv")) == 4
    jaxseg.compare_folders(first, first, tmp_path / "t.csv")
    assert not (tmp_path / "t.missing.csv").exists()  # that of the earlier comparison is removed


def test_a_damaged_file_fails_and_the_others_are_compared(pair, tmp_path):
    first, second, _ = pair
    (second / "sub" / "b.json").write_text((second / "sub" / "b.json").read_text().replace("counts", "xx"))
    (first / "a" / "heart.png").write_bytes(b"damaged")
    reports = []
    found = jaxseg.compare_folders(first, second, tmp_path / "t.csv", report=lambda *args: reports.append(args))
    assert found.images == 1
    assert set(found.failed) == {"a", "sub/b"}
    assert "heart.png" in found.failed["a"]
    assert [(name, bool(reason)) for name, reason, _ in reports] == [("a", True), ("sub/b", True), ("sub/c", False)]
    assert {row["image"] for row in rows_of(tmp_path / "t.csv")} == {"sub/c"}


def test_if_nothing_can_be_compared_nothing_is_written(tmp_path):
    np.save(tmp_path / "a.npy", blocks(size=(16, 16)))
    np.save(tmp_path / "b.npy", blocks(size=(16, 24)))
    with pytest.raises(ValueError, match="no image could be compared; the first, a: the masks are 16 x 16 and 16 x 24"):
        jaxseg.compare_folders(tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "t.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_an_interrupted_comparison_leaves_nothing(pair, tmp_path):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "B"]


def test_progress_counts_every_pair(pair, tmp_path):
    calls = []
    jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv", progress=lambda *args: calls.append(args))
    assert calls == [(0, 3, ""), (1, 3, "a"), (2, 3, "sub/b"), (3, 3, "sub/c")]


def test_two_files_are_paired_under_any_names(tmp_path):
    masks, others = blocks(seed=0), blocks(seed=1)
    np.save(tmp_path / "mine.npy", masks)
    np.savez(tmp_path / "theirs.npz", others)
    found = jaxseg.compare_folders(tmp_path / "mine.npy", tmp_path / "theirs.npz", tmp_path / "t.csv")
    assert (found.images, found.missing) == (1, ())
    assert {row["image"] for row in rows_of(tmp_path / "t.csv")} == {"mine"}


def test_folders_without_a_shared_image_are_refused(tmp_path):
    for folder, names in (("A", "xy"), ("B", "uv")):
        for name in names:
            save(tmp_path / folder, name, blocks())
    with pytest.raises(ValueError, match=r"share no image: .*A has x, y; .*B has u, v"):
        jaxseg.compare_folders(tmp_path / "A", tmp_path / "B", tmp_path / "t.csv")


def test_lengths_are_those_of_the_images_of_a_run(tmp_path):
    (tmp_path / "images").mkdir()
    for i, name in enumerate("ab"):
        write_dicom(tmp_path / "images" / f"{name}.dcm", RAMP + i, PixelSpacing=[0.5, 0.5], Modality="CR")
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", "png")
    names = fake_segmenter.FakeSegmenter().names
    for k, mask in enumerate(blocks(size=(8, 8))[:, :3, :4]):
        (tmp_path / "truth" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "truth" / "a" / f"{names[k]}.png")
    found = jaxseg.compare_folders(tmp_path / "out", tmp_path / "truth", tmp_path / "t.csv", tolerance="1mm")
    assert {row["unit"] for row in rows_of(tmp_path / "t.csv")} == {"mm"}
    assert {row.unit for row in found.summary} == {"", "mm"}
    found = jaxseg.compare_folders(tmp_path / "out", tmp_path / "truth", tmp_path / "t.csv", spacing_mm=2)
    assert float(rows_of(tmp_path / "t.csv")[0]["truth_size"]) % 4 == 0


def annotations(tmp_path, count=3):
    """Returns folders of annotators who move the same masks a little, and the masks, annotator -> image -> masks."""
    found = {}
    for k in range(count):
        folder = tmp_path / f"reader {k}"
        found[folder] = {}
        for i, name in enumerate("ab"):
            masks = np.roll(blocks(seed=i), k, axis=2)
            found[folder][name] = masks
            save(folder, name, masks, ("json", "png")[k % 2])
    return found


@pytest.mark.parametrize("method", ["staple", "majority"])
def test_a_prediction_is_compared_with_the_consensus_of_annotators(tmp_path, method):
    given = annotations(tmp_path)
    masks = {name: blocks(seed=10 + i) for i, name in enumerate("ab")}
    for name in "ab":
        save(tmp_path / "A", name, masks[name], "png")
    jaxseg.compare_folders(tmp_path / "A", list(given), tmp_path / "t.csv", consensus=method)
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == 6
    for row in rows:
        k = NAMES.index(row["class"])
        truth = consensus(np.stack([of[row["image"]][k] for of in given.values()]), method)
        expected = score_mask(masks[row["image"]][k], truth)
        assert float(row["dice"]) == pytest.approx(expected.dice, abs=1e-9)
        assert float(row["assd"]) == pytest.approx(expected.assd, abs=1e-9)


def test_annotators_are_compared_with_their_consensus(tmp_path):
    given = annotations(tmp_path)
    found = jaxseg.compare_folders(None, list(given), tmp_path / "t.csv", consensus="staple")
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == 3 * 2 * 3
    for row in rows:
        k, folder = NAMES.index(row["class"]), tmp_path / row["annotator"]
        truth = consensus(np.stack([of[row["image"]][k] for of in given.values()]), "staple")
        expected = score_mask(given[folder][row["image"]][k], truth)
        assert float(row["dice"]) == pytest.approx(expected.dice, abs=1e-9)
    assert {row.annotator for row in found.summary} == {"reader 0", "reader 1", "reader 2"}
    assert {row["annotator"] for row in rows_of(tmp_path / "t.summary.csv")} == {"reader 0", "reader 1", "reader 2"}


def test_annotators_in_folders_of_one_name_have_distinct_names(tmp_path):
    for reader in ("one", "two"):
        save(tmp_path / reader / "masks", "a", blocks())
    paths = [tmp_path / reader / "masks" for reader in ("one", "two")]
    jaxseg.compare_folders(None, paths, tmp_path / "t.csv", consensus="majority")
    assert {row["annotator"] for row in rows_of(tmp_path / "t.csv")} == {path.as_posix() for path in paths}


@pytest.mark.parametrize(
    ("prediction", "truth", "options", "words"),
    [
        ("A", ["B", "B"], {}, "2 truths need a consensus: staple or majority"),
        (None, ["B"], {}, "a prediction and a truth are needed"),
        ("A", ["B"], {"consensus": "staple"}, "needs the masks of 2 to 64 annotators, got 1"),
        ("A", ["B", "B"], {"consensus": "mean"}, "unknown consensus 'mean'"),
        ("A", ["B"], {"tolerance": "2"}, "a length in mm or px"),
        ("A", ["B"], {"spacing_mm": (1, -1)}, "positive numbers of mm"),
        ("A", ["B"], {"classes": "liver"}, "liver"),
    ],
)
def test_impossible_arguments_are_refused(pair, tmp_path, prediction, truth, options, words):
    first = None if prediction is None else tmp_path / prediction
    with pytest.raises(ValueError, match=words):
        jaxseg.compare_folders(first, [tmp_path / name for name in truth], tmp_path / "t.csv", **options)
    assert not (tmp_path / "t.csv").exists()


def test_only_files_of_a_comparison_are_replaced(pair, tmp_path):
    first, second, _ = pair
    with pytest.raises(ValueError, match="must end in .csv"):
        jaxseg.compare_folders(first, second, tmp_path / "t.txt")
    with pytest.raises(ValueError, match="no such folder"):
        jaxseg.compare_folders(first, second, tmp_path / "none" / "t.csv")
    (tmp_path / "t.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"t.png exists and was not written by a comparison"):
        jaxseg.compare_folders(first, second, tmp_path / "t.csv")
    (tmp_path / "u.csv").write_text("image,class\n")
    with pytest.raises(ValueError, match=r"u.csv exists and was not written by a comparison"):
        jaxseg.compare_folders(first, second, tmp_path / "u.csv")
    jaxseg.compare_folders(first, second, tmp_path / "u.csv", overwrite=True)
    jaxseg.compare_folders(first, second, tmp_path / "u.csv", classes="heart")
    assert {row["class"] for row in rows_of(tmp_path / "u.csv")} == {"heart"}


def test_names_cannot_become_formulas_and_unknown_values_are_empty(tmp_path):
    empty = np.zeros((1, 16, 16), bool)
    for folder in "AB":
        save(tmp_path / folder, "=1+1", empty, names=("@class",))
    (found,) = jaxseg.compare_folders(tmp_path / "A", tmp_path / "B", tmp_path / "t.csv").summary[:1]
    assert (found.count, found.left_out) == (0, 1)
    (row,) = rows_of(tmp_path / "t.csv")
    assert row["image"] == "'=1+1"
    assert (row["dice"], row["hd"], row["difference"], row["empty"]) == ("", "", "0", "both")


def test_a_mask_that_is_empty_on_one_side_has_an_infinite_distance(tmp_path):
    for folder, masks in (("A", np.zeros((1, 16, 16), bool)), ("B", blocks(1, (16, 16)))):
        save(tmp_path / folder, "a", masks, names=("heart",))
    jaxseg.compare_folders(tmp_path / "A", tmp_path / "B", tmp_path / "t.csv")
    (row,) = rows_of(tmp_path / "t.csv")
    assert (row["dice"], row["hd95"], row["empty"]) == ("0", "inf", "prediction")
    distance = next(row for row in rows_of(tmp_path / "t.summary.csv") if row["measure"] == "hd95")
    assert (distance["n"], distance["left_out"], distance["mean"]) == ("0", "1", "")


def test_without_matplotlib_only_the_plot_is_missing(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxseg.draw.figures._has_matplotlib", lambda: False)
    found = jaxseg.compare_folders(*pair[:2], tmp_path / "t.csv")
    assert set(found.files) == {"csv", "summary.csv"}
    assert not (tmp_path / "t.png").exists()


def test_a_merged_coco_file_is_compared_with_a_folder(pair, tmp_path):
    first, second, _ = pair
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(("a", "sub/b", "sub/c")):
        part = json.loads((second / f"{name}.json").read_text())
        content["categories"] = part["categories"]
        content["images"].append(part["images"][0] | {"id": number})
        content["annotations"] += [entry | {"image_id": number} for entry in part["annotations"]]
    (tmp_path / "all.json").write_text(json.dumps(content))
    jaxseg.compare_folders(first, tmp_path / "all.json", tmp_path / "t.csv")
    jaxseg.compare_folders(first, second, tmp_path / "u.csv")
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "u.csv").read_text()
