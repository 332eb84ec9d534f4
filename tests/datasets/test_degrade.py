"""Degraded masks: their Dice, the kinds of errors, and invalid arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.datasets.degrade import KINDS, degrade
from jaxseg.nn.metrics import dice


def ball(*shape, radii):
    grid = np.ogrid[tuple(map(slice, shape))]
    return sum(((g - n / 2) / r) ** 2 for g, n, r in zip(grid, shape, radii, strict=True)) <= 1


FLAT, SOLID = ball(120, 130, radii=(25, 18)), ball(24, 50, 50, radii=(7, 14, 12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [FLAT, SOLID], ids=["slice", "volume"])
def test_the_requested_dice_is_reached(kind, mask):
    for seed, wanted in enumerate((0.45, 0.65, 0.9)):
        found, made_by = degrade(np.random.default_rng(seed), mask, wanted, (kind,))
        assert made_by == kind
        assert found.dtype == bool
        assert found.shape == mask.shape
        assert dice(mask, found, axes=None) == pytest.approx(wanted, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_adds_or_removes_what_it_should(kind):
    found, _ = degrade(np.random.default_rng(3), FLAT, 0.7, (kind,))
    added, lost = (found & ~FLAT).sum(), (FLAT & ~found).sum()
    assert (added > 0) == (kind in ("shift", "dilate", "boundary", "lumps"))
    assert (lost > 0) == (kind in ("shift", "erode", "part", "boundary", "holes"))
    if kind == "shift":
        assert found.sum() == FLAT.sum()


def test_equal_seeds_give_equal_masks_and_other_seeds_do_not():
    first, second, third = (degrade(np.random.default_rng(seed), FLAT, 0.6)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_all_kinds_are_sampled():
    kinds = {degrade(np.random.default_rng(seed), FLAT[40:80, 40:90], 0.6)[1] for seed in range(60)}
    assert kinds == set(KINDS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.integers(2, 3), st.data())
def test_the_result_is_never_empty(seed, wanted, axes, data):
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * axes))
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))
    mask[tuple(rng.integers(shape))] = True
    before = mask.copy()
    found, _ = degrade(rng, mask, wanted)
    assert found.any()
    assert found.shape == mask.shape
    assert np.array_equal(mask, before)
    assert 0 <= dice(mask, found, axes=None) <= 1


@pytest.mark.parametrize(
    ("mask", "wanted", "kinds", "message"),
    [
        (FLAT & False, 0.5, tuple(KINDS), "not empty"),
        (FLAT.astype(int), 0.5, tuple(KINDS), "bool"),
        (FLAT[0], 0.5, tuple(KINDS), r"\(H, W\)"),
        (FLAT, 0.0, tuple(KINDS), "Dice"),
        (FLAT, 0.5, ("melt",), "melt; known: shift"),
        (FLAT, 0.5, (), "none; known"),
    ],
)
def test_invalid_arguments_are_refused(mask, wanted, kinds, message):
    with pytest.raises(ValueError, match=message):
        degrade(np.random.default_rng(0), mask, wanted, kinds)
