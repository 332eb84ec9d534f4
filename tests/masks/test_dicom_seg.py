"""Tests that a DICOM SEG holds the masks bit for bit, describes them and refers to its image."""

import sys

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seg_kit import (
    FakeMasks,
    changed,
    errors_of_dciodvfy,
    quietly_read,
    read_dicom_seg,
    resized,
    size_of,
    some_masks,
    written,
)

from jaxseg.images.picture import ImageError
from jaxseg.masks import dicom_seg
from jaxseg.masks.dicom_seg import check_source
from jaxseg.masks.write import write_npy

pytest.importorskip("highdicom")
PROJECTIONS = ("cxr/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", "dicom/derived_mono1_12bit.dcm")
PROJECTIONS += ("dicom/image_dfl.dcm",)
PLANES = ("dicom/CT_small.dcm", "dicom/MR_small.dcm")


@pytest.fixture(scope="session")
def image(kit):
    return kit.folder / "files" / "mono2_12bit.dcm"


@pytest.mark.slow
@pytest.mark.parametrize("labelmap", [False, True])
def test_the_segments_equal_the_npy_output_without_its_empty_classes(image, tmp_path, labelmap):
    masks = some_masks(size_of(image), overlapping=not labelmap)
    path, notes, _ = written(image, tmp_path, masks, labelmap=labelmap)
    assert path == tmp_path / "out.seg.dcm"
    assert list(tmp_path.iterdir()) == [path]
    names, found = read_dicom_seg(path)
    whole = np.load(write_npy(masks, tmp_path / "out"))
    np.testing.assert_array_equal(found, whole[[0, 1, 3, 4, 5]])
    assert names == ("lung", "posterior 3rd rib right", "trachea", "class_000", "left_lung_\u00e4")


FORMS = [{}, {"labelmap": True}, {"strict_projection": True}, {"labelmap": True, "strict_projection": True}]


@pytest.mark.parametrize("form", FORMS)
def test_highdicoms_reader_gives_the_same_masks(image, tmp_path, form):
    from highdicom.seg import segread

    masks = some_masks(size_of(image), overlapping="labelmap" not in form)
    path, _, _ = written(image, tmp_path, masks, **form)
    read = segread(path)
    source = pydicom.dcmread(image)
    frames = read.get_pixels_by_source_instance([source.SOPInstanceUID])
    np.testing.assert_array_equal(frames[0].transpose(2, 0, 1).astype(bool), masks.data[[0, 1, 3, 4, 5]])


@pytest.mark.parametrize("name", [*PROJECTIONS, *PLANES, "dicom/693_J2KI.dcm"])
def test_highdicoms_reader_opens_the_objects_of_the_shared_files(shared, tmp_path, name):
    from highdicom.seg import segread

    source = shared / "data" / name
    masks = some_masks(size_of(source))
    path, _, found = written(source, tmp_path, masks)
    referred = found.SourceImageSequence[0].ReferencedSOPInstanceUID
    (frames,) = segread(path).get_pixels_by_source_instance([referred])
    np.testing.assert_array_equal(frames.transpose(2, 0, 1).astype(bool), masks.data[[0, 1, 3, 4, 5]])


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 19), columns=st.integers(8, 19), seed=st.integers(0, 9), form=st.sampled_from(FORMS))
def test_masks_of_any_size_are_read_back(image, tmp_path, rows, columns, seed, form):
    source = tmp_path / "small.dcm"
    resized(image, source, rows, columns)
    masks = some_masks((rows, columns), overlapping="labelmap" not in form, seed=seed)
    masks.data[0, 0, 0] = not masks.data[1:, 0, 0].any()  # so at least one pixel is set
    path, _, _ = written(source, tmp_path, masks, **form)
    np.testing.assert_array_equal(read_dicom_seg(path)[1], masks.data[masks.data.any(axis=(1, 2))])


