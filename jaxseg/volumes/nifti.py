"""Reads and writes single-file NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz); headers are parsed by nibabel."""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from jaxseg.volumes.volume import Volume, VolumeError, check_affine, check_dtype, check_shape

SUFFIXES = (".nii", ".nii.gz")
_SIZES = {348: 1, 540: 2}  # header size in bytes -> version of the format
_MAX_OFFSET = 2**24  # bytes before the voxels: header and extensions
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # xyzt_units & 7: unknown, metres, millimetres, micrometres
_CHUNK = 2**22


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI file in the stored orientation, rescaled by scl_slope and scl_inter if they are set.

    Values that are not rescaled keep their type. Rescaled values become float32, or float64 if they are stored as
    integers of more than 16 bits or as float64. Never more bytes are read or decompressed than the header announces.

    Returns:
      A volume whose array is (D, H, W).

    Raises:
      VolumeError: the file is not NIfTI, is damaged or truncated, is not three-dimensional, or is too large.
      ValueError: nibabel is not installed.
      OSError: the file cannot be opened.
    """
    with _opened(path) as file:
        header, shape, dtype, affine = _header(file)
        count = math.prod(shape)
        offset = _voxels_at(header)
        _read(file, offset - int(header["sizeof_hdr"]))  # extensions
        content = _read(file, count * dtype.itemsize)
        file.read(1)  # gzip verifies its checksum at the end of the file
    array = np.frombuffer(content, dtype).reshape(shape)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # in NIfTI this means: not scaled
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise VolumeError(f"its values are scaled by slope {slope:g} and intercept {intercept:g}, which must be finite")
    return Volume(_scaled(array, slope, intercept), affine)


def read_shape(path: Path) -> tuple[int, int, int]:
    """Returns the shape (D, H, W) of a NIfTI file, without reading its voxels.

    Raises:
      VolumeError, ValueError, OSError: as in `read_nifti`.
    """
    with _opened(path) as file:
        return _header(file)[1]


def read_extensions(path: Path) -> tuple[bytes, bool]:
    """Returns the bytes between the header and the voxels of a NIfTI file, and whether it is little-endian.

    Raises:
      VolumeError, ValueError, OSError: as in `read_nifti`.
    """
    with _opened(path) as file:
        header, *_ = _header(file)
        content = _read(file, _voxels_at(header) - int(header["sizeof_hdr"]))
    return bytes(content), header.endianness == "<"


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Writes a volume; not atomic, so `path` should be a temporary file.

    Args:
      path: a name that ends with .nii or .nii.gz.
      array: (D, H, W) bool, integers or floats, stored without scaling; bool becomes uint8.
      affine: as in `Volume`; None: voxels of 1 mm.

    Raises:
      ValueError: nibabel is not installed.
    """
    nibabel = need_nibabel()
    array = array.astype(np.uint8) if array.dtype == bool else array
    image = nibabel.Nifti1Image(array.transpose(), np.eye(4) if affine is None else affine, dtype=array.dtype)
    nibabel.save(image, path)


def need_nibabel() -> ModuleType:
    """Returns the module nibabel. Call it before a run, so that one error says that it is missing.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise ValueError(
            "NIfTI files need nibabel: pip install 'jaxseg[nifti]' (npy, npz and DICOM folders do not need it)"
        ) from None
    return nibabel


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Yields the decompressed content; errors of the decompression become a VolumeError."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if packed else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise VolumeError(f"the file is damaged or truncated ({error})") from None


def _header(file: BinaryIO) -> tuple:
    """Returns the header as an object of nibabel, shape, dtype and affine."""
    nibabel = need_nibabel()
    start = file.read(4)
    found = next(((n, order) for order in "<>" for n in _SIZES if struct.pack(order + "i", n) == start), None)
    if found is None:
        raise VolumeError("not a NIfTI file (the size of its header is neither 348 nor 540)")
    size, order = found
    block = start + _read(file, size - 4)
    kind = nibabel.Nifti1Header if _SIZES[size] == 1 else nibabel.Nifti2Header
    header = kind(block, order, check=False)
    magic = bytes(header["magic"])[:3]
    if magic not in (b"n+1", b"n+2"):
        raise VolumeError(
            "the voxels are in a second file (.hdr and .img), which is not supported; convert it to .nii"
            if magic.startswith(b"ni")
            else "not a NIfTI file (no n+1 or n+2 in its header)"
        )
    try:
        shape, dtype, affine = _shape(header), header.get_data_dtype(), header.get_best_affine()
    except VolumeError:
        raise
    except Exception as error:  # nibabel raises almost any exception on invalid headers
        raise VolumeError(f"its header is damaged ({' '.join(str(error).split())[:120]})") from None
    check_dtype(dtype)
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise VolumeError(f"its unit of length is unknown (xyzt_units is {int(header['xyzt_units'])})")
    affine = check_affine(np.diag([unit, unit, unit, 1]) @ affine)
    return header, shape, dtype, affine


def _shape(header) -> tuple[int, int, int]:
    """Returns (D, H, W); further axes of length 1 are dropped."""
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise VolumeError(f"its header says that it has {dimensions} dimensions; 1 to 7 are possible")
    lengths = [int(length) for length in header["dim"][1 : dimensions + 1]]
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths.pop()
    shape = tuple(reversed(lengths))
    check_shape(shape)
    return shape


def _voxels_at(header) -> int:
    """Returns the offset of the voxels in bytes from the start of the file."""
    offset, least = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if not least <= offset <= _MAX_OFFSET or offset != int(offset):
        raise VolumeError(
            f"its header says that the voxels begin at byte {offset:g}; {least} to {_MAX_OFFSET} are possible"
        )
    return int(offset)


def _read(file: BinaryIO, count: int) -> bytearray:
    """Reads exactly this number of bytes in chunks, so that a header with a wrong size does not allocate memory."""
    content = bytearray()
    while len(content) < count:
        part = file.read(min(_CHUNK, count - len(content)))
        if not part:
            raise VolumeError(f"the file is truncated: it has {len(content):,} of {count:,} bytes")
        content += part
    return content


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    wanted = np.float64 if array.dtype.itemsize > 2 and array.dtype.kind != "f" else np.float32
    wanted = np.float64 if array.dtype.itemsize == 8 else wanted
    scaled = np.empty(array.shape, wanted)
    with np.errstate(over="ignore", invalid="ignore"):  # callers refuse values that are not finite
        for z, plane in enumerate(array):
            scaled[z] = plane.astype(np.float64) * slope + intercept
    return scaled
