"""Tests that the reader of DICOM SEG refuses objects that are not the masks of one image, and damaged ones."""

import shutil
import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import write_dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seg_kit import read_dicom_seg, size_of, some_masks, written

from jaxseg.images.picture import ImageError
from jaxseg.masks import read_seg
from jaxseg.masks.read_seg import open_dicom_seg, seg_spacing

pytest.importorskip("highdicom")


@pytest.fixture(scope="session")
def image(kit):
    return kit.folder / "files" / "mono2_12bit.dcm"


def edited(path, edit):
    dataset = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edit(dataset)
        dataset.save_as(path)


def several_positions(dataset):
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = f"1.2.{number}"


def repeated_segment(dataset):
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


DAMAGES = {
    "an image, or an object": lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
    "type is FRACTIONAL of 1 bits": lambda d: setattr(d, "SegmentationType", "FRACTIONAL"),
    "type is LABELMAP": lambda d: setattr(d, "SegmentationType", "LABELMAP"),
    "100000 frames, but": lambda d: setattr(d, "NumberOfFrames", 100000),
    "65535 x 65535": lambda d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535)),
    "frames need": lambda d: (setattr(d, "Rows", 30000), setattr(d, "Columns", 2000)),
    "two segments have the number 1": lambda d: setattr(d.SegmentSequence[1], "SegmentNumber", 1),
    "1001 segments": lambda d: d.SegmentSequence.extend(
        [segment(number, d.SegmentSequence[0]) for number in range(6, 1002)]
    ),
    "segment 2, which is not described": lambda d: setattr(d.SegmentSequence[1], "SegmentNumber", 77),
    "cut short": lambda d: setattr(d, "PixelData", d.PixelData[:100]),
    "several source frames": several_positions,
    "a segment has several frames": repeated_segment,
    "SegmentLabel": lambda d: delattr(d.SegmentSequence[0], "SegmentLabel"),
    "cannot read it as DICOM SEG": lambda d: delattr(d, "PixelData"),
}


def segment(number, like):
    new = pydicom.Dataset()
    new.SegmentNumber, new.SegmentLabel = number, like.SegmentLabel
    return new


@pytest.mark.parametrize("message", DAMAGES)
def test_objects_that_are_not_the_masks_of_one_image_are_refused(image, tmp_path, message):
    path, _, _ = written(image, tmp_path, strict_projection=True)  # an object of single bits
    edited(path, DAMAGES[message])
    with pytest.raises(ImageError, match=rf"^out\.seg\.dcm: .*({message})"):
        read_dicom_seg(path)


def test_a_label_map_with_a_value_that_no_segment_describes_is_refused(image, tmp_path):
    path, _, _ = written(image, tmp_path, some_masks(size_of(image), overlapping=False), labelmap=True)
    edited(path, lambda d: setattr(d, "PixelData", b"\x63" + d.PixelData[1:]))
    with pytest.raises(ImageError, match="the value 99, which no segment describes"):
        read_dicom_seg(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_objects_give_masks_or_a_reason(image, tmp_path, data):
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        written(image, whole)
    content = bytearray((whole / "out.seg.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(content[: data.draw(st.integers(200, len(content)))])
    try:
        names, masks = read_dicom_seg(path)
    except ImageError:
        return
    assert masks.shape == (len(names), *masks.shape[1:])
    assert masks.dtype == bool


def test_fractional_segments_are_masks_only_if_no_pixel_has_a_fraction(image, tmp_path):
    path, _, found = written(image, tmp_path)
    assert (found.SegmentationType, found.MaximumFractionalValue) == ("FRACTIONAL", 1)
    edited(path, lambda d: setattr(d, "MaximumFractionalValue", 2))
    with pytest.raises(ImageError, match=r"^out\.seg\.dcm: .*fractional, with values between 0 and 2: threshold it"):
        read_dicom_seg(path)
    edited(path, lambda d: (d.decompress(), setattr(d, "MaximumFractionalValue", 1)))
    assert read_dicom_seg(path)[1].shape[0] == 5
    edited(path, lambda d: setattr(d, "PixelData", d.PixelData[:100]))
    with pytest.raises(ImageError, match=r"^out\.seg\.dcm: "):
        read_dicom_seg(path)


def test_pictures_and_images_are_refused_as_segmentations(image, tmp_path):
    shutil.copy(image, tmp_path / "x.dcm")
    with pytest.raises(ImageError, match="not a DICOM SEG"):
        read_dicom_seg(tmp_path / "x.dcm")
    (tmp_path / "y.dcm").write_bytes(bytes(1000))
    with pytest.raises(ImageError, match=r"^y\.dcm: cannot read it as DICOM SEG \("):
        read_dicom_seg(tmp_path / "y.dcm")
    with pytest.raises(FileNotFoundError):
        read_dicom_seg(tmp_path / "missing.dcm")


def test_frames_of_a_compressed_label_map_are_decoded(image, tmp_path):
    masks = some_masks(size_of(image), overlapping=False)
    path, _, _ = written(image, tmp_path, masks, labelmap=True)
    edited(path, lambda d: d.compress(pydicom.uid.RLELossless, generate_instance_uid=False))
    np.testing.assert_array_equal(read_dicom_seg(path)[1], masks.data[[0, 1, 3, 4, 5]])


def test_only_the_requested_segments_are_decoded(image, tmp_path, monkeypatch):
    masks = some_masks(size_of(image))
    path, _, _ = written(image, tmp_path, masks, strict_projection=True)
    decoded, bits = [], read_seg._bits
    monkeypatch.setattr(read_seg, "_bits", lambda dataset, place: decoded.append(place) or bits(dataset, place))
    stack = open_dicom_seg(path)
    assert decoded == []
    (mask,) = stack.read([3])
    np.testing.assert_array_equal(mask, masks.data[4])
    assert decoded == [3]


def test_a_segment_without_a_frame_is_empty(image, tmp_path):
    path, _, _ = written(image, tmp_path)
    edited(path, lambda d: d.SegmentSequence.append(segment(9, d.SegmentSequence[0])))
    names, masks = read_dicom_seg(path)
    assert names[5] == names[0]
    assert masks.any(axis=(1, 2)).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("spacing_mm", [(0.3, 0.2), None])
def test_the_spacing_is_that_of_the_image_and_not_a_nominal_one(tmp_path, spacing_mm):
    tags = {} if spacing_mm is None else {"PixelSpacing": list(spacing_mm)}
    image = write_dicom(tmp_path / "image.dcm", np.arange(12, dtype=np.uint16).reshape(3, 4), Modality="CR", **tags)
    path, _, dataset = written(image, tmp_path)
    assert seg_spacing(path) == spacing_mm
    if spacing_mm is not None:
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]
        dataset.save_as(path)
        assert seg_spacing(path) is None
    (tmp_path / "other.dcm").write_bytes(b"x")
    with pytest.raises(ImageError, match="cannot read it as DICOM SEG"):
        seg_spacing(tmp_path / "other.dcm")
