"""Reads X-rays from png, jpg and dcm files as the original does. Pixels are (H, W) or (H, W, 3) numpy arrays."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
MAX_PIXELS = 2**27  # 11,585 x 11,585; checked before anything is decoded


class ImageError(ValueError):
    """A file or an array that cannot be read as an X-ray; the message says why."""


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
    if suffix not in SUFFIXES:
        raise ImageError(
            f"{path.name}: cannot read {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}"
        )
    if suffix == ".dcm":
        from jaxseg.images.dicom import read_dicom

        return Picture(read_dicom(path))
    return _read_raster(path)


def from_array(array: np.ndarray) -> Picture:
    """Takes an X-ray as an array.

    Args:
      array: (H, W) or (H, W, 3) uint8 in [0, 255], treated as a picture file; or (H, W) of another
        integer or float type, treated as DICOM pixel data (scaled by its minimum and maximum).

    Raises:
      ImageError: the shape or type is another, a value is not finite, or all values are equal.
    """
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


def check_size(height: int, width: int) -> None:
    """Raises ImageError where an image has no pixels or more than `MAX_PIXELS`."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"the image is {height} x {width}; between 1 and {MAX_PIXELS:,} pixels can be read")


def check_grey(grey: np.ndarray) -> np.ndarray:
    """Returns `grey` in native byte order; ImageError where it cannot be scaled by its range."""
    grey = grey.astype(grey.dtype.newbyteorder("="), copy=False)
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise ImageError("the image has values that are not finite (NaN or infinite)")
    if grey.min() == grey.max():
        raise ImageError(f"the image is constant: every pixel is {grey.flat[0]}")
    return grey


def _read_raster(path: Path) -> Picture:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width)
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"{path.name}: {image.n_frames} frames; an X-ray is one picture")
            image.load()
            notes = _clipping(image, path)
            return Picture(np.asarray(image.convert("RGB")), notes)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path.name}: not a png or jpg file, or damaged") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"{path.name}: damaged picture ({error})") from None


def _clipping(image: Image.Image, path: Path) -> tuple[str, ...]:
    """The original turns 16-bit greys into 8 bits by clipping; says so where that loses anything."""
    if not image.mode.startswith("I"):
        return ()
    top = image.getextrema()[1]
    if top <= 255:
        return ()
    return (f"{path.name}: 16-bit grey values up to {top} were clipped at 255, as the original does",)
