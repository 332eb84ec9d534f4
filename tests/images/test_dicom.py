"""Tests that DICOM files give the right grey values or a reason, and that pydicom's remarks are reported."""

import io
import logging
import re
import threading
import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import RAMP, write_dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    HTJ2KLossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    SegmentationStorage,
    XRayAngiographicImageStorage,
)

from jaxseg.images.dicom import _OTHER_CLASSES, PROJECTIONS, stated_spacing
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import INTENSITIES, ImageError, from_array, read_picture
from jaxseg.images.remarks import without_remarks


def changed(kit, path, **tags):
    """Writes the file mono2_12bit.dcm with other tags to `path`; None removes a tag."""
    dataset = pydicom.dcmread(kit.folder / "files" / "mono2_12bit.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in tags.items():
            if value is None:
                delattr(dataset, name)
            elif name.startswith("Rescale"):
                tag = pydicom.tag.Tag(name)
                dataset[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(value), value, 0, False, True)
            else:
                setattr(dataset, name, value)
        dataset.save_as(path)
    return path


def test_monochrome1_is_inverted_to_the_picture_that_it_was_computed_from(shared):
    inverted = read_picture(shared / "data" / "dicom" / "derived_mono1_12bit.dcm")
    original = read_picture(shared / "data" / "cxr" / "00000001_000.png").pixels[:, :, :1].astype(np.float32)
    low, high = original.min(), original.max()
    expected = cxas(from_array(((original - low) / (high - low) * 4080)[:, :, 0]), (512, 512))
    np.testing.assert_allclose(cxas(inverted, (512, 512)), expected, atol=1e-5)


def test_values_are_inverted_and_rescaled_as_the_tags_say(kit):
    values = {}
    for name in ("mono2_12bit", "mono1_12bit", "mono2_rescale", "mono1_rescale"):
        dataset = pydicom.dcmread(kit.folder / "files" / f"{name}.dcm")
        stored = dataset.pixel_array.astype(int)
        stored = 4095 - stored if name.startswith("mono1") else stored
        values[name] = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        np.testing.assert_array_equal(read_picture(kit.folder / "files" / f"{name}.dcm").pixels, values[name])
    assert values["mono2_rescale"].min() < 0


PIXELS = 2 * 37 * 53  # bytes of mono2_12bit.dcm


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535; between 1 and"),
        ({"Rows": 8192, "Columns": 8192}, "less than expected"),
        ({"Rows": 0}, "between 1 and"),
        ({"Rows": None}, "tags Rows are missing"),
        ({"Columns": None, "BitsStored": None}, "tags Columns, BitsStored are missing"),
        ({"BitsAllocated": None}, "Bits Allocated"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b""}, "cannot decode|no pixel data"),
        ({"PixelData": bytes(PIXELS - 2)}, "less than expected"),
        ({"PixelData": bytes(PIXELS)}, "constant"),
        ({"NumberOfFrames": 1000000000}, "1000000000 frames"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"NumberOfFrames": -1}, "-1 frames"),
        (
            {"PixelData": bytes(range(256)) * (2 * PIXELS // 256 + 1)},
            r"\(2, 37, 53\), the tags say \(37, 53\)|contain 2",
        ),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0, "Columns": 17}, "the tags say|excess padding"),
        ({"PhotometricInterpretation": "RGB"}, "RGB is colour"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, "MONOCHROME3 is colour"),
        ({"RescaleSlope": b"0 "}, "constant: every pixel is 0"),
        ({"RescaleSlope": b"1e300 "}, "not finite"),
        ({"RescaleSlope": b"nan "}, "not finite|not valid|nan"),
        ({"RescaleSlope": b"steep "}, "cannot decode"),
        ({"RescaleIntercept": b"1\\2 "}, "cannot decode"),
    ],
)
def test_tags_that_contradict_the_picture_are_refused(kit, tmp_path, tags, message, strict):
    path = changed(kit, tmp_path / "x.dcm", **tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(ImageError, match=rf"^x\.dcm: .*({message})"):
            read_picture(path)


def jpeg(kit, path, *pictures, **tags):
    """Writes a DICOM file of 8-bit JPEG frames."""
    frames = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=95)
        frames.append(buffer.getvalue())
    dataset = pydicom.dcmread(kit.folder / "files" / "mono2_12bit.dcm")
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.Rows, dataset.Columns = pictures[0].shape
    dataset.PixelData = encapsulate(frames, has_bot=True)
    dataset["PixelData"].VR = "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


