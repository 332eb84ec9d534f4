"""Measurements equal the original's on its phantoms; what cannot be measured is NaN with a reason."""

import itertools
import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements import GOLDEN, NAMES, phantom
from parity_kit import DATA
from PIL import Image

import jaxseg
from jaxseg.anatomy.measure.features import FEATURES, classes_for, find, find_all, measure
from jaxseg.anatomy.measure.ratios import CTR_CLASSES
from jaxseg.vocabulary.labels import CXAS

EVERY = [feature.name for feature in FEATURES]


def original(name):
    """Returns all values that the original measured on a phantom, by column."""
    values = {}
    for feature, found in GOLDEN[name].items():
        values |= {feature: found["score"]} if feature in ("CTR", "SCD") else found
    return values


def test_only_the_classes_that_the_features_need_are_segmented():
    assert set(classes_for(find_all("CTR"), CXAS)) == {"heart", "lung", "right hemidiaphragm"}
    assert classes_for(find_all("CTR,area"), CXAS) is None
    assert classes_for(find_all("CTR,SCD"), ["lung", "heart", "right hemidiaphragm"]) == list(CTR_CLASSES)
    with pytest.raises(ValueError, match="CTR cannot be measured with this model: it has no class 'heart', 'lung'"):
        classes_for(find_all("CTR"), ["right hemidiaphragm"])


@pytest.mark.parametrize("name", NAMES)
def test_measurements_equal_the_originals_to_the_last_digit(kit, name):
    found = measure(phantom(kit, name), CXAS, EVERY, original_values=True)
    want = original(name)
    assert found.values == want
    assert {column: type(found.values[column]) for column in want} == {c: type(v) for c, v in want.items()}
    assert found.reasons == {}


