"""The colours of the palette differ for normal and for colour-blind vision."""

import numpy as np
import pytest

from jaxseg.datasets import phantom
from jaxseg.palette import OKABE_ITO, _oklab, class_colours, families, palette
from jaxseg.vocabulary.labels import CXAS

# Families of organs that overlap in a frontal X-ray, and whose outlines are often shown together.
OVERLAPPING = [
    *(
        (organ, lungs)
        for lungs in ("lungs", "lobes of lungs", "zones of lungs")
        for organ in (
            "posterior ribs",
            "anterior ribs",
            "clavicles",
            "scapulas",
            "heart",
            "mediastinum",
            "vessels",
            "diaphragm",
            "breasts",
            "spine",
        )
    ),
    ("lobes of lungs", "lungs"),
    ("zones of lungs", "lungs"),
    ("spine", "heart"),
    ("spine", "mediastinum"),
    ("spine", "vessels"),
    ("spine", "airways"),
    ("spine", "esophagus"),
    ("spine", "posterior ribs"),
    ("posterior ribs", "anterior ribs"),
    ("posterior ribs", "clavicles"),
    ("anterior ribs", "clavicles"),
    ("posterior ribs", "scapulas"),
    ("anterior ribs", "scapulas"),
    ("posterior ribs", "heart"),
    ("anterior ribs", "heart"),
    ("posterior ribs", "breasts"),
    ("clavicles", "scapulas"),
    ("heart", "mediastinum"),
    ("heart", "vessels"),
    ("heart", "diaphragm"),
    ("heart", "breasts"),
    ("mediastinum", "vessels"),
    ("mediastinum", "airways"),
    ("mediastinum", "esophagus"),
    ("diaphragm", "abdomen"),
    ("abdomen", "posterior ribs"),
]


def test_all_colours_are_different():
    colours = palette(159)
    assert (colours.shape, colours.dtype) == ((159, 3), np.uint8)
    assert len(np.unique(colours, axis=0)) == 159


def test_the_palette_starts_with_okabe_and_ito():
    assert palette(7).tolist() == [list(colour) for colour in OKABE_ITO]


@pytest.mark.parametrize("num_classes", [0, 1, 7, 8, 9, 36, 200, 201])
def test_a_shorter_palette_starts_a_longer_one(num_classes):
    np.testing.assert_array_equal(palette(num_classes), palette(300)[:num_classes])


@pytest.mark.parametrize("vision", [0, 1, 2], ids=["normal", "red-blind", "green-blind"])
@pytest.mark.parametrize(("num_classes", "least"), [(20, 0.07), (159, 0.02)])
def test_colours_differ_also_for_colour_blind_readers(vision, num_classes, least):
    """In OKLab a distance of about 0.02 is just noticeable; Okabe and Ito's seven are 0.079 apart for green-blind."""
    seen = _oklab(palette(num_classes))[:, vision]
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(num_classes)
    assert apart.min() > least


