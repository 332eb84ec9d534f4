"""Training on phantom X-rays for `jaxseg demo`: images computed from formulas, which do not show real anatomy."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.anatomy.task import predictions_sheet
from jaxseg.anatomy.unet import UNetConfig
from jaxseg.datasets import phantom
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import from_array
from jaxseg.nn.losses import binary_cross_entropy, dice_loss
from jaxseg.settings import Range, section
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Task
from jaxseg.weights.load import create

NOTE = "trained on phantoms that were drawn from formulas: its masks of real X-rays mean nothing"
UNSEEN = 1_000_000  # phantoms with this seed or a higher one are never used for training


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """The phantoms.

    Attributes:
      size: side in pixels.
      train: number of phantoms for training.
      val: number of phantoms for validation.
    """

    size: Annotated[int, Range(32, 2048)] = 224
    train: Annotated[int, Range(1, UNSEEN - 1)] = 256
    val: Annotated[int, Range(1, 10_000)] = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(UNetConfig, "backbone", "width", backbone="resnet18", width=16)):
    """The network, see `jaxseg.anatomy.unet.UNetConfig`."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss has no settings: it is the sum of cross-entropy and the Dice loss of every class."""


class Phantoms:
    """Phantoms of consecutive seeds, computed once and kept: images and packed masks, about 90 kB each at 224."""

    def __init__(self, first: int, count: int, size: int):
        self._first, self._count, self._size = first, count, size
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if i not in self._kept:
            image, masks = phantom.draw(self._first + i, self._size)
            self._kept[i] = image, np.packbits(masks, axis=2)
        image, bits = self._kept[i]
        return {"image": image, "masks": np.unpackbits(bits, axis=2, count=image.shape[1]).view(bool)}

    def name(self, i: int) -> str:
        """Returns the name of a phantom, for messages."""
        return f"phantom {self._first + i}"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The transform of training and evaluation, without augmentation; `size` is the side of the network's input."""

    size: int

    def __call__(self, record: dict[str, Any], _: np.random.Generator | None) -> dict[str, np.ndarray]:
        image = cxas(from_array(record["image"]), (self.size, self.size))
        return {"image": image, "target": record["masks"].transpose(1, 2, 0).astype(np.uint8)}


class PhantomTask(Task):
    """Trains a small U-Net on phantoms; no data are read."""

    Data, Model, Loss = DataConfig, ModelConfig, LossConfig
    takes_data = False

    def __init__(self, config: Config):
        cfg = config.data
        options = dataclasses.asdict(config.model) | {"dtype": config.trainer.precision, "init": "torch"}
        model = create("cxas", seed=config.seed, class_names=phantom.CLASSES, **options)
        model.card = dataclasses.replace(model.card, input_size=(cfg.size, cfg.size), note=NOTE)
        self.model = model
        self.splits = {
            "train": Phantoms(config.seed, cfg.train, cfg.size),
            "val": Phantoms(UNSEEN // 2 + config.seed, cfg.val, cfg.size),
        }
        self.augment = self.prepare = Preparation(cfg.size)

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the sum of cross-entropy and the Dice loss of every class."""
        logits = model(batch["image"])
        parts = {"ce": binary_cross_entropy(logits, batch["target"]), "dice_loss": dice_loss(logits, batch["target"])}
        return parts["ce"] + parts["dice_loss"], parts

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the pixels that each predicted mask shares with the true one, and those of both together, (B, K)."""
        predicted, target = model(batch["image"]) > 0, batch["target"] > jnp.uint8(0)
        return {
            "overlap": jnp.sum(predicted & target, (1, 2), dtype=jnp.int32),
            "total": jnp.sum(predicted, (1, 2), dtype=jnp.int32) + jnp.sum(target, (1, 2), dtype=jnp.int32),
        }

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the mean Dice, of all classes together and of each class."""
        total = found["total"]
        values = np.nanmean(np.where(total > 0, 2 * found["overlap"] / np.maximum(total, 1), np.nan), axis=0)
        named = {f"dice {name}": float(value) for name, value in zip(phantom.CLASSES, values, strict=True)}
        return {"dice": float(np.nanmean(values))} | named

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of phantoms with their true and predicted masks."""
        return predictions_sheet(model, [self.prepare(record, None) for record in records], phantom.CLASSES)
