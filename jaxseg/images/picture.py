"""The picture that every reader of X-rays returns, the error that it raises, and the checks that all readers share."""

import dataclasses

import numpy as np

MAX_PIXELS = 2**26  # 8192 x 8192, fewer than Pillow warns of; checked before anything is decoded


class ImageError(ValueError):
    """A file or an array cannot be read as an image; the message gives the reason, after the file's name if known."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An X-ray before any scaling.

    Attributes:
      pixels: (H, W, 3) uint8 from PNG and JPEG files; (H, W) of any number type from DICOM files and from files of 16
        bits per channel read with intensity "clinical".
      notes: remarks of the reader for the user, such as clipped grey values.
      spacing_mm: distance between the file's rows and between its columns in millimetres; None if it is unknown. For an
        X-ray this is often the distance on the detector, which is a little larger than in the patient.
      limits: grey values of (H, W) pixels that are shown as black and white; None means their minimum and maximum.
      turned: whether the stored pixels were turned as the EXIF orientation says.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    limits: tuple[float, float] | None = None
    turned: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Returns the brightness of colours; three equal channels give their value exactly.

    Args:
      rgb: (H, W, 3) uint8 or uint16.

    Returns:
      (H, W) float32, in the range of the colours.

    Source: ITU-R BT.601, with Pillow's integer weights, whose sum is 65536.

    >>> luminance(np.array([[[200, 200, 200], [255, 0, 0]]], np.uint8)).round(1).tolist()
    [[200.0, 76.19999694824219]]
    """
    red, green, blue = (rgb[..., i].astype(np.uint32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue) / 65536).astype(np.float32)


def check_size(height: int, width: int) -> None:
    """Checks that an image is neither empty nor too large.

    Raises:
      ImageError: the image has no pixels or more than `MAX_PIXELS`.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"the image is {height} x {width}; between 1 and {MAX_PIXELS:,} pixels can be read")


def check_grey(grey: np.ndarray) -> np.ndarray:
    """Returns grey values in native byte order, after checking that float32 can scale them by their range.

    Args:
      grey: (H, W) of any number type.

    Raises:
      ImageError: a value is not finite in float32, or all values are equal.
    """
    grey = grey.astype(grey.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.float32(grey.min()), np.float32(grey.max())
        extent = high - low
    if not np.isfinite(extent):
        raise ImageError("the image has values that are not finite in float32 (NaN, infinite or too large)")
    if extent == 0:
        raise ImageError(f"the image is constant: every pixel is {low:g}")
    return grey
