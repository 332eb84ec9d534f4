"""STAPLE equals SimpleITK's; the majority and what is the same for all annotators need no estimate."""

import numpy as np
import pytest
import SimpleITK

from jaxseg.comparison.staple import MAX_ANNOTATORS, consensus, staple


def annotators(count: int, shape, *, seed: int = 0) -> np.ndarray:
    """Returns the masks of annotators who miss and add pixels at rates of their own, (A, ...) bool."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, bool)
    truth[tuple(slice(side // 4, side // 4 + side // 2) for side in shape)] = True
    hit, false = rng.uniform(0.6, 0.99, count), rng.uniform(0.01, 0.2, count)
    axes = (slice(None), *[None] * len(shape))
    return rng.random((count, *shape)) < np.where(truth, hit[axes], false[axes])


def itk(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    estimate = SimpleITK.STAPLEImageFilter()
    estimate.SetForegroundValue(1)
    image = estimate.Execute([SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    found = SimpleITK.GetArrayFromImage(image), estimate.GetSensitivity(), estimate.GetSpecificity()
    return tuple(np.array(part) for part in found)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("shape", [(30, 40), (8, 12, 10)])
def test_probabilities_and_performance_equal_simpleitk(count, shape):
    for seed in range(3):
        masks = annotators(count, shape, seed=seed)
        found, (probability, sensitivity, specificity) = staple(masks), itk(masks)
        np.testing.assert_allclose(found.probability, probability, atol=1e-5)
        np.testing.assert_allclose(found.sensitivity, sensitivity, atol=1e-5)
        np.testing.assert_allclose(found.specificity, specificity, atol=1e-5)


def test_disagreement_and_a_small_object_equal_simpleitk():
    masks = np.zeros((4, 24, 24), bool)
    masks[0, 4:12, 4:12] = masks[1, 5:13, 4:12] = masks[2, 4:14, 3:13] = True
    masks[3, 20, 20] = True
    found, (probability, sensitivity, specificity) = staple(masks), itk(masks)
    np.testing.assert_allclose(found.probability, probability, atol=1e-4)
    np.testing.assert_allclose(found.sensitivity, sensitivity, atol=1e-4)
    np.testing.assert_allclose(found.specificity, specificity, atol=1e-4)


def test_a_good_annotator_outvotes_bad_ones():
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 60), bool)
    truth[20:45, 15:40] = True
    bad = np.where(rng.random((2, 60, 60)) < 0.35, ~truth, truth)
    good = np.where(rng.random((3, 60, 60)) < 0.05, ~truth, truth)
    masks = np.concatenate([bad, good])
    found = staple(masks)
    assert found.sensitivity[2:].min() > found.sensitivity[:2].max() + 0.15
    wrong = {method: np.count_nonzero(consensus(masks, method) != truth) for method in ("staple", "majority")}
    assert wrong["staple"] < 0.5 * wrong["majority"]


def test_masks_that_are_all_empty_or_all_full_need_no_estimate():
    empty = staple(np.zeros((3, 4, 5), bool))
    assert not empty.probability.any()
    assert np.isnan(empty.sensitivity).all()
    assert empty.specificity.tolist() == [1, 1, 1]
    full = staple(np.ones((3, 4, 5), bool))
    assert full.probability.min() == 1
    assert full.sensitivity.tolist() == [1, 1, 1]
    assert np.isnan(full.specificity).all()


def test_annotators_who_agree_are_their_own_consensus():
    mask = annotators(1, (20, 20))[0]
    for method in ("staple", "majority"):
        np.testing.assert_array_equal(consensus(np.stack([mask] * 5), method), mask)


def test_half_of_the_annotators_are_a_majority():
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    assert consensus(masks, "majority").tolist() == [True, True, True, False]


def test_the_largest_number_of_annotators_is_computed():
    masks = annotators(MAX_ANNOTATORS, (16, 16))
    np.testing.assert_allclose(staple(masks).probability, itk(masks)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("masks", "method", "words"),
    [
        (np.zeros((2, 3)), "staple", "must be bool"),
        (np.zeros((2, 3)), "majority", "must be bool"),
        (np.zeros((0, 3), bool), "staple", "1 to 64 annotators"),
        (np.zeros((65, 3), bool), "staple", "1 to 64 annotators"),
        (np.zeros(3, bool), "majority", "1 to 64 annotators"),
        (np.zeros((2, 3), bool), "mean", "unknown consensus 'mean'; known: staple, majority"),
    ],
)
def test_other_masks_and_methods_are_refused(masks, method, words):
    with pytest.raises(ValueError, match=words):
        consensus(masks, method)
