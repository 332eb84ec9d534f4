"""Reads X-rays from PNG, JPEG and DICOM files, whose first bytes decide their kind, and from arrays.

The names of DICOM files often have no suffix, or a number instead of one. Pixels are (H, W) or (H, W, 3) numpy arrays.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.images.picture import MAX_PIXELS, ImageError, Picture, check_grey, check_size
from jaxseg.images.raster import JPEG, PNG, open_raster, read_raster

INTENSITIES = ("original", "cxas-0.0.20", "clinical")
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")

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
    "read_under_masks",
    "stem",
    "stored_size",
]


def read_picture(
    path: str | Path, *, intensity: str = "original", any_modality: bool = False, turn: bool | None = None
) -> Picture:
    """Reads an X-ray file; its format is determined by its content, not by its name.

    Args:
      path: a PNG, JPEG or DICOM file.
      intensity: "original" gives the grey values of CXAS up to 0.0.16, to the bit: those that the published weights
        were trained on. "cxas-0.0.20" gives those of CXAS 0.0.20, to the bit: it applies the first VOI LUT or window
        of DICOM files, and reads others as "original" does. "clinical" gives what a viewer shows: for DICOM it applies
        the modality LUT and the VOI LUT or window, shows padding as black and converts colour to grey; it scales
        pictures of 16 bits per channel by their range, and turns pictures as their EXIF orientation says. All of them
        invert MONOCHROME1.
      any_modality: whether to leave out the note on DICOM files that are not projection X-rays.
      turn: whether to turn a PNG or JPEG file as its EXIF orientation says; None: only if the intensity is "clinical".

    Raises:
      ImageError: the file is of another kind, damaged, too large or not an X-ray.
      ValueError: the intensity is unknown.
      OSError: the file cannot be opened.
    """
    if intensity not in INTENSITIES:
        raise ValueError(f"unknown intensity {intensity!r}; known: {', '.join(INTENSITIES)}")
    path = Path(path)
    try:
        picture = _read(path, intensity, any_modality=any_modality, turn=turn)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return dataclasses.replace(picture, notes=tuple(f"{path.name}: {note}" for note in picture.notes))


def stored_size(path: Path) -> tuple[int, int]:
    """Returns the height and width of an X-ray file, without decoding its pixels.

    Raises:
      ImageError: the file is of another kind, damaged or too large; the message does not name it.
      OSError: the file cannot be opened.
    """
    if check_kind(path) == "dicom":
        from jaxseg.images.dicom import stated_size

        return stated_size(path)
    with open_raster(path) as (image, _):
        return image.height, image.width


def read_under_masks(
    path: str | Path, size: tuple[int, int], *, intensity: str = "clinical", turned: bool | None = None
) -> Picture:
    """Reads an X-ray file in the orientation of its masks, which matters if the file has an EXIF orientation.

    Args:
      path, intensity: as `read_picture` takes them.
      size: height and width of the masks.
      turned: whether the masks fit the picture as its EXIF orientation turns it (True) or as it is stored (False).
        None: unknown; then the orientation is used that `intensity` gives, and a note says so. If only the other
        orientation has the size of the masks, it is used.

    Raises:
      ImageError, ValueError, OSError: as `read_picture`.
    """
    picture = read_picture(path, intensity=intensity, turn=turned)
    if picture.size != size:
        other = read_picture(path, intensity=intensity, turn=not picture.turned)
        return other if other.size == size else picture
    if turned is None and picture.turned:
        note = (
            f"{Path(path).name}: it was turned as its EXIF orientation says; masks of the stored pixels do not fit it"
        )
        return dataclasses.replace(picture, notes=(*picture.notes, note))
    return picture


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
    return "raster" if head.startswith((PNG, JPEG)) else None


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


def _read(path: Path, intensity: str, *, any_modality: bool, turn: bool | None) -> Picture:
    try:
        kind = check_kind(path)
    except ValueError as error:
        raise ImageError(str(error)) from None
    if kind == "dicom":
        from jaxseg.images.dicom import read_dicom

        return read_dicom(path, intensity, any_modality=any_modality)
    return read_raster(path, intensity, turn=turn)
