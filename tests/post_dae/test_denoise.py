"""Restoring masks in memory: sizes, kinds of masks, classes, and input that is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mask_models import Echo, saved

import jaxseg
from jaxseg.masks.segmentation import Segmentation
from jaxseg.post_dae.denoise import Denoiser, checked, denoise


def blob(height: int = 32, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : -height // 4, width // 5 : -width // 5] = True
    return mask


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_an_identity_model_returns_the_mask_unchanged(kind):
    assert np.array_equal(denoise(blob().astype(kind), Echo()), blob())
    assert np.array_equal(denoise((blob() * 255).astype(np.uint8), Echo()), blob())
    assert denoise(blob(), Echo()).dtype == bool


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (200, 90), (16, 16)])
def test_masks_of_any_size_are_resized_for_the_model_and_back(size):
    mask = blob(*size)
    found = denoise(mask, Echo())
    assert found.shape == size
    overlap = 2 * (found & mask).sum() / (found.sum() + mask.sum())
    assert overlap > 0.9


def test_soft_results_are_the_probabilities():
    found = denoise(blob(), Echo(answer=lambda x: 0.25 + 0.5 * x), soft=True)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.where(blob(), np.float32(0.75), np.float32(0.25)))


@pytest.mark.parametrize(("threshold", "kept"), [(0.2, True), (0.3, False), (0.25, False)])
def test_pixels_above_the_threshold_belong_to_the_mask(threshold, kept):
    found = denoise(blob(), Echo(answer=lambda x: 0.25 * x), threshold=threshold)
    assert found.any() == kept


def test_classes_are_restored_one_by_one_and_channels_together():
    stack = np.stack([blob(), ~blob(), np.roll(blob(), 3, 1)])
    assert np.array_equal(denoise(stack, Echo()), stack)
    turned = Echo(channels=3, answer=lambda x: x[..., ::-1])
    assert np.array_equal(denoise(stack, turned), stack[::-1])
    with pytest.raises(ValueError, match="takes 3 masks together, got 2"):
        denoise(stack[:2], turned)


def test_more_masks_than_a_batch_keep_their_order():
    stack = np.stack([np.roll(blob(), i, 1) for i in range(11)])
    assert np.array_equal(denoise(stack, Denoiser(Echo(), batch_size=4)), stack)


def test_several_devices_share_a_batch():
    stack = np.stack([np.roll(blob(), i, 1) for i in range(5)])
    assert np.array_equal(denoise(stack, Echo(), devices=jax.devices()[:4]), stack)


def test_only_the_largest_components_are_kept():
    mask = np.zeros((32, 32), bool)
    mask[2:12, 2:12] = mask[20:26, 20:26] = True
    mask[12, 12] = True  # touches the first component at a corner
    mask[30, 2] = True
    one, two = (denoise(mask, Echo(), largest_component=count) for count in (1, 2))
    assert one.sum() == 101
    assert two.sum() == 137
    assert np.array_equal(denoise(mask, Echo(), largest_component=9), mask)


def test_a_union_is_restored_as_one_mask_and_divided_among_the_nearest_classes():
    left, right = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    left[8:24, 4:10], right[8:24, 22:28] = True, True
    stack, seen = np.stack([left, right]), []

    def grow(x):
        seen.append(x.shape)
        return x.at[:, 8:24, 10:12].set(1).at[:, 8:24, 27].set(0)

    found = denoise(stack, Echo(answer=grow), union=True, largest_component=None)
    assert seen[0][3] == 1
    assert found[0, 8:24, 4:12].all()
    assert found[1, 8:24, 22:27].all()
    assert not found[:, :, 27].any()
    assert not (found[0] & found[1]).any()
    assert found.sum() == 16 * 8 + 16 * 5


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((8, 8), bool), "the mask is empty"),
        (np.ones((8, 8), np.uint8), "the mask is full"),
        (np.stack([blob(), np.zeros((32, 32), bool)]), "mask 1 is empty"),
        (np.full((8, 8), np.nan, np.float32), "not finite"),
        (np.array([[0.0, 1.5]]), "values from 0.0 to 1.5"),
        (np.array([[0, -1]]), "values from -1 to 0"),
        (np.array([[0, 300]]), "values from 0 to 300"),
        (np.array([[0, 1, 2, 3]], np.uint8), "label map"),
        (np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8), "many shades of grey"),
        (np.zeros((2, 2, 2, 2), bool), "(2, 2, 2, 2)"),
        (np.zeros((0, 4), bool), "(0, 4)"),
        (np.array([["a", "b"]]), "bool or numbers"),
    ],
)
def test_input_that_is_not_a_mask_is_refused_with_a_reason(mask, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        denoise(mask, Echo())


def test_a_grey_picture_is_thresholded_at_half_on_request():
    picture = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    assert np.array_equal(denoise(picture, Echo(), grey="threshold"), picture > 127)
    with pytest.raises(ValueError, match="known: refuse, threshold"):
        denoise(picture, Echo(), grey="cut")


def test_probabilities_are_masks_and_are_not_read_as_full_masks():
    soft = np.where(blob(), np.float32(0.99), np.float32(0.01))
    assert np.array_equal(denoise(soft, Echo()), blob())
    assert np.array_equal(denoise(np.where(blob(), 253, 2).astype(np.uint8), Echo()), blob())


@pytest.mark.parametrize("options", [{"union": True}, {"largest_component": 1}])
def test_soft_results_have_no_components(options):
    with pytest.raises(ValueError, match="neither a union nor largest components"):
        denoise(blob(), Echo(), soft=True, **options)


def test_several_channels_that_are_all_empty_are_refused():
    with pytest.raises(ValueError, match="mask 0 is empty"):
        denoise(np.zeros((2, 32, 32), bool), Echo(channels=2))
    assert denoise(np.stack([blob(), np.zeros((32, 32), bool)]), Echo(channels=2)).any()


def test_a_mask_with_soft_edges_is_not_refused_as_a_picture():
    soft = np.zeros((32, 32), np.float32)
    soft[8:24, 8:24] = 1
    soft[7, 8:24] = 0.4
    assert np.array_equal(denoise(soft, Echo()), soft > 0.5)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 255)))
def test_any_array_gives_a_mask_within_range_or_is_refused(array):
    try:
        found = checked(array)
    except ValueError:
        return
    assert found.shape == array.shape
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 2}, "threshold must be in"),
        ({"largest_component": 0}, "at least 1"),
        ({"largest_component": 1.5}, "a whole number"),
        ({"batch_size": 3, "devices": 2}, "cannot be split over 2"),
    ],
)
def test_impossible_options_are_refused(options, words):
    if "devices" in options:
        options = options | {"devices": jax.devices()[: options["devices"]]}
    with pytest.raises(ValueError, match=words):
        Denoiser(Echo(), **options)


def test_image_models_and_unequal_channels_are_refused():
    with pytest.raises(ValueError, match="'cxas', which takes images"):
        Denoiser(jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=4))
    with pytest.raises(ValueError, match="got int"):
        Denoiser(3)
    odd = Echo()
    odd.cfg = dataclasses.replace(odd.cfg, out_channels=2)
    with pytest.raises(ValueError, match="makes 2 masks from 1"):
        Denoiser(odd)
    with pytest.raises(ValueError, match="union is for models of one mask"):
        Denoiser(Echo(channels=2), union=True)


@pytest.mark.slow
def test_a_saved_model_restores_and_is_compiled_once(tmp_path):
    model = jaxseg.load(saved(tmp_path / "model"))
    worker = Denoiser(model)
    first = denoise(blob(50, 40), worker, soft=True)
    assert first.shape == (50, 40)
    assert np.array_equal(first, denoise(blob(50, 40), tmp_path / "model", soft=True))
    expected = np.asarray(model(worker_input(blob(50, 40))))[0, ..., 0]
    found = worker.probabilities([blob(50, 40)])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="belong to the Denoiser"):
        denoise(blob(), worker, threshold=0.4)


def worker_input(mask: np.ndarray):
    from jaxseg.nn.resize import bilinear

    return bilinear(jax.numpy.asarray(mask, jax.numpy.float32)[None, ..., None], (32, 32))


def segmentation(masks: dict[str, np.ndarray]) -> Segmentation:
    bits = np.packbits(np.stack(list(masks.values())), axis=2)
    return Segmentation(tuple(masks), tuple(range(len(masks))), (64, 64), bits, notes=("before",))


def test_selected_masks_of_a_segmentation_are_restored_and_the_others_unchanged():
    found = segmentation({"heart": blob(), "lung": blob(), "rib": np.zeros((32, 32), bool)})
    inverted = Denoiser(Echo(answer=lambda x: 1 - x))
    after, again = inverted.segmentations([found, found], ["lung", "rib"])
    assert np.array_equal(after.bits, again.bits)
    assert np.array_equal(np.unpackbits(after.bits[1], axis=1).view(bool), ~blob())
    assert np.array_equal(after.bits[0], found.bits[0])
    assert np.array_equal(after.bits[2], found.bits[2])
    assert after.notes == ("before", "rib: the mask is empty, and is kept")
    assert np.array_equal(found.bits[1], np.packbits(blob(), axis=1))
    with pytest.raises(ValueError, match="no mask of liver"):
        inverted.segmentations([found], ["liver"])


def test_the_agreement_is_the_dice_of_masks_and_restored_ones():
    tilted = np.roll(blob(), 4, 0)
    found = segmentation({"heart": blob(), "lung": tilted, "rib": np.zeros((32, 32), bool)})
    flipped = Denoiser(Echo(answer=lambda x: x[:, ::-1])).postprocess(["lung", "rib", "heart"])
    (row,) = flipped.agreement([found])
    shared = 2 * (tilted & tilted[::-1]).sum() / (2 * tilted.sum())
    np.testing.assert_allclose(row, [1, shared, np.nan])
    (row,) = Denoiser(Echo()).postprocess(["lung"]).agreement([found])
    np.testing.assert_array_equal(row, [np.nan, 1, np.nan])