SMOOTH = (np.add.outer(np.arange(40), np.arange(56)) * 2).astype(np.uint8)


def test_a_jpeg_inside_dicom_is_read_as_the_jpeg_file(kit, tmp_path):
    picture = read_picture(jpeg(kit, tmp_path / "x.dcm", SMOOTH))
    assert np.abs(picture.pixels.astype(int) - SMOOTH).max() <= 2
    assert picture.notes == ()


def test_a_jpeg_that_contradicts_the_tags_is_refused(kit, tmp_path):
    with pytest.raises(ImageError, match=r"x\.dcm: "):
        read_picture(jpeg(kit, tmp_path / "x.dcm", SMOOTH, Rows=39))
    with pytest.raises(ImageError, match=r"the compressed picture is \[1, 1\], the tags say \[40, 56\]"):
        read_picture(jpeg(kit, tmp_path / "x.dcm", SMOOTH[:1, :1], Rows=40, Columns=56))
    with pytest.raises(ImageError, match=r"the pixels are \(2, 40, 56\), the tags say \(40, 56\)"):
        read_picture(jpeg(kit, tmp_path / "x.dcm", SMOOTH, SMOOTH))
    with pytest.raises(ImageError, match="colour|broadcast|cannot decode"):
        read_picture(jpeg(kit, tmp_path / "x.dcm", SMOOTH, SamplesPerPixel=3))


def test_remarks_of_pydicom_become_notes(kit, tmp_path, caplog):
    picture = read_picture(changed(kit, tmp_path / "x.dcm", Rows=36))
    assert picture.pixels.shape == (36, 53)
    assert len(picture.notes) == 1
    assert picture.notes[0].startswith("x.dcm: The pixel data is 3922 bytes long, which indicates it contains 106")
    assert read_picture(kit.folder / "files" / "mono2_12bit.dcm").notes == ()
    assert caplog.records == []


@pytest.mark.parametrize("intensity", ["original", "clinical"])
def test_an_empty_slope_or_intercept_is_ignored(kit, tmp_path, intensity):
    for slope, intercept, factor, shift in ((b"", b"", 1, 0), (b"", b"7 ", 1, 7), (b"2 ", b"", 2, 0)):
        path = changed(kit, tmp_path / "x.dcm", RescaleSlope=slope, RescaleIntercept=intercept)
        expected = pydicom.dcmread(path).pixel_array.astype(float) * factor + shift
        np.testing.assert_array_equal(read_picture(path, intensity=intensity).pixels, expected)


def test_a_remark_is_reported_once(kit, tmp_path):
    (note,) = read_picture(changed(kit, tmp_path / "x.dcm", NumberOfFrames=0)).notes
    assert "assuming 1 frame" in note


