"""Opens DICOM files and decodes their pixels: within bounded memory, and never a part of a picture for the whole."""

import contextlib
import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.pixels import get_decoder

from jaxseg.images.picture import MAX_PIXELS, ImageError

MAX_INFLATED = 4 * MAX_PIXELS  # bytes of a deflated file: 16-bit grey or 8-bit colour, and its tags

# The first that is installed decodes: one that refuses what is incomplete before one that fills it up (pylibjpeg), and
# the same one whatever else is installed, so that lossy pictures are the same everywhere.
_DECODERS = ("pillow", "pyjpegls", "pydicom", "gdcm", "pylibjpeg")
_IN_EXTRA = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_FRAME_HEADERS = b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf\xf7"  # second bytes of JPEG's and JPEG-LS's
_END = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000, in whose data these bytes do not occur

_threads = threading.Lock()
_silence = contextlib.ExitStack()  # holds Python's filters, which are those of all threads
_silent = 0  # how many want silence
_reading = threading.local()  # `remarks`: what pydicom says of the file that this thread reads


@contextlib.contextmanager
def without_remarks() -> Iterator[list[str]]:
    """Takes what pydicom remarks on in this thread, instead of letting it out; yields the list of it.

    Python's filters of warnings come back when the last thread that wants silence is done.
    """
    global _silent
    with _threads:
        if not _silent:
            _silence.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _silent += 1
    _reading.remarks = []
    try:
        yield _reading.remarks
    finally:
        _reading.remarks = None
        with _threads:
            _silent -= 1
            if not _silent:
                _silence.close()


def _take_remark(record: logging.LogRecord) -> bool:
    """Keeps what pydicom logs, as it does with all that it warns of; what other threads log passes."""
    remarks = getattr(_reading, "remarks", None)
    if remarks is None:
        return True
    remarks.append(" ".join(record.getMessage().split()))
    return False


for _name in ("pydicom", "pydicom.pixels.decoders.base"):
    logging.getLogger(_name).addFilter(_take_remark)


def open_dicom(path: Path, *, tags: tuple[str, ...] | None = None) -> pydicom.Dataset:
    """Reads a DICOM file; a deflated one is inflated here, since pydicom would inflate it to any size.

    Args:
      path: the file.
      tags: read these alone, without pixels, where the file is not deflated.

    Raises:
      ImageError: it is too large when inflated, or was cut short.
      Exception: whatever pydicom raises on damaged files.
      OSError: the file cannot be read.
    """
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(path, stop_before_pixels=tags is not None, specific_tags=tags and list(tags))
    with path.open("rb") as file:
        read_preamble(file, force=False)
        read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != 2)
        packed = file.read()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(packed, MAX_INFLATED + 1)
    if len(content) > MAX_INFLATED:
        raise ImageError(f"the deflated file is too large; at most {MAX_INFLATED:,} bytes can be read")
    if not inflater.eof:
        raise ImageError("the deflated file was cut short")
    dataset = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    return pydicom.FileDataset(path, dataset, file_meta=meta, is_implicit_VR=False, is_little_endian=True)


def stored_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """Returns the stored values of a single frame: (Rows, Columns), or (Rows, Columns, 3) of RGB and YBR colours.

    YBR comes as RGB. The tags must have been checked for a bearable size.

    Raises:
      ImageError: nothing here can decode them, or they are incomplete, or not as the tags say.
      Exception: whatever pydicom and its decoders raise on damaged files.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None and decoder.is_native:
        _check_bits(dataset)
    else:
        plugin = _choose(syntax, decoder, dataset)
        _check_stream(dataset, syntax)
        dataset.pixel_array_options(decoding_plugin=plugin)
    pixels = dataset.pixel_array
    grey = dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    expected = (dataset.Rows, dataset.Columns) if grey else (dataset.Rows, dataset.Columns, 3)
    if pixels.shape != expected:  # frames or samples that the tags do not announce
        raise ImageError(f"the pixels are {pixels.shape}, the tags say {expected}")
    return pixels


def _choose(syntax: uid.UID, decoder, dataset: pydicom.Dataset) -> str:
    """The installed decoder to use for compressed pixels."""
    found = set(decoder.available_plugins) if decoder is not None else set()
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored != 8:
        found.discard("pillow")  # says that it can, and cannot
    if not found:
        hint = "convert the file to Explicit VR Little Endian"
        if syntax in (*_IN_EXTRA, *uid.JPEGLSTransferSyntaxes):
            hint = "pip install 'jaxseg[dicom]' brings a decoder"
        raise ImageError(f"the pixels are stored as {syntax.name}, which cannot be decoded here; {hint}")
    return min(found, key=lambda name: _DECODERS.index(name) if name in _DECODERS else len(_DECODERS))


def _check_bits(dataset: pydicom.Dataset) -> None:
    """pydicom takes the lower bits of every value, wherever the tags say that they are."""
    high, stored = dataset.get("HighBit"), dataset.BitsStored
    if high is not None and int(high) != int(stored) - 1:
        raise ImageError(f"the {stored} bits of a value end at bit {high}; only bit {stored - 1} can be read (HighBit)")


def _check_stream(dataset: pydicom.Dataset, syntax: uid.UID) -> None:
    """Refuses compressed pictures of another size than the tags say, and those that were cut short."""
    if syntax == uid.RLELossless:  # holds no size, and pydicom counts what it decodes
        return
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    *size, start = _jpeg2000_header(stream) if syntax in uid.JPEG2000TransferSyntaxes else _jpeg_header(stream)
    if size != [dataset.Rows, dataset.Columns]:
        raise ImageError(f"the compressed picture is {size}, the tags say {[dataset.Rows, dataset.Columns]}")
    if stream.find(_END, start) < 0:
        raise ImageError("the compressed picture was cut short (it has no end marker)")


def _jpeg_header(stream: bytes) -> tuple[int, int, int]:
    """Height, width and the place of the frame header of a JPEG or JPEG-LS stream."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _FRAME_HEADERS:
            return *struct.unpack_from(">HH", stream, at + 5), at
        at += 1 if stream[at + 1] == 0xFF else 2 + struct.unpack_from(">H", stream, at + 2)[0]
    raise ImageError("the compressed picture is no JPEG, or damaged")


def _jpeg2000_header(stream: bytes) -> tuple[int, int, int]:
    """Height, width and the place of the header of a JPEG 2000 stream."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(stream):
        raise ImageError("the compressed picture is no JPEG 2000, or damaged")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    return bottom - top, right - left, at
