"""Distances of surfaces equal those of the package `surface-distance`, and those of edges a search over all pixels."""

import warnings

import numpy as np
import pytest
import surface_distance
from scipy.spatial.distance import cdist
from surface_distance import lookup_tables

from jaxseg.comparison import surfaces
from jaxseg.comparison.surfaces import edge_distance, surface_distances
from jaxseg.nn.metrics import hausdorff

SPACINGS = {2: [(1.0, 1.0), (0.7, 0.3), (2.0, 0.143)], 3: [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7), (0.5, 2.5, 1.25)]}
SHAPES = {2: [(9, 14), (40, 33), (1, 7)], 3: [(6, 7, 8), (3, 20, 17), (1, 5, 6)]}


def masks_of(kind: str, shape, rng) -> tuple[np.ndarray, np.ndarray]:
    """Returns a predicted and a true mask of a kind that is hard for some implementation."""
    full, empty = np.ones(shape, bool), np.zeros(shape, bool)
    first, second = empty.copy(), empty.copy()
    half = shape[-1] // 2
    if kind == "random":
        return rng.random(shape) < rng.uniform(0.02, 0.98), rng.random(shape) < rng.uniform(0.02, 0.98)
    if kind == "touching":
        first[..., :half], second[..., half:] = True, True
        return first, second
    if kind == "one pixel each":
        first[tuple(rng.integers(shape))], second[tuple(rng.integers(shape))] = True, True
        return first, second
    first[tuple(slice(side // 4, side // 4 + max(1, side // 2)) for side in shape)] = True
    return {
        "equal": (first, first.copy()),
        "full and part": (full, first),
        "both full": (full, full.copy()),
        "empty prediction": (empty, first),
        "empty truth": (first, empty),
        "both empty": (empty, empty.copy()),
    }[kind]


KINDS = ["random", "touching", "one pixel each", "equal", "full and part", "both full"]
EMPTY = ["empty prediction", "empty truth", "both empty"]


def smooth(shape, rng) -> np.ndarray:
    """Returns an ellipse with a random place and size."""
    grid = np.meshgrid(*(np.arange(side) / side for side in shape), indexing="ij")
    middle, radius = rng.uniform(0.35, 0.65, len(shape)), rng.uniform(0.15, 0.4, len(shape))
    return sum(((g - m) / r) ** 2 for g, m, r in zip(grid, middle, radius, strict=True)) < 1


def check_equal(prediction, truth, spacing):
    ours = surface_distances(prediction, truth, spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package uses old names of SciPy
        theirs = surface_distance.compute_surface_distances(truth, prediction, spacing)
    assert ours.percentile(95) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-9)
    assert ours.percentile(100) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 100), abs=1e-9)
    for tolerance in (0, 0.3, 1, 2, 2.5, 5, 100):
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.within(tolerance) == pytest.approx(expected, abs=1e-9)
    to_prediction, to_truth = surface_distance.compute_average_surface_distance(theirs)
    sizes = ours.truth_sizes.sum(), ours.prediction_sizes.sum()
    expected = (to_prediction * sizes[0] + to_truth * sizes[1]) / sum(sizes)
    assert ours.average() == pytest.approx(expected, abs=1e-9)
    for mine, key in ((ours.from_truth, "distances_gt_to_pred"), (ours.prediction_sizes, "surfel_areas_pred")):
        np.testing.assert_allclose(np.sort(mine), np.sort(theirs[key]), atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_size_of_every_corner_is_that_of_the_reference(ndim):
    for spacing in SPACINGS[ndim]:
        if ndim == 2:
            expected = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
        else:
            expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(surfaces._sizes(spacing), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_distances_equal_the_reference(ndim, kind):
    rng = np.random.default_rng(ndim)
    for spacing in SPACINGS[ndim]:
        for shape in SHAPES[ndim]:
            for _ in range(5 if kind in ("random", "one pixel each") else 1):
                check_equal(*masks_of(kind, shape, rng), spacing)


@pytest.mark.parametrize("shape", [(90, 120), (24, 40, 36)])
def test_distances_of_smooth_masks_equal_the_reference(shape):
    rng = np.random.default_rng(0)
    for spacing in SPACINGS[len(shape)]:
        for _ in range(4):
            check_equal(smooth(shape, rng), smooth(shape, rng), spacing)


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_masks_have_the_documented_values(kind):
    for shape in ((9, 14), (4, 5, 6)):
        prediction, truth = masks_of(kind, shape, np.random.default_rng(0))
        found = surface_distances(prediction, truth, np.ones(len(shape)))
        edge = edge_distance(prediction, truth, np.ones(len(shape)))
        if kind == "both empty":
            assert np.isnan([found.within(2), found.average(), found.percentile(95), edge]).all()
        else:
            assert (found.within(2), found.within(1e9)) == (0, 0)
            assert [found.average(), found.percentile(95), edge] == [np.inf] * 3


@pytest.mark.parametrize("kind", ["empty prediction", "empty truth"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_mask_that_is_empty_on_one_side_has_the_values_of_the_reference(ndim, kind, monkeypatch):
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # the package uses this name, which NumPy 2 has removed
    prediction, truth = masks_of(kind, SHAPES[ndim][0], np.random.default_rng(0))
    ours = surface_distances(prediction, truth, SPACINGS[ndim][1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = surface_distance.compute_surface_distances(truth, prediction, SPACINGS[ndim][1])
    assert ours.percentile(95) == surface_distance.compute_robust_hausdorff(theirs, 95) == np.inf
    assert ours.within(3) == surface_distance.compute_surface_dice_at_tolerance(theirs, 3) == 0
    with np.errstate(invalid="ignore"):
        averages = surface_distance.compute_average_surface_distance(theirs)
    assert sorted(map(str, averages)) == ["inf", "nan"]  # the surface of the empty mask has no average
    assert ours.average() == np.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_distance_of_edges_is_that_of_a_search_over_all_pixels(ndim, kind):
    rng = np.random.default_rng(10 + ndim)
    for spacing in SPACINGS[ndim]:
        for shape in SHAPES[ndim]:
            prediction, truth = masks_of(kind, shape, rng)
            if not (prediction.any() and truth.any()):
                continue
            points = []
            for mask in (prediction, truth):
                padded = np.pad(mask, 1)
                inner = padded.copy()
                for axis in range(ndim):
                    inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
                points.append((np.argwhere(padded & ~inner)) * spacing)
            apart = cdist(*points)
            expected = max(apart.min(axis=0).max(), apart.min(axis=1).max())
            found = edge_distance(prediction, truth, spacing)
            assert found == pytest.approx(expected, abs=1e-9)
            if ndim == 2:
                assert found == pytest.approx(float(hausdorff(prediction, truth, spacing=spacing)), abs=1e-9)


def test_the_surface_of_a_square_is_its_outline_with_cut_corners():
    mask = np.zeros((12, 12), bool)
    mask[3:8, 2:6] = True  # 5 rows, 4 columns
    found = surface_distances(mask, mask, (2.0, 3.0))
    assert found.prediction_sizes.sum() == pytest.approx(2 * (4 * 2 + 3 * 3) + 4 * 0.5 * np.hypot(2, 3))
    assert (found.within(0), found.average(), found.percentile(95)) == (1, 0, 0)


def test_a_mask_at_the_border_of_the_image_has_the_same_surface_as_inside():
    inside, border = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    inside[4:8, 3:7], border[:4, 6:] = True, True
    sizes = [surface_distances(mask, mask, (1, 1)).truth_sizes.sum() for mask in (inside, border)]
    assert sizes[0] == pytest.approx(sizes[1])
