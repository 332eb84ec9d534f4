"""Kinds of damage for evaluation, and the baselines: what each kind does, seeds, bad input."""

import numpy as np
import pytest
from mask_runs import lungs, write_masks

from jaxseg.images.picture import ImageError
from jaxseg.nn.metrics import dice
from jaxseg.post_dae import unseen
from jaxseg.post_dae.baselines import Shapes
from jaxseg.post_dae.data import MaskFolder

LOSING, ADDING = ("lobe cut", "lobe missing", "side lost"), ("islands",)


@pytest.mark.parametrize("kind", unseen.KINDS)
def test_each_kind_damages_a_mask_and_repeats_itself(kind):
    mask = lungs(96)[..., None]
    found = [unseen.apply_kind(kind, mask, seed) for seed in range(6)]
    for one in found:
        assert set(np.unique(one)) <= {0.0, 1.0}
        assert 0.3 < dice(one[None, ..., 0] > 0, mask[None, ..., 0] > 0)[0] < 0.995
        if kind in LOSING:
            assert (one <= mask).all()
        if kind in ADDING:
            assert (one >= mask).all()
    assert any((found[0] != one).any() for one in found[1:])
    np.testing.assert_array_equal(found[2], unseen.apply_kind(kind, mask, 2))


def test_of_a_lost_side_only_a_rest_remains():
    mask = lungs(96)[..., None]
    for seed in range(6):
        found = unseen.apply_kind("side lost", mask, seed)[..., 0]
        sides = sorted(half.sum() for half in (found[:, :48], found[:, 48:]))
        assert sides[0] < 0.2 * sides[1]
        assert sides[1] == mask.sum() / 2


def test_empty_channels_stay_empty():
    mask = np.stack([np.zeros((64, 64), np.float32), lungs(64)], -1)
    for kind in unseen.KINDS:
        found = unseen.apply_kind(kind, mask, 0)
        assert not found[..., 0].any()
        assert (found[..., 1] != mask[..., 1]).any()


def test_baselines_answer_with_training_masks():
    whole = lungs(64)[..., None]
    half = whole * (np.arange(64) < 32).astype(np.float32)[None, :, None]
    known = [{"mask": whole}] * 9 + [{"mask": half}] * 8
    shapes = Shapes(known)
    given = np.stack([whole, half, 0 * whole])
    np.testing.assert_array_equal(shapes.mean(given), np.broadcast_to(whole > 0, given.shape))
    nearest = shapes.nearest(given)
    np.testing.assert_array_equal(nearest[0], whole > 0)
    np.testing.assert_array_equal(nearest[1], half > 0)
    assert nearest[2].any()  # of an empty mask, some training masks
    with pytest.raises(ValueError, match="at least one training mask"):
        Shapes([])


def test_bad_training_masks_are_left_out_on_request(tmp_path):
    source = MaskFolder(write_masks(tmp_path / "known", count=6, size=64), (64, 64))
    given = source[0]["mask"][None]
    source.files[3].write_bytes(b"no picture")
    with pytest.raises(ImageError, match="mask_03"):
        Shapes(source)
    assert Shapes(source, on_error="skip").nearest(given).shape == given.shape
