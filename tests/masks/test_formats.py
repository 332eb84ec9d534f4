"""Tests that every format of masks is read, and that damaged files and other content are refused with a reason."""

import io
import json
import zipfile

import numpy as np
import pytest
from block_masks import NAMES, blocks, segmentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxseg.images.picture import ImageError
from jaxseg.masks.read import read_masks
from jaxseg.masks.write import WRITERS


def save_picture(path, array, mode=None) -> None:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_black_and_white_picture_of_any_mode_is_a_mask(tmp_path, mode):
    mask = blocks(1)[0]
    save_picture(tmp_path / "heart.png", mask.astype(np.uint8) * 255, mode)
    loaded = read_masks(tmp_path / "heart.png")
    assert loaded.names == ("heart",)
    np.testing.assert_array_equal(loaded.masks, mask[None])


def test_a_picture_of_0_and_1_is_a_mask_too(tmp_path):
    save_picture(tmp_path / "heart.png", blocks(1)[0].astype(np.uint8))
    np.testing.assert_array_equal(read_masks(tmp_path / "heart.png").masks, blocks(1))


def test_a_picture_with_the_name_of_the_image_is_named_by_its_folder(tmp_path):
    (tmp_path / "lungs").mkdir()
    save_picture(tmp_path / "lungs" / "0001.png", blocks(1)[0])
    assert read_masks(tmp_path / "lungs" / "0001.png", image="images/0001.jpg").names == ("lungs",)
    assert read_masks(tmp_path / "lungs" / "0001.png", names=["lung"], image="images/0001.jpg").names == ("lung",)


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RAMP, "has many shades of grey: it is a picture, not a mask"),
        (RAMP // 50, "is a label map with the grey levels 0, 1, 2, 3, 4, 5, not one mask: name its"),
        (np.stack([RAMP, RAMP * 0, RAMP * 0], -1), "the picture is coloured; masks are black and white"),
        (RAMP.astype(np.uint16), "a mask must be one picture of 1 or 8 bits"),
    ],
)
def test_a_picture_that_is_not_a_mask_is_refused(tmp_path, array, message):
    save_picture(tmp_path / "a.png", array)
    with pytest.raises(ImageError, match=f"^a.png: {message}"):
        read_masks(tmp_path / "a.png")


def test_pictures_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(ImageError, match="the folder holds no png or jpg file"):
        read_masks(tmp_path)
    save_picture(tmp_path / "a.png", blocks(1)[0])
    save_picture(tmp_path / "b.png", blocks(1, (8, 8))[0])
    with pytest.raises(ImageError, match=r"a.png is 24 x 40, but b.png is 8 x 8: masks of an image have one size"):
        read_masks(tmp_path)
    save_picture(tmp_path / "a.jpg", blocks(1)[0])
    with pytest.raises(ImageError, match="two pictures have the name of one class"):
        read_masks(tmp_path)


def coco(tmp_path, **changes):
    """Writes a COCO file of two images; returns its path and the masks of the first one."""
    masks = blocks(2)
    one = json.loads(
        WRITERS["json"](segmentation(masks, "ab"), tmp_path / "one", source="x/one.png", categories="ab").read_text()
    )
    second = {"id": 2, "file_name": "two.png", "height": 8, "width": 8}
    content = one | {"images": [*one["images"], second]} | changes
    (tmp_path / "all.json").write_text(json.dumps(content))
    return tmp_path / "all.json", masks


def test_an_image_is_found_in_a_coco_file_of_several_images(tmp_path):
    path, masks = coco(tmp_path)
    np.testing.assert_array_equal(read_masks(path, image="elsewhere/one.png").masks, masks)
    empty = read_masks(path, image="two.png", names=["lung", "heart"])
    assert (empty.names, empty.masks.shape, empty.masks.any()) == (("lung", "heart"), (2, 8, 8), False)
    with pytest.raises(ImageError, match=r"all.json: the file has 2 images; choose one with image="):
        read_masks(path)
    with pytest.raises(ImageError, match=r"all.json: the file has no images called three.png"):
        read_masks(path, image="three.png")


def test_annotations_of_one_category_are_joined_and_nested_images_read(tmp_path):
    path, masks = coco(tmp_path)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    content["images"] = [content["images"][:1]]  # nested as in the original
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_masks(path).masks, [masks[0] & False, masks.any(axis=0)])


def test_ids_are_compared_as_text(tmp_path):
    path, masks = coco(tmp_path)
    content = json.loads(path.read_text())
    for image_id, category in (("1", str), (1.0, float), (1, lambda number: f"{number} ")):
        for annotation in content["annotations"]:
            annotation |= {"image_id": image_id, "category_id": category(int(annotation["id"]) - 1)}
        path.write_text(json.dumps(content), encoding="utf-8-sig")
        loaded = read_masks(path, image="one.png")
        np.testing.assert_array_equal(loaded.masks, masks)
        assert not loaded.notes
    content["categories"] = [{"id": "1", "name": "b"}, {"id": 0, "name": "a"}]
    path.write_text(json.dumps(content))
    assert read_masks(path, image="one.png").names == ("a", "b")


def test_annotations_of_no_image_are_reported(tmp_path):
    path, masks = coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][1]["image_id"] = 7
    path.write_text(json.dumps(content))
    loaded = read_masks(path, image="one.png")
    np.testing.assert_array_equal(loaded.masks, [masks[0], masks[1] & False])
    lost = "all.json: 1 of 2 annotations belong to no image of the file (image_id '7'), and are ignored"
    assert loaded.notes == (lost,)
    content["annotations"][0]["image_id"] = "x"
    content["images"] = content["images"][:1]
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="2 of 2 annotations belong to no image .*, and none belongs to its only"):
        read_masks(path)


