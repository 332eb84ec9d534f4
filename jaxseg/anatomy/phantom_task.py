"""Training on phantom X-rays, which `jaxseg demo` shows; drawn from formulas, they are no anatomy of real ones."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from jaxseg.anatomy.pictures import predictions_sheet
from jaxseg.datasets import phantom
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import from_array
from jaxseg.nn.losses import binary_cross_entropy, dice_loss
from jaxseg.settings import Range
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Problem
from jaxseg.weights.load import create

NOTE = "trained on phantoms that were drawn from formulas: its masks of real X-rays mean nothing"
UNSEEN = 1_000_000  # seeds from here on are never trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """Attributes: `size` of a side in pixels; numbers of phantoms to train on and to validate with."""

    size: Annotated[int, Range(32, 2048)] = 224
    train: Annotated[int, Range(1, UNSEEN - 1)] = 256
    val: Annotated[int, Range(1, 10_000)] = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Attributes: the ResNet of the U-Net, and the channels of its stem (64 is the published width)."""

    backbone: str = "resnet18"
    width: Annotated[int, Range(1, 1024)] = 16


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Nothing to choose: cross-entropy and the Dice loss of every class, added."""


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}


class Phantoms:
    """Phantoms of consecutive seeds, drawn once and kept: pictures and packed masks, about 90 kB each at 224."""

    def __init__(self, first: int, count: int, size: int):
        self._first, self._count, self._size = first, count, size
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if i not in self._drawn:
            image, masks = phantom.draw(self._first + i, self._size)
            self._drawn[i] = image, np.packbits(masks, axis=2)
        image, bits = self._drawn[i]
        return {"image": image, "masks": np.unpackbits(bits, axis=2, count=image.shape[1]).view(bool)}

    def name(self, i: int) -> str:
        """Returns the name of a phantom, for messages."""
        return f"phantom {self._first + i}"


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config; there are no data to read."""
    cfg, size = config.data, (config.data.size,) * 2
    options = dataclasses.asdict(config.model) | {"dtype": config.trainer.precision, "init": "torch"}
    model = create("cxas", seed=config.seed, class_names=phantom.CLASSES, **options)
    model.card = dataclasses.replace(model.card, input_size=size, note=NOTE)
    splits = {
        "train": Phantoms(config.seed, cfg.train, cfg.size),
        "val": Phantoms(UNSEEN // 2 + config.seed, cfg.val, cfg.size),
    }

    def prepare(record: dict, _) -> dict[str, np.ndarray]:
        image = cxas(from_array(record["image"]), size)
        return {"image": image, "target": record["masks"].transpose(1, 2, 0).astype(np.uint8)}

    def draw(model, records):
        return predictions_sheet(model, [prepare(record, None) for record in records], phantom.CLASSES)

    return Problem(model, splits, prepare, prepare, loss, overlaps, summarise, "dice", draw)


def loss(model, batch: dict, key) -> tuple:
    """Cross-entropy and the Dice loss of every class, added."""
    logits = model(batch["image"])
    parts = {"ce": binary_cross_entropy(logits, batch["target"]), "dice_loss": dice_loss(logits, batch["target"])}
    return parts["ce"] + parts["dice_loss"], parts


def overlaps(model, batch: dict) -> dict:
    """Overlap and total of every image's masks, (B, K) each."""
    predicted, target = model(batch["image"]) > 0, batch["target"] > jnp.uint8(0)
    return {
        "overlap": jnp.sum(predicted & target, (1, 2), dtype=jnp.int32),
        "total": jnp.sum(predicted, (1, 2), dtype=jnp.int32) + jnp.sum(target, (1, 2), dtype=jnp.int32),
    }


def summarise(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean Dice of every class, and of all."""
    total = scores["total"]
    values = np.nanmean(np.where(total > 0, 2 * scores["overlap"] / np.maximum(total, 1), np.nan), axis=0)
    named = {f"dice {name}": float(value) for name, value in zip(phantom.CLASSES, values, strict=True)}
    return {"dice": float(np.nanmean(values))} | named
