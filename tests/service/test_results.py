"""Kept results: their bounds in number, bytes and seconds, and the choice of classes."""

import numpy as np
import pytest

from jaxseg.masks.segmentation import Segmentation
from jaxseg.service.limits import Limits, Refused
from jaxseg.service.results import Found, Results, chosen


def found(folder, name="x", size=100) -> Found:
    (folder / name).mkdir()
    path = folder / name / "upload-image-1"
    path.write_bytes(b"0" * size)
    bits = np.packbits(np.random.default_rng(0).random((2, 16, 16)) > 0.5, axis=2)
    return Found.of(Segmentation(("heart", "lung"), (0, 1), (20, 30), bits, source=path), path, name, "original")


def test_masks_are_kept_compressed_and_come_back_unchanged(tmp_path):
    one = found(tmp_path)
    wanted = np.packbits(np.random.default_rng(0).random((2, 16, 16)) > 0.5, axis=2)
    assert one.segmentation.bits.size == 0
    np.testing.assert_array_equal(one.masks((16, 16)).bits, wanted)
    assert one.size == 100 + len(one.packed)


@pytest.mark.parametrize("bound", [{"results": 2}, {"result_bytes": 10_300}])
def test_the_oldest_result_is_dropped_with_its_folder(tmp_path, bound):
    removed = []
    results = Results(Limits(**bound), removed.append)
    items = [found(tmp_path, name, 5000) for name in "abc"]
    names = [results.keep(item) for item in items]
    assert removed == [items[0].folder]
    assert [results.holds(item.folder) for item in items] == [False, True, True]
    with pytest.raises(Refused, match="no such result"):
        results.get(names[0])
    assert results.get(names[2]) is items[2]


def test_a_result_is_dropped_after_its_time(tmp_path):
    now, removed = [0.0], []
    results = Results(Limits(result_seconds=600), removed.append, clock=lambda: now[0])
    name = results.keep(found(tmp_path))
    now[0] = 599
    results.get(name)
    now[0] = 601
    results.drop_old()
    assert (len(results), len(removed)) == (0, 1)


def test_names_are_random_and_long(tmp_path):
    results = Results(Limits(), lambda folder: None)
    names = {results.keep(found(tmp_path, name)) for name in "abc"}
    assert len(names) == 3
    assert {len(name) for name in names} == {32}


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    masks = found(tmp_path).masks((16, 16))
    assert chosen(masks, "lung").indices == (1,)
    with pytest.raises(Refused, match="liver"):
        chosen(masks, "liver")
