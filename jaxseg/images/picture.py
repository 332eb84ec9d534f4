"""What a reader of X-rays returns."""

import dataclasses

import numpy as np

MAX_PIXELS = 2**26  # 8192 x 8192, less than what Pillow warns of; checked before anything is decoded


class ImageError(ValueError):
    """A file or an array that cannot be read as an X-ray; the message says why, after the file's name."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An X-ray before any scaling.

    Attributes:
      pixels: (H, W, 3) uint8 from picture files; (H, W) of any number type from DICOM and from 16-bit picture files
        read with intensity "clinical".
      notes: what a user must know of the reading, such as clipped grey values.
      spacing_mm: distance of the file's rows and of its columns in millimetres, where the file tells; in an X-ray it
        often is that on the detector, a little larger than in the patient.
      limits: the grey values of (H, W) pixels that are shown black and white; None: their own range.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    limits: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Returns the brightness of (H, W, 3) uint8 or uint16 colours as (H, W) float32 of the same range.

    Three equal channels give their value exactly.

    Source: ITU-R BT.601, with Pillow's integer weights, whose sum is 65536.
    """
    red, green, blue = (rgb[..., i].astype(np.uint32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue) / 65536).astype(np.float32)


def check_size(height: int, width: int) -> None:
    """Raises ImageError where an image has no pixels or more than `MAX_PIXELS`."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"the image is {height} x {width}; between 1 and {MAX_PIXELS:,} pixels can be read")


def check_grey(grey: np.ndarray) -> np.ndarray:
    """Returns `grey` in native byte order; ImageError where float32 cannot scale it by its range."""
    grey = grey.astype(grey.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.float32(grey.min()), np.float32(grey.max())
        extent = high - low
    if not np.isfinite(extent):
        raise ImageError("the image has values that are not finite in float32 (NaN, infinite or too large)")
    if extent == 0:
        raise ImageError(f"the image is constant: every pixel is {low:g}")
    return grey
