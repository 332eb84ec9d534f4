"""Reads NIfTI-1 and NIfTI-2 files in one part (.nii, .nii.gz). Needs nibabel, for the headers."""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxseg.volumes.volume import Volume, VolumeError, check_affine, check_dtype, check_shape

SUFFIXES = (".nii", ".nii.gz")
_SIZES = {348: 1, 540: 2}  # bytes of a header -> version of the format
_MAX_OFFSET = 2**24  # bytes before the voxels: header and extensions
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # xyzt_units & 7: unknown, metres, millimetres, micrometres
_CHUNK = 2**22


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI file as it is stored: (D, H, W), rescaled by scl_slope and scl_inter where these say so.

    Integers that are not rescaled keep their type; others become float32, of more than 16 bits float64. More than the
    header announces is never read or unpacked.

    Raises:
      VolumeError: no NIfTI file, damaged, cut short, not three-dimensional or too large.
      ValueError: nibabel is not installed.
      OSError: the file cannot be opened.
    """
    with _opened(path) as file:
        header, shape, dtype, affine = _header(file)
        count = math.prod(shape)
        offset = _voxels_at(header)
        _read(file, offset - int(header["sizeof_hdr"]))  # extensions
        content = _read(file, count * dtype.itemsize)
        file.read(1)  # at the end gzip compares its checksum
    array = np.frombuffer(content, dtype).reshape(shape)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # the format's way to say that nothing is scaled
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise VolumeError(f"its values are scaled by {slope:g} and {intercept:g}, which is not possible")
    return Volume(_scaled(array, slope, intercept), affine)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Writes an array (D, H, W) of integers or float32 to `path`, which should be a temporary one.

    Args:
      path: ends with .nii or .nii.gz.
      array: its values are stored as they are, without scaling.
      affine: as in `Volume`; None: voxels of 1 mm.
    """
    nibabel = _nibabel()
    array = array.astype(np.uint8) if array.dtype == bool else array
    image = nibabel.Nifti1Image(array.transpose(), np.eye(4) if affine is None else affine, dtype=array.dtype)
    nibabel.save(image, path)


def _nibabel():
    try:
        import nibabel
    except ImportError:
        raise ValueError(
            "NIfTI files need nibabel: pip install 'jaxseg[nifti]' (npy, npz and DICOM folders are read without)"
        ) from None
    return nibabel


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The unpacked content; what the compression raises becomes a VolumeError."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if packed else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise VolumeError(f"the file is damaged or was cut short ({error})") from None


def _header(file: BinaryIO) -> tuple:
    """The header as nibabel takes it, and what is needed of it."""
    nibabel = _nibabel()
    start = file.read(4)
    found = next(((n, order) for order in "<>" for n in _SIZES if struct.pack(order + "i", n) == start), None)
    if found is None:
        raise VolumeError("not a NIfTI file (its header has another length)")
    size, order = found
    block = start + _read(file, size - 4)
    kind = nibabel.Nifti1Header if _SIZES[size] == 1 else nibabel.Nifti2Header
    header = kind(block, order, check=False)
    magic = bytes(header["magic"])[:3]
    if magic not in (b"n+1", b"n+2"):
        raise VolumeError(
            "the voxels are in a second file (.hdr and .img), which is not read"
            if magic.startswith(b"ni")
            else "not a NIfTI file (no n+1 or n+2 in its header)"
        )
    try:
        shape, dtype, affine = _shape(header), header.get_data_dtype(), header.get_best_affine()
    except VolumeError:
        raise
    except Exception as error:  # nibabel raises almost anything on headers that make no sense
        raise VolumeError(f"its header is damaged ({' '.join(str(error).split())[:120]})") from None
    check_dtype(dtype)
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise VolumeError(f"its unit of length is unknown (xyzt_units is {int(header['xyzt_units'])})")
    affine = check_affine(np.diag([unit, unit, unit, 1]) @ affine)
    return header, shape, dtype, affine


def _shape(header) -> tuple[int, int, int]:
    """(D, H, W); further axes of length 1 do not count."""
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise VolumeError(f"its header says that it has {dimensions} dimensions")
    lengths = [int(length) for length in header["dim"][1 : dimensions + 1]]
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths.pop()
    shape = tuple(reversed(lengths))
    check_shape(shape)
    return shape


def _voxels_at(header) -> int:
    """Where the voxels begin, counted from the start."""
    offset, least = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if not least <= offset <= _MAX_OFFSET or offset != int(offset):
        raise VolumeError(f"its header says that the voxels begin at byte {offset:g}; from {least} on can be read")
    return int(offset)


def _read(file: BinaryIO, count: int) -> bytearray:
    """Exactly so many bytes, in parts: a header that announces more than there is costs no memory."""
    content = bytearray()
    while len(content) < count:
        part = file.read(min(_CHUNK, count - len(content)))
        if not part:
            raise VolumeError(f"the file was cut short: {len(content):,} of {count:,} bytes are there")
        content += part
    return content


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    wanted = np.float64 if array.dtype.itemsize > 2 and array.dtype.kind != "f" else np.float32
    wanted = np.float64 if array.dtype.itemsize == 8 else wanted
    scaled = np.empty(array.shape, wanted)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it matters
        for z, plane in enumerate(array):
            scaled[z] = plane.astype(np.float64) * slope + intercept
    return scaled
