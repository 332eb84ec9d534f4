"""Sheets of masks: position of the outlines, grey values of the window, and tiles for all masks."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from volume_files import save_nifti

from jaxseg.segae import worst
from jaxseg.segae.cases import Case
from jaxseg.segae.worst import CONTOUR, WorstMask, radiological, worst_picture, worst_sheet


def row(shape=(60, 80), box=(slice(20, 40), slice(30, 55)), **changes) -> WorstMask:
    mask = np.zeros(shape, bool)
    mask[box] = True
    found = WorstMask(np.where(mask, 60, 0).astype(np.int16), mask, "s0001, liver", 0.42)
    return dataclasses.replace(found, **changes)


def outline(rows, **options) -> np.ndarray:
    return (np.asarray(worst_sheet(rows, **options)) == np.asarray(CONTOUR)).all(-1)


def runs(line: np.ndarray) -> list[int]:
    """Returns the lengths of the runs of True."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]])))
    return (ends[1::2] - ends[::2]).tolist()


def test_the_outline_is_two_pixels_wide_and_has_the_shape_of_the_mask():
    found = outline([row()])
    rows, columns = np.nonzero(found)
    middle = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    assert runs(found[middle[0]]) == [2, 2]
    assert runs(found[:, middle[1]]) == [2, 2]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width / height == pytest.approx(25 / 20, rel=0.05)


def test_small_and_large_masks_are_zoomed_to_one_size_with_a_margin():
    small, large = (outline([row((512, 512), (slice(100, 100 + n), slice(90, 90 + n)))]) for n in (20, 200))
    widths = [np.ptp(np.nonzero(found)[1]) for found in (small, large)]
    assert widths[0] == pytest.approx(widths[1], rel=0.25)
    assert np.nonzero(small)[1].min() > 30


