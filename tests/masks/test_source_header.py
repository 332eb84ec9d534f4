"""Tests that all values taken over from an image's header are valid, and that the other values are reported."""

import warnings

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from seg_kit import changed, errors_of_dciodvfy, read_dicom_seg, size_of, some_masks, written

pytest.importorskip("highdicom")


@pytest.fixture(scope="session")
def image(kit):
    return kit.folder / "files" / "mono2_12bit.dcm"


BROKEN = {
    "StudyInstanceUID": b"1.02.3",
    "SeriesInstanceUID": None,
    "PatientName": b"A" * 80,
    "PatientID": b"\x07id",
    "PatientBirthDate": b"19991332",
    "PatientSex": b"female",
    "PatientAge": b"62",
    "PatientWeight": b"heavy",
    "StudyDate": b"2020.01.31",
    "StudyTime": b"10:20:30",
    "StudyID": b"S" * 40,
    "AccessionNumber": b"a\\b",
    "ReferringPhysicianName": b"a^b=c=d=e",
    "PatientIdentityRemoved": b"YES",
    "PixelSpacing": b"0\\0",
    "ImagePositionPatient": b"1\\2\\3",
    "PatientOrientation": b"left\\foot",
    "LossyImageCompression": b"yes",
    "SpecificCharacterSet": b"ISO_IR 999",
}


@pytest.mark.system
def test_dciodvfy_finds_no_error_however_broken_the_header_is(image, tmp_path, caplog):
    broken = changed(image, tmp_path / "broken.dcm", **BROKEN)
    masks = some_masks(size_of(image))
    caplog.clear()
    path, notes, found = written(broken, tmp_path, masks)
    assert caplog.records == []  # pydicom's messages would contain values
    assert errors_of_dciodvfy(path) == []
    reported = {note.split()[0] for note in notes}
    assert {"StudyInstanceUID", "PatientName", "PatientWeight", "position"} <= reported
    assert (found.StudyDate, found.StudyTime) == ("20200131", "102030")
    assert not any("AAAA" in note for note in notes), "a note contains a value"
    empty = changed(image, tmp_path / "empty.dcm", **dict.fromkeys(BROKEN), SOPInstanceUID=None, SOPClassUID=None)
    path, notes, _ = written(empty, tmp_path)
    assert errors_of_dciodvfy(path) == []


CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": {"ImagerPixelSpacing": b".2\\.2"},
    "1.2.840.10008.5.1.4.1.1.1.1": {"FrameOfReferenceUID": b"1.2.3"},
    "1.2.840.10008.5.1.4.1.1.7": {"PatientOrientation": b"L\\F"},
    "1.2.840.10008.5.1.4.1.1.7.2": {"NumberOfFrames": b"1"},
    "1.2.840.10008.5.1.4.1.1.12.1": {"PixelSpacing": b".2\\.2"},
    "1.2.840.10008.5.1.4.1.1.12.2": {},
}


@pytest.mark.system
@pytest.mark.parametrize("uid", CLASSES)
def test_every_class_of_x_ray_images_can_be_referred_to(image, tmp_path, uid):
    source = changed(image, tmp_path / "x.dcm", SOPClassUID=uid.encode(), **CLASSES[uid])
    path, notes, found = written(source, tmp_path)
    assert errors_of_dciodvfy(path) == []
    assert [note for note in notes if "acing" not in note] == []
    assert found.SourceImageSequence[0].ReferencedSOPClassUID == uid


def test_names_in_any_character_set_are_carried_over(image, tmp_path):
    for encoding, name in (
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 100", "Müller^Zoë"),
        ("ISO_IR 192", "Яна"),
    ):
        dataset = pydicom.dcmread(image)
        dataset.SpecificCharacterSet, dataset.PatientName = encoding, name
        dataset.save_as(tmp_path / "x.dcm")
        assert str(written(tmp_path / "x.dcm", tmp_path)[2].PatientName) == name


def test_equal_invalid_study_identifiers_stay_equal(image, tmp_path):
    source = changed(image, tmp_path / "x.dcm", StudyInstanceUID=b"1.02.3")
    studies = {written(source, tmp_path)[2].StudyInstanceUID for _ in range(2)}
    assert len(studies) == 1


@pytest.mark.system
def test_a_strict_projection_gets_no_frame_of_reference(image, tmp_path):
    source = changed(image, tmp_path / "x.dcm", FrameOfReferenceUID=b"1.2.3", PixelSpacing=b".2\\.2")
    path, notes, found = written(source, tmp_path, strict_projection=True)
    assert (errors_of_dciodvfy(path), notes) == ([], [])
    assert "FrameOfReferenceUID" not in found


