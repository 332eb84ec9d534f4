"""MNIST's four files with made-up digits."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxseg.annotators.mnist import IDX_FILES


def digits(count: int) -> np.ndarray:
    """Thick digits, (count, 28, 28) uint8."""
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
