"""A small SegAE with text embeddings, and cases of masks to score."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxseg
from jaxseg.weights.store import save_model

SHAPE = (14, 30, 34)


def model(size: int = 32) -> nnx.Module:
    """Returns a random SegAE in evaluation mode."""
    found = jaxseg.create("segae", backbone="resnet18", width=4)
    table = np.random.default_rng(0).normal(size=(145, 512))
    found.embeddings.set_value(jnp.asarray(table, jnp.float32))
    found.card = dataclasses.replace(found.card, input_size=(size, size))
    return nnx.view(found, use_running_average=True, raise_if_not_found=False)


def save(folder: Path) -> Path:
    """Writes the model as a model directory."""
    mine = model()
    return save_model(mine, folder, mine.card)


def ct(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)


def box(first: int = 1, last: int = 13, *, row: int = 8, size: int = 9) -> np.ndarray:
    """Returns a mask in the slices first to last - 1."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[first:last, row : row + size, 10:21] = 1
    return mask


def save_cases(root: Path) -> Path:
    """Writes two cases: s1 with liver, spleen, an empty brain and the spinal cord, which has no class; s2: liver."""
    masks = {"liver": box(), "spleen": box(3, 6, row=2), "brain": np.zeros(SHAPE, np.uint8), "spinal_cord": box(2, 4)}
    for number, (case, names) in enumerate({"s1": masks, "s2": {"liver": box(5, 9)}}.items()):
        (root / case / "segmentations").mkdir(parents=True)
        np.save(root / case / "ct.npy", ct(number))
        for name, mask in names.items():
            np.save(root / case / "segmentations" / f"{name}.npy", mask)
    return root
