"""Files that are small, but would take gigabytes or minutes: many elements of DICOM, many scans of JPEG."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import RAMP, lut, write_dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from jaxseg.images import elements
from jaxseg.images.elements import MAX_ELEMENTS, check_elements, check_scans
from jaxseg.images.picture import ImageError
from jaxseg.images.raster import PNG
from jaxseg.images.read import kind_of, read_picture

TOO_MANY = MAX_ELEMENTS + 1


def flooded(content: bytes, flood: bytes, before: bytes = b"\x28\x00\x02\x00US") -> bytes:
    """Returns a file with elements before SamplesPerPixel."""
    place = content.index(before)
    return content[:place] + flood + content[place:]


def explicit(tag: tuple[int, int], kind: bytes, length: int) -> bytes:
    long = kind in (b"SQ", b"UN")
    return struct.pack("<HH2s", *tag, kind) + (struct.pack("<HI", 0, length) if long else struct.pack("<H", length))


SMALL = explicit((0x11, 0x1000), b"LO", 0)
ITEM, ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
FLOODS = {
    "elements": SMALL * TOO_MANY,
    "a sequence with an end": explicit((9, 1), b"SQ", 0xFFFFFFFF) + ITEM + SMALL * TOO_MANY + ITEM_END + END,
    "a sequence of a length": explicit((9, 1), b"SQ", 8 * (TOO_MANY + 1)) + ITEM + SMALL * TOO_MANY,
    "items": explicit((9, 1), b"SQ", 0xFFFFFFFF) + (ITEM + ITEM_END) * (TOO_MANY // 2) + END,
    "after a sequence of unknown type": explicit((9, 1), b"UN", 0xFFFFFFFF) + ITEM + ITEM_END + END + SMALL * TOO_MANY,
    "in a sequence of unknown type": explicit((9, 1), b"UN", 0xFFFFFFFF)
    + ITEM
    + struct.pack("<HHI", 9, 2, 0) * TOO_MANY
    + ITEM_END
    + END,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_elements_is_refused_quickly(tmp_path, name):
    path = write_dicom(tmp_path / "x.dcm", RAMP)
    path.write_bytes(flooded(path.read_bytes(), FLOODS[name]))
    start = time.process_time()
    with pytest.raises(ImageError, match=f"more than {MAX_ELEMENTS:,} elements"):
        check_elements(path)
    assert time.process_time() - start < 2


def test_floods_of_other_syntaxes_and_of_the_meta_information_are_refused(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", RAMP)
    plain = path.read_bytes()
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    implicit = flooded(
        path.read_bytes(), struct.pack("<HHI", 0x11, 0x1000, 0) * TOO_MANY, b"\x28\x00\x02\x00\x02\0\0\0"
    )
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    head = path.read_bytes()
    start = head.index(b"1.2.840.10008.1.2.1.99") + 22
    packed = zlib.compressobj(wbits=-15)
    deflated = head[:start] + packed.compress(SMALL * TOO_MANY) + packed.flush()
    meta = flooded(plain, explicit((2, 0x100), b"SH", 0) * TOO_MANY, b"\x02\x00\x10\x00UI")
    for content in (implicit, deflated, meta):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="elements"):
            check_elements(path)


def test_ordinary_files_are_accepted(tmp_path):
    tags = {"VOILUTSequence": lut(range(4096), 0, 16), "PatientName": "x"}
    count = check_elements(write_dicom(tmp_path / "x.dcm", RAMP, **tags))
    assert 20 < count < 50
    check_elements(write_dicom(tmp_path / "y.dcm", RAMP, big_endian=True))


def test_a_jpeg_of_many_scans_in_a_dicom_file_is_refused(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(content, "JPEG")
    whole = content.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    for count, refused in ((1, False), (101, True)):
        dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", np.zeros((64, 64), np.uint8)))
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([whole[:-2] + scan * (count - 1) + whole[-2:]])
        dataset.save_as(tmp_path / "y.dcm", enforce_file_format=True)
        if refused:
            with pytest.raises(ImageError, match="more than 100 scans"):
                read_picture(tmp_path / "y.dcm")
        else:
            assert read_picture(tmp_path / "y.dcm").size == (64, 64)


def test_real_files_are_accepted(shared):
    files = [path for path in Path(shared).rglob("*") if path.is_file() and path.stat().st_size < 2**26]
    dicom = [path for path in files if kind_of(path) == "dicom"]
    assert len(dicom) > 10
    for path in dicom:
        check_elements(path)


def test_a_jpeg_of_many_scans_is_refused(tmp_path, monkeypatch):
    content = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(content, "JPEG", progressive=True)
    path, whole = tmp_path / "x.jpg", content.getvalue()
    path.write_bytes(whole)
    check_scans(path)
    path.write_bytes(PNG + b"\xff\xda" * 101)
    check_scans(path)  # of a PNG file, these bytes are compressed pixels
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    path.write_bytes(whole[:-2] + scan * 101 + whole[-2:])
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_scans(path)
    monkeypatch.setattr(elements, "_CHUNK", 7)  # markers at the ends of parts are found, too
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_scans(path)
