"""Reads X-rays from PNG, JPEG and DICOM files, whose first bytes decide their kind, and from arrays.

The names of DICOM files often have no suffix, or a number instead of one. Pixels are (H, W) or (H, W, 3) numpy arrays.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.images.picture import MAX_PIXELS, ImageError, Picture, check_grey, check_size

INTENSITIES = ("original", "clinical")
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_DIRECTORY = b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"  # SOP class: Media Storage Directory
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_HEAD = 1024  # bytes to read; the SOP class is in the first hundreds

__all__ = [
    "INTENSITIES",
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageError",
    "Picture",
    "check_kind",
    "from_array",
    "kind_of",
    "read_picture",
    "stem",
]


def read_picture(path: str | Path, *, intensity: str = "original") -> Picture:
    """Reads an X-ray file; its format is determined by its content, not by its name.

    Args:
      path: a PNG, JPEG or DICOM file.
      intensity: "original" gives the grey values that the published weights were trained on, to the bit. "clinical"
        gives what a viewer shows: for DICOM it applies the modality LUT and the VOI LUT or window, shows padding as
        black and converts colour to grey; it scales 16-bit PNG files by their range, where "original" clips them at
        255. Both invert MONOCHROME1.

    Raises:
      ImageError: the file is of another kind, damaged, too large or not an X-ray.
      ValueError: the intensity is unknown.
      OSError: the file cannot be opened.
    """
    if intensity not in INTENSITIES:
        raise ValueError(f"unknown intensity {intensity!r}; known: {', '.join(INTENSITIES)}")
    path = Path(path)
    try:
        picture = _read(path, intensity)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return dataclasses.replace(picture, notes=tuple(f"{path.name}: {note}" for note in picture.notes))


def from_array(array: np.ndarray, *, spacing_mm: tuple[float, float] | None = None) -> Picture:
    """Returns the picture of an X-ray that is given as an array.

    Args:
      array: (H, W) or (H, W, 3) uint8 in [0, 255], treated as a PNG or JPEG file; or (H, W) of another integer or
        float type, treated as DICOM pixel data (scaled by its minimum and maximum).
      spacing_mm: distance between its rows and between its columns in millimetres; None if it is unknown.

    Raises:
      ImageError: the array has another shape or type, a value is not finite, or all values are equal.

    >>> from_array(np.array([[0, 255], [128, 64]], np.uint8)).pixels.shape
    (2, 2, 3)
    """
    if isinstance(array, Image.Image):
        raise ImageError("got a Pillow image; give its file, or numpy.asarray(image.convert('RGB'))")
    array = np.asarray(array)
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"an image must be (H, W) or (H, W, 3), got {array.shape}")
    check_size(*array.shape[:2])
    if array.dtype == np.uint8:
        pixels = array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
        return Picture(pixels, spacing_mm=spacing_mm)
    if array.ndim == 3 or array.dtype.kind not in "iuf":
        raise ImageError(
            f"a {array.ndim}-dimensional image must be uint8, got {array.dtype}; grey values of other "
            "number types must be (H, W)"
        )
    return Picture(check_grey(array), spacing_mm=spacing_mm)


def stem(path: Path) -> str:
    """Returns the name of an image without its suffix; a number at the end of a UID is not a suffix.

    >>> stem(Path("chest.PNG")), stem(Path("1.2.840.10008"))
    ('chest', '1.2.840.10008')
    """
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def kind_of(path: Path) -> str | None:
    """Returns the kind of a file: "dicom", "dicomdir" (index of DICOM files), "raster" (PNG or JPEG) or None (other).

    Raises:
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[128:132] == b"DICM":
        return "dicomdir" if _DIRECTORY in _meta(head) else "dicom"
    return "raster" if head.startswith((_PNG, _JPEG)) else None


def _meta(head: bytes) -> bytes:
    """Returns the file meta information; its first element holds the length of the others."""
    is_length = head[132:140] == _GROUP_LENGTH
    return head[144 : 144 + int.from_bytes(head[140:144], "little")] if is_length else head[132:256]


def check_kind(path: Path) -> str:
    """Returns how to read a file, "dicom" or "raster"; if its content does not decide that, the suffix does.

    Raises:
      ValueError: neither content nor suffix decides, or the file is a DICOMDIR; the message does not name the file.
      OSError: the file cannot be read.
    """
    kind, suffix = kind_of(path), path.suffix.lower()
    if kind == "dicomdir":
        raise ValueError(
            "a DICOMDIR lists the images of its folder and is not an image itself; give its folder with --recursive"
        )
    if kind == "dicom" or suffix == ".dcm":
        return "dicom"
    if kind is None and suffix not in SUFFIXES:
        raise ValueError(
            f"cannot read {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}, or a file with such "
            "content under any name"
        )
    return "raster"


def _read(path: Path, intensity: str) -> Picture:
    try:
        kind = check_kind(path)
    except ValueError as error:
        raise ImageError(str(error)) from None
    if kind == "dicom":
        from jaxseg.images.dicom import read_dicom

        return read_dicom(path, intensity)
    return _read_raster(path, intensity)


def _read_raster(path: Path, intensity: str) -> Picture:
    """Reads a PNG or JPEG file: (H, W, 3) uint8, or (H, W) of 16 bits if they must not be clipped."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ImageError(f"the file has {frames} frames; an X-ray is one picture")
            image.load()
            image.info.pop("transparency", None)  # converting drops it with a warning
            if intensity == "clinical" and image.mode.startswith("I"):
                return Picture(check_grey(np.asarray(image)))
            return Picture(np.asarray(image.convert("RGB")), _clipping(image))
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError("not a png or jpg file, or damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the image is too large; at most {MAX_PIXELS:,} pixels can be read") from None
    except Exception as error:  # on damaged files Pillow raises errors of almost any type
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"damaged picture ({error})") from None


def _clipping(image: Image.Image) -> tuple[str, ...]:
    """Returns a note if 16-bit grey values were lost: the original converts them to 8 bits by clipping."""
    if not image.mode.startswith("I"):
        return ()
    top = int(np.asarray(image).max())
    if top <= 255:
        return ()
    return (
        f"16-bit grey values up to {top} were clipped at 255, as the original does; --intensity clinical keeps them",
    )
