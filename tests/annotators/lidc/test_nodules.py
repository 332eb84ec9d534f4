"""Outlines become masks, and the masks of several readers become nodules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lidc_files import STEP, annotation, box, stack

from jaxseg.annotators.lidc.nodules import Stack, fill, find_nodules, group, join, place


def points(outline) -> np.ndarray:
    return np.array(outline, np.int32)


def test_the_pixels_of_an_outline_are_outside_the_nodule():
    mask = fill(points(box(3, 4, 5, 6)), (20, 20))
    wanted = np.zeros((20, 20), bool)
    wanted[3:8, 4:10] = True
    np.testing.assert_array_equal(mask, wanted)


def test_corners_enclose_the_same_pixels_as_full_outlines_in_either_direction():
    corners = [(2, 3), (2, 10), (8, 10), (8, 3)]
    whole = fill(points(box(3, 4, 5, 6)), (12, 14))
    for outline in (corners, corners[::-1], corners[2:] + corners[:2]):
        np.testing.assert_array_equal(fill(points(outline), (12, 14)), whole)


def test_lines_and_points_enclose_nothing():
    for outline in ([(3, 3)], [(3, 3), (3, 9)], [(1, 1), (5, 5), (9, 9)], [(2, 2), (2, 6), (2, 2)]):
        assert not fill(points(outline), (12, 12)).any()


def enclosed(outline, size) -> np.ndarray:
    """Returns the inside by definition: an odd number of crossings of a ray to the right, without pixels on an edge."""
    found = np.zeros(size, bool)
    edges = list(zip(outline, outline[1:] + outline[:1], strict=True))
    for r, c in np.ndindex(size):
        on, crossings = False, 0
        for (r0, c0), (r1, c1) in edges:
            cross = (r1 - r0) * (c - c0) - (c1 - c0) * (r - r0)
            within = min(r0, r1) <= r <= max(r0, r1) and min(c0, c1) <= c <= max(c0, c1)
            on |= cross == 0 and within
            if (r0 <= r) != (r1 <= r):
                ahead = (c0 - c) * (r1 - r0) + (r - r0) * (c1 - c0)
                crossings += ahead * (r1 - r0) > 0
        found[r, c] = crossings % 2 == 1 and not on
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=9))
def test_any_polygon_is_filled_by_the_even_odd_rule(outline):
    np.testing.assert_array_equal(fill(points(outline), (9, 9)), enclosed(outline, (9, 9)))


def test_exclusions_are_removed_and_slices_are_found_by_uid_in_any_order():
    drawn = [(5, box(20, 20, 9, 9)), (3, box(22, 22, 4, 4)), (5, box(23, 23, 2, 3), False)]
    placed = place(annotation(0, drawn), stack())
    assert placed.start[0] == 3
    assert placed.mask.sum((1, 2)).tolist() == [16, 0, 81 - 6]
    whole = np.zeros((9, 96, 96), bool)
    whole[tuple(slice(a, b) for a, b in zip(placed.start, placed.stop, strict=True))] = placed.mask
    assert whole[5, 20:29, 20:29].sum() == 75
    assert not whole[5, 23:25, 23:26].any()


def test_a_slice_without_its_uid_is_found_by_its_position_or_refused():
    known = stack()
    moved = Stack(known.z, {}, known.size, known.spacing_mm)
    assert place(annotation(0, [(4, box(20, 20, 3, 3))]), moved).start[0] == 4
    away = Stack(known.z + 1.0, {}, known.size, known.spacing_mm)
    with pytest.raises(ValueError, match=r"no slice 1\.2\.35\.5 at -110 mm"):
        place(annotation(0, [(4, box(20, 20, 3, 3))]), away)
    with pytest.raises(ValueError, match="nodule of reader 0: an outline leaves its slice of"):
        place(annotation(0, [(4, box(90, 20, 6, 3))]), known)


def test_annotations_that_overlap_or_are_within_a_slice_spacing_are_one_nodule():
    def groups(*drawn):
        return [nodule.readers for nodule in find_nodules([annotation(r, [d]) for r, d in enumerate(drawn)], stack())]

    assert groups((3, box(20, 20, 8, 8)), (3, box(26, 26, 8, 8))) == [(0, 1)]
    assert groups((3, box(20, 20, 8, 8)), (4, box(20, 20, 8, 8))) == [(0, 1)]  # one slice spacing apart
    assert groups((3, box(20, 20, 8, 8)), (5, box(20, 20, 8, 8))) == [(0,), (1,)]
    assert groups((3, box(20, 20, 4, 4)), (3, box(20, 26, 4, 4))) == [(0, 1)]
    assert groups((3, box(20, 20, 4, 4)), (3, box(20, 40, 4, 4))) == [(0,), (1,)]
    assert groups((3, box(20, 20, 30, 30)), (3, box(33, 33, 4, 4))) == [(0, 1)]  # one inside the other
    # a chain: the second joins the first and the last
    assert groups((3, box(20, 20, 4, 4)), (3, box(20, 27, 4, 4)), (3, box(20, 34, 4, 4))) == [(0, 1, 2)]


def test_a_nodule_has_at_most_one_annotation_per_reader_and_the_nearest_are_joined():
    left, right = box(20, 20, 8, 8), box(20, 28, 8, 8)
    both = box(20, 22, 8, 8)  # shares more with the left
    placed = [place(annotation(r, [(3, d)]), stack()) for r, d in ((0, left), (0, right), (1, both))]
    assert group(placed, STEP) == [(0, 2), (1,)]
    again = [place(annotation(r, [(3, d)]), stack()) for r, d in ((0, left), (1, both), (0, right), (1, right))]
    assert group(again, STEP) == [(0, 1), (2, 3)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(3, 80), st.integers(3, 80)), max_size=9))
def test_groups_partition_the_annotations_and_hold_no_reader_twice(drawn):
    placed = [place(annotation(r, [(z, box(row, column, 6, 6))]), stack()) for r, z, row, column in drawn]
    groups = group(placed, STEP)
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
