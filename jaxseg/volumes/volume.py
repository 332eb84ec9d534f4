"""A scan or a mask of one as an array with its place in space, and what every reader of volumes refuses."""

import dataclasses
import math

import numpy as np

MAX_VOXELS = 2**29  # 512 x 512 x 2048; checked before anything is decoded


class VolumeError(ValueError):
    """A file or an array that cannot be read as a volume; the message says why, after the file's name."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """A volume.

    Attributes:
      array: (D, H, W): slice, row, column, in native byte order. It is the order of SimpleITK's arrays, and that of
        nibabel's turned round (z, y, x).
      affine: (4, 4) float64: (x, y, z, 1), the column, row and slice of a voxel, to millimetres in the directions
        right, anterior and superior, as in NIfTI. None where the file does not say.
      name: of the file, for messages.
      notes: remarks of the reader, which begin with that name.
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
        """Distance of slices, of rows and of columns in millimetres; None where it is not known."""
        if self.affine is None:
            return None
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0)[::-1])


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises VolumeError where a shape is not (D, H, W), or has no voxels or more than `MAX_VOXELS`."""
    shown = " x ".join(str(length) for length in shape) or "a single number"
    if len(shape) == 2:
        raise VolumeError(f"is a picture of {shown}, not a volume (D, H, W); for a single slice give array[None]")
    if len(shape) != 3:
        raise VolumeError(f"has {len(shape)} dimensions ({shown}); a volume has three: slices, rows, columns")
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise VolumeError(f"is {shown}; between 1 and {MAX_VOXELS:,} voxels can be read")


def check_dtype(dtype: np.dtype) -> None:
    """Raises VolumeError where values are no bool, integer, float32, float64 or float16."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise VolumeError(f"holds values of the type {dtype}; whole numbers, float32 and float64 can be read")


def canonical(volume: Volume) -> Volume:
    """Returns a volume with its axes turned and mirrored, by whole axes, to those nearest to the patient's.

    Afterwards slices run from feet to head, rows from back to front and columns from the patient's left to the right
    (RAS+ of nibabel, whose `as_closest_canonical` it equals). It is a view of the same values.

    Raises:
      VolumeError: the volume does not say how it lies.
    """
    if volume.affine is None:
        raise VolumeError(
            f"{volume.name}: does not say how it lies in space, so it cannot be reoriented; leave out canonical"
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


def _closest_axes(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """For right, anterior and superior the axis of (x, y, z) that runs along it, and its sign."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right  # the nearest without shear
    axes, signs = [0, 0, 0], [1, 1, 1]
    free = [0, 1, 2]
    for axis in np.argsort(-np.abs(rotation).max(axis=0), kind="stable"):
        world = max(free, key=lambda direction: abs(rotation[direction, axis]))
        free.remove(world)
        axes[world], signs[world] = int(axis), 1 if rotation[world, axis] > 0 else -1
    return axes, signs


def check_affine(affine: np.ndarray) -> np.ndarray:
    """Returns (4, 4) float64; VolumeError where it has values that are not finite or makes a voxel flat."""
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all():
        raise VolumeError("its affine has values that are not finite")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise VolumeError("its affine makes voxels without an extent (a distance of 0, or axes that coincide)")
    return affine