@pytest.mark.parametrize("name", ["str_image_id", "bom"])
def test_the_coco_files_that_gave_no_masks_are_read(kit, name):
    loaded = read_masks(kit.folder / "cases" / f"{name}.json")
    assert loaded.names == ("lung", "heart")
    assert loaded.masks.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(loaded.masks[0], read_masks(kit.folder / "cases" / "plain.png").masks[0])


POLYGON = {"id": 1, "image_id": 1, "category_id": 0, "segmentation": [[0, 0, 4, 0, 4, 4]]}
SECOND = {"id": 2, "file_name": "one.png", "height": 8, "width": 8}
WRONG_SIZE = POLYGON | {"segmentation": {"size": [2, 2], "counts": "04"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [POLYGON | {"segmentation": [[0, 0, 4, 0]]}]}, "at least three corners, got 4 numbers"),
        ({"annotations": [POLYGON | {"segmentation": "x"}]}, "a segmentation must be a list of polygons, .* got str"),
        ({"annotations": [WRONG_SIZE]}, r"an annotation's size is \[2, 2\], its image's is \[24, 40\]"),
        ({"annotations": [{"image_id": 1}]}, "not a COCO file"),
        ({"annotations": {}, "categories": 3}, "not a COCO file"),
        ({"images": ["one.png"]}, "not a COCO file"),
        ({"images": [{"id": 1, "file_name": "one.png", "height": "x", "width": 2}]}, "not a COCO file"),
        ({"images": [{"id": 1, "file_name": "one.png", "height": 10**6, "width": 10**6}]}, "the image is 1000000 x"),
        ({"categories": [{"id": 0, "name": 7}, {"id": 1, "name": "b"}]}, "the names of the categories must be strings"),
        ({"categories": [], "annotations": []}, "0 masks; from 1 to 1000 can be read"),
        ({"annotations": [POLYGON | {"image_id": True}]}, "an id in a COCO file is a whole number or a text, got True"),
        ({"annotations": [POLYGON | {"image_id": 1.5}]}, "an id in a COCO file is .*, got 1.5"),
        ({"annotations": [POLYGON | {"category_id": 9}]}, "an annotation has the category id '9', which is not listed"),
        ({"images": [SECOND, SECOND | {"id": "2", "width": 9}]}, "two images have the id '2'"),
        ({"categories": [{"id": 0, "name": "a"}, {"id": "0", "name": "b"}]}, "two categories have the id '0'"),
    ],
)
def test_a_malformed_coco_file_is_refused(tmp_path, changes, message):
    path, _ = coco(tmp_path, **changes)
    with pytest.raises(ImageError, match=f"all.json: .*{message}"):
        read_masks(path, image="one.png")


def test_a_file_that_is_not_json_is_refused(tmp_path):
    for text in ("{", "[" * 100_000, "7", '["a"]'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ImageError, match=r"a.json: not a (JSON|COCO) file"):
            read_masks(tmp_path / "a.json")


def header(shape, descr="|b1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00not a header....", "not a .npy file"),
        (header((3, 10**5, 10**5)), "the image is 100000 x 100000"),
        (header((10**9, 8, 8)), "1000000000 masks; from 1 to 1000 can be read"),
        (header((1000, 8192, 8192)), "cut off"),
        (header((3, 8, 8))[:-1] + b"\n\0\0", "cut off: .* needs 192 bytes"),
        (header((8,)), r"masks must be \(K, H, W\) or \(H, W\), got \(8,\)"),
        (header((0, 8, 8)), "0 masks"),
        (header((3, 8, 8), "|O"), "masks must be bool or whole numbers, got object"),
        (header((3, 8, 8), "<f4"), "got float32; threshold probabilities first"),
    ],
)
def test_a_wrong_header_is_refused_before_anything_is_allocated(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a.npy: .*{message}"):
        read_masks(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", content)
    with pytest.raises(ImageError, match=r"a.npz: "):
        read_masks(tmp_path / "a.npz")


def test_an_archive_of_several_arrays_is_refused_unless_one_is_arr_0(tmp_path):
    np.savez(tmp_path / "two.npz", a=blocks(), b=blocks())
    with pytest.raises(ImageError, match="holds 2 arrays; one is needed, or one that is called arr_0"):
        read_masks(tmp_path / "two.npz")
    np.savez(tmp_path / "one.npz", masks=blocks())
    np.testing.assert_array_equal(read_masks(tmp_path / "one.npz").masks, blocks())


@pytest.mark.parametrize("kind", ["json", "npy", "npz", "png"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_gives_masks_or_one_clear_error(tmp_path, kind, data):
    path = WRITERS[kind](segmentation(blocks(), NAMES), tmp_path / "one", source="one.png", categories=NAMES)
    file = path / "heart.png" if kind == "png" else path
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    loaded = error = None
    try:
        loaded = read_masks(path)
    except ValueError as refusal:
        error = str(refusal)
    assert loaded is None or loaded.masks.shape == (len(loaded.names), *loaded.size)
    assert error is None or (error.startswith("one") and "\n" not in error)


def test_other_suffixes_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a.tif: cannot read masks from .tif; allowed: .png, .jpg"):
        read_masks(tmp_path / "a.tif")
    for name in ("a.npy", "a.npz", "a.json", "a.png"):
        with pytest.raises(FileNotFoundError):
            read_masks(tmp_path / name)
