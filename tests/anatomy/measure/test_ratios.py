"""CTR and SCD are measured at the original's positions, on its grid and on others."""

import numpy as np
import pytest
from measurements import GOLDEN, NAMES, phantom

from jaxseg.anatomy.measure.ratios import (
    CTR_CLASSES,
    SCD_CLASSES,
    cardio_thoracic,
    measure_ctr,
    measure_scd,
    spine_centre,
)
from jaxseg.anatomy.measure.shapes import Unmeasurable
from jaxseg.vocabulary.labels import CXAS


def chosen(masks, classes):
    return masks[[CXAS.index(name) for name in classes]]


def chest(height=40, width=60):
    """Returns a hemidiaphragm that ends in column 25, a heart of columns 20 to 37 and lungs of columns 10 to 49."""
    masks = np.zeros((3, height, width), bool)
    masks[0, 30, 12:26] = True
    masks[1, 20:28, 22:36] = True
    masks[1, 22, 20:36] = True
    masks[1, 25, 22:38] = True
    masks[2, 5:30, 15:45] = True
    masks[2, 10, 10] = masks[2, 10, 49] = True
    return masks


@pytest.mark.parametrize("name", [name for name in NAMES if name != "no_hemidiaphragm"])
def test_ctr_uses_the_originals_columns(kit, name):
    want, found = GOLDEN[name]["CTR"], cardio_thoracic(*chosen(phantom(kit, name), CTR_CLASSES))
    got = {"midline": found.midline, "mrd": found.heart_right[1], "mld": found.heart_left[1], "ID": found.thorax_width}
    assert got == {key: want[key] for key in got}
    assert found.heart_width / found.thorax_width == want["score"]


@pytest.mark.parametrize("name", NAMES)
def test_scd_uses_the_originals_centres_and_points(kit, name):
    want, found = GOLDEN[name]["SCD"], spine_centre(chosen(phantom(kit, name), SCD_CLASSES))
    assert found.centres.tolist() == want["centers"]
    assert found.nearest.tolist() == want["points"]
    assert found.distances.tolist() == want["center_dists"]


def test_ctr_of_a_chest_measured_by_hand():
    values, lines = measure_ctr(chest(), (3.0, 2.0))
    assert values == {"CTR": 17 / 39, "CTR_heart_width_mm": 34.0, "CTR_thorax_width_mm": 78.0}
    assert {line.kind: line.points.tolist() for line in lines} == {
        "midline": [[25, 0], [25, 39]],
        "heart right": [[25, 22], [20, 22]],
        "heart left": [[25, 25], [37, 25]],
        "thorax": [[10, 10], [49, 10]],
    }


def test_a_heart_on_one_side_of_the_midline_has_extent_0_on_the_other():
    masks = chest()
    masks[1] = np.roll(masks[1], 15, axis=1)
    found = cardio_thoracic(*masks)
    assert (found.heart_right[1], found.heart_left[1]) == (0, 27)


@pytest.mark.parametrize("missing", range(3))
def test_ctr_reports_which_mask_is_empty(missing):
    masks = chest()
    masks[missing] = False
    with pytest.raises(Unmeasurable, match=f"the mask of '{CTR_CLASSES[missing]}' is empty") as error:
        cardio_thoracic(*masks)
    assert not error.value.crashes  # the original gives -1


def test_ctr_of_lungs_one_pixel_wide_does_not_divide_by_zero():
    masks = chest()
    masks[2] = False
    masks[2, 3:9, 7] = True
    with pytest.raises(Unmeasurable, match="one pixel wide") as error:
        cardio_thoracic(*masks)
    assert error.value.crashes


def vertebrae(points, height, width):
    masks = np.zeros((len(points), height, width), bool)
    for mask, (x, y) in zip(masks, points, strict=True):
        mask[y, x] = True
    return masks


def test_a_straight_spine_lies_on_its_line_on_any_grid():
    masks = vertebrae([(30, 20 * i + 5) for i in range(10)], 200, 90)
    found = spine_centre(masks)
    assert found.line.shape == (200, 2)
    assert found.distances.tolist() == [0] * 10
    assert found.centres[0].tolist() == [30, 5]


def test_scd_in_mm_uses_different_distances_of_rows_and_columns():
    masks = vertebrae([(28, 20), (32, 40), (32, 60), (28, 80)], 100, 60)
    values, _ = measure_scd(masks, (5.0, 0.5))
    assert values == {"SCD": 2.0, "SCD_mm": 1.0}
    assert measure_scd(masks, None)[0] == {"SCD": 2.0}


def test_a_centre_in_the_first_row_or_column_is_left_out():
    masks = vertebrae([(0, 20), (30, 0), (31, 50)], 100, 60)
    assert spine_centre(masks).centres.tolist() == [[31, 50]]
    with pytest.raises(Unmeasurable, match="no vertebra") as error:
        spine_centre(masks[:2])
    assert error.value.crashes


def test_c7_is_left_out_as_in_the_original():
    assert len(SCD_CLASSES) == 23
    assert "vertebrae C7" not in SCD_CLASSES
    assert {*SCD_CLASSES, *CTR_CLASSES} < set(CXAS)
