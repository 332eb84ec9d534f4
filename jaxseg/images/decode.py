"""Opens DICOM files and decodes their pixels, within bounded memory; incomplete pictures are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder

from jaxseg.images.picture import MAX_PIXELS, ImageError

MAX_SCANS = 100  # of a JPEG; a progressive one has about ten, and each takes the time of a whole picture
MAX_INFLATED = 4 * MAX_PIXELS  # bytes of a file after inflating: 16-bit grey or 8-bit colour, and its tags

# The first installed decoder of this list is used. Decoders that refuse incomplete data come before pylibjpeg, which
# fills it up. The order is fixed, so that lossy pictures are the same on every machine with the same decoder.
_DECODERS = ("pillow", "pyjpegls", "pydicom", "gdcm", "pylibjpeg")
_IN_EXTRA = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_FRAME_HEADERS = (
    b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf\xf7"  # second byte of the frame headers of JPEG and JPEG-LS
)
_SCAN = b"\xff\xda"  # start of a scan of JPEG; these bytes do not occur in its data
_END = b"\xff\xd9"  # end marker of JPEG, JPEG-LS and JPEG 2000; these bytes do not occur in their data


def open_dicom(path: Path, *, tags: tuple[str, ...] | None = None) -> pydicom.Dataset:
    """Reads a DICOM file; a deflated file is inflated here, because pydicom would inflate it to any size.

    Args:
      path: the file.
      tags: keywords of the tags to read, without pixels; None means all tags. A deflated file is always read whole.

    Raises:
      ImageError: the deflated file is too large when inflated, or is truncated.
      Exception: any error that pydicom raises on damaged files.
      OSError: the file cannot be read.
    """
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(path, stop_before_pixels=tags is not None, specific_tags=list(tags) if tags else None)
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
    """Returns the stored values of a single frame.

    Args:
      dataset: a file of one frame whose size `jaxseg.images.dicom.check_tags` has checked.

    Returns:
      (Rows, Columns), or (Rows, Columns, 3) for RGB and YBR colours; YBR is converted to RGB.

    Raises:
      ImageError: no installed decoder can decode the pixels, they are incomplete, or they contradict the tags.
      Exception: any error that pydicom and its decoders raise on damaged files.
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
    if pixels.shape != expected:  # frames or samples that the tags do not mention
        raise ImageError(f"the pixels are {pixels.shape}, the tags say {expected}")
    return pixels


def _choose(syntax: uid.UID, decoder: Decoder | None, dataset: pydicom.Dataset) -> str:
    """Returns the name of the installed decoder to use for compressed pixels."""
    found = set(decoder.available_plugins) if decoder is not None else set()
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored != 8:
        found.discard("pillow")  # claims to decode this and fails
    if not found:
        hint = "convert the file to Explicit VR Little Endian"
        if syntax in (*_IN_EXTRA, *uid.JPEGLSTransferSyntaxes):
            hint = "pip install 'jaxseg[dicom]' brings a decoder"
        raise ImageError(f"the pixels are stored as {syntax.name}, which cannot be decoded here; {hint}")
    return min(found, key=lambda name: _DECODERS.index(name) if name in _DECODERS else len(_DECODERS))


def _check_bits(dataset: pydicom.Dataset) -> None:
    """Checks that the bits of a value are the lowest ones: pydicom reads those and ignores the tags."""
    high, stored = dataset.get("HighBit"), dataset.BitsStored
    if high is not None and int(high) != int(stored) - 1:
        raise ImageError(f"the {stored} bits of a value end at bit {high}; only bit {stored - 1} can be read (HighBit)")


def _check_stream(dataset: pydicom.Dataset, syntax: uid.UID) -> None:
    """Refuses compressed pictures whose size contradicts the tags, and truncated ones."""
    if syntax == uid.RLELossless:  # has no size, and pydicom counts the decoded values
        return
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    *size, start = _jpeg2000_header(stream) if syntax in uid.JPEG2000TransferSyntaxes else _jpeg_header(stream)
    if size != [dataset.Rows, dataset.Columns]:
        raise ImageError(f"the compressed picture is {size}, the tags say {[dataset.Rows, dataset.Columns]}")
    if syntax not in uid.JPEG2000TransferSyntaxes and stream.count(_SCAN) > MAX_SCANS:
        raise ImageError(f"the compressed picture has more than {MAX_SCANS} scans; convert it to an ordinary JPEG")
    if stream.find(_END, start) < 0:
        raise ImageError("the compressed picture was cut short (it has no end marker)")


def _jpeg_header(stream: bytes) -> tuple[int, int, int]:
    """Returns height, width and the position of the frame header of a JPEG or JPEG-LS stream."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _FRAME_HEADERS:
            return *struct.unpack_from(">HH", stream, at + 5), at
        at += 1 if stream[at + 1] == 0xFF else 2 + struct.unpack_from(">H", stream, at + 2)[0]
    raise ImageError("the compressed picture is not a JPEG, or damaged")


def _jpeg2000_header(stream: bytes) -> tuple[int, int, int]:
    """Returns height, width and the position of the header of a JPEG 2000 stream."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(stream):
        raise ImageError("the compressed picture is not a JPEG 2000, or damaged")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    return bottom - top, right - left, at
