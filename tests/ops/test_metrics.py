"""PAX-Ray's metrics against the original's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.metrics import dice_of_iou, intersection_over_union, mean_scores

GOLDEN = "paxray_metrics/binary"


def masks(kit, number: int) -> tuple[np.ndarray, np.ndarray]:
    pred, target = (kit.input(GOLDEN, f"{key}{number}").astype(bool) for key in ("pred", "target"))
    if number == 0:  # as the golden's params.edit_batch0 says
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


def test_a_first_class_called_background_is_left_out():
    iou = np.array([[1.0, 0.2, 0.4], [0.0, 0.6, 0.4]])
    means = mean_scores(iou, ["background", "heart", "lung"])
    np.testing.assert_allclose(means["class_iou"], [0.4, 0.4])
    np.testing.assert_allclose(means["iou"], 0.4)
    assert mean_scores(iou, ["heart", "background", "lung"])["class_iou"].shape == (3,)


def test_dice_is_averaged_over_images_not_made_of_the_mean():
    means = mean_scores(np.array([[0.0], [1.0]]), ["heart"])
    np.testing.assert_allclose([means["iou"], means["dice"]], [0.5, 0.5])
    assert dice_of_iou(0.5) == pytest.approx(2 / 3)


def test_empty_against_empty_is_zero_and_equal_masks_one():
    truth = jnp.zeros((1, 4, 4, 2), bool).at[..., 1].set(True)
    np.testing.assert_allclose(intersection_over_union(truth, truth), [[0.0, 1.0]], rtol=1e-6)


def test_what_does_not_match_is_refused():
    with pytest.raises(ValueError, match=r"masks must both be \(B, H, W, K\)"):
        intersection_over_union(np.zeros((1, 2, 2, 1), bool), np.zeros((1, 2, 2, 2), bool))
    with pytest.raises(ValueError, match="2 classes need scores of shape"):
        mean_scores(np.zeros((4, 3)), ["a", "b"])
    for iou, names in ((np.zeros((0, 2)), ["a", "b"]), (np.zeros((3, 1)), ["background"])):
        with pytest.raises(ValueError, match="no image, or no class"):
            mean_scores(iou, names)
