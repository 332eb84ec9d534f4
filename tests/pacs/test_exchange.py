"""Identifiers and headers of strangers: what is a valid X-ray, and what an error says about it."""

import struct

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pacs_kit import image_of, xray

from jaxseg.images.elements import MAX_ELEMENTS
from jaxseg.pacs.exchange import Refused, check_uid, read_image

VALID = st.lists(st.integers(0, 10**9), min_size=2, max_size=5).map(lambda parts: ".".join(map(str, [1, *parts])))


@given(VALID)
def test_valid_identifiers_are_returned_unchanged(uid):
    assert check_uid(uid, "a UID") == uid


@given(st.text(max_size=80))
def test_what_is_accepted_is_safe_as_a_name(text):
    try:
        uid = check_uid(text, "a UID")
    except Refused:
        return
    assert set(uid) <= set("0123456789.")
    assert ".." not in uid
    assert 0 < len(uid) <= 64


def test_the_identifiers_of_an_xray_are_read(tmp_path):
    path = xray(tmp_path)
    assert read_image(path) == image_of(path)


CHANGES = {
    "another class": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "SOP class is not CR or DX"),
    "for processing": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "SOP class is not CR or DX"),
    "another part": ({"BodyPartExamined": "KNEE"}, "--any-body-part"),
    "lumbar spine": ({"BodyPartExamined": "LSPINE"}, "--any-body-part"),
    "neck": ({"BodyPartExamined": "C SPINE"}, "--any-body-part"),
    "no study": ({"StudyInstanceUID": ""}, "StudyInstanceUID is not a valid identifier"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_refused(tmp_path, change):
    tags, text = CHANGES[change]
    path = xray(tmp_path)
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    with pytest.raises(Refused, match=text):
        read_image(path)


@pytest.mark.parametrize("part", ["", "chest", " THORAX ", "TSPINE", "T SPINE", "CTSPINE", "TLSPINE", "SPINE", "RIB"])
def test_body_parts_near_the_chest_are_accepted(tmp_path, part):
    path = xray(tmp_path, tags={"BodyPartExamined": part.strip().upper()})
    assert read_image(path) == image_of(path)


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 99])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(Refused, match=r"damaged|SOP class"):
        read_image(tmp_path / "bad")


def test_a_flood_of_elements_is_refused_before_it_is_parsed(tmp_path):
    path = xray(tmp_path)
    content = path.read_bytes()
    place = content.index(b"\x28\x00\x02\x00US")
    flood = struct.pack("<HH2sH", 0x27, 0x1000, b"SH", 0) * (MAX_ELEMENTS + 1)
    path.write_bytes(content[:place] + flood + content[place:])
    with pytest.raises(Refused, match=f"more than {MAX_ELEMENTS:,} elements"):
        read_image(path)
