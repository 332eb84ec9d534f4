"""Counts the elements of a DICOM file from strangers before it is parsed, and the scans of a JPEG file.

pydicom takes some hundred bytes and microseconds for each element, and the smallest element has eight bytes: a file
of a hundred megabytes could ask for gigabytes. Decoders take their whole time again for each scan of a JPEG, which
may be tiny.
"""

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from pydicom import uid
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from jaxseg.images.decode import MAX_INFLATED, MAX_SCANS
from jaxseg.images.picture import ImageError
from jaxseg.images.raster import JPEG

MAX_ELEMENTS = 50_000  # an X-ray has some hundreds
_PREAMBLE = 132  # bytes before the first element
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_PIXELS, _SYNTAX, _SEQUENCE_END = 0x7FE00010, 0x00020010, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_CHUNK = 2**20


def check_elements(source: Path | BinaryIO) -> int:
    """Checks that a DICOM file has no more than `MAX_ELEMENTS` elements before its pixels, those of sequences included.

    Args:
      source: a path, or an open file.

    Returns:
      The number of elements.

    Raises:
      ImageError: it has more.
      OSError: the file cannot be read.
    """
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        file.seek(_PREAMBLE)
        syntax, count = _walk(file, 0, little=True, explicit=True, meta=True)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                file = io.BytesIO(inflater.decompress(file.read(), MAX_INFLATED))
            except zlib.error as error:
                raise ImageError(f"the deflated file is damaged ({error})") from None
        start = file.read(6)
        file.seek(-len(start), io.SEEK_CUR)
        explicit = start[4:6].isalpha() and start[4:6].isupper()  # as pydicom decides, also against the syntax
        return _walk(file, count, little=syntax != uid.ExplicitVRBigEndian, explicit=explicit)[1]


def check_scans(path: Path) -> None:
    """Checks that a JPEG file has no more than `MAX_SCANS` scans; files of other kinds have none.

    Raises:
      ImageError: it has more.
      OSError: the file cannot be read.
    """
    count, last = 0, b""
    with path.open("rb") as file:
        if file.read(len(JPEG)) != JPEG:  # the compressed data of a PNG file may hold the bytes of the marker
            return
        file.seek(0)
        while part := file.read(_CHUNK):
            count += (last + part).count(b"\xff\xda")  # never part of the compressed data
            last = part[-1:] if part.endswith(b"\xff") else b""
            if count > MAX_SCANS:
                raise ImageError(f"the picture has more than {MAX_SCANS} scans; save it as an ordinary JPEG")


def _walk(file: BinaryIO, count: int, *, little: bool, explicit: bool, meta: bool = False) -> tuple[str, int]:
    """Walks over elements up to the pixels, or up to the end of the meta information; sequences are entered.

    Returns the transfer syntax, if the meta information states it, and the number of elements.
    """
    order, syntax = "<" if little else ">", ""
    outside: list[bool] = []  # whether VRs were explicit before each open sequence
    while len(head := file.read(8)) == 8:
        group, element = struct.unpack(f"{order}HH", head[:4])
        tag = group << 16 | element
        if tag == _PIXELS or (meta and group != 2):
            file.seek(-8, io.SEEK_CUR)
            break
        count += 1
        if count > MAX_ELEMENTS:
            raise ImageError(f"the file has more than {MAX_ELEMENTS:,} elements; an X-ray has some hundreds")
        if group == 0xFFFE:  # begin or end of an item or of a sequence
            explicit = outside.pop() if tag == _SEQUENCE_END and outside else explicit
            continue
        kind, length = _kind(file, head, tag, order, explicit=explicit)
        if length == _UNDEFINED:
            outside.append(explicit)
            explicit = explicit and kind != b"UN"  # sequences of unknown type have implicit VRs
        elif tag == _SYNTAX and meta:
            syntax = file.read(length).decode("latin-1").rstrip("\0 ")
        elif kind != b"SQ":
            file.seek(length, io.SEEK_CUR)
    return syntax, count


def _kind(file: BinaryIO, head: bytes, tag: int, order: str, *, explicit: bool) -> tuple[bytes, int]:
    """Returns the VR of an element and the length of its value, at which the file then stands."""
    if not explicit:
        is_sequence = dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
        return b"SQ" if is_sequence else b"", struct.unpack(f"{order}I", head[4:])[0]
    kind = head[4:6]
    if kind not in _LONG:
        return kind, struct.unpack(f"{order}H", head[6:])[0]
    rest = file.read(4)
    return kind, struct.unpack(f"{order}I", rest)[0] if len(rest) == 4 else 0
