"""Masks whose edges are smooth: probabilities enlarged to the size of the image, and then cut."""

import numpy as np
import pytest

from jaxseg.masks import coco
from jaxseg.masks.segmentation import Segmentation
from jaxseg.nn.indices import bilinear_array


def segmentation(scores: np.ndarray, size: tuple[int, int], cutoff: float | None) -> Segmentation:
    names = tuple("abcdefgh"[: len(scores)])
    bits = np.packbits(scores > (0.5 if cutoff is None else cutoff), axis=2)
    return Segmentation(names, tuple(range(len(scores))), size, bits, scores, cutoff=cutoff)


@pytest.mark.parametrize("size", [(40, 60), (13, 9), (16, 24), (100, 24)])
@pytest.mark.parametrize("cutoff", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_smooth_masks_are_where_the_enlarged_probabilities_exceed_the_threshold(size, cutoff):
    scores = np.random.default_rng(0).random((3, 16, 24), np.float32)
    scores[1, :10] = 0.1  # a mask in a part of the image
    scores[2] = 0.0
    found = segmentation(scores, size, cutoff)
    for k in range(3):
        whole = bilinear_array(scores[k], size)
        clear = np.abs(whole - cutoff) > 1e-6  # the sums may be rounded in another order
        np.testing.assert_array_equal(found.mask(k)[clear], (whole > cutoff)[clear])
        np.testing.assert_allclose(found.probabilities[k], whole)
        np.testing.assert_array_equal(np.unpackbits(found.packed_mask(k), axis=1)[:, : size[1]], found.mask(k))
        np.testing.assert_array_equal(found.runs(k), coco.runs_of(found.mask(k)))


def test_a_straight_edge_lies_between_the_pixels_of_the_grid():
    scores = np.zeros((1, 8, 8), np.float32)
    scores[:, 4:], scores[:, 3] = 1, 0.4
    steps = segmentation(scores, (80, 80), None).mask(0)
    smooth = segmentation(scores, (80, 80), 0.5).mask(0)
    assert steps[:, 0].argmax() == 40
    assert smooth[:, 0].argmax() == 37  # from 0.4 at the centre of row 3, at 35, to 1 at 45


def test_a_turned_image_has_smooth_edges_too():
    scores = np.random.default_rng(1).random((1, 16, 16), np.float32)
    found = segmentation(scores, (50, 30), 0.5)
    np.testing.assert_array_equal(found.rotated(1).mask(0), np.rot90(found.mask(0)))
