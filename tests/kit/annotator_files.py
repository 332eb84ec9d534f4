"""Small data sets with several annotators: the LIDC and MNIST layouts, and MNIST's four source files."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxseg.annotators.mnist import IDX_FILES
from jaxseg.images.tiff import write_tiff

RNG = np.random.default_rng


def save_lidc(root: Path, split: str = "train", counts: tuple[int, ...] = (2, 4, 3), size: int = 12) -> list[str]:
    """Saves one slice for each number of annotators, and returns the file names."""
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


def digits(count: int) -> np.ndarray:
    """Returns digits in bold type, (count, 28, 28) uint8."""
    found = []
    for i in range(count):
        canvas = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=22 + i % 4)
        place = (14 + i % 3, 14 - i % 2)
        ImageDraw.Draw(canvas).text(place, str(i % 10), 255, font, anchor="mm", stroke_width=1)
        found.append(np.asarray(canvas))
    return np.stack(found)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def save_mnist_files(folder: Path, *, packed: bool = False, counts: tuple[int, int] = (20, 10)) -> None:
    folder.mkdir()
    contents = [idx(x) for n in counts for x in (digits(n), (np.arange(n) % 10).astype(np.uint8))]
    for name, content in zip(IDX_FILES, contents, strict=True):
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
