"""Registration: the original's landmarks, matrices, images and masks, and the properties of its steps."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from measurements import phantom
from parity_kit import DATA

import jaxseg
from jaxseg.anatomy.orientation import PACKAGED, read_reference
from jaxseg.anatomy.register import Registrar, Registration, WarpedMasks, landmarks_of, parameters, similarity, warp
from jaxseg.images.picture import Picture
from jaxseg.images.preprocess import colours
from jaxseg.images.read import from_array
from jaxseg.masks.segmentation import Orientation, Segmentation
from jaxseg.vocabulary.labels import CXAS

GOLDEN = json.loads((DATA / "cxas20" / "registration.json").read_text())["register"]
MOVED = [name for name, entry in GOLDEN.items() if "512x512" in entry]
IDENTITY = [[1, 0, 0], [0, 1, 0]]


class PublishedReference(Registrar):
    """A Registrar without a network, for masks that exist."""

    def __init__(self):
        self.reference = read_reference(PACKAGED)


def pattern(height: int, width: int) -> np.ndarray:
    """Returns the test image of the goldens."""
    y, x = np.mgrid[:height, :width]
    first = (3 * x + 5 * y) % 251
    return np.stack([first, 255 - first, x // 7 * 31 % 256], axis=2).astype(np.uint8)


def registered(kit, name: str, size: tuple[int, int] = (512, 512), **changed) -> Registration:
    masks = Segmentation(CXAS, tuple(range(len(CXAS))), size, np.packbits(phantom(kit, name), axis=2))
    return PublishedReference().registered(from_array(pattern(*size)), dataclasses.replace(masks, **changed))


@pytest.mark.parametrize("size", [(512, 512), (700, 610)])
@pytest.mark.parametrize("name", MOVED)
def test_matrix_and_image_are_the_originals(kit, name, size):
    key = f"{size[0]}x{size[1]}"
    want, found = GOLDEN[name][key], registered(kit, name, size)
    np.testing.assert_allclose(found.matrix, want["matrix"], rtol=0, atol=1e-11)
    assert found.metadata["transform"] == pytest.approx(want["parts"], abs=1e-10)
    with np.load(DATA / "cxas20" / "registration.npz") as arrays:
        golden = arrays[f"{name}_{key}_image"].astype(int)
    assert np.abs(found.image.ravel()[:: 17 * 17] - golden).max() <= 1
    assert abs(int(found.image.sum(dtype=np.int64)) - want["warped_sum"]) < 1e-6 * want["warped_sum"]
    assert found.reason == ""


@pytest.mark.parametrize("name", MOVED)
def test_moved_masks_are_the_originals(kit, name):
    found = registered(kit, name).masks
    with np.load(DATA / "cxas20" / "registration.npz") as arrays:
        golden = np.unpackbits(arrays[f"{name}_masks"]).reshape(4, 512, 512).astype(bool)
    for k, want, count in zip((14, 20, 121, 134), golden, GOLDEN[name]["moved_pixels"], strict=True):
        np.testing.assert_array_equal(found.mask(k), want)
        assert np.unpackbits(found.packed_mask(k), axis=1).sum() == count


@pytest.mark.parametrize("name", GOLDEN)
def test_landmarks_are_the_originals(kit, name):
    found = registered(kit, name)
    assert found.metadata["landmarks"] == GOLDEN[name]["landmarks"]
    assert (found.reason == "") == GOLDEN[name]["landmarks"]["valid"]


@pytest.mark.parametrize(("name", "words"), [("awkward", "T10 was not found"), ("one_vertebra", "T4 and T10 were not")])
def test_an_image_without_landmarks_stays_as_it_is_and_says_why(kit, name, words):
    found = registered(kit, name, (60, 50))
    assert found.matrix.tolist() == IDENTITY
    np.testing.assert_array_equal(found.image, pattern(60, 50))
    np.testing.assert_array_equal(found.masks.mask(121), found.masks.whole.mask(121))
    assert found.reason.startswith(words)
    assert found.notes == (f"not registered: {found.reason}",)
    assert found.metadata["registration_success"] is False
    assert found.metadata["error"] == found.reason


def test_equal_landmarks_are_no_registration():
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 5, 6] = True
    same = Segmentation(("vertebrae T4", "vertebrae T10"), (0, 1), (16, 16), np.packbits(masks, axis=2))
    found = PublishedReference().registered(from_array(pattern(16, 16)), same)
    assert (found.reason, found.matrix.tolist()) == ("T4 and T10 are at the same place", IDENTITY)


@pytest.mark.parametrize(("inverted", "rotation"), [(False, 180), (True, 0), (True, 90), (False, 270)])
def test_a_corrected_image_is_registered_as_the_upright_one(kit, inverted, rotation):
    upright = registered(kit, "plausible", (80, 60))
    quarters = rotation // 90
    seen = Orientation(inverted, rotation, corrected=True)
    whole = upright.masks.whole.seen_as(seen)
    image = np.rot90(255 - pattern(80, 60) if inverted else pattern(80, 60), quarters)
    found = PublishedReference().registered(from_array(np.ascontiguousarray(image)), whole)
    np.testing.assert_array_equal(found.image, upright.image)
    np.testing.assert_array_equal(found.matrix, upright.matrix)
    np.testing.assert_array_equal(found.masks.mask(134), upright.masks.mask(134))
    data = found.metadata
    assert (data["color_detected"], data["color_corrected"]) == ("inverted" if inverted else "normal", inverted)
    assert (data["rotation_detected"], data["rotation_corrected"]) == (rotation, rotation > 0)
    assert data.get("rotation_correction_angle", 0) == (-rotation) % 360
    assert found.notes == (seen.note,)


def test_two_points_are_mapped_exactly_by_a_rotation_a_scale_and_a_shift():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sources, targets = rng.uniform(-1000, 1000, (2, 2, 2))
        matrix = similarity(sources, targets)
        np.testing.assert_allclose(sources @ matrix[:, :2].T + matrix[:, 2], targets, atol=1e-8)
        (a, b), (c, d) = matrix[:, :2]
        assert (a, b) == (d, -c)
        parts = parameters(matrix)
        lengths = [np.linalg.norm(points[1] - points[0]) for points in (targets, sources)]
        assert parts["scale"] == pytest.approx(lengths[0] / lengths[1])
        angles = [np.degrees(np.arctan2(*(points[1] - points[0])[::-1])) for points in (targets, sources)]
        assert (parts["rotation"] - angles[0] + angles[1] + 1e-6) % 360 == pytest.approx(1e-6, abs=1e-6)
    np.testing.assert_allclose(similarity(sources, sources), IDENTITY, atol=1e-12)


@pytest.mark.parametrize("points", [[[1, 1], [1, 1]], [[1, 1], [np.nan, 2]], [[np.inf, 1], [1, 2]]])
def test_points_that_give_no_matrix_are_refused(points):
    good = np.array([[0, 0], [1, 1]])
    for pair in ((np.array(points), good), (good, np.array(points))):
        with pytest.raises(ValueError, match="must be finite and different"):
            similarity(*pair)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (31, 7), (64, 80)])
def test_the_warp_is_that_of_opencv(size):
    rng = np.random.default_rng(size[1])
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(warp(image, np.eye(2, 3)), image)
    shifted = warp(image, np.array([[1.0, 0, 2], [0, 1, 0]]))
    np.testing.assert_array_equal(shifted[:, 2:], image[:, :-2])
    assert not shifted[:, :2].any()
    for _ in range(5):
        matrix = similarity(*(rng.uniform(0, 60, (2, 2, 2))))
        theirs = cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR)
        # 5-bit weights: the position is rounded by up to 1/64 pixel on each axis.
        assert np.abs(warp(image, matrix).astype(int) - theirs).max() <= 8


def test_the_result_does_not_depend_on_the_size_of_the_blocks(monkeypatch):
    image, matrix = pattern(50, 30), similarity(np.array([[3.0, 4], [20, 40]]), np.array([[5.0, 4], [18, 41]]))
    whole = warp(image, matrix)
    monkeypatch.setattr("jaxseg.anatomy.register._BLOCK", 70)
    np.testing.assert_array_equal(warp(image, matrix), whole)


def test_moved_masks_are_empty_outside_and_do_not_wrap_around():
    mask = np.ones((1, 8, 8), bool)
    whole = Segmentation(("a",), (0,), (10, 20), np.packbits(mask, axis=2))
    found = WarpedMasks(whole, np.array([[1.0, 0, 5], [0, 1, -3]]))
    want = np.zeros((10, 20), bool)
    want[:7, 5:] = True
    np.testing.assert_array_equal(found.mask(0), want)
    np.testing.assert_array_equal(np.unpackbits(found.packed_mask(0), axis=1)[:, :20], want)
    assert (found.names, found.indices, found.size) == (("a",), (0,), (10, 20))


def test_colours_are_those_that_the_original_writes():
    rgb = pattern(4, 5)
    np.testing.assert_array_equal(colours(from_array(rgb)), rgb)
    grey = np.array([[0, 1000, 2000], [3000, 3999, 4000]], np.int16)
    np.testing.assert_array_equal(colours(Picture(grey))[..., 0], [[0, 63, 127], [191, 254, 255]])


@pytest.fixture(scope="module")
def tiny(shallow):
    model = jaxseg.create("cxas", class_names=("vertebrae T4", "vertebrae T10", "heart"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32), params_sha256="b" * 64)
    return model


def test_a_registrar_needs_a_reference_with_landmarks_and_a_model_with_both_vertebrae(tiny):
    with pytest.raises(ValueError, match="no reference is known for these weights; build one with jaxseg register"):
        jaxseg.register(pattern(20, 20), tiny)
    reference = jaxseg.anatomy.orientation.Reference(np.ones((2, 32)), np.ones((4, 32)))
    with pytest.raises(ValueError, match="the reference has no landmarks"):
        Registrar(tiny, reference=reference)
    with pytest.raises(ValueError, match="has 2048 features, but the model has 32"):
        Registrar(tiny, reference=PACKAGED)
    heart = jaxseg.create("cxas", class_names=("heart", "vertebrae T4"), backbone="resnet18", width=4)
    with pytest.raises(ValueError, match="there is no class 'vertebrae T10'"):
        Registrar(heart, reference=PACKAGED)
    with pytest.raises(ValueError, match="unknown option threshhold; did you mean threshold"):
        Registrar(tiny, reference=reference, threshhold=0.3)


@pytest.mark.slow
def test_an_array_is_registered_from_python(tiny):
    features = np.random.default_rng(0).random((4, 32), np.float32)
    landmarks = ((10.0, 8.0), (12.0, 25.0))
    reference = jaxseg.anatomy.orientation.Reference(features[:2], features, landmarks)
    registrar = Registrar(tiny, reference=reference, correction=False, masks=True, threshold=0.2)
    found = jaxseg.register(pattern(40, 30), registrar)
    assert found.image.shape == (40, 30, 3)
    assert found.masks.names == ("vertebrae T4", "vertebrae T10", "heart")
    assert found.orientation is None
    assert found.reason == "" or found.matrix.tolist() == IDENTITY
    assert found.landmarks == landmarks_of(found.masks.whole)
    with pytest.raises(ValueError, match="options masks belong to the Registrar"):
        jaxseg.register(pattern(40, 30), registrar, masks=True)
