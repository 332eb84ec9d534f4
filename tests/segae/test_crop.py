"""SegAE's crops and the input of the network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.segae.crop import (
    Window,
    bounds,
    crop_window,
    draw_margins,
    network_input,
    normalise,
    slices_with,
    spread,
    to_bytes,
)
from jaxseg.volumes.read import read_volume

PARTS = ("upsample", "downsample", "border")


class Scripted:
    """A random generator that returns given integers and records the requested ranges."""

    def __init__(self, values):
        self.values, self.asked = list(values), []

    def integers(self, low, high):
        self.asked.append((low, high - 1))
        return self.values.pop(0)


def masks(kit, name):
    entry, arrays = kit.golden(name)
    for key, (height, width, shapes) in entry["params"]["masks"].items():
        yield key, kit.fill.rasterise([shapes], height, width)[0], arrays[key]


def test_windows_match_the_golden_with_the_fixed_margin(kit):
    for key, mask, wanted in masks(kit, "segae_crop/fixed_margin"):
        assert list(crop_window(bounds(mask), mask.shape)) == wanted.tolist(), key


def test_windows_and_sampled_margins_match_the_golden(kit):
    draws = kit.golden("segae_crop/random_margin")[0]["params"]["draws_low_high_returned"]
    for key, mask, wanted in masks(kit, "segae_crop/random_margin"):
        rng = Scripted(value for _, _, value in draws[key])
        window = crop_window(bounds(mask), mask.shape, draw_margins(rng, bounds(mask)))
        assert list(window) == wanted.tolist(), key
        assert rng.asked == [(low, high) for low, high, _ in draws[key]]  # rows first


def test_margins_obey_a_limit_and_are_the_originals_below_it():
    found = Window(0, 99, 0, 19)
    for largest, wanted in ((12, [(10, 12), (10, 12)]), (100, [(10, 78), (10, 100)]), (None, [(10, 78), (10, 118)])):
        rng = Scripted([10, 10])
        assert draw_margins(rng, found, largest) == (10, 10)
        assert rng.asked == wanted


@pytest.mark.parametrize("part", PARTS)
def test_the_input_equals_the_golden_to_the_bit(kit, part):
    name = f"segae_preprocess/{part}"
    entry, arrays = kit.golden(name)
    hu = np.round(kit.input(name, "hu")).astype(np.int16)[0, 0]
    mask = kit.fill.rasterise([entry["params"]["mask"]], *entry["params"]["shape"])[0]
    found = network_input(hu, mask).transpose(2, 0, 1)
    assert found.dtype == np.float32
    kit.check(name, "x", found)
    window = crop_window(bounds(mask), mask.shape)
    kit.check(name, "crop_hu", hu[window.part].astype(np.int32))
    grey = to_bytes(hu[window.part], mask[window.part])[:, :, 0]
    np.testing.assert_array_equal(grey.ravel()[::17], arrays["resized_ct"].ravel())
    np.testing.assert_array_equal(found[:, 100], arrays["row100"])
    np.testing.assert_array_equal(found[:, :, 37], arrays["col37"])


def test_the_first_input_of_the_case_equals_the_golden(kit):
    folder = kit.folder / "files" / "segae_case"
    ct, mask = (read_volume(folder / f"{name}.nii.gz").array for name in ("ct", "kidney_left"))
    first = slices_with(mask)[0]
    kit.check("segae_end_to_end/volume", "first_input", network_input(ct[first], mask[first]).transpose(2, 0, 1)[None])


def test_positions_match_the_golden(kit):
    positions = kit.golden("segae_slices/positions")[1]["positions"]
    for count, wanted in enumerate(positions):
        assert spread(count) == [place for place in wanted.tolist() if place >= 0]


def test_an_empty_mask_has_no_bounds():
    with pytest.raises(ValueError, match="empty"):
        bounds(np.zeros((5, 6), bool))


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_windows_are_inside_the_slice_and_contain_the_mask_except_its_far_edge(height, width, data):
    mask = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 4))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    margins = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    found = bounds(mask)
    window = crop_window(found, mask.shape, margins)
    assert 0 <= window.top < window.bottom <= height
    assert 0 <= window.left < window.right <= width
    assert window.top <= found.top
    assert window.bottom >= found.bottom or window.bottom == height
    assert window.left <= found.left
    assert window.right >= found.right or window.right == width
    assert np.isfinite(normalise(to_bytes(np.zeros(mask.shape)[window.part], mask[window.part], 8))).all()


def test_margins_below_one_are_refused():
    with pytest.raises(ValueError, match="margins"):
        crop_window(Window(2, 3, 2, 3), (9, 9), (0, 5))


def test_hounsfield_units_beyond_the_range_become_black_and_white():
    ct = np.array([[-1024, -200], [200, 3000]], np.int16)
    values = normalise(to_bytes(np.kron(ct, np.ones((64, 64), np.int16)), np.ones((128, 128), bool), 128))
    assert values[0, 0].tolist() == [-2.0, 1.0]
    assert values[0, -1, 0] == -2.0
    assert values[-1, 0, 0] == 2.0
    assert values[-1, -1, 0] == 2.0


def test_integers_at_the_end_of_their_type_do_not_wrap():
    ct = np.array([[np.iinfo(np.int16).min, np.iinfo(np.int16).max]], np.int16)
    assert to_bytes(ct, np.ones((1, 2), bool), 2)[0, :, 0].tolist() == [0, 255]


def test_slices_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        network_input(np.zeros((4, 5)), np.ones((5, 4), bool))
