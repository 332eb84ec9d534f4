"""The small network whose masks at several stages of its training are training data: learning, sizes, storing."""

import json

import numpy as np
import pytest

from jaxseg.nn.metrics import dice
from jaxseg.segae.segmenter import Segmenter, SegmenterSettings, enlarged, read_segmenter, slice_input, train_segmenter
from jaxseg.weights.safetensors import map_arrays, read_metadata, write_arrays

SETTINGS = SegmenterSettings(stages=5, steps=120, size=32, width=4, learning_rate=5e-3)


def scan(seed: int, shape=(6, 50, 60)) -> tuple[np.ndarray, np.ndarray]:
    """Returns a CT with a bright organ, class 13, at a random place, and its classes."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(5, 20, 2)
    classes = np.zeros(shape, np.uint8)
    classes[1:5, row : row + 20, column : column + 24] = 13
    return np.where(classes, 150, -100) + rng.integers(-30, 30, shape), classes


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return train_segmenter([(f"case {seed}", *scan(seed)) for seed in range(3)], 3, SETTINGS)


def test_masks_become_better_from_stage_to_stage(segmenter):
    ct, classes = scan(9)
    found = {name: dice(mask == 13, classes == 13, axes=None) for name, mask in segmenter.segment(ct)}
    assert list(found) == [f"network_{step:05}" for step in SETTINGS.kept]
    first, *_, last = found.values()
    assert last > 0.85
    assert first < last - 0.2


def test_masks_have_the_shape_of_the_ct_and_known_classes(segmenter):
    for shape in ((1, 40, 40), (9, 33, 70)):
        ct, _ = scan(0, (6, 50, 60))
        ct = np.resize(ct, shape)
        for _, mask in segmenter.segment(ct):
            assert (mask.shape, mask.dtype) == (shape, np.uint8)
            assert set(np.unique(mask)) <= {0, 13}


def test_a_stored_network_segments_the_same(segmenter, tmp_path):
    segmenter.write(tmp_path / "s.safetensors")
    again = read_segmenter(tmp_path / "s.safetensors", SETTINGS)
    assert again.settings == segmenter.settings
    assert again.cases == segmenter.cases == ("case 0", "case 1", "case 2")
    ct, _ = scan(9)
    for (name, one), (other, two) in zip(segmenter.segment(ct), again.segment(ct), strict=True):
        assert name == other
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("cut", [0, 20, 400, -1])
def test_a_damaged_file_is_refused(segmenter, tmp_path, cut):
    path = tmp_path / "s.safetensors"
    segmenter.write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is damaged .*; remove it, and the network is trained again"):
        read_segmenter(path, SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": ["/x"]}, "other stages"),
        ({"stages": ["../x"] * 5}, "other stages"),
        ({"settings": {"width": 4_000_000}}, "other settings"),
        ({"settings": {"seed": 1}}, "other settings"),
        ({"classes": [0, 300]}, "other classes"),
        ({"classes": [13, 0]}, "other classes"),
        ({"classes": [0, *range(13, 100)]}, "other shapes"),
        ({"classes": []}, "other classes"),
        ({"cases": "x"}, "name its cases"),
        ({"cases": [3]}, "name its cases"),
    ],
)
def test_a_file_of_somebody_else_can_name_no_other_paths_and_sizes(segmenter, tmp_path, change, words):
    path = tmp_path / "s.safetensors"
    segmenter.write(path)
    content = json.loads(read_metadata(path)["jaxseg_segmenter"])
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    other = tmp_path / "other.safetensors"
    write_arrays(other, map_arrays(path), {"jaxseg_segmenter": json.dumps(content)})
    with pytest.raises(ValueError, match=words):
        read_segmenter(other, SETTINGS)


def test_the_window_is_clipped_and_the_whole_range_kept():
    plane = np.full((20, 30), -1000.0)
    plane[:, 15:] = 1000
    found = slice_input(plane, 32)
    assert found.shape == (32, 32, 2)
    assert found[:, :10].max() == 0
    assert found[:, -10:].min() == 255


@pytest.mark.parametrize("seed", range(10))
def test_enlarged_slices_contain_only_classes_of_the_slice(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(6), (8, 9)).astype(np.float32)
    same = enlarged(probs, (8, 9))
    np.testing.assert_array_equal(same, probs.argmax(-1))
    assert set(np.unique(enlarged(probs, (21, 30)))) <= {0, *np.unique(probs.argmax(-1))}


@pytest.mark.parametrize("values", [{"stages": 1}, {"steps": 10}, {"size": 16}, {"width": 6}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValueError, match="a segmenter needs"):
        SegmenterSettings(**values)


def test_without_any_case_there_is_no_network():
    with pytest.raises(ValueError, match="none of the training cases could be read"):
        train_segmenter([], 1, SETTINGS)
