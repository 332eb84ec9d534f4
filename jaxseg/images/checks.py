"""What every reader of X-rays refuses."""

import numpy as np

MAX_PIXELS = 2**26  # 8192 x 8192, less than what Pillow warns of; checked before anything is decoded


class ImageError(ValueError):
    """A file or an array that cannot be read as an X-ray; the message says why, after the file's name."""


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
