"""Source pixels of PyTorch's resizing, in plain numpy; `jaxseg.nn.resize` and the image readers share them."""

import numpy as np


def nearest_indices(size_in: int, size_out: int) -> np.ndarray:
    """Returns the source index of every output index under PyTorch's "nearest" rule.

    Args:
      size_in: number of source pixels, at least 1.
      size_out: number of output pixels, at least 1.

    Returns:
      (size_out,) int32: `floor(i * float32(size_in / size_out))` with the product in float32. It equals
      `torch.nn.functional.interpolate(mode="nearest")`; `jax.image.resize` follows another rule.

    Raises:
      ValueError: a size is not positive.

    >>> nearest_indices(3, 6).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    _check(size_in, size_out)
    scale = np.float32(size_in) / np.float32(size_out)
    index = np.floor(np.arange(size_out, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(index, size_in - 1)


def bilinear_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two source pixels of every output pixel and the weight of the second one.

    The source coordinate is `max(0, (i + 0.5) * size_in / size_out - 0.5)`: PyTorch's bilinear interpolation with
    `align_corners=False` and without antialiasing.

    Args:
      size_in: number of source pixels, at least 1.
      size_out: number of output pixels, at least 1.

    Returns:
      Lower index and upper index, int32, and the weight of the upper one in [0, 1], float32; each (size_out,).

    Raises:
      ValueError: a size is not positive.

    >>> low, high, weight = bilinear_taps(2, 4)
    >>> low.tolist(), high.tolist(), weight.tolist()
    ([0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.25])
    """
    _check(size_in, size_out)
    scale = np.float32(size_in) / np.float32(size_out)
    half = np.float32(0.5)
    source = np.maximum((np.arange(size_out, dtype=np.float32) + half) * scale - half, np.float32(0))
    low = np.minimum(np.floor(source).astype(np.int32), size_in - 1)
    return low, np.minimum(low + 1, size_in - 1), source - low.astype(np.float32)


def bilinear_array(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns one plane resized bilinearly without antialiasing, as `cv2.resize` does; computed on the host.

    Args:
      plane: (H, W) bool or numbers.
      size: height and width of the result.

    Returns:
      (*size,) float32.

    Raises:
      ValueError: a size is not positive.
    """
    low, high, weight = bilinear_taps(plane.shape[0], size[0])
    weight = weight[:, None]
    rows = plane[low] * (1 - weight) + plane[high] * weight
    low, high, weight = bilinear_taps(plane.shape[1], size[1])
    return (rows[:, low] * (1 - weight) + rows[:, high] * weight).astype(np.float32, copy=False)


def _check(size_in: int, size_out: int) -> None:
    if size_in < 1 or size_out < 1:
        raise ValueError(f"sizes must be at least 1, got {size_in} -> {size_out}")