def test_remarks_belong_to_the_file_that_is_read_and_other_messages_pass(kit, tmp_path, caplog):
    paths = {rows: changed(kit, tmp_path / f"{rows}.dcm", Rows=rows) for rows in range(20, 37)}
    found = {}

    def read(rows):
        logging.getLogger("pydicom").warning("another's")
        found[rows] = read_picture(paths[rows]).notes

    threads = [threading.Thread(target=read, args=[rows]) for rows in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, notes in found.items():
        assert len(notes) == 1
        assert f"contains {2 * 53 * (37 - rows)} bytes of excess" in notes[0]
    assert [record.message for record in caplog.records] == ["another's"] * len(paths)
    with pytest.raises(ImageError):
        read_picture(changed(kit, tmp_path / "bad.dcm", Columns=60))
    logging.getLogger("pydicom").warning("after an error")
    assert caplog.messages[-1] == "after an error"


def test_a_failing_decoder_prints_no_traceback(kit, tmp_path, caplog, capfd):
    path = jpeg(kit, tmp_path / "x.dcm", SMOOTH)
    dataset = pydicom.dcmread(path)
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    broken = frame.replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x09")  # declares 9 bits
    dataset.PixelData = encapsulate([broken])
    dataset.save_as(path)
    with pytest.raises(ImageError, match=r"exceptions were raised by all available plugins: pillow"):
        read_picture(path)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_eight_bit_jpegs_are_always_decoded_by_pillow(kit, tmp_path):
    path = jpeg(kit, tmp_path / "x.dcm", SMOOTH)
    (frame,) = pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
    with Image.open(io.BytesIO(frame)) as image:
        np.testing.assert_array_equal(read_picture(path).pixels, np.asarray(image))


def test_intensity_original_keeps_the_values_that_the_weights_were_trained_on(kit):
    for name in ("mono2_window", "mono2_padding"):  # neither the window nor the padding is applied
        path = kit.folder / "files" / f"{name}.dcm"
        np.testing.assert_array_equal(read_picture(path).pixels, pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize("intensity", ["original", "clinical"])
@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"HighBit": 15}, r"the 12 bits of a value end at bit 15; only bit 11 can be read"),
        ({"PixelData": None, "FloatPixelData": bytes(48)}, "floating-point"),
        ({"PixelData": None, "DoubleFloatPixelData": bytes(96)}, "floating-point"),
        ({"PhotometricInterpretation": ""}, "tags PhotometricInterpretation are missing"),
        ({"Rows": 5}, "less than expected"),
        ({"PixelRepresentation": None}, "Pixel Representation"),
        ({"BitsStored": 17, "HighBit": 16}, "Bits Stored"),
        ({"NumberOfFrames": 3}, "3 frames"),
    ],
)
def test_pixels_that_cannot_be_shown_correctly_are_refused_in_both_intensities(tmp_path, tags, message, intensity):
    path = write_dicom(tmp_path / "x.dcm", RAMP, bits=12, **tags)
    with pytest.raises(ImageError, match=rf"^x\.dcm: .*{message}"):
        read_picture(path, intensity=intensity)


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        (
            JPEGLosslessSV1,
            "First-Order Prediction .*, which cannot be decoded here; pip install 'jaxseg.dicom.' brings",
        ),
        (HTJ2KLossless, "High-Throughput JPEG 2000 .*; convert the file to Explicit VR Little Endian"),
        ("1.2.840.10008.1.2.4.100", "MPEG2 .*; convert the file"),
        ("1.2.3.4.5", r"stored as 1\.2\.3\.4\.5, which cannot be decoded here; convert the file"),
    ],
)
def test_an_undecodable_transfer_syntax_is_named(kit, tmp_path, monkeypatch, syntax, message):
    path = jpeg(kit, tmp_path / "x.dcm", SMOOTH)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    if syntax == JPEGLosslessSV1:
        monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    with pytest.raises(ImageError, match=message):
        read_picture(path)


def test_a_number_of_frames_of_1_is_accepted(tmp_path):
    counted = read_picture(write_dicom(tmp_path / "x.dcm", RAMP, NumberOfFrames=1))
    np.testing.assert_array_equal(counted.pixels, RAMP)


