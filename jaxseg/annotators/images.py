"""Images for models of disagreeing annotators: read as they are stored, checked, and resized."""

import math
from pathlib import Path

import numpy as np

from jaxseg import npy
from jaxseg.folder_runs.inputs import find_by_suffix
from jaxseg.images.picture import MAX_PIXELS, ImageError, check_size
from jaxseg.images.raster import check_upright, open_raster
from jaxseg.images.tiff import SUFFIXES as TIFFS
from jaxseg.images.tiff import need_tifffile, read_tiff
from jaxseg.nn.indices import bilinear_array

SUFFIXES = (*TIFFS, ".npy", ".npz", ".png")
NORMALISE = ("none", "zscore")
_MEMBER = "image.npy"  # of an .npz


def find_image_files(path: Path, *, recursive: bool = False, output: Path) -> list[Path]:
    """Returns the image files that `path` means; raises like `jaxseg.folder_runs.inputs.find_by_suffix`."""
    found = find_by_suffix(path, SUFFIXES, "images", recursive=recursive, output=output, results="samples")
    if any(file.suffix.lower() in TIFFS for file in found):
        need_tifffile()  # before the first image
    return found


def read_image(path: str | Path) -> np.ndarray:
    """Reads the one image of a file as it is stored: nothing is scaled except `.png`, which is divided by 255.

    Args:
      path: `.tif` or `.tiff` (uncompressed), `.npy`, `.npz` with an array called `image`, or `.png` of 8 bits, grey or
        RGB. No pickled object is loaded.

    Returns:
      An array of whole or floating-point numbers, (H, W), (H, W, C) or, as in LIDC's files, (1, H, W).

    Raises:
      ImageError: the file is of another kind, damaged, too large, or holds no image.
      OSError: the file cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TIFFS:
        return read_tiff(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".png": _read_png}
    if suffix not in readers:
        raise ImageError(f"{path.name}: images are read from {', '.join(SUFFIXES)} files")
    try:
        return readers[suffix](path)
    except (ImageError, npy.NpyError) as error:
        raise ImageError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # numpy and Pillow raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ImageError(f"{path.name}: no {suffix} file, or damaged ({reason})") from None


def checked_image(image: np.ndarray, channels: int, *, normalise: str = "none") -> np.ndarray:
    """Returns an image in the form that a model with this number of channels takes.

    Args:
      image: (H, W), (H, W, C), or for a model of one channel (1, H, W); whole or floating-point numbers.
      channels: C of the model.
      normalise: "none", or "zscore": subtract the mean and divide by the standard deviation, as in LIDC's crops.

    Returns:
      (H, W, C) float32.

    Raises:
      ImageError: its shape, type or values are not those of such an image. ValueError: `normalise` is unknown.
    """
    if normalise not in NORMALISE:
        raise ValueError(f"normalise is {normalise!r}; known: {', '.join(NORMALISE)}")
    image = np.asarray(image)
    if image.dtype.kind not in "iuf":
        raise ImageError(f"an image holds whole or floating-point numbers, got {image.dtype}")
    planes, shape = image, image.shape
    if channels == 1 and len(shape) == 3 and shape[0] == 1 and shape[2] != 1:
        planes = image[0]
    if planes.ndim == 2:
        planes = planes[..., None]
    if planes.ndim != 3 or planes.shape[2] != channels:
        wanted = "(H, W)" if channels == 1 else f"(H, W, {channels})"
        raise ImageError(f"images of the model have {channels} channel(s), {wanted}; got {shape}")
    check_size(*planes.shape[:2])
    with np.errstate(over="ignore", invalid="ignore"):
        planes = planes.astype(np.float32)
    if not np.isfinite(planes).all():
        raise ImageError("the image has values that are not finite in float32 (NaN, infinite or too large)")
    return planes if normalise == "none" else _zscored(planes)


def resized_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an (H, W, C) image resized bilinearly to `size`, float32."""
    return np.stack([bilinear_array(plane, size) for plane in np.moveaxis(image, -1, 0)], axis=-1)


def resized_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns (..., h, w) values resized to (..., *size): each pixel takes the value at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for old, new in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[..., rows[:, None], columns]


def _zscored(image: np.ndarray) -> np.ndarray:
    wide = image.astype(np.float64)
    deviation = wide.std()
    if deviation == 0:
        raise ImageError(f"the image is constant, so it has no z-score: every value is {wide.flat[0]:g}")
    return ((wide - wide.mean()) / deviation).astype(np.float32)


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return _array(file)


def _read_npz(path: Path) -> np.ndarray:
    with npy.archive(path) as archive:
        names = archive.namelist()
        if _MEMBER not in names:
            there = ", ".join(name.removesuffix(".npy") for name in names[:5]) or "nothing"
            raise ImageError(f"must hold an array called image; it holds {there}")
        with archive.open(_MEMBER) as file:
            return _array(file)


def _array(file) -> np.ndarray:
    try:
        header = npy.read_header(file)
        if header.dtype.kind not in "iuf":
            raise ImageError(f"an image holds whole or floating-point numbers, got {header.dtype}")
        if len(header.shape) not in (2, 3) or not 1 <= math.prod(header.shape) <= MAX_PIXELS:
            raise ImageError(f"an image is (H, W) or (H, W, C) of at most {MAX_PIXELS:,} values, got {header.shape}")
        return np.ascontiguousarray(npy.read_values(file, header))
    except npy.NpyError as error:
        raise ImageError(str(error)) from None


def _read_png(path: Path) -> np.ndarray:
    with open_raster(path, ("PNG",)) as (picture, _):
        if picture.mode not in ("L", "RGB") or "transparency" in picture.info or getattr(picture, "n_frames", 1) > 1:
            raise ImageError(f"a png must be one picture of 8 bits, grey or RGB, without transparency: {picture.mode}")
        picture.load()
        check_upright(picture)
        return np.asarray(picture, np.float32) / np.float32(255)
