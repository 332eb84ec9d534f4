"""Dice, IoU, HD and NSD equal those of MONAI, on random, empty, touching and full masks, with and without a spacing.

Run by `make test-torch`, which installs PyTorch and MONAI.
"""

import math

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)

from jaxseg.comparison.scores import Tolerance, score_mask

# MONAI 1.6 calls its own functions with an argument that it has deprecated.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")]

SPACINGS = {2: (None, (1.0, 1.0), (0.7, 0.3)), 3: (None, (3.0, 0.8, 0.7))}
SHAPES = {2: ((9, 14), (40, 33)), 3: ((6, 7, 8), (5, 20, 17))}


def pairs(shape, seed: int):
    """Yields pairs of masks: random ones of several densities, halves that touch, full and empty ones."""
    rng = np.random.default_rng(seed)
    for density in (0.03, 0.3, 0.7, 0.97):
        yield rng.random(shape) < density, rng.random(shape) < rng.uniform(0.05, 0.95)
    left = np.zeros(shape, bool)
    left[..., : shape[-1] // 2] = True
    yield left, ~left
    yield np.ones(shape, bool), left
    yield left, left
    yield np.zeros(shape, bool), left
    yield left, np.zeros(shape, bool)
    yield np.zeros(shape, bool), np.zeros(shape, bool)


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


@pytest.mark.parametrize("ndim", [2, 3])
def test_overlap_equals_monai(ndim):
    for shape in SHAPES[ndim]:
        for prediction, truth in pairs(shape, ndim):
            found = score_mask(prediction, truth)
            masks = batch(prediction), batch(truth)
            assert_equal(found.dice, float(compute_dice(*masks, ignore_empty=False)), both_empty=1.0)
            assert_equal(found.iou, float(compute_iou(*masks, ignore_empty=False)), both_empty=1.0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_hausdorff_distance_equals_monai(ndim):
    for spacing in SPACINGS[ndim]:
        for shape in SHAPES[ndim]:
            for prediction, truth in pairs(shape, ndim):
                if not (prediction.any() and truth.any()):
                    continue  # MONAI returns NaN or infinity, with a warning
                found = score_mask(prediction, truth, spacing_mm=spacing).hd
                theirs = compute_hausdorff_distance(
                    batch(prediction), batch(truth), include_background=True, spacing=spacing
                )
                assert found == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_surface_dice_equals_monai_with_its_option_for_parts_of_pixels(ndim):
    for spacing in SPACINGS[ndim]:
        for shape in SHAPES[ndim]:
            for prediction, truth in pairs(shape, ndim):
                if not (prediction.any() and truth.any()):
                    continue
                for limit in (0.5, 1.0, 2.0):
                    unit = "px" if spacing is None else "mm"
                    found = score_mask(prediction, truth, spacing_mm=spacing, tolerance=Tolerance(limit, unit)).nsd
                    options = {"include_background": True, "spacing": spacing, "use_subvoxels": True}
                    theirs = compute_surface_dice(batch(prediction), batch(truth), [limit], **options)
                    assert found == pytest.approx(float(theirs), abs=1e-5)


def assert_equal(found: float, theirs: float, *, both_empty: float) -> None:
    """Ours is NaN for two empty masks, where MONAI returns a number."""
    if math.isnan(found):
        assert theirs == both_empty
    else:
        assert found == pytest.approx(theirs, abs=1e-6)