@pytest.mark.parametrize("intensity", ["original", "clinical"])
@pytest.mark.parametrize(
    ("tags", "spacing_mm", "note"),
    [
        ({}, None, None),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), None),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [9, 9]}, (0.2, 0.3), None),
        ({"PixelSpacing": "", "ImagerPixelSpacing": [0.14, 0.14]}, (0.14, 0.14), r"on the detector \(Imager"),
        ({"NominalScannedPixelSpacing": [0.1, 0.2]}, (0.1, 0.2), "on the scanned film .*, not in the patient"),
        ({"PixelSpacing": [0, 0.3]}, None, r"PixelSpacing \(0, 0.3\) mm is not possible"),
        ({"PixelSpacing": [-0.2, 0.3], "ImagerPixelSpacing": [9, 9]}, None, "not possible"),
        ({"ImagerPixelSpacing": [0.2, 2e5]}, None, r"ImagerPixelSpacing \(0.2, 200000\) mm is not possible"),
        ({"PixelSpacing": b"nan\\1 "}, None, "PixelSpacing .*(not possible|not two numbers)"),
        ({"PixelSpacing": b"inf\\1 "}, None, "PixelSpacing .*(not possible|not two numbers)"),
        ({"PixelSpacing": b"wide"}, None, "PixelSpacing is not two numbers"),
        ({"PixelSpacing": b"0.2 "}, None, "PixelSpacing is not two numbers"),
        ({"PixelSpacing": b"0.2\\"}, None, "PixelSpacing is not two numbers"),
        ({"PixelSpacing": b"0.2\\0.2\\0.2 "}, None, "PixelSpacing is not two numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_pixel_spacing_is_read_or_reported_as_impossible(tmp_path, tags, spacing_mm, note, intensity):
    picture = read_picture(write_dicom(tmp_path / "x.dcm", RAMP, **tags), intensity=intensity)
    assert picture.spacing_mm == spacing_mm
    own = [text for text in picture.notes if "lengths in millimetres are" in text]
    assert len(own) == (note is not None)
    if note:
        assert re.search(note, own[0])


def test_pydicoms_warnings_are_not_emitted_besides_the_notes(shared, tmp_path, recwarn):
    assert len(read_picture(write_dicom(tmp_path / "x.dcm", RAMP, Rows=2)).notes) == 1
    with pytest.raises(ImageError, match="no pixel data"):
        read_picture(shared / "data" / "dicom" / "derived_truncated_jpeg_cxr.dcm")
    assert [warning.message for warning in recwarn] == []


def test_warnings_are_silenced_until_the_last_thread_leaves():
    before, inside, leave = list(warnings.filters), threading.Event(), threading.Event()

    def read():
        with without_remarks():
            inside.set()
            leave.wait()

    other = threading.Thread(target=read)
    with without_remarks():
        other.start()
        assert inside.wait(60)
    warnings.warn("not heard", UserWarning, stacklevel=1)  # this thread has left, the other has not
    leave.set()
    other.join()
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({}, ""),
        ({"Modality": ""}, ""),
        *(({"Modality": name}, "") for name in PROJECTIONS),
        ({"Modality": "cr "}, ""),
        ({"Modality": "MR"}, "its Modality is MR"),
        ({"Modality": "CT"}, "its Modality is CT"),
        ({"Modality": "US", "SOPClassUID": DigitalXRayImageStorageForPresentation}, "its Modality is US"),
        ({"Modality": b"CR\\CT "}, "its Modality is"),
        ({"SOPClassUID": CTImageStorage}, "its SOP class is CT Image Storage"),
        ({"Modality": "OT", "SOPClassUID": EnhancedMRImageStorage}, "its SOP class is Enhanced MR Image Storage"),
        ({"SOPClassUID": DigitalXRayImageStorageForPresentation}, ""),
        ({"SOPClassUID": XRayAngiographicImageStorage}, ""),
        ({"SOPClassUID": "1.2.3"}, ""),
        ({"Modality": "SEG", "SOPClassUID": SegmentationStorage}, "this is a DICOM segmentation"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_is_no_projection_x_ray_has_a_note(tmp_path, tags, found, intensity):
    path = write_dicom(tmp_path / "x.dcm", RAMP, **tags)
    notes = [note for note in read_picture(path, intensity=intensity).notes if "X-RAY" in note.upper()]
    assert len(notes) == bool(found)
    assert all(found in note for note in notes)
    quiet = read_picture(path, intensity=intensity, any_modality=True).notes
    assert [note for note in quiet if "X-RAY" in note.upper()] == []


def test_sop_classes_of_x_rays_do_not_count_as_others():
    names = [name for name, kind, *_ in pydicom.uid.UID_dictionary.values() if "Image Storage" in name]
    others = [name for name in names if any(word in name for word in _OTHER_CLASSES)]
    assert [name for name in others if "X-Ray" in name or "Computed Radiography" in name] == []
    assert {"CT Image Storage", "MR Image Storage", "Ultrasound Image Storage"} <= set(others)


def test_the_spacing_is_read_without_the_pixels(tmp_path):
    plain = write_dicom(tmp_path / "plain.dcm", RAMP, Modality="CR")
    detector = write_dicom(tmp_path / "detector.dcm", RAMP, Modality="CR", ImagerPixelSpacing=[0.2, 0.1])
    impossible = write_dicom(tmp_path / "impossible.dcm", RAMP, Modality="CR", PixelSpacing=[0, 0])
    assert [stated_spacing(path) for path in (plain, detector, impossible)] == [None, (0.2, 0.1), None]
    assert read_picture(detector).spacing_mm == (0.2, 0.1)
    (tmp_path / "x.dcm").write_bytes(b"x")
    with pytest.raises(ImageError, match="cannot read its tags"):
        stated_spacing(tmp_path / "x.dcm")
