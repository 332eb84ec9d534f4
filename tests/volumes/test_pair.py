"""Checks of a CT and its mask."""

import numpy as np
import pytest
from volume_files import AFFINE

from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import read_volume
from jaxseg.volumes.volume import Volume, VolumeError, canonical

HU = np.linspace(-1000, 1500, 24).reshape(2, 3, 4)


def named(array, name, affine=None):
    return Volume(np.asarray(array), affine, name)


@pytest.mark.parametrize("values", [HU, HU.astype(np.int16), HU / 10 + 50, HU - 900])
def test_hounsfield_units_pass(values):
    assert check_ct(named(values, "ct")) == ()


def test_every_shared_ct_passes(shared):
    for path in sorted((shared / "data" / "ct").glob("*/*/ct.nii.gz")):
        assert check_ct(read_volume(path)) == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((HU + 1000) / 2500, "look normalised"),
        (HU / 1000, "look normalised"),
        ((HU - HU.mean()) / HU.std(), "look normalised"),
        (((HU + 1000) / 2500 * 255).astype(np.uint8), "8-bit image"),
        (np.zeros((2, 3, 4)), "every voxel is 0"),
        (np.where(HU > 1400, np.nan, HU), "1 voxels are NaN"),
        (np.where(HU > 1400, np.inf, HU), "1 voxels are NaN or infinite"),
    ],
)
def test_other_values_are_refused(values, message):
    with pytest.raises(VolumeError, match=f"ct: .*{message}"):
        check_ct(named(values, "ct"))


def test_a_missing_intercept_gives_a_remark():
    assert "intercept" in check_ct(named(HU + 1024, "ct"))[0]


@pytest.mark.parametrize("top", [1, 255])
def test_masks_with_two_values_become_bool(top):
    values = np.array([[[0, top, 0]]], np.uint8)
    assert check_mask(named(values, "m")).array.tolist() == [[[False, True, False]]]
    assert not check_mask(named(values * 0, "m")).array.any()
    assert check_mask(named(values.astype(np.float32), "m")).array.dtype == bool


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 0.5, 1], [0, -1, 1], [0, 7, 7], [0, 1, 255], [0, np.nan, 1]])
def test_other_masks_are_refused(values):
    with pytest.raises(VolumeError, match="m: "):
        check_mask(named([[values]], "m"))


def test_pairs_with_one_position_pass_and_shapes_are_compared():
    ct = named(HU, "ct.nii.gz", AFFINE)
    check_pair(ct, named(HU > 0, "m", AFFINE + 1e-4))
    check_pair(ct, named(HU > 0, "m"))
    with pytest.raises(VolumeError, match=r"m: the mask is 2 x 3 x 5, ct.nii.gz is 2 x 3 x 4$"):
        check_pair(ct, named(np.zeros((2, 3, 5)), "m"))
    with pytest.raises(VolumeError, match="another order"):
        check_pair(ct, named(np.zeros((4, 3, 2)), "m"))


def test_the_message_says_how_a_mask_covers_another_space():
    ct = named(HU, "ct", AFFINE)
    turned = canonical(named(HU > 0, "m", AFFINE))
    with pytest.raises(VolumeError, match="its axes are RAS, those of the CT are LAS"):
        check_pair(ct, turned)
    check_pair(canonical(ct), turned)
    with pytest.raises(VolumeError, match="0.8 x 0.9 x 1.5 mm, those of the CT are 0.8 x 0.9 x 3 mm"):
        check_pair(ct, named(HU, "m", AFFINE @ np.diag([1, 1, 0.5, 1])))
    moved = AFFINE.copy()
    moved[2, 3] += 3
    with pytest.raises(VolumeError, match="up to 3 mm apart"):
        check_pair(ct, named(HU, "m", moved))


def test_a_small_difference_of_spacing_is_found_in_a_long_volume():
    spacing = AFFINE.copy()
    spacing[2, 2] *= 1.0005
    long = np.zeros((200, 3, 4))
    with pytest.raises(VolumeError, match="mm apart"):
        check_pair(named(long, "ct", AFFINE), named(long, "m", spacing))
