"""Distances between sets of masks compared with the original's results and with their definitions."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxseg.annotators.energy import (
    dice_original,
    distances,
    energy_distance_original,
    energy_distance_published,
    matched_iou,
    mean_distances,
)

GOLDENS = ("four_four", "three_five", "one_empty_each", "all_empty", "identical")


def sets_of(kit, name: str) -> tuple[np.ndarray, np.ndarray]:
    entry, arrays_of = kit.golden(name)
    found = []
    for key in ("gts", "segs"):
        shape = entry["arrays"][f"in:{key}"]["shape"]
        found.append(arrays_of[f"in:{key}"].reshape(shape)[:, 0] > 0.5)
    return EDITS[entry["params"]["edit"]](*found)


def one_empty_each(annotations, samples):
    some = (np.arange(4) > 0)[:, None, None]
    return annotations & some, samples & some


EDITS = {  # changes to the stored masks, by the name in the golden
    "none": lambda annotations, samples: (annotations, samples),
    "one_empty_each": one_empty_each,
    "all_empty": lambda annotations, samples: (annotations & False, samples & False),
    "identical": lambda annotations, _: (annotations[[0, 0, 0]], annotations[[0, 0, 0]]),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", GOLDENS)
def test_the_originals_distance_equals_the_original(kit, name, compiled):
    annotations, samples = sets_of(kit, f"metrics/ged_{name}")
    function = jax.jit(energy_distance_original) if compiled else energy_distance_original
    kit.check(f"metrics/ged_{name}", "ged", np.asarray(function(annotations, samples)))
    kit.check(f"metrics/ged_{name}", "jaccard_gt_seg", 1 - distances(annotations, samples, empty=1.0))


def test_dice_equals_the_original(kit):
    _, stored = kit.golden("metrics/seg_score")
    truth, prediction = (stored[f"in:{key}"].reshape(5, 16, 20) > 0.5 for key in ("target", "pred"))
    for function in (dice_original, jax.jit(dice_original)):
        scores = np.asarray(function(prediction, truth))
        kit.check("metrics/seg_score", "dice_per_sample", scores)
        kit.check("metrics/seg_score", "dice", scores.mean())


def jaccard_distance(a: np.ndarray, b: np.ndarray, empty: float) -> float:
    union = np.count_nonzero(a | b)
    return 1 - np.count_nonzero(a & b) / union if union else empty


def masks_of(counts) -> st.SearchStrategy:
    return st.tuples(counts, counts, st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda n: st.tuples(arrays(bool, (n[0], n[2], n[3])), arrays(bool, (n[1], n[2], n[3])))
    )


@settings(max_examples=60, deadline=None)
@given(masks_of(st.integers(2, 4)))
def test_both_distances_equal_the_sums_over_all_pairs(pair):
    annotations, samples = pair
    for empty, function in ((0.0, energy_distance_published), (1.0, energy_distance_original)):
        cross = np.mean([jaccard_distance(a, s, empty) for a in annotations for s in samples])
        if empty:  # pairs of different masks, and their distances are added
            within = [np.mean([jaccard_distance(*p, empty) for p in itertools.permutations(x, 2)]) for x in pair]
            wanted = 2 * cross + sum(within)
        else:
            within = [np.mean([jaccard_distance(*p, empty) for p in itertools.product(x, x)]) for x in pair]
            wanted = 2 * cross - sum(within)
        np.testing.assert_allclose(function(annotations, samples), wanted, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(masks_of(st.integers(1, 5)))
def test_the_published_distance_is_symmetric_never_negative_and_zero_for_equal_sets(pair):
    found = energy_distance_published(*pair)
    assert -1e-12 <= found <= 2
    assert found == pytest.approx(energy_distance_published(*pair[::-1]), abs=1e-12)
    assert energy_distance_published(pair[0], pair[0][::-1]) == pytest.approx(0, abs=1e-12)


def test_identical_samples_lower_the_originals_distance_and_raise_the_published_one():
    annotations = np.zeros((4, 8, 8), bool)
    for k in range(4):
        annotations[k, 2 : 4 + k, 2:6] = True
    same = np.repeat(annotations[1:2], 4, 0)
    assert energy_distance_published(annotations, same) > energy_distance_published(annotations, annotations)
    assert energy_distance_original(annotations, same) < energy_distance_original(annotations, annotations) + 2
    means = mean_distances(annotations, same)
    assert means["distance_between_samples"] == 0
    assert means["distance_between_annotators"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_absent_annotators_are_ignored_and_batches_equal_single_images(compiled):
    rng = np.random.default_rng(0)
    annotations, samples = rng.random((3, 4, 6, 6)) > 0.5, rng.random((3, 5, 6, 6)) > 0.5
    present = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    for function in (energy_distance_published, energy_distance_original):
        batch = jax.jit(function) if compiled else function
        found = batch(annotations, samples, present=present)
        each = [function(annotations[i][present[i]], samples[i]) for i in range(3)]
        np.testing.assert_allclose(found, each, rtol=2e-6)
    if compiled:
        mapped = jax.vmap(lambda a, s, p: energy_distance_published(a, s, present=p))(annotations, samples, present)
        np.testing.assert_allclose(mapped, energy_distance_published(annotations, samples, present=present), rtol=2e-6)


def test_one_annotator_has_a_published_distance_but_no_original_one():
    annotations = np.eye(6, dtype=bool)[None, None].repeat(3, 1)  # (1, 3, 6, 6)
    samples = ~annotations[:, :2]
    present = np.array([[True, False, False]])
    assert energy_distance_published(annotations, samples, present=present) == 2
    assert np.isnan(energy_distance_original(annotations, samples, present=present)).all()
    assert np.isnan(mean_distances(annotations, samples, present=present)["distance_between_annotators"]).all()
    assert np.isnan(energy_distance_published(annotations, samples, present=np.zeros((1, 3), bool))).all()
    with pytest.raises(ValueError, match="needs at least two samples"):
        energy_distance_original(annotations, samples[:, :1])


@pytest.mark.parametrize(
    ("a", "b", "options", "reason"),
    [
        (np.zeros((2, 3, 3), bool), np.zeros((2, 3, 4), bool), {}, "of one size"),
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 3), bool), {}, "masks must be bool"),
        (np.zeros((0, 3, 3), bool), np.zeros((2, 3, 3), bool), {}, "at least one annotation and one sample"),
        (
            np.zeros((2, 3, 3), bool),
            np.zeros((2, 3, 3), bool),
            {"present": np.ones(3, bool)},
            r"present must be \(2,\)",
        ),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), {}, r"\(\.\.\., N, H, W\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(a, b, options, reason):
    with pytest.raises(ValueError, match=reason):
        energy_distance_published(a, b, **options)


@pytest.mark.parametrize(("annotators", "samples"), [(3, 3), (2, 4), (4, 2), (1, 3), (3, 2)])
def test_the_matched_iou_is_the_best_of_all_ways_to_pair(annotators, samples):
    table = np.random.default_rng(annotators).random((annotators, samples))
    size = math.lcm(annotators, samples)
    both = table.repeat(size // annotators, 0).repeat(size // samples, 1)
    best = max(both[range(size), list(order)].mean() for order in itertools.permutations(range(size)))
    assert matched_iou(table[None])[0] == pytest.approx(best)


def test_absent_annotators_are_not_matched():
    table = np.array([[[0.2, 0.9], [np.nan, np.nan]], [[np.nan, np.nan], [np.nan, np.nan]]])
    found = matched_iou(table)
    assert found[0] == pytest.approx(0.55)
    assert np.isnan(found[1])
