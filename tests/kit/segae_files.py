"""A small data set in SegAE's training layout."""

from pathlib import Path

import numpy as np
from volume_files import save_nifti

SHAPE = (6, 48, 52)


def organ(shift: int = 0, size: int = 9, slices=range(1, 5)) -> np.ndarray:
    """Returns a bool mask of a cuboid."""
    mask = np.zeros(SHAPE, bool)
    mask[slices.start : slices.stop, 14 + shift : 14 + shift + size, 20 : 20 + size + 2] = True
    return mask


def ct(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 900, SHAPE).astype(np.int16)


def labels() -> np.ndarray:
    """Returns classes: 13 is `organ()`, 15 is elsewhere in two slices."""
    found = np.where(organ(), 13, 0).astype(np.uint8)
    found[2:4, 35:43, 5:14] = 15
    return found


def save_case(folder: Path, *, seed: int = 0) -> Path:
    """Writes a case with three masks of the liver (one without overlap) and one of the left kidney."""
    folder.mkdir(parents=True)
    save_nifti(folder / "ct.nii.gz", ct(seed))
    save_nifti(folder / "label.nii.gz", labels())
    for name in ("liver_13", "kidney-left_15"):
        (folder / name).mkdir()
    for number, mask in enumerate((organ(2), organ(-14, slices=range(1, 3)), organ(0, 12, range(4)))):
        save_nifti(folder / "liver_13" / f"epoch_{number:03}.nii.gz", mask.astype(np.uint8))
    save_nifti(folder / "kidney-left_15" / "epoch_000.nii.gz", (labels() == 15).astype(np.uint8))
    return folder


def save_data(root: Path) -> Path:
    save_case(root / "train" / "a")
    save_case(root / "val" / "b", seed=1)
    return root
