"""Reads and writes the small uncompressed TIFF files in which slices with several annotators are published.

It needs tifffile (extra `tiff`): Pillow cannot open 64-bit floats, and inverts the bits of these masks.
"""

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxseg.files import atomic_file
from jaxseg.images.picture import MAX_PIXELS, ImageError
from jaxseg.images.remarks import without_remarks

SUFFIXES = (".tif", ".tiff")
MAX_PAGES = 4096
_MAX_AXES = 4


def read_tiff(path: str | Path) -> np.ndarray:
    """Reads a TIFF file that holds one array, in the shape that its writer gave it.

    The declared sizes of all pages are compared with the size of the file before any pixel is read, and compressed
    files are refused. A file can therefore not request more memory than its own size (eight times its size for masks,
    which are stored with one bit per pixel).

    Args:
      path: the file.

    Returns:
      An array with one to four axes in native byte order: bool for files with one bit per pixel, else integers or
      floating-point numbers; for example (1, 64, 64) float64, (1, 64, 64, A) bool, (28, 28, 3) float64 or (28, 28)
      uint8.

    Raises:
      ImageError: the file is not a TIFF file, is compressed, too large, cut short or damaged, or holds several arrays;
        or it has an orientation other than upright; or tifffile is not installed.
      OSError: the file cannot be read.
    """
    path = Path(path)
    tifffile = need_tifffile()
    size = path.stat().st_size
    if not path.is_file():
        raise ImageError(f"{path.name}: is not a file")
    try:
        with without_remarks(), tifffile.TiffFile(path) as file:
            series = _checked(tifffile, file, size)
            array = series.asarray()
    except (ImageError, MemoryError) as error:
        if isinstance(error, MemoryError):
            raise
        raise ImageError(f"{path.name}: {error}") from None
    except Exception as error:  # tifffile raises almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ImageError(f"{path.name}: not a TIFF file, or damaged ({reason})") from None
    if array.shape != tuple(series.shape):
        raise ImageError(f"{path.name}: damaged: its array is {array.shape}, its tags say {tuple(series.shape)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write_tiff(path: Path, array: np.ndarray) -> None:
    """Writes an array as the published files are written: uncompressed, little-endian, its shape in the description.

    Args:
      path: the file, ending in .tif or .tiff; an existing file is replaced atomically.
      array: bool (stored with one bit per pixel), uint8, uint16, int16, int32, float32 or float64, two to four axes.

    Raises:
      ValueError: the suffix, the type or the shape is not allowed; or tifffile is not installed.
      OSError: the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path.name} must end in {' or '.join(SUFFIXES)}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not 2 <= array.ndim <= _MAX_AXES or not array.size:
        raise ValueError(f"{path.name}: cannot hold {array.shape} {array.dtype}")
    colour = array.ndim == 3 and array.shape[-1] == 3 and array.dtype != bool
    kind = "rgb" if colour else "miniswhite" if array.dtype == bool else "minisblack"
    tifffile = need_tifffile()
    with atomic_file(path) as temporary:
        tifffile.imwrite(temporary, np.ascontiguousarray(array), byteorder="<", photometric=kind)


def need_tifffile() -> ModuleType:
    """Returns the module tifffile. Call it before a run, so that one error says that it is missing.

    Raises:
      ImageError: it is not installed.
    """
    try:
        return importlib.import_module("tifffile")
    except ImportError:
        raise ImageError("TIFF files need tifffile: pip install 'jaxseg[tiff]'") from None


def _checked(tifffile: ModuleType, file: Any, size: int) -> Any:
    """Returns the only series of a file, after checking that the file holds all its pixels."""
    if len(file.pages) > MAX_PAGES:
        raise ImageError(f"has {len(file.pages)} pages; at most {MAX_PAGES} can be read")
    if len(file.series) != 1:
        raise ImageError(f"holds {len(file.series)} arrays; one is needed")
    series = file.series[0]
    shape, dtype = tuple(series.shape), series.dtype
    if dtype is None or dtype.kind not in "biuf" or not 1 <= len(shape) <= _MAX_AXES:
        raise ImageError(f"holds {shape} {dtype}; integers or floating-point numbers with one to four axes can be read")
    count = math.prod(shape)
    if not 1 <= count <= MAX_PIXELS:
        raise ImageError(f"holds {shape}; between 1 and {MAX_PIXELS:,} values can be read")
    page = series.keyframe
    orientation = page.tags.get("Orientation")
    if orientation is not None and int(orientation.value) != 1:
        raise ImageError(f"has the orientation {int(orientation.value)}, with which viewers turn it; save it without")
    if page.compression != tifffile.COMPRESSION.NONE:
        raise ImageError(f"is compressed ({page.compression.name}); write it without compression")
    bits = 1 if dtype.kind == "b" else 8 * dtype.itemsize
    if count * bits > 8 * size:
        raise ImageError(f"is cut short: {shape} {dtype} needs more than its {size:,} bytes")
    return series
