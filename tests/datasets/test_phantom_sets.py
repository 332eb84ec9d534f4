"""Sets of phantoms have the layouts that training reads."""

import numpy as np
import pytest

from jaxseg.anatomy.data import Split, read_paxray
from jaxseg.annotators.data import lidc_slices
from jaxseg.datasets.phantom_sets import SLICES, draw_nodule, prepare_phantoms

COUNTS = {"train": 3, "validate": 2, "test": 1}


def test_annotators_of_a_nodule_disagree_around_the_truth():
    distances, counts, unmarked = [], set(), 0
    for seed in range(40):
        images, labels, truth = draw_nodule(seed)
        assert (images.shape, truth.shape, labels.shape[:3]) == ((SLICES, 64, 64),) * 3
        counts.add(labels.shape[-1])
        inside, outside = images[truth].mean(), images[~labels.any(-1) & ~truth].mean()
        assert inside > outside + 200  # the nodule is visible
        for mask in np.moveaxis(labels, -1, 0):
            there = mask.any((1, 2))
            unmarked += int((~there).sum())
            overlap = (mask & truth)[there].sum() / (mask | truth)[there].sum()
            distances.append(1 - overlap)
    assert counts == {2, 3, 4}
    assert 0.1 < np.mean(distances) < 0.35
    assert min(distances) > 0.01
    assert unmarked > 0


def test_a_set_of_nodules_has_the_lidc_layout_and_no_phantom_is_in_two_splits(tmp_path):
    assert prepare_phantoms("annotators", tmp_path / "a", **COUNTS).made == 6
    seen = set()
    for split, count in COUNTS.items():
        source = lidc_slices(tmp_path / "a", split)
        assert len(source) == count * SLICES
        for i in range(len(source)):
            record = source[i]
            np.testing.assert_allclose([record["image"].mean(), record["image"].std()], [0, 1], atol=1e-5)
            assert record["truth"].sum() >= 31
            seen.add(record["image"].tobytes())
    assert len(seen) == 6 * SLICES
    prepare_phantoms("annotators", tmp_path / "a", **COUNTS)  # a set that the function made itself is replaced
    before = lidc_slices(tmp_path / "a", "train")[0]["image"]
    prepare_phantoms("annotators", tmp_path / "b", **COUNTS)
    np.testing.assert_array_equal(lidc_slices(tmp_path / "b", "train")[0]["image"], before)


def test_a_set_of_x_rays_has_the_pax_ray_layout(tmp_path):
    prepare_phantoms("xray", tmp_path / "x", **COUNTS, size=64)
    data = read_paxray(tmp_path / "x")
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 3, "val": 2, "test": 1}
    record = Split(data.splits["val"], len(data.names), (64, 64))[0]
    assert record["image"].shape == (64, 64, 3)
    assert record["target"].any()


def test_impossible_options_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x.txt").write_text("")
    for kind, out, counts, options, reason in (
        ("ct", "out", COUNTS, {}, "kind is 'ct'; known: annotators, xray"),
        ("xray", "out", {"train": 0}, {}, "train must be at least 1"),
        ("xray", "out", COUNTS, {"size": 8}, "the size from 32"),
        ("xray", "mine", COUNTS, {}, "did not write"),
    ):
        with pytest.raises(ValueError, match=reason):
            prepare_phantoms(kind, tmp_path / out, **counts, **options)
    assert not (tmp_path / "out").exists()
