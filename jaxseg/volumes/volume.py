"""A volume with its position in space, and the checks that all readers of volumes share.

Volumes are (D, H, W): slice, row, column.
"""

import dataclasses
import math

import numpy as np

MAX_VOXELS = 2**29  # 512 x 512 x 2048; checked before anything is decoded


class VolumeError(ValueError):
    """A file or an array that cannot be read as a volume; the message names the file and the reason."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """A CT, a mask or a volume of labels.

    Attributes:
      array: (D, H, W), in native byte order. The axes have the order of SimpleITK's arrays, and the reverse order of
        nibabel's.
      affine: (4, 4) float64. It maps (x, y, z, 1), the column, row and slice of a voxel, to millimetres to the right,
        anterior and superior, as in NIfTI. None if the file does not contain it.
      name: name of the file, for messages.
      notes: remarks of the reader; each starts with the name.
    """

    array: np.ndarray
    affine: np.ndarray | None = None
    name: str = "the volume"
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance in millimetres between slices, rows and columns; None if it is not known."""
        if self.affine is None:
            return None
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0)[::-1])


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises VolumeError if a shape is not (D, H, W), has no voxels or has more than `MAX_VOXELS`."""
    shown = " x ".join(str(length) for length in shape) or "a single number"
    if len(shape) == 2:
        raise VolumeError(f"is an image of {shown}, not a volume (D, H, W); give a single slice as array[None]")
    if len(shape) != 3:
        raise VolumeError(f"has {len(shape)} dimensions ({shown}); a volume has three: slices, rows, columns")
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise VolumeError(f"is {shown}; volumes of 1 to {MAX_VOXELS:,} voxels can be read")


def check_dtype(dtype: np.dtype) -> None:
    """Raises VolumeError unless a dtype is bool, an integer, float16, float32 or float64."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise VolumeError(f"holds values of the type {dtype}; integers, float32 and float64 can be read")


def canonical(volume: Volume) -> Volume:
    """Returns a volume with its axes swapped and flipped so that they are closest to the patient's axes.

    Afterwards slices run from feet to head, rows from back to front and columns from the patient's left to the right
    (RAS+). Nothing is interpolated.

    Returns:
      A volume whose array is a view of the same values.

    Raises:
      VolumeError: the volume has no affine.

    Example:
      >>> import numpy as np
      >>> stored = Volume(np.arange(3).reshape(1, 1, 3), np.diag([-1.0, 1.0, 1.0, 1.0]))  # columns run to the left
      >>> canonical(stored).array
      array([[[2, 1, 0]]])

    Source: equal to `as_closest_canonical` of nibabel.
    """
    if volume.affine is None:
        raise VolumeError(
            f"{volume.name}: contains no orientation, so it cannot be turned to the patient's axes; leave out canonical"
        )
    axes, signs = _closest_axes(volume.affine)
    array = volume.array.transpose()  # (x, y, z)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for world, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        change[axis, world] = sign
        change[axis, 3] = 0 if sign > 0 else array.shape[axis] - 1
    turned = array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    return dataclasses.replace(volume, array=turned.transpose(), affine=volume.affine @ change)


def ends_of_axes(affine: np.ndarray) -> list[tuple[str, str]]:
    """Returns for the axes (x, y, z) of an affine the sides of the patient that are closest to their two ends.

    Args:
      affine: (4, 4), as in `Volume`.

    Returns:
      The letters at the first and last voxel of each axis: R and L, A and P, S and I.

    >>> ends_of_axes(np.diag([-1.0, 1.0, 1.0, 1.0]))  # columns run to the left
    [('R', 'L'), ('P', 'A'), ('I', 'S')]
    """
    ends = [("", "")] * 3
    for (low, high), axis, sign in zip(("LR", "PA", "IS"), *_closest_axes(affine), strict=True):
        ends[axis] = (low, high) if sign > 0 else (high, low)
    return ends


def _closest_axes(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns for right, anterior and superior the closest axis of (x, y, z), and its sign."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right  # the closest matrix without shear
    axes, signs = [0, 0, 0], [1, 1, 1]
    free = [0, 1, 2]
    for axis in np.argsort(-np.abs(rotation).max(axis=0), kind="stable"):
        world = max(free, key=lambda direction: abs(rotation[direction, axis]))
        free.remove(world)
        axes[world], signs[world] = int(axis), 1 if rotation[world, axis] > 0 else -1
    return axes, signs


def check_affine(affine: np.ndarray) -> np.ndarray:
    """Returns an affine as (4, 4) float64.

    Raises:
      VolumeError: it has values that are not finite, or is singular.
    """
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all():
        raise VolumeError("its affine has values that are not finite")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise VolumeError("its affine is singular: voxels have no extent (a distance of 0, or parallel axes)")
    return affine