def test_the_object_names_its_model_and_its_image(image, tmp_path):
    _, notes, found = written(image, tmp_path)
    source = pydicom.dcmread(image)
    assert (found.StudyInstanceUID, found.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert str(found.PatientName) == str(source.PatientName)
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    series = found.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == source.SOPClassUID
    first, rib, *_ = found.SegmentSequence
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("cxas", found.SoftwareVersions)
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "39607008"
    modifiers = rib.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert [m.CodeMeaning for m in modifiers] == ["Right", "Posterior", "3rd rib"]
    colours = {tuple(segment.RecommendedDisplayCIELabValue) for segment in found.SegmentSequence}
    assert len(colours) == len(found.SegmentSequence) == 5


@pytest.mark.parametrize(
    ("colour", "lab"),  # from Lindbloom's CIE colour calculator, sRGB, D50
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (54.29, 80.81, 69.89))],
)
def test_colours_are_cielab_under_d50(colour, lab):
    lightness, a, b = dicom_seg._cielab(colour)
    np.testing.assert_allclose((lightness / 655.35, a / 257 - 128, b / 257 - 128), lab, atol=0.02)


def test_a_projection_gets_the_nominal_plane(shared, tmp_path):
    for name in PROJECTIONS:
        source = quietly_read(shared / "data" / name)
        _, notes, found = written(shared / "data" / name, tmp_path)
        group = found.SharedFunctionalGroupsSequence[0]
        assert group.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert group.PixelMeasuresSequence[0].PixelSpacing == source.get("PixelSpacing", [1, 1])
        assert group.PixelMeasuresSequence[0].SliceThickness == 1
        assert any("nominal" in note for note in notes) == ("PixelSpacing" not in source)
        for frame in found.PerFrameFunctionalGroupsSequence:
            assert frame.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]
            (image,) = frame.DerivationImageSequence[0].SourceImageSequence
            assert image.SpatialLocationsPreserved == "YES"
        assert found.PositionReferenceIndicator == ""


def test_an_image_of_slices_without_a_plane_is_reported(image, tmp_path):
    source = changed(image, tmp_path / "ct.dcm", SOPClassUID=b"1.2.840.10008.5.1.4.1.1.2", PixelSpacing=b"1\\1")
    _, notes, _ = written(source, tmp_path)
    assert notes == ["the image has no position and orientation, although its class requires them"]


@pytest.mark.parametrize(
    ("size", "frames", "kind"),
    [
        ((16, 16), 5, "BINARY"),
        ((16, 15), 4, "BINARY"),
        ((8, 15), 2, "BINARY"),
        ((8, 15), 1, "BINARY"),
        ((8, 15), 3, "FRACTIONAL"),  # an odd number of bytes
        ((10, 10), 4, "FRACTIONAL"),  # frames begin within a byte
        ((11, 13), 1, "BINARY"),
        ((11, 300), 5, "FRACTIONAL"),
    ],
)
def test_masks_are_bytes_with_run_lengths_where_ohif_misreads_bits(image, tmp_path, size, frames, kind):
    source = resized(image, tmp_path / "x.dcm", *size)
    masks = FakeMasks(some_masks(size, seed=1).data[[0, 1, 3, 4, 5]][:frames], dicom_names(frames))
    masks.data[-1] = True  # runs of a whole row
    path, _, found = written(source, tmp_path, masks)
    assert (found.SegmentationType, found.BitsAllocated) == (kind, 1 if kind == "BINARY" else 8)
    np.testing.assert_array_equal(found.pixel_array.reshape(masks.data.shape), masks.data)
    np.testing.assert_array_equal(read_dicom_seg(path)[1], masks.data)


def dicom_names(count: int) -> tuple[str, ...]:
    return tuple(f"class_{k:03}" for k in range(count))


def test_the_description_of_a_model_with_a_long_name_keeps_the_note_on_the_spacing(image, tmp_path):
    masks = some_masks(size_of(image))
    path, _ = dicom_seg.write_dicom_seg(masks, tmp_path / "out", source=image, algorithm="m" * 80)
    description = pydicom.dcmread(path).SeriesDescription
    assert len(description) == 64
    assert description.endswith("mmm (spacing unknown, 1 mm is nominal)")


