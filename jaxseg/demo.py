"""The demonstration: a small U-Net learns phantoms in a minute, then does the main job on unseen ones.

Nothing here is anatomy of real X-rays: phantoms are drawn from formulas.
"""

import dataclasses
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import yaml
from flax import nnx
from PIL import Image

from jaxseg.card import CARD_FILE, read_card
from jaxseg.data import phantom
from jaxseg.draw.overlay import overlay
from jaxseg.draw.save import save_picture
from jaxseg.draw.sheet import contact_sheet
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import from_array, read_picture
from jaxseg.ops.losses import binary_cross_entropy, dice_loss
from jaxseg.ops.metrics import dice
from jaxseg.palette import palette
from jaxseg.train.step import finish_step, make_step
from jaxseg.weights.load import create, load
from jaxseg.weights.store import save_model

NOTE = "trained on phantoms that were drawn from formulas: its masks of real X-rays mean nothing"
UNSEEN = 1_000_000  # seeds from here on are never trained on


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """The values of `configs/demo.yaml`."""

    seed: int
    size: int
    backbone: str
    width: int
    phantoms: int
    batch_size: int
    steps: int
    learning_rate: float
    unseen: int
    shown: int


def read_config() -> DemoConfig:
    """Returns the packaged configuration."""
    text = importlib.resources.files("jaxseg.configs").joinpath("demo.yaml").read_text(encoding="utf-8")
    return DemoConfig(**yaml.safe_load(text))


def refuse_foreign(output: Path) -> None:
    """Raises ValueError unless the folder is new, empty or of an earlier demo: its contents are replaced."""
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / "model" / CARD_FILE).is_file() or read_card(output / "model").note != NOTE:
        raise ValueError(f"{output} holds other things than an earlier demo; name another folder")


def train(cfg: DemoConfig, on_step: Callable[[int, float], None]) -> nnx.Module:
    """Trains a small U-Net on phantoms and returns it; `on_step(step, loss)` is called after every step."""
    model = create(
        "cxas", seed=cfg.seed, class_names=phantom.CLASSES, backbone=cfg.backbone, width=cfg.width, init="torch"
    )
    model.card = dataclasses.replace(model.card, input_size=(cfg.size, cfg.size), note=NOTE)
    images, masks = _phantoms(range(cfg.seed, cfg.seed + cfg.phantoms), cfg.size)
    schedule = optax.cosine_decay_schedule(cfg.learning_rate, cfg.steps)
    step, state = make_step(model, optax.adam(schedule), _loss)
    rng = np.random.default_rng(cfg.seed)
    for i in range(cfg.steps):
        chosen = rng.choice(len(images), cfg.batch_size, replace=False)
        state, loss = step(state, images[chosen], masks[chosen], jax.random.key(i))
        on_step(i + 1, float(loss))
    finish_step(model, state)
    return model


def write_unseen(folder: Path, cfg: DemoConfig) -> tuple[list[Path], np.ndarray]:
    """Draws phantoms that were not trained on as png files; returns their paths and true masks (N, K, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, truths = [], []
    for i in range(cfg.unseen):
        image, truth = phantom.draw(UNSEEN + i, 2 * cfg.size)  # another size than the network's, as in life
        paths.append(folder / f"phantom_{i:02d}.png")
        save_picture(Image.fromarray(image), paths[-1])
        truths.append(truth)
    return paths, np.stack(truths)


def scores(predictions: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Returns the mean Dice of every class over images; both (N, K, H, W) bool."""
    return dict(zip(phantom.CLASSES, np.nanmean(dice(predictions, truths), axis=0).tolist(), strict=True))


def sheet(paths: list[Path], predictions: np.ndarray, truths: np.ndarray, means: dict[str, float]) -> Image.Image:
    """Returns a picture with a row for every path: the phantom, its true masks, the predicted ones."""
    colours = palette(len(phantom.CLASSES))
    rows = []
    for path, prediction, truth in zip(paths, predictions, truths, strict=False):
        image = read_picture(path).pixels
        rows.append([image, overlay(image, truth), overlay(image, prediction)])
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(means, colours, strict=True)]
    figures = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
    caption = f"Phantoms drawn from formulas, unseen in training; not real X-rays. Mean Dice: {figures}."
    return contact_sheet(rows, titles=["phantom", "truth", "jaxseg"], legend=legend, caption=caption, sides=True)


def save(model: nnx.Module, folder: Path) -> nnx.Module:
    """Writes the model directory and loads it again, so that what is shown is what users would load."""
    return load(save_model(model, folder, model.card, overwrite=True))


def _phantoms(seeds: range, size: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [phantom.draw(seed, size) for seed in seeds]
    images = np.stack([cxas(from_array(image), (size, size)) for image, _ in drawn])
    return images, np.stack([masks.transpose(1, 2, 0) for _, masks in drawn]).astype(np.float32)


def _loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    return binary_cross_entropy(logits, target) + dice_loss(logits, target)
