"""Data sets in COCO's format give the masks of pycocotools, and damaged files are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO

from jaxseg.anatomy.augment import unchanged
from jaxseg.anatomy.coco_set import read_coco_set
from jaxseg.anatomy.data import Split, read_paxray
from jaxseg.nn.indices import nearest_indices
from jaxseg.training.batches import RecordError, training_batches

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
RNG = np.random.default_rng
CATEGORIES = [{"id": 7, "name": "heart"}, {"id": 2, "name": "right lung"}, {"id": 30, "name": "lung"}]
SIZES = [(40, 30), (25, 61), (33, 33)]
NAMES = ("right lung", "heart", "lung")  # in the order of the ids


def annotation(number: int, image: int, category: int, segmentation, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def write_set(root: Path, folder: str = "images", names: tuple[str, ...] = ("a.png", "deep/b.png", "c.png")) -> dict:
    """Saves three images and returns the content of a COCO file with polygons and run lengths that overlap."""
    images, annotations = [], []
    for i, (name, (height, width)) in enumerate(zip(names, SIZES, strict=True)):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG(i).integers(0, 256, (height, width), np.uint8)).save(path)
        images.append({"id": 10 * i, "file_name": name, "height": height, "width": width})
        mask = RNG(10 + i).random((height, width)) < 0.3
        rle = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        polygon = [2.5, 3, width - 3, 4.25, width - 6, height - 2, 4, height - 5]
        annotations += [
            annotation(100 + i, 10 * i, 7, rle | {"counts": rle["counts"].decode()}),
            annotation(200 + i, 10 * i, 2, [polygon, [1, 1, 9, 1, 9, 9, 1, 9]], iscrowd=0),
            annotation(300 + i, 10 * i, 2, {"size": [height, width], "counts": [5, 9, height * width - 14]}, iscrowd=1),
        ]
    return {"images": images, "categories": [dict(entry) for entry in CATEGORIES], "annotations": annotations}


def split_of(content: dict, splits: tuple[str, ...]) -> dict:
    images = [image | {"split": split} for image, split in zip(content["images"], splits, strict=True)]
    return content | {"images": images}


def store(root: Path, content, name: str = "all.json") -> None:
    (root / name).write_text(json.dumps(content))


def by_pycocotools(path: Path, image: int, name: str) -> np.ndarray:
    """Returns the union of the annotations of a category of an image, (H, W) bool."""
    coco = COCO(str(path))
    (category,) = coco.getCatIds(catNms=[name])
    found = [coco.annToMask(one) for one in coco.loadAnns(coco.getAnnIds(imgIds=[image], catIds=[category]))]
    size = coco.loadImgs([image])[0]
    return np.any([np.zeros((size["height"], size["width"]), bool), *(mask > 0 for mask in found)], axis=0)


def test_every_mask_is_that_of_pycocotools(tmp_path, capsys):
    store(tmp_path, split_of(write_set(tmp_path), ("train", "val", "train")))
    data = read_coco_set(tmp_path, {"": "all.json"}, images="images")
    assert data.names == NAMES, "the order of the ids, which have gaps"
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [2, 1, 0]
    source = Split(data.splits["train"], 3, (24, 40), root=data.root)
    assert [source.name(i) for i in range(2)] == ["images/a.png", "images/c.png"]
    for i, image in enumerate((0, 20)):
        example = unchanged(source[i], RNG(0))
        assert example["image"].shape == (24, 40, 3)
        for k, name in enumerate(NAMES):
            whole = by_pycocotools(tmp_path / "all.json", image, name)
            rows, columns = nearest_indices(whole.shape[0], 24), nearest_indices(whole.shape[1], 40)
            np.testing.assert_array_equal(example["target"][..., k], whole[rows][:, columns])
        assert not example["target"][..., 2].any(), "no annotation of this class"
    batch = next(training_batches(source, unchanged, batch_size=2, seed=0))
    assert batch["target"].shape == (2, 24, 40, 3)


def test_crowds_can_be_left_out(tmp_path):
    content = split_of(write_set(tmp_path), ("train",) * 3)
    kept = [entry for entry in content["annotations"] if not entry.get("iscrowd")]
    store(tmp_path, content)
    store(tmp_path, content | {"annotations": kept}, "kept.json")
    masks = {
        (file, crowd): unchanged(Split(data.splits["train"], 3, (32, 32))[1], RNG(0))["target"]
        for file in ("all.json", "kept.json")
        for crowd in (True, False)
        for data in [read_coco_set(tmp_path, {"": file}, images="images", crowd=crowd)]
    }
    np.testing.assert_array_equal(masks["all.json", False], masks["kept.json", True])
    assert (masks["all.json", True] != masks["all.json", False]).any()


def test_files_apart_and_folders_and_windows_paths_state_the_splits(tmp_path):
    content = write_set(tmp_path, "", ("train/a.png", "Validation/sub/b.png", "x/test/c.png"))
    store(tmp_path, content)
    folders = read_coco_set(tmp_path, {"": "all.json"}, how="folders")
    windows = [image | {"file_name": image["file_name"].replace("/", "\\")} for image in content["images"]]
    store(tmp_path, content | {"images": windows}, "windows.json")
    assert read_coco_set(tmp_path, {"": "windows.json"}, how="folders").splits.keys() == folders.splits.keys()
    parts = {}
    for split, image in zip(("train", "val", "test"), content["images"], strict=True):
        some = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        store(tmp_path, content | {"images": [image], "annotations": some}, f"{split}.json")
        parts[split] = f"{split}.json"
    apart = read_coco_set(tmp_path, parts)
    for split, ((path, target),) in folders.splits.items():
        ((other, masks),) = apart.splits[split]
        assert (path, target.shapes, target.size) == (other, masks.shapes, masks.size)
    store(tmp_path, content | {"categories": CATEGORIES[:2], "annotations": []}, "val.json")
    with pytest.raises(ValueError, match="val.json: its categories differ from those of the file before it: 30: lung"):
        read_coco_set(tmp_path, parts)


def test_a_random_split_depends_on_the_seed_and_not_on_the_order(tmp_path):
    content = write_set(tmp_path)
    many = [content["images"][0] | {"id": f"{i}", "file_name": f"{i}.png"} for i in range(40)]
    for image in many:
        (tmp_path / "images" / image["file_name"]).symlink_to(tmp_path / "images/a.png")
    found = []
    for images, seed in ((many, 0), (many[::-1], 0), (many, 1)):
        store(tmp_path, content | {"images": images, "annotations": []})
        kwargs = {"images": "images", "how": "random", "shares": (0.2, 0.1), "seed": seed}
        data = read_coco_set(tmp_path, {"": "all.json"}, **kwargs)
        assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 28, "val": 8, "test": 4}
        found.append({path.name for path, _ in data.splits["val"]})
    assert found[0] == found[1] != found[2]


def test_an_image_of_two_splits_is_refused(tmp_path):
    content = write_set(tmp_path)
    store(tmp_path, content)
    with pytest.raises(ValueError, match="images/a.png belongs to train and to val; an image may belong to one"):
        read_coco_set(tmp_path, {"train": "all.json", "val": "all.json"}, images="images")


def change(place: str, **more):
    return lambda content: content[place][0].update(more)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("images"), "not a COCO file: images must be there"),
        (lambda c: c.update(annotations={}), "not a COCO file: annotations must be there and must be lists"),
        (lambda c: c.update(categories=[]), "categories need a name each"),
        (lambda c: c.update(categories=[3]), "images, categories or annotations are malformed"),
        (change("categories", name=" "), "categories need a name each"),
        (change("categories", name="lung"), "several categories are called 'lung'"),
        (change("categories", id=2), "two categories have the id '2'"),
        (change("images", id=10), "two images have the id '10'"),
        (change("images", height="40"), "image 0 needs a height and a width in whole numbers"),
        (change("images", height=10**6, width=10**6), "the image is 1000000 x 1000000"),
        (change("images", height=None), "image 0 needs a height"),
        (change("images", file_name=""), "image 0 needs the text file_name"),
        (change("images", file_name="a\0.png"), "image 0 needs the text file_name"),
        (change("images", file_name="../../x.png"), r"'../../x.png' lies outside the data set's folder"),
        (change("images", file_name="..\\..\\x.png"), "lies outside the data set's folder"),
        (change("images", file_name="/etc/passwd"), "1 of 3 files named in all.json are missing: images/etc/passwd"),
        (change("images", file_name="none.png"), "1 of 3 files named in all.json are missing: images/none.png"),
        (change("images", split="training2"), "1 of 3 images belong to none of train, val and test"),
        (change("images", split=3), "their entries have no `split`: a.png. Name a file per split in data.files"),
        (change("annotations", image_id=77), "annotation 100 has the image_id '77', which is not listed"),
        (change("annotations", category_id=1), "annotation 100 has the category_id '1', which is not listed"),
        (change("annotations", image_id=1.5), "an id in a COCO file is a whole number or a text, got 1.5"),
        (lambda c: c["annotations"][0].pop("segmentation"), "malformed: 'segmentation'"),
        (change("annotations", segmentation=[]), "annotation 100 has no segmentation, only a box"),
        (change("annotations", segmentation="44"), "annotation 100 has no segmentation, only a box"),
    ],
)
def test_files_that_are_not_as_documented_are_refused(tmp_path, edit, message):
    content = split_of(write_set(tmp_path / "set"), ("train",) * 3)
    edit(content)
    store(tmp_path / "set", content)
    with pytest.raises(ValueError, match=f"all.json: .*{message}|^{message}"):
        read_coco_set(tmp_path / "set", {"": "all.json"}, images="images")


def test_a_file_outside_of_the_folder_or_without_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'../x.json' lies outside the data set's folder"):
        read_coco_set(tmp_path, {"": "../x.json"})
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="a.json: not JSON .* one file per split"):
        read_coco_set(tmp_path, {"": "a.json"})
    store(tmp_path, write_set(tmp_path), "paxray.json")
    with pytest.raises(ValueError, match="this is a COCO file; set data.format: coco"):
        read_paxray(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 4, 0, 1e9, 4]], "annotation 100: a polygon has corners more than"),
        ({"size": [40, 31], "counts": "4"}, "annotation 100: an annotation's size is"),
        ({"size": [40, 30], "counts": [1]}, "annotation 100: the run lengths cover 1 pixels"),
        ([3], "annotation 100: a polygon must be a list"),
    ],
)
def test_a_damaged_annotation_names_its_file_and_its_id(tmp_path, segmentation, message):
    content = split_of(write_set(tmp_path), ("train",) * 3)
    content["annotations"][0]["segmentation"] = segmentation
    store(tmp_path, content)
    data = read_coco_set(tmp_path, {"": "all.json"}, images="images")
    source = Split(data.splits["train"], 3, (16, 16), root=data.root)
    with pytest.raises(ValueError, match=f"all.json: {message}"):
        source[0]
    with pytest.raises(RecordError, match="images/a.png"):
        list(zip(range(3), training_batches(source, unchanged, batch_size=1, seed=0), strict=False))


def test_an_image_of_another_shape_than_the_file_states_is_refused(tmp_path):
    content = split_of(write_set(tmp_path), ("train",) * 3)
    content["images"][0] |= {"height": 30, "width": 40}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"]]
    store(tmp_path, content)
    data = read_coco_set(tmp_path, {"": "all.json"}, images="images")
    with pytest.raises(ValueError, match="the target is 30 x 40, the picture 40 x 30"):
        Split(data.splits["train"], 3, (16, 16))[0]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_of_the_text_gives_a_data_set_or_a_value_error(tmp_path, data):
    text = bytearray(json.dumps(split_of(write_set(tmp_path), ("train",) * 3)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
    (tmp_path / "all.json").write_bytes(bytes(text))
    reason = ""
    try:
        found = read_coco_set(tmp_path, {"": "all.json"}, images="images")
        for i in range(len(found.splits["train"])):
            assert Split(found.splits["train"], len(found.names), (8, 8))[i]["target"].shape == (8, 8, 1)
    except ValueError as error:
        reason = str(error)
    assert "\n" not in reason


def test_a_background_is_put_first_if_classes_exclude_each_other(tmp_path):
    content = split_of(write_set(tmp_path), ("train",) * 3)
    store(tmp_path, content)
    plain = read_coco_set(tmp_path, {"": "all.json"}, images="images")
    data = read_coco_set(tmp_path, {"": "all.json"}, images="images", background=True)
    assert data.names == ("background", *NAMES)
    masks = unchanged(Split(plain.splits["train"], 3, (32, 32))[0], RNG(0))["target"].astype(bool)
    found = unchanged(Split(data.splits["train"], 4, (32, 32), exclusive=True)[0], RNG(0))["target"]
    wanted = np.where(masks[..., 1], 2, np.where(masks[..., 0], 1, 0))  # the last class wins, the third has no mask
    np.testing.assert_array_equal(found.argmax(-1), wanted)
    content["categories"].append({"id": 1, "name": "Background"})
    store(tmp_path, content)
    named = read_coco_set(tmp_path, {"": "all.json"}, images="images", background=True)
    assert named.names == ("Background", *NAMES)
