"""Files that are made from all results are made again only if something changed, and in a stream."""

import json
import tracemalloc

import numpy as np
import pytest
from fake_segmenter import draw
from part_runs import run_part

from jaxseg.folder_runs.merged import Merged
from jaxseg.masks import coco, write


@pytest.fixture
def images(tmp_path):
    for name in "abcd":
        draw(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture
def made(monkeypatch):
    """Returns the list of merged files that were made, which grows."""
    found, real = [], write.merge_coco

    def counted(parts, path, categories):
        found.append(len(parts))
        return real(parts, path, categories)

    monkeypatch.setattr(write, "merge_coco", counted)
    return found


def test_a_merged_file_is_made_again_only_if_something_changed(images, tmp_path, made):
    output = tmp_path / "out"
    for _ in range(3):
        run_part(images, output, output_type="json")
    assert made == [4]
    draw(images / "b.png", size=(9, 9), seed=1)
    run_part(images, output, output_type="json")
    (images / "c.png").unlink()
    run_part(images, output, output_type="json")  # nothing is processed, but the list of images is another
    assert made == [4, 4, 3]
    (output / "in.json").write_text("{}")
    run_part(images, output, output_type="json")
    (output / "in.json").unlink()
    run_part(images, output, output_type="json")
    assert made == [4, 4, 3, 3, 3]
    run_part(images, output, output_type="json", overwrite=True)
    run_part(images, output, output_type="json")
    assert made == [4, 4, 3, 3, 3, 3]
    assert len(json.loads((output / "in.json").read_text())["images"]) == 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no file that is made from products of the kind 'os'"):
        Merged(".json", "os", {})


def test_coco_files_are_merged_in_a_stream(tmp_path):
    noise = np.random.default_rng(0).random((200, 200)) > 0.5
    paths = []
    for number in range(60):
        one = coco.annotation(noise, annotation_id=1, image_id=1, category_id=0)
        content = coco.dataset([{"id": 1, "file_name": f"{number}.png"}], ["noise"], [one] * 3)
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(content))
    size = sum(path.stat().st_size for path in paths)
    tracemalloc.start()
    write.merge_coco(paths, tmp_path / "all.json", ["noise"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 4
    merged = json.loads((tmp_path / "all.json").read_text())
    assert [image["id"] for image in merged["images"]] == list(range(1, 61))
    assert len(merged["annotations"]) == 180
    assert list(merged) == ["info", "licenses", "images", "categories", "annotations"]
