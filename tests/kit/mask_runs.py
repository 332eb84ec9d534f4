"""Folders of small masks, and tiny Post-DAE runs on them."""

import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxseg.training import run

TINY = {
    "data.size": 32,
    "data.corruption": {"patch": 4, "radius": 2, "max_distance": 3, "swaps": 20, "max_patches": 3, "max_discs": 2},
    "model.features": [4, 6],
    "model.decoder_features": [4, 4],
    "model.intermediate": [16, 16],
    "trainer.batch_size": 4,
    "trainer.epochs": 2,
    "trainer.pictures_every": 0,
    "trainer.log_every": 1,
    "trainer.validate_every": 1,
    "trainer.checkpoint_every": 1,
}
# Settings for tests that are not about corruptions or schedules; all these runs share one compiled program.
LIGHT = {"data__heavy_share": 0.0, "data__warp": 0.0, "data__elastic": 0.0}
LIGHT |= {"schedule__name": "constant", "optimizer__learning_rate": 0.01}


def lungs(size: int) -> np.ndarray:
    """Two ellipses, (size, size) float32."""
    rows, columns = np.indices((size, size)) / size
    sides = [((rows - 0.5) / 0.3) ** 2 + ((columns - middle) / 0.13) ** 2 < 1 for middle in (0.3, 0.7)]
    return np.logical_or(*sides).astype(np.float32)


def write_masks(folder: Path, count: int = 10, size: int = 48) -> Path:
    """Writes ellipses with several sizes and positions; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    for i in range(count):
        cy, cx, ry, rx = rng.uniform((0.4, 0.4, 0.2, 0.2), (0.6, 0.6, 0.35, 0.35))
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"mask_{i:02d}.png")
    return folder


def overrides(**changed) -> list[str]:
    """Returns the settings of a tiny run with the given changes, such as `data__size=64`."""
    values = TINY | {name.replace("__", "."): value for name, value in changed.items()}
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def train(folder: Path, masks: Path, *, config="post_dae", resume=False, devices=1, **changed):
    """Trains; returns the last validation and the messages."""
    messages: list[str] = []
    cfg = run.open_run(
        None if resume else config,
        folder,
        data=None if resume else masks,
        overrides=overrides(**changed),
        resume=resume,
    )
    return run.train(cfg, folder, devices=jax.devices()[:devices], tell=messages.append), messages
