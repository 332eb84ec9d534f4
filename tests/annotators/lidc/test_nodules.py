"""Outlines become masks, and the masks of several readers become nodules."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lidc_files import annotation, box, stack
from matplotlib.path import Path

from jaxseg.annotators.lidc.nodules import Stack, fill, find_nodules, group_as_pylidc, group_by_reader, join, place

BOTH = pytest.mark.parametrize("grouping", ["pylidc", "readers"])


def points(outline) -> np.ndarray:
    return np.array(outline, np.int32)


def test_the_pixels_of_an_outline_are_outside_the_nodule():
    mask = fill(points(box(3, 4, 5, 6)), (20, 20))
    wanted = np.zeros((20, 20), bool)
    wanted[3:8, 4:10] = True
    np.testing.assert_array_equal(mask, wanted)


def test_the_direction_and_the_first_point_of_an_outline_do_not_matter():
    outline = box(3, 4, 5, 6)
    whole = fill(points(outline), (12, 14))
    for again in (outline[::-1], outline[7:] + outline[:7]):
        np.testing.assert_array_equal(fill(points(again), (12, 14)), whole)


def test_lines_and_points_enclose_nothing():
    for outline in ([(3, 3)], [(3, 3), (3, 4)], [(1, 1), (2, 2), (3, 3), (2, 2)], [(2, 2), (2, 3), (2, 4), (2, 3)]):
        assert not fill(points(outline), (12, 12)).any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=9))
def test_any_polygon_is_filled_as_matplotlib_does_for_pylidc(outline):
    """pylidc asks matplotlib which pixels a closed outline contains, and takes the points of the outline out."""
    pixels = np.stack(np.mgrid[:9, :9], -1).reshape(-1, 2)
    inside = Path([*outline, outline[0]], closed=True).contains_points(pixels).reshape(9, 9)
    inside[tuple(points(outline).T)] = False
    np.testing.assert_array_equal(fill(points(outline), (9, 9)), inside)


def test_exclusions_are_removed_and_slices_are_found_by_uid_in_any_order():
    drawn = [(5, box(20, 20, 9, 9)), (3, box(22, 22, 4, 4)), (5, box(23, 23, 2, 3), False)]
    placed = place(annotation(0, drawn), stack())
    assert placed.start[0] == 3
    assert placed.mask.sum((1, 2)).tolist() == [16, 0, 81 - 4 * 5]  # without the outline of the exclusion
    whole = np.zeros((9, 96, 96), bool)
    whole[tuple(slice(a, b) for a, b in zip(placed.start, placed.stop, strict=True))] = placed.mask
    assert whole[5, 20:29, 20:29].sum() == 61
    assert not whole[5, 22:26, 22:27].any()


def test_a_slice_without_its_uid_is_found_by_its_position_or_refused():
    known = stack()
    moved = Stack(known.z, {}, known.size, known.spacing_mm)
    assert place(annotation(0, [(4, box(20, 20, 3, 3))]), moved).start[0] == 4
    away = Stack(known.z + 1.0, {}, known.size, known.spacing_mm)
    with pytest.raises(ValueError, match=r"no slice 1\.2\.35\.5 at -110 mm"):
        place(annotation(0, [(4, box(20, 20, 3, 3))]), away)
    with pytest.raises(ValueError, match="nodule of reader 0: an outline leaves its slice of"):
        place(annotation(0, [(4, box(90, 20, 6, 3))]), known)


def groups(grouping: str, *drawn, known: Stack | None = None) -> list[tuple[int, ...]]:
    """Returns the readers of each nodule if every outline (slice, points) is of another reader."""
    found = find_nodules([annotation(r, [d]) for r, d in enumerate(drawn)], known or stack(), grouping)
    return [nodule.readers for nodule in found]


@BOTH
def test_annotations_that_overlap_or_are_within_a_slice_spacing_are_one_nodule(grouping):
    assert groups(grouping, (3, box(20, 20, 8, 8)), (3, box(26, 26, 8, 8))) == [(0, 1)]
    assert groups(grouping, (3, box(20, 20, 8, 8)), (4, box(20, 20, 8, 8))) == [(0, 1)]  # one slice spacing apart
    assert groups(grouping, (3, box(20, 20, 8, 8)), (6, box(20, 20, 8, 8))) == [(0,), (1,)]
    assert groups(grouping, (3, box(20, 20, 4, 4)), (3, box(20, 26, 4, 4))) == [(0, 1)]
    assert groups(grouping, (3, box(20, 20, 4, 4)), (3, box(20, 40, 4, 4))) == [(0,), (1,)]
    # a chain: the second joins the first and the last
    assert groups(grouping, (3, box(20, 20, 4, 4)), (3, box(20, 27, 4, 4)), (3, box(20, 34, 4, 4))) == [(0, 1, 2)]


def test_pylidc_counts_pixels_and_slices_and_knows_only_outlines():
    two_slices_apart = (3, box(20, 20, 8, 8)), (5, box(20, 20, 8, 8))
    assert groups("pylidc", *two_slices_apart) == [(0, 1)]  # 2 slices are less than 2.5 mm
    assert groups("readers", *two_slices_apart) == [(0,), (1,)]
    thin = dataclasses.replace(stack(), thickness_mm=1.25)
    assert groups("pylidc", *two_slices_apart, known=thin) == [(0,), (1,)]
    one_inside_the_other = (3, box(20, 20, 30, 30)), (3, box(33, 33, 4, 4))
    assert groups("pylidc", *one_inside_the_other) == [(0,), (1,)]
    assert groups("readers", *one_inside_the_other) == [(0, 1)]


def test_groups_of_more_than_four_are_parted_by_a_smaller_tolerance_or_by_their_readers():
    near, far = box(20, 20, 8, 8), box(20, 31, 8, 8)  # their outlines are 2 pixels apart
    readers = [annotation(r, [(3, d)]) for d in (near, far) for r in range(3)]
    assert [nodule.readers for nodule in find_nodules(readers, stack())] == [(0, 1, 2), (0, 1, 2)]
    touching = [annotation(r, [(3, d)]) for d in (near, box(20, 29, 8, 8)) for r in range(3)]  # they share pixels
    placed = [place(each, stack()) for each in touching]
    assert group_as_pylidc(placed, stack()) == [(0, 1, 2), (3, 4, 5)]
    assert group_as_pylidc(placed[:4], stack()) == [(0, 1, 2, 3)]  # pylidc does not know that reader 0 drew both
    assert [nodule.readers for nodule in find_nodules(touching[:4], stack())] == [(0, 0, 1, 2)]


def test_by_reader_a_nodule_has_at_most_one_annotation_per_reader_and_the_nearest_are_joined():
    left, right = box(20, 20, 8, 8), box(20, 28, 8, 8)
    both = box(20, 22, 8, 8)  # shares more with the left
    placed = [place(annotation(r, [(3, d)]), stack()) for r, d in ((0, left), (0, right), (1, both))]
    assert group_by_reader(placed, stack()) == [(0, 2), (1,)]
    again = [place(annotation(r, [(3, d)]), stack()) for r, d in ((0, left), (1, both), (0, right), (1, right))]
    assert group_by_reader(again, stack()) == [(0, 1), (2, 3)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(3, 80), st.integers(3, 80)), max_size=9))
def test_groups_partition_the_annotations_and_hold_no_reader_twice(drawn):
    placed = [place(annotation(r, [(z, box(row, column, 6, 6))]), stack()) for r, z, row, column in drawn]
    groups = group_by_reader(placed, stack())
    assert sorted(i for indices in groups for i in indices) == list(range(len(placed)))
    for indices in groups:
        readers = [placed[i].annotation.reader for i in indices]
        assert len(set(readers)) == len(readers)


def test_the_consensus_needs_half_of_the_readers_and_ratings_are_medians():
    drawn = [
        (2, box(20, 20, 8, 8), 1),
        (0, box(20, 22, 8, 8), 4),
        (1, box(40, 40, 8, 8), None),
        (3, box(22, 20, 8, 8), 3),
    ]
    placed = [place(annotation(r, [(4, d)], malignancy), stack()) for r, d, malignancy in drawn]
    found = join(placed)
    assert found.readers == (0, 1, 2, 3)
    assert found.malignancy == (4, None, 1, 3)
    assert found.ratings[-1] == 3
    assert found.start == (4, 19, 19)
    np.testing.assert_array_equal(found.consensus, found.masks.sum(0) >= 2)
    assert join(placed[:1] + placed[3:]).ratings[-1] == 3  # the higher one of 1 and 3


def test_the_consensus_of_a_single_reader_is_the_mask_of_that_reader():
    nodules = find_nodules([annotation(2, [(4, box(20, 20, 8, 8))])], stack())
    assert [nodule.readers for nodule in nodules] == [(2,)]
    np.testing.assert_array_equal(nodules[0].consensus, nodules[0].masks[0])
    assert find_nodules([], stack()) == []
