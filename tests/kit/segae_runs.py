"""Small SegAE training runs and their data: a bright block, and masks of it that are shifted or enlarged."""

from pathlib import Path

import jax
import numpy as np

from jaxseg.training import run

SHAPE = (6, 40, 44)
OVERRIDES = {
    "data.size": "32",
    "data.val_slices": "2",
    "data.flip_rows": "0.5",
    "model.backbone": "resnet18",
    "model.width": "8",
    "trainer.batch_size": "4",
    "trainer.epochs": "2",
    "trainer.pictures_every": "2",
    "trainer.log_every": "1",
}


def block(shift: int = 0, grown: int = 0) -> np.ndarray:
    """Returns a bool mask of a block in the four middle slices."""
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 12 + shift - grown : 26 + shift + grown, 14 - grown : 28 + grown] = True
    return mask


def save_data(root: Path, *, train: int = 2, val: int = 1, organ: str = "liver_13") -> Path:
    """Writes cases with eight masks each as .npy files; the CT is brighter inside the organ."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / f"{split}_{number}"
            (folder / organ).mkdir(parents=True)
            rng = np.random.default_rng(100 * (split == "val") + number)
            np.save(folder / "ct.npy", np.where(block(), 120, -150).astype(np.int16) + rng.integers(-40, 40, SHAPE))
            np.save(folder / "label.npy", np.where(block(), int(organ.split("_")[1]), 0).astype(np.uint8))
            for name, (shift, grown) in enumerate([(0, 0), (2, 0), (5, 0), (9, 0), (0, 2), (0, 5), (0, 9), (11, 0)]):
                np.save(folder / organ / f"epoch_{name:03}.npy", block(shift, grown).astype(np.uint8))
    return root


def save_embeddings(path: Path) -> Path:
    """Writes a table of random text embeddings with the published shape."""
    np.savez(path, embeddings=np.random.default_rng(0).normal(size=(145, 512)).astype(np.float32))
    return path


def train(folder: Path, data: Path, *, devices: int = 1, resume: bool = False, **changed) -> tuple[dict, list[str]]:
    """Trains; returns the last validation and the messages."""
    messages = []
    config = opened(folder, data, resume=resume, **changed)
    return run.train(config, folder, devices=jax.devices()[:devices], tell=messages.append), messages


def opened(folder: Path, data: Path, *, resume: bool = False, **changed):
    """Returns the configuration of a run with the given changes, such as `data__size=64`."""
    if resume:
        return run.open_run(None, folder, data=data, resume=True)
    if not (data.parent / "embeddings.npz").exists():
        save_embeddings(data.parent / "embeddings.npz")
    named = OVERRIDES | {"data.embeddings": str(data.parent / "embeddings.npz")}
    named |= {name.replace("__", "."): str(value) for name, value in changed.items()}
    overrides = [f"{name}={value}" for name, value in named.items()]
    return run.open_run("segae", folder, data=data, overrides=overrides)