def by_definition(mask):
    """Returns the six features of a mask, with the original's values for what cannot be measured, by OpenCV."""
    y, x = np.nonzero(mask)
    if not len(x):
        return (0, -1, -1, -1, -1, 0, 0, 0, 0, -1)
    contour = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    length = -1
    for (x0, y0), (x1, y1) in itertools.pairwise(contour[:, 0].tolist()):
        length = max(length, 0.0) + math.hypot(x1 - x0, y1 - y0)
    compactness = 4 * math.pi * len(x) / length**2 if length > 0 else -1
    box = (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)
    hull = cv2.contourArea(cv2.convexHull(contour))
    return len(x), length, compactness, x.sum() // len(x), y.sum() // len(x), *box, len(x) / hull if hull else -1


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1))
def test_features_of_random_masks_equal_their_definitions(height, width, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((7, height, width)) < np.array([0.05, 0.2, 0.5, 0.8, 0.95, 0, 0])[:, None, None]
    masks[5, rng.integers(height), rng.integers(width)] = True  # one pixel; the last mask is empty
    names = [f"class {k}" for k in range(len(masks))]
    found = measure(masks, names, "area,perimeter,compactness,centroid,box,convexity", original_values=True).values
    ends = ("area", "perimeter", "compactness", "cx", "cy", "x", "y", "width", "height", "convexity")
    for name, mask in zip(names, masks, strict=True):
        assert tuple(found[f"{name}_{end}"] for end in ends) == by_definition(mask)


@pytest.mark.parametrize("name", NAMES)
def test_by_default_what_the_original_cannot_measure_is_nan_with_a_reason(kit, name):
    found, want = measure(phantom(kit, name), CXAS, EVERY), original(name)
    empty = {f"{label}_" for label in CXAS if not want[f"{label}_area"]}
    for column, value in found.values.items():
        label = column[: column.rindex("_") + 1] if "_" in column else ""
        if want[column] == -1 or (label in empty and not column.endswith("_area")):
            assert math.isnan(value), column
            assert found.reasons[column]
        else:
            assert value == want[column]
            assert column not in found.reasons


def test_an_empty_mask_has_area_0_and_reasons_for_the_rest():
    masks = np.zeros((1, 8, 8), bool)
    found = measure(masks, ["heart"], "area,box,centroid")
    assert found.values["heart_area"] == 0
    boxes = {"heart_x", "heart_y", "heart_width", "heart_height", "heart_cx", "heart_cy"}
    assert found.reasons == dict.fromkeys(boxes, "the mask is empty")
    old = measure(masks, ["heart"], "area,box,centroid", original_values=True, pixel_mm=(1, 1))
    assert old.values["heart_x"] == old.values["heart_width"] == 0
    assert old.values["heart_cx"] == -1
    assert math.isnan(old.values["heart_width_mm"])  # the original has no such column
    assert set(old.reasons) == {"heart_width_mm", "heart_height_mm", "heart_centroid_x_mm", "heart_centroid_y_mm"}


@pytest.mark.parametrize("original_values", [True, False])
def test_the_value_is_nan_if_the_original_crashes(original_values):
    masks = np.zeros((len(CXAS), 64, 64), bool)
    masks[[CXAS.index(name) for name in ("heart", "right hemidiaphragm", "lung")], 20:40, 30] = True
    found = measure(masks, CXAS, "CTR,SCD", original_values=original_values)
    assert all(math.isnan(value) for value in found.values.values())
    assert found.reasons == {"CTR": "the mask of 'lung' is one pixel wide", "SCD": "no vertebra was found"}


def test_classes_that_were_not_segmented_are_named():
    masks = np.ones((2, 8, 8), bool)
    found = measure(masks, ["heart", "right hemidiaphragm"], "CTR,SCD", pixel_mm=(1, 1))
    assert found.reasons["CTR"] == found.reasons["CTR_heart_width_mm"] == "class 'lung' was not segmented"
    assert found.reasons["SCD"] == (
        "classes 'vertebrae L1', 'vertebrae L2', 'vertebrae L3' and 20 more were not segmented"
    )
    assert list(found.values) == ["CTR", "CTR_heart_width_mm", "CTR_thorax_width_mm", "SCD", "SCD_mm"]


def test_columns_are_ordered_by_feature_and_class_with_mm_after_pixels():
    found = measure(np.ones((2, 4, 4), bool), ["lung", "heart"], ["box", "area"], pixel_mm=(2, 3))
    ends = ["x", "y", "width", "height", "width_mm", "height_mm"]
    assert list(found.values) == [
        *(f"{label}_{end}" for label in ("lung", "heart") for end in ends),
        "lung_area",
        "lung_area_mm2",
        "heart_area",
        "heart_area_mm2",
    ]
    assert found.features == ("box", "area")
    assert found.values["heart_area_mm2"] == 96


def test_the_order_of_classes_does_not_change_a_ratio(kit):
    masks = phantom(kit, "plausible")
    found = measure(masks[::-1], CXAS[::-1], "CTR,SCD")
    assert found.values == {name: GOLDEN["plausible"][name]["score"] for name in ("CTR", "SCD")}


def test_names_and_aliases_find_features():
    assert find("cardio-thoracic ratio") is find("ctr") is find(" CTR ")
    assert find("Spine-Center Distance").name == "SCD"
    assert [f.name for f in find_all("area, CTR,area,Cardio-Thoracic Ratio")] == ["area", "CTR"]
    assert find("CTR").classes == ("right hemidiaphragm", "heart", "lung")
    assert find("box").classes is None


def test_for_an_unknown_feature_the_nearest_is_suggested():
    with pytest.raises(ValueError, match="unknown feature 'perimetre'; did you mean 'perimeter'"):
        find("perimetre")
    with pytest.raises(ValueError, match="did you mean 'CTR'"):
        find("Cardiothoracic ratio")
    with pytest.raises(ValueError, match="no feature was named"):
        find_all(" , ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": np.ones((2, 4, 4))}, "must be bool"),
        ({"masks": np.ones((4, 4), bool)}, r"must be \(K, H, W\)"),
        ({"masks": np.ones((2, 0, 4), bool)}, "with pixels"),
        ({"names": ["heart"]}, "one name for each of the 2 masks"),
        ({"names": ["heart", "heart"]}, "'heart' 2 times"),
        ({"names": ["heart", ""]}, "a unique name"),
        ({"features": "area,volume"}, "unknown feature 'volume'"),
        ({"pixel_mm": (1.0, 0.0)}, "pixel_mm must be"),
        ({"pixel_mm": (1.0, float("nan"))}, "pixel_mm must be"),
        ({"pixel_mm": (1.0,)}, "pixel_mm must be"),
        (
            {"names": ["heart", "CTR_heart"], "features": "CTR,box", "pixel_mm": (1, 1)},
            "the column 'CTR_heart_width_mm'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = {"masks": np.ones((2, 4, 4), bool), "names": ["heart", "lung"], "features": "area"} | changes
    with pytest.raises(ValueError, match=message):
        measure(**arguments)


def test_each_line_occurs_once_in_the_grid_of_the_masks():
    masks = np.zeros((1, 20, 30), bool)
    masks[0, 4:8, 5:15] = True
    found = measure(masks, ["heart"], "box,centroid,perimeter,compactness,convexity")
    assert found.size == (20, 30)
    assert [line.kind for line in found.lines] == ["box", "centroid", "contour", "hull"]
    assert found.lines[0].points.tolist() == [[4.5, 3.5], [14.5, 3.5], [14.5, 7.5], [4.5, 7.5]]
    assert found.lines[1].points.tolist() == [[9, 5]]
    assert measure(np.zeros_like(masks), ["heart"], "box,convexity").lines == ()


def test_bool_arrays_from_pillow_are_measured_like_others(kit):
    masks = phantom(kit, "plausible")[[107, 121, 134]]
    pillow = np.stack([np.asarray(Image.fromarray(mask)) for mask in masks])
    assert pillow.view(np.uint8).max() == 255  # otherwise the conversion in `measure` is not needed
    names = ("right hemidiaphragm", "heart", "lung")
    features = "CTR, perimeter, area, convexity"
    assert measure(pillow, names, features).values == measure(masks, names, features).values


@pytest.mark.parametrize("name", NAMES)
def test_scd_of_version_0_0_20_uses_c7_too(kit, name):
    golden = json.loads((DATA / "cxas20" / "registration.json").read_text())["scd_with_c7"]
    masks = phantom(kit, name)
    for features in ("SCD", "SCD, CTR"):
        assert measure(masks, CXAS, features, groups="cxas-0.0.20").values["SCD"] == golden[name]
    assert jaxseg.extract(masks, "SCD", groups="cxas-0.0.20").values["SCD"] == golden[name]
    assert jaxseg.extract(masks, "SCD").values == measure(masks, CXAS, "SCD", groups="original").values
