"""Small sets in the layouts of the LIDC and the MNIST set."""

from pathlib import Path

import numpy as np

from jaxseg.images.tiff import write_tiff

RNG = np.random.default_rng


def save_lidc(root: Path, split: str = "train", counts: tuple[int, ...] = (2, 4, 3), size: int = 12) -> list[str]:
    """A slice for every count of annotators; returns the names."""
    names = [f"pid_0001_nod_0_slice_{k}.tif" for k in range(len(counts))]
    for folder in ("scans", "masks/GT", "masks/annots"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(zip(names, counts, strict=True)):
        annotations = RNG(seed).random((1, size, size, count)) > 0.5
        write_tiff(root / split / "scans" / name, RNG(seed).normal(size=(1, size, size)))
        write_tiff(root / split / "masks/annots" / name, annotations)
        write_tiff(root / split / "masks/GT" / name, annotations.mean(-1) >= 0.5)
    return names


def save_mnist(root: Path, split: str = "train", count: int = 3) -> None:
    for name in ("Gaussian", "GT", "Over", "Under", "Wrong"):
        (root / split / name).mkdir(parents=True)
        for i in range(count):
            rng = RNG([i, len(name)])
            array = rng.random((28, 28, 3)) if name == "Gaussian" else rng.integers(0, 2, (28, 28), np.uint8)
            write_tiff(root / split / name / f"{i}_{name}.tif", array)