def test_grey_values_are_those_of_the_window():
    levels = np.repeat(np.array([-400, -160, 40, 240, 900]), 20)
    ct = np.tile(levels, (100, 1))
    nothing = np.zeros(ct.shape, bool)
    picture = np.asarray(worst_sheet([WorstMask(ct, nothing, "", 0.1)]))
    line = picture[picture.shape[0] // 3]
    columns = np.flatnonzero((line != line[0]).any(-1))
    shown = [int(line[columns[0] + round((columns[-1] - columns[0]) * (i + 0.5) / 5)][0]) for i in range(1, 5)]
    np.testing.assert_allclose(shown, [0, 128, 255, 255], atol=3)


def test_an_empty_mask_shows_the_whole_slice_without_an_outline():
    picture = worst_sheet([row(mask=np.zeros((60, 80), bool))])
    assert picture.size == worst_sheet([row()]).size
    assert not outline([row(mask=np.zeros((60, 80), bool))]).any()


@pytest.mark.parametrize(
    "box", [(slice(0, 60), slice(0, 80)), (slice(0, 1), slice(0, 1)), (slice(59, 60), slice(0, 80))]
)
def test_masks_at_the_border_of_the_slice_are_drawn(box):
    assert outline([row(box=box)]).sum() >= 4


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_every_mask_has_its_own_tile(count):
    shapes = [(60, 80), (20, 200), (200, 20), (1, 1), (7, 5)]
    rows = []
    for i in range(count):
        mask = np.ones(shapes[i % 5], bool)
        rows.append(WorstMask(np.zeros(mask.shape), mask, f"organ {i}", i / 30, truth=0.5 if i % 2 else None))
    picture = worst_sheet(rows)
    assert picture.mode == "RGB"
    assert max(picture.size) < 3000
    cells = (np.asarray(picture) == np.asarray(CONTOUR)).all(-1)
    columns = picture.width // 232
    high = (picture.height - 12) // -(-count // columns)
    found = [cells[12 + i // columns * high :][:high, i % columns * 232 :][:, :232].any() for i in range(count)]
    assert found == [True] * count


def test_a_long_title_does_not_reach_the_next_tile():
    pictures = [np.asarray(worst_sheet([row(title=title), row()])) for title in ("a", "a title without an end " * 50)]
    half = pictures[0].shape[1] // 2
    np.testing.assert_array_equal(pictures[0][:, half:], pictures[1][:, half:])
    assert (pictures[0][:, :half] != pictures[1][:, :half]).any()


def test_the_true_dice_is_shown_if_it_is_known():
    one, two = (np.asarray(worst_sheet([row(truth=truth)])) for truth in (None, 0.9))
    changed = np.nonzero((one != two).any(-1))[0]
    assert changed.min() > one.shape[0] * 0.75


def test_values_that_are_not_finite_are_drawn_as_if_they_were_zero():
    ct = np.full((60, 80), np.nan)
    pictures = [np.asarray(worst_sheet([row(ct=values)])) for values in (ct, np.zeros((60, 80)))]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no mask to draw"),
        ([row(ct=np.zeros((80, 60)))], r"of one shape, got \(80, 60\) and \(60, 80\)"),
        ([row(ct=np.zeros((2, 3, 4)), mask=np.zeros((2, 3, 4), bool))], r"must be \(h, w\)"),
        ([row(ct=np.zeros((0, 4)), mask=np.zeros((0, 4), bool))], r"must be \(h, w\)"),
    ],
)
def test_invalid_masks_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        worst_sheet(rows)


# Directions of the axes x, y and z of a volume, and the slice that a radiologist sees, as letters of its corners.
AXES = ["RAS", "LPS", "LAI", "ARS", "PLS", "SRA", "RSA", "ASR", "PIL"]


@pytest.mark.parametrize("axes", AXES)
def test_slices_are_turned_as_radiologists_look_at_them(axes):
    """The slice is a map of coordinates in mm, so that its turned corners say where the sides of the patient are."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (letter, mm) in enumerate(zip(axes, (0.5, 0.75, 2), strict=True)):
        affine["LRPAIS".index(letter) // 2, axis] = mm if letter in "RAS" else -mm
    y, x = np.mgrid[:6, :9]
    place = np.einsum("ij,j...->i...", affine[:3, :2], np.stack([x, y])).astype(float)  # right, anterior, superior
    tiles = [radiological(WorstMask(each, each > 0, "", 0.5), affine) for each in place]
    left, right, top, bottom = tiles[0].sides
    assert left in "RA"
    assert top in "SA"
    assert {left + right, top + bottom} <= {"RL", "AP", "SI"}
    for letter, ends in ((left, (0, -1)), (top, (0, -1))):
        values = tiles["RAS".index(letter)].ct
        first, last = (values[:, k] if letter == left else values[k] for k in ends)
        assert (first > last).all()
    assert (tiles[0].mask == (tiles[0].ct > 0)).all()


def test_pixels_that_are_not_square_keep_their_proportions():
    found = outline([row(pixel_mm=(2.0, 1.0))])
    rows, columns = np.nonzero(found)
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(2 * 20 / 25, rel=0.05)


def test_the_sides_of_the_patient_are_written_on_a_tile():
    bare, lettered = (np.asarray(worst_sheet([row(sides=sides)])).astype(int) for sides in ("", "RLAP"))
    rows, columns = np.nonzero((bare != lettered).any(-1))
    assert len(rows) > 100
    assert columns.min() < 30 < 200 < columns.max()
    assert rows.max() < 12 + 220


def test_a_scored_volume_is_drawn_with_the_patients_right_on_the_left(tmp_path, monkeypatch):
    ct = np.zeros((3, 40, 40), np.int16)
    mask = np.zeros((3, 40, 40), np.uint8)
    mask[1, 5:10, 30:36] = 1  # posterior and to the right, in a volume whose axes run to the right and anterior
    ct[mask > 0] = 1000
    for name, array in (("ct", ct), ("liver", mask)):
        save_nifti(tmp_path / f"{name}.nii.gz", array, np.eye(4))
    case = Case("s1", tmp_path / "ct.nii.gz", masks={"liver": tmp_path / "liver.nii.gz"}, source="s1")
    drawn = []
    monkeypatch.setattr(worst, "worst_sheet", lambda tiles: drawn.extend(tiles))
    worst_picture([SimpleNamespace(case="s1", organ="liver", worst_slice=1, score=SimpleNamespace(mean=0.2))], [case])
    (tile,) = drawn
    assert tile.sides == "RLAP"
    rows, columns = np.nonzero(tile.mask)
    assert (rows.min(), columns.max()) == (30, 9)
    np.testing.assert_array_equal(tile.ct > 0, tile.mask)


def test_the_place_that_the_model_expects_is_drawn_below_the_mask_in_another_colour():
    mask, expected = np.zeros((2, 64, 64), bool)
    mask[20:40, 20:40], expected[20:40, 30:50] = True, True
    ct = np.zeros((64, 64))
    plain = np.asarray(worst.worst_sheet([worst.WorstMask(ct, mask, "liver", 0.5)]))
    both = np.asarray(worst.worst_sheet([worst.WorstMask(ct, mask, "liver", 0.5, expected=expected)]))
    counts = [
        [(sheet == colour).all(-1).sum() for colour in (worst.CONTOUR, worst.EXPECTED)] for sheet in (plain, both)
    ]
    assert counts[0][1] == 0
    assert counts[1][1] > 100
    assert counts[1][0] == counts[0][0] > 100
