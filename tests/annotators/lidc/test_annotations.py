"""The annotation files of LIDC-IDRI: their content is read, and damaged or hostile files are refused."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lidc_files import FIRST_Z, STEP, box, four_readers, message, nodule, roi, small

from jaxseg.annotators.lidc import annotations as lidc_annotations
from jaxseg.annotators.lidc.annotations import RATINGS, read_lidc_xml

BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def written(path, text: str | bytes):
    path = path / "x.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_readers_nodules_ratings_and_outlines_are_read(tmp_path):
    reading = read_lidc_xml(written(tmp_path, message(*four_readers())))
    assert (reading.series, reading.readers, reading.small, reading.no_nodules) == ("1.2.35", 4, 1, 1)
    assert [(a.reader, len(a.outlines)) for a in reading.annotations] == [(0, 4), (1, 3), (2, 4), (3, 1)]
    first = reading.annotations[0]
    assert dict(zip(RATINGS, first.ratings, strict=True)) == dict.fromkeys(RATINGS, 4) | {"malignancy": 2}
    outline = first.outlines[1]
    assert (outline.uid, outline.z, outline.inclusion) == ("1.2.35.4", FIRST_Z + 3 * STEP, True)
    assert outline.points.tolist() == [list(point) for point in box(30, 40, 8, 9)]


def test_nodules_below_3_mm_are_counted_and_exclusions_are_kept(tmp_path):
    hole = nodule(roi(1, box(10, 10, 9, 9)), roi(1, box(13, 13, 2, 2), inclusion="FALSE"), malignancy=None)
    reading = read_lidc_xml(written(tmp_path, message(small(2, 4, 4) + hole, "")))
    assert (reading.readers, reading.small) == (2, 1)
    assert [outline.inclusion for outline in reading.annotations[0].outlines] == [True, False]
    assert reading.annotations[0].ratings == (None,) * 9


def test_the_file_of_a_chest_x_ray_gives_none_and_other_files_are_refused(tmp_path):
    assert read_lidc_xml(written(tmp_path, message("", root="IdriReadMessage"))) is None
    for text, reason in (
        ("<html></html>", "begins with 'html'; known: LidcReadMessage"),
        ("not xml", "not an XML file, or damaged"),
        (message("")[:-9], "not an XML file, or damaged"),
        (b"\xff\xfe<\x00a\x00", "not an XML file, or damaged"),
    ):
        with pytest.raises(ValueError, match=rf"x\.xml: {reason}"):
            read_lidc_xml(written(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_document_type_is_refused_in_every_encoding(tmp_path, encoding):
    text = message(four_readers()[0]).replace("UTF-8", encoding).replace("?>\n", f"?>{BOMB}\n", 1)
    with pytest.raises(ValueError, match="has a document type|not an XML file, or damaged"):
        read_lidc_xml(written(tmp_path, text.encode(encoding)))


def test_a_document_type_missed_by_the_search_is_refused_by_the_parser(tmp_path, monkeypatch):
    text = message("").replace("?>\n", f"?>{BOMB}\n", 1)
    with pytest.raises(ValueError, match="document type"):
        lidc_annotations._Refusing().doctype("x", None, None)
    monkeypatch.setattr(lidc_annotations, "_ENCODINGS", ())
    with pytest.raises(ValueError, match="document type"):
        read_lidc_xml(written(tmp_path, text))


def test_huge_and_deep_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="more than 64 levels"):
        read_lidc_xml(written(tmp_path, "<a>" * 100 + "</a>" * 100))
    monkeypatch.setattr(lidc_annotations, "MAX_ELEMENTS", 1000)
    with pytest.raises(ValueError, match="1,000 elements"):
        read_lidc_xml(written(tmp_path, "<a>" + "<b/>" * 2000 + "</a>"))
    monkeypatch.setattr(lidc_annotations, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        read_lidc_xml(written(tmp_path, message(*four_readers())))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<inclusion>TRUE", "<inclusion>maybe", "inclusion is 'MAYBE', neither TRUE nor FALSE"),
        ("<xCoord>39", "<xCoord>4e9", "xCoord is '4e9', which is not an integer"),
        ("<xCoord>39", "<xCoord>-1", "xCoord is '-1', which is not an integer"),
        ("<xCoord>39", "<xCoord>39.5", "xCoord is '39.5', which is not an integer"),
        ("<yCoord>29", "<yCoord>", "yCoord is missing"),
        ("<imageZposition>-115.00", "<imageZposition>nan", "imageZposition is 'nan', which is not a number"),
        ("<malignancy>2", "<malignancy>9", "malignancy is 9; ratings are from 1 to 6"),
        ("<malignancy>2", "<malignancy>high", "malignancy is 'high', which is not a number"),
    ],
)
def test_impossible_values_are_refused_with_their_location(tmp_path, old, new, reason):
    text = message(*four_readers())
    assert old in text
    with pytest.raises(ValueError, match=f"nodule Nodule 001 of reading session 1: {reason}"):
        read_lidc_xml(written(tmp_path, text.replace(old, new, 1)))


def test_a_missing_rating_and_a_rating_of_0_become_none(tmp_path):
    text = message(*four_readers()).replace("<malignancy>2", "<malignancy>0", 1)
    reading = read_lidc_xml(written(tmp_path, text.replace("<texture>4</texture>", "", 1)))
    assert reading.annotations[0].ratings[-2:] == (None, None)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_give_a_reading_or_a_value_error(tmp_path, data):
    content = bytearray(message(*four_readers()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    message_of = "x.xml: "
    try:
        read_lidc_xml(written(tmp_path, bytes(content)))
    except ValueError as error:
        message_of = str(error)
    assert message_of.startswith("x.xml: ")
    assert "\n" not in message_of
    assert len(message_of) < 400