def test_the_background_of_a_label_map_is_its_last_segment(image, tmp_path):
    masks = some_masks(size_of(image), overlapping=False)
    _, _, found = written(image, tmp_path, masks, labelmap=True)
    assert [segment.SegmentNumber for segment in found.SegmentSequence] == [1, 2, 3, 4, 5, 0]


def test_a_strict_projection_gets_no_geometry(shared, tmp_path):
    for name in PROJECTIONS:
        _, _, found = written(shared / "data" / name, tmp_path, strict_projection=True)
        text = str(found)
        assert "Image Position (Patient)" not in text, name
        assert "Image Orientation (Patient)" not in text, name
        assert "PatientOrientation" in found, name
    source = quietly_read(shared / "data" / PROJECTIONS[0])
    _, _, found = written(shared / "data" / PROJECTIONS[0], tmp_path, strict_projection=True)
    assert "PixelSpacing" in source
    assert "PixelMeasuresSequence" not in found.SharedFunctionalGroupsSequence[0]
    assert str(found.PatientName) == str(source.PatientName)


def test_the_plane_of_a_ct_or_mr_image_is_copied(shared, tmp_path):
    for name in PLANES:
        source = quietly_read(shared / "data" / name)
        _, _, found = written(shared / "data" / name, tmp_path, strict_projection=name == PLANES[0])
        assert found.FrameOfReferenceUID == source.FrameOfReferenceUID
        group = found.SharedFunctionalGroupsSequence[0]
        assert group.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
        for frame in found.PerFrameFunctionalGroupsSequence:
            assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


@pytest.mark.system
def test_dciodvfy_finds_no_error_in_the_shared_files(shared, tmp_path):
    for name in (*PROJECTIONS, *PLANES):
        for strict in (False, True):
            path, _, _ = written(shared / "data" / name, tmp_path, strict_projection=strict)
            assert errors_of_dciodvfy(path) == [], name


def test_impossible_objects_are_refused_and_leave_no_file(image, tmp_path):
    size = size_of(image)
    folder = tmp_path / "out"
    folder.mkdir()
    picture = tmp_path / "chest.png"
    picture.write_bytes(b"\x89PNG" * 100)
    frames = changed(image, tmp_path / "frames.dcm", NumberOfFrames=b"2")
    unknown = changed(image, tmp_path / "unknown.dcm", SOPClassUID=b"1.2.3.4")
    tiny = resized(image, tmp_path / "tiny.dcm", 1, 7)
    plane = changed(image, tmp_path / "ct.dcm", SOPClassUID=b"1.2.840.10008.5.1.4.1.1.2")
    cases = [
        (picture, {}, "refers to a DICOM image; chest.png is not one"),
        (frames, {}, "2 frames"),
        (unknown, {}, "does not know this class"),
        (tiny, {"masks": some_masks((1, 7))}, "fewer than 8 pixels"),
        (plane, {"strict_projection": True}, "no Frame Of Reference UID"),
        (image, {"masks": some_masks((5, 5))}, r"masks are \(5, 5\)"),
        (image, {"masks": FakeMasks(np.zeros((6, *size), bool))}, "all classes are empty"),
        (image, {"labelmap": True, "masks": FakeMasks(np.zeros((6, *size), bool))}, "all classes are empty"),
        (image, {"labelmap": True}, "'lung' and 'posterior 3rd rib right' overlap"),
    ]
    for source, options, message in cases:
        with pytest.raises(ValueError, match=message):
            written(source, folder, **({"masks": some_masks(size)} | options))
    assert list(folder.iterdir()) == []


def test_only_dicom_files_are_accepted_as_sources(image, tmp_path):
    check_source(image)
    (tmp_path / "empty.dcm").touch()
    with pytest.raises(ImageError, match=r"empty.dcm is not one \(choose another -ot\)"):
        check_source(tmp_path / "empty.dcm")
    with pytest.raises(FileNotFoundError):
        check_source(tmp_path / "missing.dcm")


def test_without_highdicom_the_error_states_what_to_install(image, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"^DICOM SEG needs highdicom: pip install 'jaxseg\[dicom-seg\]'$"):
        written(image, tmp_path)
