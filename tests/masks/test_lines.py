"""COCO lines: what a line holds, that pycocotools reads it, that lines are replaced, cut and joined, and bad files."""

import json
import threading

import numpy as np
import pytest
from joint_masks import CLASSES, shapes
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg import journal
from jaxseg.masks import lines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools raises it


def written(path, *names, seed=0):
    """Adds images to a file as a run does, and returns the file."""
    found = lines.MaskLines(path, CLASSES)
    found.open()
    for number, name in enumerate(names):
        found.add(name, f"{name}.png", shapes(seed + number))
    return found


def parsed(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_the_masks_that_are_not_empty_with_area_box_and_mean_probability(tmp_path):
    written(tmp_path / "masks.jsonl", "ward/one")
    head, line = parsed(tmp_path / "masks.jsonl")
    assert [(category["id"], category["name"]) for category in head["categories"]] == list(CLASSES.items())
    assert line["image"] == {
        "id": 1,
        "key": "ward/one",
        "file_name": "ward/one.png",
        "height": 101,
        "width": 83,
    }
    assert [(one["category_id"], one["score"]) for one in line["annotations"]] == [(3, 0.75), (5, 0.5)]
    for k, one in enumerate(line["annotations"]):
        mask = shapes().mask(k)
        np.testing.assert_array_equal(rle.decode(one["segmentation"]), mask)
        assert (one["area"], one["bbox"]) == (mask.sum(), rle.toBbox(one["segmentation"]).tolist())


def test_masks_without_mean_probabilities_have_no_score():
    found = lines.line_of("a", "a.png", shapes(means=None))
    assert len(found["annotations"]) == 2
    assert not any("score" in one for one in found["annotations"])


def test_pycocotools_indexes_and_evaluates_the_lines_as_they_are(tmp_path, capsys):
    written(tmp_path / "masks.jsonl", "one", "two")
    head, *images = parsed(tmp_path / "masks.jsonl")
    found = COCO()
    annotations = [one for line in images for one in line["annotations"]]
    found.dataset = {"images": [line["image"] for line in images], "categories": head["categories"]}
    found.dataset["annotations"] = annotations
    found.createIndex()
    assert sorted(found.getImgIds()) == [1, 2]
    assert len(set(found.getAnnIds())) == 4
    (number,) = found.getAnnIds(imgIds=2, catIds=5)
    np.testing.assert_array_equal(found.annToMask(found.loadAnns(number)[0]), shapes(1).mask(1))
    evaluation = COCOeval(found, found.loadRes([dict(one) for one in annotations]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_a_later_line_replaces_an_earlier_one_and_the_end_of_a_run_removes_the_earlier_one(tmp_path):
    path = tmp_path / "masks.jsonl"
    written(path, "one", "two")
    again = written(path, "one", seed=7)
    assert len(parsed(path)) == 4
    assert lines.read_index(path).replaced == 1
    content = lines.read_image(path, "one")
    assert content["annotations"] == lines.line_of("one", "one.png", shapes(7), number=1, width=8)["annotations"]
    again.finish()
    assert [line["image"]["key"] for line in parsed(path)[1:]] == ["two", "one"]
    assert lines.read_image(path, "one") == content
    before = path.stat()
    written(path).finish()  # nothing is replaced, so nothing is written
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_an_incomplete_last_line_is_ignored_and_cut_by_the_next_image(tmp_path, monkeypatch):
    path = tmp_path / "masks.jsonl"
    written(path, "one", "two")
    whole = path.read_bytes()
    monkeypatch.setattr(journal, "_BLOCK", 50)  # the line is longer than what is read at once
    for length in (1, 30, 49, 50, 51, 400):
        path.write_bytes(whole + b'{"image": {"id": 3, "key": "three", "file_name": "three.png"' + b" " * length)
        assert sorted(lines.read_index(path).places) == ["one", "two"]
        written(path, "four")
        assert path.read_bytes().startswith(whole + b'{"image": {"id": 3, "key": "four"')
        assert sorted(lines.read_index(path).places) == ["four", "one", "two"]


def test_images_are_added_from_several_threads(tmp_path):
    found = written(tmp_path / "masks.jsonl")
    names = [str(i) for i in range(24)]
    threads = [
        threading.Thread(target=lambda part=part: [found.add(n, f"{n}.png", shapes(int(n))) for n in part])
        for part in (names[::2], names[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line["image"]["key"] for line in lines.images(found.path)} == set(names)
    for line in lines.images(found.path):
        key, number = line["image"]["key"], line["image"]["id"]
        assert line == lines.line_of(key, f"{key}.png", shapes(int(key)), number=number, width=8)
    assert sorted(lines.read_index(found.path).numbers.values()) == list(range(1, 25))


def test_a_file_with_other_classes_or_a_damaged_head_is_started_again(tmp_path):
    path = tmp_path / "masks.jsonl"
    written(path, "one")
    other = lines.MaskLines(path, {0: "heart"})
    other.open()
    assert not other.has("one")
    path.write_bytes(b"")
    found = written(path)
    assert not found.has("one")
    found.add("two", "two.png", shapes())
    assert [line["image"]["key"] for line in parsed(path)[1:]] == ["two"]


def test_files_are_joined_and_the_last_one_wins(tmp_path):
    written(tmp_path / "a.jsonl", "one", "two")
    written(tmp_path / "b.jsonl", "two", "three", seed=5)
    lines.join([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "all.jsonl")
    found = {line["image"]["key"]: line for line in lines.images(tmp_path / "all.jsonl")}
    assert list(found) == ["one", "two", "three"]
    for number, (key, seed) in enumerate({"one": 0, "two": 5, "three": 6}.items(), 1):
        assert found[key] == lines.line_of(key, f"{key}.png", shapes(seed), number=number, width=8)
    other = lines.MaskLines(tmp_path / "c.jsonl", {0: "heart"})
    other.add("four", "four.png", shapes())
    with pytest.raises(ValueError, match="other categories"):
        lines.join([tmp_path / "a.jsonl", tmp_path / "c.jsonl"], tmp_path / "all.jsonl")
    assert len(list(lines.images(tmp_path / "all.jsonl"))) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"[]\n", b'{"categories": []}\n', b"\x00\xff\n", b'{"jaxseg_masks": 1}\n']
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="not the head of COCO lines"):
        lines.read_index(tmp_path / "x.jsonl")


def test_damaged_lines_are_left_out_and_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    path = tmp_path / "masks.jsonl"
    written(path, "one")
    with path.open("ab") as file:
        file.write(b'{"image": 3}\nno json\n{"image": {"id": "4", "file_name": "x"}}\n[]\n')
    assert list(lines.read_index(path).places) == ["one"]
    monkeypatch.setattr(lines, "MAX_LINE", 5000)
    with path.open("ab") as file:
        file.write(b"x" * 6000)
    with pytest.raises(ValueError, match="a line has more than 5,000 bytes"):
        lines.read_index(path)


def test_a_very_long_name_and_lines_of_other_programs_are_read(tmp_path):
    path = tmp_path / "masks.jsonl"
    name = "n" * 6000
    written(path, name)
    text = path.read_text().replace('{"image": ', '{"note": 1, "image": ')
    path.write_text(text)
    assert list(lines.read_index(path).places) == [name]
    path.write_text(text.replace('"key": ', '"other": '))
    assert list(lines.read_index(path).places) == [f"{name}.png"]
    path.write_text(text)
    assert lines.read_image(path, name)["images"][0]["file_name"] == f"{name}.png"
