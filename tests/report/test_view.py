"""The view of one segmented image holds what a report shows of it, in the coordinates of its picture."""

import dataclasses
import json

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

import jaxseg
from jaxseg.anatomy.measure.ratios import SCD_CLASSES
from jaxseg.images.dicom import shown_tags
from jaxseg.images.picture import ImageError
from jaxseg.masks.confidence import Confidence
from jaxseg.masks.segmentation import Orientation, Segmentation
from jaxseg.report.view import change_view, view

NAMES = ("right hemidiaphragm", "heart", "lung", *SCD_CLASSES)
SIZE = (128, 96)  # of the image; the masks are on a grid of 64 x 64


def masks() -> np.ndarray:
    found = np.zeros((len(NAMES), 64, 64), bool)
    found[0, 40:42, 10:31] = True
    found[1, 30:44, 22:46] = True
    found[2, 10:40, 8:28] = found[2, 10:40, 34:56] = True
    found[NAMES.index("vertebrae T1"), 12:16, 29:34] = True
    found[NAMES.index("vertebrae T2"), 20:24, 30:36] = True
    return found


def segmentation(**changes) -> Segmentation:
    pixels = masks().sum((1, 2))
    sure = np.where(pixels > 0, np.float32(0.8), np.float32(np.nan))
    confidence = Confidence(NAMES, pixels, sure, 1 - sure)
    made = Segmentation(NAMES, tuple(range(len(NAMES))), SIZE, np.packbits(masks(), axis=2), confidence=confidence)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "upload-7"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)).save(path, "PNG")
    return path


def values(found: dict) -> dict[str, float]:
    about = found["about"]
    names = [
        (about["classes"][of]["name"] + " " if of >= 0 else "") + about["kinds"][kind]["ending"]
        for kind, of, _ in about["columns"]
    ]
    return dict(zip(names, found["record"]["values"], strict=True))


def test_values_are_those_of_extract(image):
    found = view(segmentation(), image, name="chest.png", warnings=())
    measured = jaxseg.extract(segmentation(), "CTR,SCD,area").values
    assert values(found)["CTR"] == pytest.approx(measured["CTR"], rel=1e-5)
    assert values(found)["SCD"] == pytest.approx(measured["SCD"], rel=1e-5)
    assert values(found)["heart area"] == measured["heart_area"] == 14 * 24
    assert values(found)["heart confidence"] == pytest.approx(0.8, abs=1e-4)
    assert values(found)["confidence"] == pytest.approx(0.8, abs=1e-4)
    assert values(found)["vertebrae L1 confidence"] is None
    assert found["record"]["name"] == "chest.png"
    assert found["record"]["size"] == list(SIZE)
    assert found["about"]["sides"] is True
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_measured_has_its_reason(image):
    bits = np.packbits(masks() & (np.arange(len(NAMES)) != 1)[:, None, None], axis=2)
    found = view(segmentation(bits=bits, confidence=None), image, name="a", warnings=())
    assert values(found)["CTR"] is None
    assert "the mask of 'heart' is empty" in [reason for reason, _ in found["record"]["reasons"]]
    assert {line["feature"] for line in found["lines"]} == {"SCD"}
    assert "heart confidence" not in values(found)


def test_lines_lie_on_the_masks_in_the_picture(image):
    found = view(segmentation(), image, name="a", warnings=())
    assert found["picture"]["size"] == SIZE
    thorax = next(line for line in found["lines"] if line["kind"] == "thorax")
    # columns 8 to 55 of 64 become 12 to 83.5 of 96; row 10 of 64 has its centre at 20.5 of 128
    assert thorax["points"] == [[12.2, 20.5], [82.8, 20.5]]
    assert thorax["text"] == "thorax: 47 px"
    kinds = [line["kind"] for line in found["lines"]]
    assert kinds == ["midline", "heart right", "heart left", "thorax", "line", "distance", "distance", "centres"]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_lines_of_a_corrected_image_fit_its_file(image, rotation):
    """The masks of an upright image are turned to fit the file; a line must turn with them."""
    upright = segmentation(size=SIZE if rotation == 180 else SIZE[::-1], confidence=None)
    seen = Orientation(rotation=rotation, corrected=True)
    found = view(upright.seen_as(seen), image, name="a", warnings=())
    heart = next(d for k, d in found["picture"]["outlines"] if found["about"]["classes"][k]["name"] == "heart")
    corner = np.array([float(number) for number in heart[1 : heart.index("l")].split()])
    left = next(line for line in found["lines"] if line["kind"] == "heart left")["points"][1]
    plain = view(segmentation(size=upright.size, confidence=None), turned(image, rotation), name="a", warnings=())
    expected = next(line for line in plain["lines"] if line["kind"] == "heart left")["points"][1]
    quarters = rotation // 90
    height, width = upright.size
    x, y = expected
    for _ in range(quarters):
        x, y, height, width = y, width - 1 - x, width, height
    assert left == pytest.approx([x, y], abs=0.11)
    assert (height, width) == SIZE
    assert 0 <= corner[0] < width
    assert found["about"]["sides"] is False


def turned(image, rotation: int):
    """Returns the file of the upright image."""
    path = image.with_name("upright")
    with Image.open(image) as content:
        content.rotate(-rotation, expand=True).save(path, "PNG")
    return path


def test_tags_and_warnings_of_a_dicom_file_are_shown(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, SIZE).astype(np.uint16)
    path = write_dicom(tmp_path / "f", pixels, PatientName="Doe^Jane", Modality="CT", ViewPosition="LL")
    made = jaxseg.Segmenter(
        jaxseg.create("cxas", class_names=("heart",), backbone="resnet18", width=4), confidence=True
    )
    masks = made(path)
    found = view(masks, path, name="x\x1b[31m.dcm", warnings=masks.notes)
    tags = dict(found["tags"])
    assert tags["PatientName"] == "Doe^Jane"
    assert tags["Rows"] == "128"
    assert any("NOT A PROJECTION X-RAY: its Modality is CT" in warning for warning in found["warnings"])
    assert found["about"]["sides"] is False
    assert found["record"]["name"] == "x\\x1b[31m.dcm"


def test_tags_without_values_are_left_out_and_long_ones_cut(tmp_path):
    path = write_dicom(tmp_path / "f", np.arange(64, dtype=np.uint8).reshape(8, 8), StudyDescription="a" * 60 + "\r")
    tags = shown_tags(path)
    assert tags["StudyDescription"] == "a" * 60
    assert all(tags.values())
    assert "PixelSpacing" not in tags or tags["PixelSpacing"].count(",") == 1
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(ImageError, match="tags|DICOM"):
        shown_tags(tmp_path / "g" if path.write_bytes(b"nonsense") is None else path)


def test_a_picture_of_another_size_is_refused(image):
    with pytest.raises(ImageError, match="do not match"):
        view(segmentation(size=(40, 40)), image, name="a", warnings=())


def test_a_change_is_counted_and_drawn():
    before, after = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    before[5:20, 5:20] = True
    after[10:25, 5:20] = True
    found = change_view({"lung": before, "heart": before}, {"lung": after}, ["heart: the mask is kept"])
    lung, heart = found["masks"]
    assert lung["pixels"] == {"before": 225, "after": 225, "added": 75, "removed": 75}
    assert heart["after"] is heart["change"] is None
    assert all(lung[name].startswith("data:image/png;base64,") for name in ("before", "after", "change"))
    assert found["notes"] == ["heart: the mask is kept"]
