"""Tests of PAX-Ray's metrics against the original and of Hausdorff distances against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, directed_hausdorff

from jaxseg.nn.metrics import dice_of_iou, hausdorff, intersection_over_union, mean_scores

GOLDEN = "paxray_metrics/binary"


def masks(kit, number: int) -> tuple[np.ndarray, np.ndarray]:
    pred, target = (kit.input(GOLDEN, f"{key}{number}").astype(bool) for key in ("pred", "target"))
    if number == 0:  # as params.edit_batch0 of the golden states
        pred, target = pred.copy(), target.copy()
        pred[:, [0, 2]] = False
        target[:, [0, 1]] = False
    return pred.transpose(0, 2, 3, 1), target.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_scores_equal_the_originals(kit, compiled):
    function = jax.jit(intersection_over_union) if compiled else intersection_over_union
    scores = []
    for number in range(3):
        pred, target = masks(kit, number)
        scores.append(function(pred, target))
        assert scores[-1].dtype == np.float32
        kit.check(GOLDEN, f"iou{number}", np.asarray(scores[-1]))
        kit.check(GOLDEN, f"dice{number}", np.asarray(dice_of_iou(scores[-1])))
    means = mean_scores(np.concatenate(scores), [f"c{k}" for k in range(6)])
    for key, found in {
        "metric_target": "dice",
        "metric_metric_dice": "dice",
        "metric_metric_iou": "iou",
        "class_iou": "class_iou",
        "class_dice": "class_dice",
    }.items():
        kit.check(GOLDEN, key, means[found].astype(np.float32))


def test_mean_scores_leave_a_first_class_background_out():
    iou = np.array([[1.0, 0.2, 0.4], [0.0, 0.6, 0.4]])
    means = mean_scores(iou, ["background", "heart", "lung"])
    np.testing.assert_allclose(means["class_iou"], [0.4, 0.4])
    np.testing.assert_allclose(means["iou"], 0.4)
    assert mean_scores(iou, ["heart", "background", "lung"])["class_iou"].shape == (3,)
    for names, known in ((["Background", "heart", "lung"], False), (["rest", "background", "lung"], True)):
        found = mean_scores(iou, names, background=known)
        assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in means.items()}


def test_mean_dice_is_averaged_over_images_and_not_computed_from_mean_iou():
    means = mean_scores(np.array([[0.0], [1.0]]), ["heart"])
    np.testing.assert_allclose([means["iou"], means["dice"]], [0.5, 0.5])
    assert dice_of_iou(0.5) == pytest.approx(2 / 3)


def test_iou_is_0_for_empty_masks_and_1_for_equal_ones():
    truth = jnp.zeros((1, 4, 4, 2), bool).at[..., 1].set(True)
    np.testing.assert_allclose(intersection_over_union(truth, truth), [[0.0, 1.0]], rtol=1e-6)


def test_scores_refuse_arrays_that_do_not_match():
    with pytest.raises(ValueError, match=r"masks must both be \(B, H, W, K\)"):
        intersection_over_union(np.zeros((1, 2, 2, 1), bool), np.zeros((1, 2, 2, 2), bool))
    with pytest.raises(ValueError, match="2 classes need scores of shape"):
        mean_scores(np.zeros((4, 3)), ["a", "b"])
    for iou, names in ((np.zeros((0, 2)), ["a", "b"]), (np.zeros((3, 1)), ["background"])):
        with pytest.raises(ValueError, match="no image, or no class"):
            mean_scores(iou, names)


def outline(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of a mask's outline, (N, 2), by the definition."""
    padded = np.pad(mask, 1)
    around = [(0, 1), (2, 1), (1, 0), (1, 2)]
    inside = [(y, x) for y, x in np.argwhere(mask) if all(padded[y + a, x + b] for a, b in around)]
    return np.array([pixel for pixel in np.argwhere(mask).tolist() if tuple(pixel) not in inside], float)


def pairs_of_masks():
    shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
    pairs = shapes.flatmap(lambda shape: arrays(bool, (2, *shape)))
    return pairs.filter(lambda pair: pair.any((1, 2)).all())


@settings(max_examples=100, deadline=None)
@given(pairs_of_masks(), st.sampled_from([0, 50, 95, 100]), st.sampled_from([None, (1.0, 1.0), (0.5, 2.0)]))
def test_hausdorff_equals_the_distances_of_all_pairs_of_outline_pixels(pair, percentile, spacing):
    a, b = (outline(mask) * (spacing or 1) for mask in pair)
    distances = cdist(a, b)
    wanted = max(np.percentile(distances.min(axis), percentile) for axis in (0, 1))
    found = hausdorff(*pair, percentile=percentile, spacing=spacing)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert hausdorff(*pair[::-1], percentile=percentile, spacing=spacing) == found
    if percentile == 100:
        directed = max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])
        np.testing.assert_allclose(found, directed, atol=1e-9)


def test_a_stray_pixel_counts_in_hausdorff_but_not_in_its_95th_percentile():
    truth = np.zeros((60, 60), bool)
    truth[10:30, 10:30] = True
    prediction = truth.copy()
    prediction[55, 20] = True
    assert hausdorff(prediction, truth) == 26  # from row 55 to row 29
    assert hausdorff(prediction, truth, percentile=95) == 0
    assert hausdorff(prediction, truth, spacing=(0.5, 9)) == 13


def test_hausdorff_of_a_batch_is_computed_per_mask_and_nan_if_one_is_empty():
    masks = np.zeros((2, 3, 8, 8), bool)
    masks[0, 0, 2:4, 2:4] = masks[0, 1, 2:4, 2:6] = masks[1, 1] = True
    found = hausdorff(masks[0], masks[1])
    assert (found.shape, found.dtype) == ((3,), np.float64)
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == hausdorff(masks[0, 1], masks[1, 1]) == np.hypot(4, 2)  # from pixel (7, 7) to pixel (3, 5)
    assert hausdorff(masks[0, 1], masks[0, 1]) == 0


@pytest.mark.parametrize(
    ("a", "b", "options", "reason"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool), {}, r"one shape \(..., H, W\), got \(2, 3\) and \(3, 2\)"),
        (np.zeros(3, bool), np.zeros(3, bool), {}, "one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), {}, "masks must be bool, got float64"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool), {"percentile": 101}, "percentile must be in"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool), {"spacing": (1, 0)}, "two positive numbers of millimetres"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool), {"spacing": (1, 1, 1)}, "two positive numbers"),
    ],
)
def test_hausdorff_refuses_impossible_arguments(a, b, options, reason):
    with pytest.raises(ValueError, match=reason):
        hausdorff(a, b, **options)