def test_the_nominal_plane_lies_in_the_frame_of_reference_of_its_image(image, tmp_path):
    uids = {}
    for name, tags in {"own": {"FrameOfReferenceUID": b"1.2.3"}, "a": {}, "b": {"SOPInstanceUID": b"1.2.4"}}.items():
        source = changed(image, tmp_path / "x.dcm", **tags)
        uids[name] = {written(source, tmp_path)[2].FrameOfReferenceUID for _ in range(2)}
    assert uids["own"] == {"1.2.3"}
    assert len(uids["a"]) == len(uids["b"]) == 1, "the new identifier differs between two runs"
    assert uids["a"] != uids["b"], "positions in two X-rays cannot be compared"


ON_DETECTOR = "PixelSpacing is ImagerPixelSpacing, the distance on the detector and not in the patient"
UNKNOWN = "the pixel spacing is unknown: the DICOM SEG states 1 mm, which is nominal"
SPACINGS = [
    ({"PixelSpacing": b"0.2\\0.3", "ImagerPixelSpacing": b"1\\1"}, [0.2, 0.3], []),
    ({"ImagerPixelSpacing": b"0.14\\0.16"}, [0.14, 0.16], [ON_DETECTOR]),
    (
        {"PixelSpacing": b"0\\0", "ImagerPixelSpacing": b"0.14\\0.14"},
        [0.14, 0.14],
        ["PixelSpacing (0, 0)", ON_DETECTOR],
    ),
    ({"PixelSpacing": b"", "NominalScannedPixelSpacing": b".1\\.1"}, [0.1, 0.1], ["PixelSpacing is NominalScanned"]),
    ({"PixelSpacing": b"0.12345678901234567\\0.1"}, [0.12345678901235, 0.1], []),
    ({}, [1, 1], [UNKNOWN]),
    *(
        ({"PixelSpacing": value}, [1, 1], ["PixelSpacing ", UNKNOWN])
        for value in (b"0\\0", b"-.2\\.2", b"nan\\nan", b"wide", b"0.2", b"0.2\\0.2\\0.2", b"0.2\\", b"1e9\\1e9")
    ),
]


@pytest.mark.parametrize(("tags", "spacing_mm", "notes"), SPACINGS)
def test_the_pixel_spacing_is_that_of_the_image_or_a_nominal_one_with_a_note(image, tmp_path, tags, spacing_mm, notes):
    _, given, found = written(changed(image, tmp_path / "x.dcm", **tags), tmp_path)
    assert found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == spacing_mm
    assert len(given) == len(notes)
    assert all(note.startswith(start) for note, start in zip(given, notes, strict=True)), given
    nominal = UNKNOWN in notes
    for description in (found.ContentDescription, found.SeriesDescription):
        assert description == "Segments of cxas" + " (spacing unknown, 1 mm is nominal)" * nominal


def test_values_are_repaired_if_nothing_is_lost(image, tmp_path):
    tags = {"PatientAge": b"7y", "PatientWeight": b"70.000000000000001", "PixelSpacing": b".2\\.2"}
    source = changed(image, tmp_path / "x.dcm", **tags)
    _, notes, found = written(source, tmp_path)
    assert notes == ["PatientAge is repaired to a valid AS", "PatientWeight is repaired to a valid DS"]
    assert (found.PatientAge, found.PatientWeight) == ("007Y", 70)


def test_a_plane_without_frame_of_reference_gets_one_for_its_series(shared, tmp_path):
    source = changed(shared / "data" / "dicom" / "CT_small.dcm", tmp_path / "x.dcm", FrameOfReferenceUID=None)
    (_, first, one), (_, _, two) = written(source, tmp_path), written(source, tmp_path)
    assert first == ["FrameOfReferenceUID is new: the image has none"]
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID


def test_an_image_without_identifier_gets_that_of_its_file(image, tmp_path):
    source = changed(image, tmp_path / "x.dcm", SOPInstanceUID=None, PixelSpacing=b".2\\.2")
    _, notes, found = written(source, tmp_path)
    meta = pydicom.filereader.read_file_meta_info(source)
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == meta.MediaStorageSOPInstanceUID
    assert notes == []


TEXT = st.binary(max_size=70)
TAGS = sorted(BROKEN.keys() - {"SpecificCharacterSet"})  # pydicom cannot write a file with a broken one
TAGS += ["SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID", "ImageOrientationPatient", "SliceThickness"]


@pytest.mark.full
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(TAGS), TEXT | st.none() | st.sampled_from([b"1.2.3", b"1\\2", b"20200101"])))
@example({"AccessionNumber": b"!" * 15 + b"\xa1"})
def test_any_header_gives_a_segmentation_or_a_reason(image, tmp_path, raw):
    source = changed(image, tmp_path / "x.dcm", **raw)
    try:
        path, _, found = written(source, tmp_path)
    except ValueError as error:
        reason = str(error)
        if "highdicom cannot refer to an image of class" not in reason:
            raise
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as it reads, pydicom counts the blank that makes a value's bytes even
        elements = list(found.iterall())
        warnings.simplefilter("error")
        for element in elements:
            assert element.VR
            pydicom.dataelem.DataElement(element.tag, element.VR, element.value)  # this checks the value
    assert read_dicom_seg(path)[1].shape[0] == 5
