"""Checks that a volume is a CT in Hounsfield units, that another is a mask, and that both cover the same space."""

import numpy as np

from jaxseg.volumes.volume import Volume, VolumeError

AFFINE_TOLERANCE_MM = 0.1  # largest distance between the corners of two volumes that match

# Air is near -1000 HU and fat near -100, so the values of a body part span hundreds of units. Values within 20 were
# divided by their range or standard deviation; values within 0 to 255 come from an 8-bit image.
NORMALISED = 20.0
PICTURE = (0.0, 255.0)


def check_ct(ct: Volume) -> tuple[str, ...]:
    """Checks that the values of a volume can be Hounsfield units.

    Values within [-20, 20] (normalised), values within [0, 255] (an 8-bit image), constant values, NaN and infinity are
    refused.

    Returns:
      Remarks for the user; () if there are none.

    Raises:
      VolumeError: the values cannot be Hounsfield units.
    """
    check_finite(ct)
    low, high = float(ct.array.min()), float(ct.array.max())
    hint = "give the CT in Hounsfield units, as the scanner's files hold it"
    if low == high:
        raise VolumeError(f"{ct.name}: every voxel is {low:g}; {hint}")
    if low >= -NORMALISED and high <= NORMALISED:
        raise VolumeError(f"{ct.name}: values from {low:g} to {high:g} look normalised already; {hint}")
    if PICTURE[0] <= low and high <= PICTURE[1]:
        raise VolumeError(f"{ct.name}: values from {low:g} to {high:g} look like an 8-bit image; {hint}")
    if low >= 0:
        return (f"{ct.name}: no value is below 0 (air is -1000 HU): is the intercept missing, usually -1024?",)
    return ()


def check_mask(mask: Volume) -> Volume:
    """Returns a mask as a volume of bool.

    Raises:
      VolumeError: the values are not 0 and 1, or 0 and 255.

    Example:
      >>> import numpy as np
      >>> check_mask(Volume(np.array([[[0, 255]]]))).array
      array([[[False,  True]]])
    """
    if mask.array.dtype == bool:
        return mask
    check_finite(mask)
    found = mask.array != 0
    high = mask.array.max()
    if high not in (0, 1, 255) or (mask.array[found] != high).any():
        kinds = np.unique(mask.array)
        shown = ", ".join(f"{value:g}" for value in kinds[:6]) + (", ..." if kinds.size > 6 else "")
        hint = "score it as labels, or extract one organ" if mask.array.dtype.kind in "iu" else "apply a threshold"
        raise VolumeError(f"{mask.name}: a mask holds 0 and 1, this one holds {shown}; {hint}")
    return Volume(found, mask.affine, mask.name, mask.notes)


def check_finite(volume: Volume) -> None:
    """Raises VolumeError if a value is NaN or infinite."""
    if volume.array.dtype.kind == "f" and not np.isfinite([volume.array.min(), volume.array.max()]).all():
        bad = int((~np.isfinite(volume.array)).sum())
        raise VolumeError(f"{volume.name}: {bad:,} voxels are NaN or infinite")


def check_pair(ct: Volume, mask: Volume) -> None:
    """Checks that a CT and a mask have the same shape and, if both have an affine, the same position in space.

    The positions agree if corresponding corners are at most `AFFINE_TOLERANCE_MM` apart.

    Raises:
      VolumeError: they differ; the message says how.
    """
    if ct.shape != mask.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, ct.shape)]
        turned = sorted(ct.shape) == sorted(mask.shape)
        hint = "; its axes may be in another order (the axes of a volume are slices, rows, columns)" if turned else ""
        raise VolumeError(f"{mask.name}: the mask is {sizes[0]}, {ct.name} is {sizes[1]}{hint}")
    if ct.affine is None or mask.affine is None:
        return
    apart = corner_distance(ct.affine, mask.affine, ct.shape)
    if apart > AFFINE_TOLERANCE_MM:
        raise VolumeError(
            f"{mask.name}: covers another space than {ct.name}: {_difference(ct.affine, mask.affine, apart)}"
        )


def corner_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Returns the largest distance in millimetres between corresponding corners of two volumes.

    Args:
      a, b: (4, 4) affines, as in `Volume`.
      shape: (D, H, W) of both.
    """
    last = np.array(shape[::-1]) - 1
    corners = np.array([[*(last * np.array(bits)), 1] for bits in np.ndindex(2, 2, 2)]).T
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())


def _difference(ct: np.ndarray, mask: np.ndarray, apart: float) -> str:
    """Describes how two affines differ."""
    axes = [_axes(affine) for affine in (mask, ct)]
    if axes[0] != axes[1]:
        return f"its axes are {axes[0]}, those of the CT are {axes[1]}; reorient one, or read both with canonical"
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (mask, ct)]
    if not np.allclose(*spacings, rtol=1e-3):
        shown = [" x ".join(f"{length:g}" for length in spacing) for spacing in spacings]
        return f"its voxels are {shown[0]} mm, those of the CT are {shown[1]} mm"
    return f"their corners are up to {apart:.3g} mm apart; was the mask made from another scan, or a part of this one?"


def _axes(affine: np.ndarray) -> str:
    """Returns the directions in which x, y and z increase, such as "RAS"."""
    strongest = np.abs(affine[:3, :3]).argmax(axis=0)
    return "".join(["LR", "PA", "IS"][world][int(affine[world, axis] > 0)] for axis, world in enumerate(strongest))
