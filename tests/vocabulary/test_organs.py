"""The table of organs: the original's classes, the names of TotalSegmentator, and messages for unknown names."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.vocabulary import organs


@pytest.fixture(scope="module")
def facts(kit) -> dict:
    return json.loads((kit.folder / "facts" / "segae_classes.json").read_text())


def test_classes_and_names_equal_those_of_the_original(facts):
    assert [organ.id for organ in organs.ORGANS] == list(range(145))
    assert {str(i): name for i, name in enumerate(organs.NAMES)} == facts["embedding_row_names"]
    assert len(set(organs.NAMES)) == 145


def test_names_equal_those_of_the_dap_atlas(shared):
    with (shared / "data" / "segae" / "DAP_Atlas_label_name.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [(organ.id, organ.name) for organ in organs.ORGANS] == [(int(i), name.strip()) for i, name in rows]


def test_the_table_of_the_original_is_reproduced_and_right_except_two_entries(facts):
    table = facts["embedding_row_of_totalsegmentator_class"]
    original = organs.totalsegmentator(1, names="original")
    assert {name: organ.id for name, organ in original.items()} == table
    right = organs.totalsegmentator(1)
    assert (
        {name for name in table if right[name] != original[name]} == set(organs.ORIGINAL) == {"face", "urinary_bladder"}
    )
    for name, row in table.items():
        assert organs.find(name, names="original").id == row


def test_the_two_entries_are_right_unless_those_of_the_original_are_requested():
    assert organs.find("urinary_bladder").name == "bladder"
    assert organs.find("Urinary Bladder", names="original").name == "prostate"
    assert organs.find("face", names="original").name == "cheek left"
    with pytest.raises(ValueError, match="no 'face': there are 'cheek left' and 'cheek right'; names=original"):
        organs.find("face")
    assert organs.find("bladder", names="original").id == 17


def test_every_name_of_totalsegmentator_is_found_or_reported_as_absent():
    first, second = (organs.totalsegmentator(version) for version in (1, 2))
    assert (len(first), len(second)) == (104, 117)
    assert [name for name, organ in first.items() if organ is None] == ["face"]
    assert [name for name, organ in second.items() if organ is None] == [
        "atrial_appendage_left",
        "kidney_cyst_left",
        "kidney_cyst_right",
        "pulmonary_vein",
        "spinal_cord",
        "superior_vena_cava",
        "thyroid_gland",
        "vertebrae_S1",
    ]
    for name, organ in (*first.items(), *second.items()):
        if organ is None:
            with pytest.raises(ValueError, match=f"the DAP-Atlas has no '{name}': "):
                organs.find(name)
        else:
            assert organs.find(name) is organ


def test_the_masks_of_the_shared_cases_are_found_or_reported_as_absent(shared):
    folders = (shared / "data" / "ct" / "totalseg").glob("*/segmentations/*.nii.gz")
    names = sorted({path.name.removesuffix(".nii.gz") for path in folders})
    assert len(names) == 68
    absent = []
    for name in names:
        try:
            organs.find(name)
        except ValueError as error:
            assert "the DAP-Atlas has no" in str(error)  # noqa: PT017
            absent.append(name)
    assert absent == ["face", "spinal_cord", "vertebrae_S1"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (13, "liver"),
        (np.int64(0), "Background"),
        ("13", "liver"),
        (" 013 ", "liver"),
        ("LIVER", "liver"),
        ("left kidney", "kidney left"),
        ("Kidney-Left", "kidney left"),
        ("rib_left_10", "costa 10 left"),
        ("clavicula_right", "clavicle right"),
        ("costal_cartilages", "rib_cartilage"),
        ("prostate", "prostate"),
        ("celiac_trunk", "celiac trunk"),
        ("internal_jugular_vein_left", "internal jugular vein left"),
        ("internal_carotid_artery_left", "artery internal carotid left"),
        ("common_carotid_artery_left", "artery common carotid left"),
        ("heart", "heart"),
    ],
)
def test_an_organ_is_found_by_class_and_by_any_spelling(given, name):
    assert organs.find(given).name == name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("livr", r"unknown organ 'livr'; did you mean 'liver' \(13\)\?"),
        ("kidny left", r"did you mean 'kidney left' \(15\)"),
        ("left rib 2b", r"did you mean 'costa 2 left'"),
        ("xyzzy", "unknown organ 'xyzzy'$"),
        ("", "unknown organ ''$"),
        ("-1", "unknown organ '-1'"),
        ("\u0661", "unknown organ"),  # a digit, but not an ASCII digit
        ("9" * 5000, "unknown organ '9999"),
        (145, "no organ 145; classes are 0 to 144"),
        (-1, "no organ -1"),
        ("145", "no organ 145"),
        (True, "a name or a whole number from 0 to 144, got True"),
        (1.0, "a name or a whole number"),
        (None, "a name or a whole number"),
    ],
)
def test_an_unknown_organ_is_refused_with_the_nearest_names(given, words):
    with pytest.raises(ValueError, match=words):
        organs.find(given)


@given(st.text(max_size=300))
def test_any_text_gives_an_organ_or_a_value_error(text):
    try:
        found = organs.find(text)
    except ValueError as error:
        assert len(str(error)) < 1000  # noqa: PT017
    else:
        assert found in organs.ORGANS


def test_no_name_belongs_to_two_organs():
    for organ in organs.ORGANS:
        for name in (organ.name, organ.totalsegmentator_v1, organ.totalsegmentator_v2):
            assert not name or organs.find(name) is organ


def test_unknown_values_of_names_and_version_are_refused():
    with pytest.raises(ValueError, match="one of right, original, got 'wrong'"):
        organs.find("liver", names="wrong")
    for version, names in ((3, "right"), (1, "wrong")):
        with pytest.raises(ValueError, match="version must be 1 or 2"):
            organs.totalsegmentator(version, names=names)
