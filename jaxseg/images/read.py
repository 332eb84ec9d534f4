"""Reads X-rays from png, jpg and dcm files as the original does. Pixels are (H, W) or (H, W, 3) numpy arrays."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.images.checks import MAX_PIXELS, ImageError, check_grey, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An X-ray before any scaling.

    Attributes:
      pixels: (H, W, 3) uint8 from picture files, (H, W) of any number type from DICOM.
      notes: what a user must know of the reading, such as clipped grey values.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]


def read_picture(path: str | Path) -> Picture:
    """Reads an X-ray file; the suffix decides how, upper and lower case alike.

    Raises:
      ImageError: the suffix is none of `SUFFIXES`, or the file is damaged, too large or no X-ray.
      OSError: the file cannot be opened.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix not in SUFFIXES:
            raise ImageError(f"cannot read {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}")
        if suffix == ".dcm":
            from jaxseg.images.dicom import read_dicom

            pixels, notes = read_dicom(path)
        else:
            pixels, notes = _read_raster(path)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return Picture(pixels, tuple(f"{path.name}: {note}" for note in notes))


def from_array(array: np.ndarray) -> Picture:
    """Takes an X-ray as an array.

    Args:
      array: (H, W) or (H, W, 3) uint8 in [0, 255], treated as a picture file; or (H, W) of another
        integer or float type, treated as DICOM pixel data (scaled by its minimum and maximum).

    Raises:
      ImageError: the shape or type is another, a value is not finite, or all values are equal.
    """
    if isinstance(array, Image.Image):
        raise ImageError("got a Pillow image; give its file, or numpy.asarray(image.convert('RGB'))")
    array = np.asarray(array)
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"an image must be (H, W) or (H, W, 3), got {array.shape}")
    check_size(*array.shape[:2])
    if array.dtype == np.uint8:
        return Picture(array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2))
    if array.ndim == 3 or array.dtype.kind not in "iuf":
        raise ImageError(
            f"a {array.ndim}-dimensional image must be uint8, got {array.dtype}; grey values of other "
            "number types must be (H, W)"
        )
    return Picture(check_grey(array))


def _read_raster(path: Path) -> tuple[np.ndarray, list[str]]:
    """The (H, W, 3) uint8 pixels of a picture file, and notes."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width)
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"{image.n_frames} frames; an X-ray is one picture")
            image.load()
            image.info.pop("transparency", None)  # is dropped in any case, but not without a warning
            return np.asarray(image.convert("RGB")), _clipping(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError("not a png or jpg file, or damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the image is too large; at most {MAX_PIXELS:,} pixels can be read") from None
    except Exception as error:  # Pillow raises almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"damaged picture ({error})") from None


def _clipping(image: Image.Image) -> list[str]:
    """The original turns 16-bit greys into 8 bits by clipping; says so where that loses anything."""
    if not image.mode.startswith("I"):
        return []
    top = image.getextrema()[1]
    if top <= 255:
        return []
    return [f"16-bit grey values up to {top} were clipped at 255, as the original does"]
