"""Every label has one code; SNOMED CT codes are in pydicom's dictionary with the same meaning."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr import codedict

from jaxseg.vocabulary import codes
from jaxseg.vocabulary.labels import CXAS


def every_code(label):
    code = codes.code_for(label)
    return [code.category, code.type, *code.modifiers]


@pytest.fixture(scope="module")
def meanings():
    found = {}
    for keyword in codedict.codes.SCT.dir():
        code = getattr(codedict.codes.SCT, keyword)
        found.setdefault(code.value, set()).add(code.meaning)
    return found


def test_every_snomed_code_is_in_the_dictionary_with_its_meaning(meanings):
    tables = [*codes._SINGLE.values(), *codes._PAIRED.values(), *codes._PARTS.values(), *codes._SIDES.values()]
    labels = [*CXAS, "vertebrae", "mediastinum", "superior vena cava"]
    used = {code for label in labels for code in every_code(label)} | set(tables)
    snomed = [code for code in used if code.scheme == "SCT"]
    assert len(snomed) > 60
    wrong = [code for code in snomed if code.meaning not in meanings.get(code.value, ())]
    assert wrong == []


def test_all_labels_of_cxas_except_two_have_a_snomed_type():
    private = [label for label in CXAS if codes.code_for(label).type.scheme != "SCT"]
    assert private == ["cardiomediastinum", "heart myocardium"]


def test_all_labels_of_cxas_have_different_codes():
    assert len({codes.code_for(label) for label in CXAS}) == len(CXAS)


def test_a_side_is_given_once_in_a_modifier_or_in_the_type():
    for label in CXAS:
        code = codes.code_for(label)
        in_label = {"left", "right"} & set(label.split())
        in_type = {"left", "right"} & set(code.type.meaning.lower().split())
        in_modifiers = {m.meaning.lower() for m in code.modifiers} & {"left", "right"}
        if code.type.scheme == "SCT":
            assert sorted([*in_type, *in_modifiers]) == sorted(in_label), label


@pytest.mark.parametrize(
    ("label", "kind", "modifiers"),
    [
        ("lung", "Lung", []),
        ("right lung", "Lung", ["Right"]),
        ("left_lung", "Lung", ["Left"]),
        ("Lung lower lobe left", "Lower lobe of lung", ["Left"]),
        ("lung middle lobe right", "Middle lobe of right lung", []),
        ("heart ventricle left", "Left ventricle", []),
        ("left hemidiaphragm", "Diaphragm", ["Left"]),
        ("vertebrae T10", "T10 vertebra", []),
        ("posterior 3rd rib right", "Rib", ["Right", "Posterior", "3rd rib"]),
        ("anterior 11th rib", "Rib", ["Anterior", "11th rib"]),
        ("12th rib", "Rib", ["12th rib"]),
        ("clavicles", "Clavicle", []),
        ("upper mediastinum", "Mediastinum", ["Superior"]),
        ("tracheal bifurcation", "Carina", []),
        ("right heart", "right heart", []),
        ("left right lung", "left right lung", []),
        ("13th rib", "13th rib", []),
        ("class_000", "class_000", []),
    ],
)
def test_labels_have_the_expected_codes(label, kind, modifiers):
    code = codes.code_for(label)
    assert code.type.meaning == kind
    assert [m.meaning for m in code.modifiers] == modifiers
    assert code.category.meaning == "Anatomical Structure"


def test_private_values_are_the_same_in_every_version():
    assert codes.code_for("cardiomediastinum").type.value == "bb63f66854704226"
    assert codes.code_for("class_000").type == codes.private_code("class_000")


@given(st.lists(st.text(st.characters(exclude_categories=())), unique=True, max_size=20))
def test_any_label_has_a_valid_code_and_unknown_labels_have_different_codes(labels):
    private = []
    for label in labels:
        for code in every_code(label):
            assert 0 < len(code.value) <= 16
            assert 0 < len(code.meaning) <= 64
            assert code.meaning.isprintable()
            assert "\\" not in code.meaning
            assert code.meaning == code.meaning.strip()
            code.meaning.encode()
        code = codes.code_for(label).type
        if code.scheme == codes.PRIVATE:
            private.append(code.value)
    assert len(set(private)) == len(private)


def test_importing_the_codes_imports_no_other_library():
    script = "import sys, jaxseg.vocabulary.codes\n"
    script += "sys.exit(bool({'pydicom', 'highdicom', 'numpy', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
