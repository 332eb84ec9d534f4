"""Which source pixels PyTorch's resizing reads; plain numpy, shared by `ops.resize` and the image readers."""

import numpy as np


def nearest_indices(size_in: int, size_out: int) -> np.ndarray:
    """Returns the source index of every output index under PyTorch's "nearest" rule.

    Returns:
      (size_out,) int32: `floor(i * float32(size_in / size_out))` with the product in float32, as
      `torch.nn.functional.interpolate(mode="nearest")`; `jax.image.resize` follows another rule.

    Raises:
      ValueError: a size is not positive.
    """
    _check(size_in, size_out)
    scale = np.float32(size_in) / np.float32(size_out)
    index = np.floor(np.arange(size_out, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(index, size_in - 1)


def bilinear_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the lower and upper source index (int32) and the weight of the upper one (float32), each (size_out,).

    The source coordinate is `max(0, (i + 0.5) * in / out - 0.5)`: PyTorch's bilinear with
    `align_corners=False` and no antialiasing.
    """
    _check(size_in, size_out)
    scale = np.float32(size_in) / np.float32(size_out)
    half = np.float32(0.5)
    source = np.maximum((np.arange(size_out, dtype=np.float32) + half) * scale - half, np.float32(0))
    low = np.minimum(np.floor(source).astype(np.int32), size_in - 1)
    return low, np.minimum(low + 1, size_in - 1), source - low.astype(np.float32)


def bilinear_array(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a plane resized bilinearly without antialiasing, as `cv2.resize` does; for one at a time, on the host.

    Args:
      plane: (H, W) bool or numbers.
      size: height and width of the result.

    Returns:
      `size`, float32.
    """
    low, high, weight = bilinear_taps(plane.shape[0], size[0])
    weight = weight[:, None]
    rows = plane[low] * (1 - weight) + plane[high] * weight
    low, high, weight = bilinear_taps(plane.shape[1], size[1])
    return (rows[:, low] * (1 - weight) + rows[:, high] * weight).astype(np.float32, copy=False)


def _check(size_in: int, size_out: int) -> None:
    if size_in < 1 or size_out < 1:
        raise ValueError(f"sizes must be at least 1, got {size_in} -> {size_out}")