def test_colours_are_visible_on_dark_lungs():
    """WCAG 2.1 asks for a contrast of 3 between graphics and their background: here lungs of grey value 30."""
    srgb = np.concatenate([palette(159), [[30, 30, 30]]]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    *colours, lung = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert min(colours) / lung > 3


def test_changing_a_returned_palette_has_no_effect_on_the_next():
    palette(3)[:] = 0
    assert palette(3).any()


def test_colours_that_a_red_blind_reader_confuses_are_close_for_that_reader_only():
    red, green = _oklab(np.array([[255, 0, 0], [0, 127, 0]]))
    apart = np.linalg.norm(red - green, axis=-1)
    assert apart[0] > 0.35
    assert apart[1] < 0.6 * apart[0]


@pytest.mark.parametrize("num_classes", [-1, 1001])
def test_numbers_of_colours_out_of_range_are_refused(num_classes):
    with pytest.raises(ValueError, match=f"from 0 to 1000, got {num_classes}"):
        palette(num_classes)


@pytest.mark.parametrize("vision", [0, 1, 2], ids=["normal", "red-blind", "green-blind"])
def test_organs_that_overlap_have_colours_far_apart(vision):
    """Every member of a family is compared with every member of the other; 0.02 is just noticeable in OKLab."""
    seen = {family: _oklab(class_colours(names))[:, vision] for family, names in families().items()}
    found = {pair: apart(*(seen[family] for family in pair)) for pair in OVERLAPPING}
    least = 0.09 if vision == 0 else 0.037
    assert not {pair: value for pair, value in found.items() if value < least}


def test_organs_over_the_lungs_and_vertebrae_over_the_heart_differ_in_hue():
    hues = {family: hue(_oklab(class_colours(names))[:, 0]) for family, names in families().items()}
    organs = ("posterior ribs", "anterior ribs", "clavicles", "scapulas", "heart", "vessels", "breasts", "spine")
    pairs = [(organ, "lungs") for organ in organs] + [
        ("spine", "heart"),
        ("spine", "mediastinum"),
        ("heart", "diaphragm"),
    ]
    found = {pair: turned(hues[pair[0]], hues[pair[1]]) for pair in pairs}
    assert not {pair: value for pair, value in found.items() if value < (25 if "mediastinum" in pair else 70)}


def test_ribs_and_clavicles_are_far_from_both_lungs_for_all_readers():
    seen = _oklab(class_colours(["right lung", "left lung", "ribs", "clavicles"]))
    for vision in range(3):
        lungs, bones = seen[:2, vision], seen[2:, vision]
        assert apart(lungs, bones) > 0.19
        assert apart(lungs[:1], lungs[1:]) > 0.05


def test_the_colour_of_a_class_depends_only_on_its_name():
    names = [*CXAS, *phantom.CLASSES, "nodule", "class_007"]
    colours = class_colours(names)
    assert (colours.shape, colours.dtype) == ((len(names), 3), np.uint8)
    np.testing.assert_array_equal(class_colours(names[::-1]), colours[::-1])
    for name, colour in zip(names, colours, strict=True):
        np.testing.assert_array_equal(class_colours([name])[0], colour)
    assert class_colours([]).shape == (0, 3)


@pytest.mark.parametrize(
    "names", [("right lung", "lung_right", "Right Lungs", "RIGHT-LUNG"), ("clavicles", "Clavicles"), ("lung", "lungs")]
)
def test_other_spellings_of_an_organ_have_its_colour(names):
    assert len({tuple(colour) for colour in class_colours(names).tolist()}) == 1


def test_all_labels_of_cxas_have_a_family_and_a_colour_of_their_own():
    members = [name for names in families().values() for name in names]
    assert sorted(members) == sorted({*CXAS, "ribs"})
    colours = class_colours(members)
    assert len(np.unique(colours, axis=0)) == len(members)
    srgb = np.concatenate([colours, [[30, 30, 30]]]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    *found, lung = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert min(found) / lung > 3  # as in `test_colours_are_visible_on_dark_lungs`


def test_neighbours_of_a_family_differ():
    for names in (["left lung", "right lung"], ["vertebrae T4", "vertebrae T5"], ["clavicle left", "clavicle right"]):
        one, two = _oklab(class_colours(names))[:, 0]
        assert np.linalg.norm(one - two) > 0.02


def test_numbered_classes_have_the_colours_of_the_palette():
    np.testing.assert_array_equal(class_colours([f"class_{k:03d}" for k in range(30)]), palette(30))
    np.testing.assert_array_equal(class_colours(["class 1", "Class 2"]), palette(3)[1:])


def test_most_names_without_a_family_have_different_colours():
    names = ["nodule", "tumor", "effusion", "mass", "device", "tube", "pneumothorax", "consolidation", "foreground"]
    assert len(np.unique(class_colours(names), axis=0)) == len(names)
    assert len(np.unique(class_colours([f"finding {chr(97 + k)}" for k in range(26)]), axis=0)) > 20


@pytest.mark.parametrize("name", ["", " ", "s", "\ud800", "肺", "___", "class_999"])
def test_every_text_is_a_name(name):
    assert class_colours([name]).shape == (1, 3)


def apart(one: np.ndarray, two: np.ndarray) -> float:
    """Returns the smallest distance of colours (N, 3) and (M, 3) in OKLab."""
    return float(np.linalg.norm(one[:, None] - two[None], axis=-1).min())


def hue(lab: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(lab[:, 2], lab[:, 1]))


def turned(one: np.ndarray, two: np.ndarray) -> float:
    """Returns the smallest angle between hues in degrees."""
    return float(np.abs((one[:, None] - two[None] + 180) % 360 - 180).min())
