"""Builds data sets of phantoms in the layouts that training reads; they show no real patient.

Kind "annotators": nodule-like shapes with two to four annotators who disagree, in the layout of the LIDC set. Kind
"xray": phantom chest X-rays with their anatomy, in the layout of PAX-Ray.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxseg.datasets import phantom
from jaxseg.datasets.dataset_summary import (
    SUMMARY,
    PreparedSet,
    Progress,
    check_replaceable,
    watched,
    write_summary,
)
from jaxseg.files import atomic_folder
from jaxseg.images.tiff import write_tiff

KINDS = ("annotators", "xray")
SLICES = 4  # slices per phantom nodule
MOST = 4  # largest number of annotators
_MADE_BY = "prepare phantom"
_UNMARKED = 0.04  # share of an annotator's masks that are empty; it is 83 of 2,319 in the LIDC set


def prepare_phantoms(
    kind: str,
    output: str | Path,
    *,
    train: int = 60,
    validate: int = 12,
    test: int = 12,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreparedSet:
    """Builds a training set of phantoms, in which no phantom is in two splits. The same options give the same set.

    An interrupted call leaves nothing.

    Args:
      kind: one of `KINDS`.
      output: folder of the set; a set that this function made is replaced.
      train: number of nodules (of `SLICES` slices each) or X-rays for training.
      validate: number of those for validation.
      test: number of those for testing.
      size: side in pixels, from 32 to 2048; None: 64, or 256 for X-rays.
      seed: seed of the first phantom; the seeds of the others follow it.
      progress: called as (number of finished phantoms, their total, text about the last), first with 0 and "".

    Raises:
      ValueError: an option is impossible, or the folder holds something else.
      OSError: a file cannot be written.
    """
    output, counts = Path(output), {"train": train, "validate": validate, "test": test}
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known: {', '.join(KINDS)}")
    size = (64 if kind == "annotators" else 256) if size is None else size
    if min(counts.values()) < 0 or train < 1:
        raise ValueError(f"train must be at least 1, validate and test at least 0, got {counts}")
    if seed < 0 or not 32 <= size <= 2048:
        raise ValueError(f"the seed must be at least 0 and the size from 32 to 2048, got {seed} and {size}")
    check_replaceable(output, _MADE_BY)
    with atomic_folder(output) as folder:
        make = _write_nodules if kind == "annotators" else _write_xrays
        made = sum(1 for _ in watched(make(folder, counts, seed, size), sum(counts.values()), progress))
        content = {"kind": kind, "seed": seed, "size": size}
        content |= {"counts": counts, "notice": "phantoms drawn from formulas; not real patients"}
        write_summary(folder, _MADE_BY, content)
    return PreparedSet(output / SUMMARY, made)


def draw_nodule(seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the slices of a phantom nodule and its annotators' masks.

    Each annotator draws a slightly larger or smaller shape than the nodule, with a personal outline, and sometimes
    leaves a slice out.

    Args:
      seed: integer >= 0; it determines everything except the size.
      size: S, side in pixels.

    Returns:
      Images, (SLICES, S, S) float64, roughly in Hounsfield units; the annotators' masks, (SLICES, S, S, n) bool, with n
      from 2 to 4; and the nodule itself, (SLICES, S, S) bool.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    shift = rng.uniform(-0.05, 0.05, 2) * size
    y, x = y - shift[0], x - shift[1]
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    radius = rng.uniform(0.09, 0.19) * size * _wave(rng, angle, 0.12)
    bright, blur = rng.uniform(-250, 80), rng.uniform(0.6, 1.6)
    hands = [(rng.choice([0.82, 0.95, 1.05, 1.25]), _wave(rng, angle, 0.06)) for _ in range(rng.integers(2, MOST + 1))]
    images, labels, truth = [], [], []
    for z in range(SLICES):
        outline = radius * np.sqrt(1 - (0.45 * (z - (SLICES - 1) / 2) / (SLICES / 2)) ** 2)
        inside = ndimage.gaussian_filter((distance < outline).astype(float), blur)
        lung = _lung(rng, size)
        images.append(lung * (1 - inside) + (bright + 30 * rng.normal(size=lung.shape)) * inside)
        masks = [distance < outline * width * hand * _wave(rng, angle, 0.03) for width, hand in hands]
        drawn = rng.random(len(masks)) >= _UNMARKED
        drawn[0] = True
        labels.append(np.stack([mask & there for mask, there in zip(masks, drawn, strict=True)], -1))
        truth.append(distance < outline)
    return np.stack(images), np.stack(labels), np.stack(truth)


def _wave(rng: np.random.Generator, angle: np.ndarray, height: float) -> np.ndarray:
    """Returns a factor near 1 that varies with the angle, as in an outline drawn by hand."""
    waves = sum(rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.clip(1 + height * waves, 0.6, 1.4)


def _lung(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns lung tissue with noise and a few vessels, (size, size) float64."""
    vessels = np.zeros((size, size))
    for _ in range(rng.integers(2, 6)):
        start, direction = rng.uniform(0, size, 2), rng.normal(size=2)
        for step in range(rng.integers(4, size // 2)):
            row, column = np.rint(start + step * direction / np.linalg.norm(direction)).astype(int)
            if 0 <= row < size and 0 <= column < size:
                vessels[row, column] = 1
    coarse = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
    return -850 + 300 * coarse + 700 * ndimage.gaussian_filter(vessels, 0.9) + 25 * rng.normal(size=(size, size))


def _write_nodules(folder: Path, counts: Mapping[str, int], seed: int, size: int) -> Iterator[str]:
    number = 0
    for split, count in counts.items():
        parts = [folder / split / name for name in ("scans", "masks/GT", "masks/annots")]
        for path in parts if count else ():
            path.mkdir(parents=True)
        for _ in range(count):
            images, labels, _ = draw_nodule(seed + number, size)
            for z, (image, masks) in enumerate(zip(images, labels, strict=True)):
                scan = (image - image.mean()) / image.std()
                arrays = (scan[None], masks[None].mean(-1) >= 0.5, masks[None])
                for path, array in zip(parts, arrays, strict=True):
                    write_tiff(path / f"pid_{number:04}_nod_0_slice_{z}.tif", array)
            number += 1
            yield f"{split}: nodule {number}"


def _write_xrays(folder: Path, counts: Mapping[str, int], seed: int, size: int) -> Iterator[str]:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    lists: dict[str, Any] = {"label_dict": {str(k): name for k, name in enumerate(phantom.CLASSES)}}
    number = 0
    for split, count in counts.items():
        entries = lists["val" if split == "validate" else split] = []
        for _ in range(count):
            image, masks = phantom.draw(seed + number, size)
            name = f"phantom_{number:05}"
            Image.fromarray(image).save(folder / "images" / f"{name}.png")
            np.save(folder / "labels" / f"{name}.npy", masks)
            entries.append({"image": f"images/{name}.png", "target": f"labels/{name}.npy"})
            number += 1
            yield f"{split}: X-ray {number}"
    lists |= {split: lists.get(split, []) for split in ("train", "val", "test")}
    (folder / "paxray.json").write_text(json.dumps(lists, indent=1) + "\n", encoding="utf-8")
