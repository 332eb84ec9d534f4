"""What must hold of a CT and a mask of it before they are used together."""

import numpy as np

from jaxseg.volumes.volume import Volume, VolumeError

AFFINE_TOLERANCE_MM = 0.1  # by which the corners of two volumes may lie apart

# Air is near -1000 HU and the softest tissues near -100, so values of a body part spread over hundreds. What stays
# within 20 was divided by its range or its standard deviation; what fills 0 to 255 at most is a picture.
NORMALISED = 20.0
PICTURE = (0.0, 255.0)


def check_ct(ct: Volume) -> tuple[str, ...]:
    """Looks whether a volume can be Hounsfield units; returns remarks.

    Refused are values within [-20, 20] (normalised), within [0, 255] (a picture of 8 bits), and NaN or infinity.

    Raises:
      VolumeError: they cannot be.
    """
    check_finite(ct)
    low, high = float(ct.array.min()), float(ct.array.max())
    hint = "give the CT in Hounsfield units, as the scanner's files hold it"
    if low == high:
        raise VolumeError(f"{ct.name}: every voxel is {low:g}; {hint}")
    if low >= -NORMALISED and high <= NORMALISED:
        raise VolumeError(f"{ct.name}: values from {low:g} to {high:g} look normalised already; {hint}")
    if PICTURE[0] <= low and high <= PICTURE[1]:
        raise VolumeError(f"{ct.name}: values from {low:g} to {high:g} look like those of a picture; {hint}")
    if low >= 0:
        return (f"{ct.name}: no value is below 0 (air is -1000 HU): is the intercept missing, usually -1024?",)
    return ()


def check_mask(mask: Volume) -> Volume:
    """Returns a mask as bool.

    Raises:
      VolumeError: it holds more than two values, or others than 0 and 1 or 0 and 255.
    """
    if mask.array.dtype == bool:
        return mask
    check_finite(mask)
    found = mask.array != 0
    high = mask.array.max()
    if high not in (0, 1, 255) or (mask.array[found] != high).any():
        kinds = np.unique(mask.array)
        shown = ", ".join(f"{value:g}" for value in kinds[:6]) + (", ..." if kinds.size > 6 else "")
        hint = "give it as labels, or one organ of it" if mask.array.dtype.kind in "iu" else "cut it at a threshold"
        raise VolumeError(f"{mask.name}: a mask holds 0 and 1, this holds {shown}; {hint}")
    return Volume(found, mask.affine, mask.name, mask.notes)


def check_finite(volume: Volume) -> None:
    """Raises VolumeError where a value is NaN or infinite."""
    if volume.array.dtype.kind == "f" and not np.isfinite([volume.array.min(), volume.array.max()]).all():
        bad = int((~np.isfinite(volume.array)).sum())
        raise VolumeError(f"{volume.name}: {bad:,} voxels are NaN or infinite")


def check_pair(ct: Volume, mask: Volume) -> None:
    """Looks whether a CT and a mask have the same voxels: shape and, where both say it, place in space.

    The affines agree where all corners of the two lie within `AFFINE_TOLERANCE_MM`.

    Raises:
      VolumeError: they differ; the message says how.
    """
    if ct.shape != mask.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, ct.shape)]
        turned = sorted(ct.shape) == sorted(mask.shape)
        hint = "; its axes may be in another order (a volume is slices, rows, columns)" if turned else ""
        raise VolumeError(f"{mask.name}: the mask is {sizes[0]}, {ct.name} is {sizes[1]}{hint}")
    if ct.affine is None or mask.affine is None:
        return
    last = np.array(ct.shape[::-1]) - 1
    corners = np.array([[*(last * np.array(bits)), 1] for bits in np.ndindex(2, 2, 2)]).T
    apart = np.linalg.norm(((ct.affine - mask.affine) @ corners)[:3], axis=0).max()
    if apart > AFFINE_TOLERANCE_MM:
        raise VolumeError(f"{mask.name}: lies otherwise than {ct.name}: {_difference(ct.affine, mask.affine, apart)}")


def _difference(ct: np.ndarray, mask: np.ndarray, apart: float) -> str:
    """How two affines differ, in words."""
    axes = [_axes(affine) for affine in (mask, ct)]
    if axes[0] != axes[1]:
        return f"its axes are {axes[0]}, those of the CT {axes[1]}; reorient one of them, or read both with canonical"
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (mask, ct)]
    if not np.allclose(*spacings, rtol=1e-3):
        shown = [" x ".join(f"{length:g}" for length in spacing) for spacing in spacings]
        return f"its voxels are {shown[0]} mm, those of the CT {shown[1]} mm"
    return f"their corners are up to {apart:.3g} mm apart; was it made of another scan, or of a part of it?"


def _axes(affine: np.ndarray) -> str:
    """The directions in which x, y and z grow, such as RAS."""
    strongest = np.abs(affine[:3, :3]).argmax(axis=0)
    return "".join(["LR", "PA", "IS"][world][int(affine[world, axis] > 0)] for axis, world in enumerate(strongest))
