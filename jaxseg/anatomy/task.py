"""Training of PAX-Ray: a U-Net with independent, overlapping classes on chest X-rays.

Source: Seibold et al. 2022, arXiv:2210.03416; ConstantinSeibold/multilabel_segmentation_paxray.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.anatomy.augment import Augmentation, unchanged
from jaxseg.anatomy.data import Split, read_paxray, subset
from jaxseg.anatomy.unet import UNetConfig
from jaxseg.draw.overlay import overlay
from jaxseg.draw.sheet import contact_sheet
from jaxseg.nn import resnet
from jaxseg.nn.losses import binary_cross_entropy, binary_dice_loss, dice_loss, image_by_image
from jaxseg.nn.metrics import intersection_over_union, mean_scores
from jaxseg.nn.resize import bilinear
from jaxseg.palette import class_colours
from jaxseg.settings import Range, pick, section, verify
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Task
from jaxseg.weights.fill import fill
from jaxseg.weights.hub import local_path
from jaxseg.weights.load import create, read_tensors

Side = Annotated[int, Range(32, 8192)]
SHOWN = 12  # largest number of classes in a picture; more would hide each other
LOSSES = {"dice": binary_dice_loss, "ce": binary_cross_entropy, "class_dice": dice_loss}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(section(Augmentation, "resize_prob", "resize_scale", "flip_prob"), LoadingConfig):
    """The data set and its augmentation, see `jaxseg.anatomy.augment.Augmentation`.

    Attributes:
      root: folder of the data set; `-i` of the command.
      file: name of the list in it.
      load_size: side to which images and masks are resized; the network is validated and used at this size.
      crop_size: side of the crops for training.
      train_fraction: share of the training split to use, selected by `subset_seed`.
      subset_seed: random seed of that selection.
      preprocessing: "paxray" normalises as the original does in training, "cxas" divides by 255 first.
    """

    root: str
    file: str = "paxray.json"
    load_size: Side = 512
    crop_size: Side = 480
    train_fraction: Annotated[float, Range(0, 1, above=True)] = 1.0
    subset_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    preprocessing: Literal["paxray", "cxas"] = "paxray"

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        if self.load_size % 8:
            yield f"load_size: {self.load_size} is not a multiple of 8"
        if self.crop_size > self.load_size:
            yield f"crop_size: {self.crop_size} is more than load_size, {self.load_size}"
        elif self.resize_prob and int(self.load_size * self.resize_scale) <= self.crop_size:
            yield f"resize_scale: {self.resize_scale:g} times load_size must exceed crop_size, {self.crop_size}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(UNetConfig, "backbone", "width", "dropout")):
    """The network, see `jaxseg.anatomy.unet.UNetConfig`.

    Attributes:
      backbone_weights: a .pth or .safetensors file of a torchvision ResNet, such as that of ImageNet, or its address
        hf://owner/name[@revision][/file], from which a new run starts; null for random weights. Resuming or evaluating
        a run does not need the file.
    """

    backbone_weights: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss.

    Attributes:
      parts: the parts to add: "dice" and "ce" are the original's, "class_dice" is the mean Dice loss of the classes.
    """

    parts: tuple[Literal["dice", "ce", "class_dice"], ...] = ("dice", "ce")

    def __post_init__(self):
        verify(self, [] if self.parts else ["parts: name at least one of dice, ce, class_dice"])


class PaxrayTask(Task):
    """Trains a U-Net on a data set in the layout of PAX-Ray."""

    Data, Model, Loss = DataConfig, ModelConfig, LossConfig
    prepare = staticmethod(unchanged)

    def __init__(self, config: Config):
        cfg, size = config.data, (config.data.load_size,) * 2
        data = read_paxray(Path(cfg.root), cfg.file)
        pairs = dict(data.splits)
        if cfg.train_fraction < 1:
            pairs["train"] = subset(pairs["train"], cfg.train_fraction, cfg.subset_seed)
        self.names = data.names
        self.splits = {
            split: Split(tuple(pairs[split]), len(data.names), size, cfg.preprocessing, data.root)
            for split in ("train", "val", "test")
            if pairs[split]
        }
        if "train" not in self.splits:
            raise ValueError(f"{cfg.file} in {data.root} has no training images")
        self.facts = {split: [source.name(i) for i in range(len(source))] for split, source in self.splits.items()}
        self.augment = pick(Augmentation, cfg, crop=cfg.crop_size)
        self.parts = config.loss.parts
        self.weights = config.model.backbone_weights
        self.model = _model(config, data.names, size)

    def initialise(self, model: nnx.Module) -> nnx.Module:
        """Fills the backbone with the weights of the torchvision file, if the configuration names one."""
        if self.weights is None:
            return model
        try:
            tensors = read_tensors(local_path(self.weights))
            fill(model.backbone, tensors, resnet.torch_names(model.cfg.trunk), ignored=("fc.weight", "fc.bias"))
        except ValueError as error:
            raise ValueError(f"model.backbone_weights: {error}") from None
        return model

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the sum of the parts of the loss."""
        coarse = model.coarse_logits(batch["image"], rngs=nnx.Rngs(dropout=key))
        total, values = image_by_image(functools.partial(enlarged_loss, self.parts), coarse, batch["target"])
        return total, {part: values[part] for part in self.parts}

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the intersection over union of every image and class, (B, K)."""
        return {"iou": intersection_over_union(model(batch["image"]) > 0, batch["target"] > jnp.uint8(0))}

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns mean Dice and intersection over union, of all classes together and of each class."""
        means = mean_scores(found["iou"], self.names)
        shown = self.names[1:] if self.names[0] == "background" else self.names
        values = {"dice": float(means["dice"]), "iou": float(means["iou"])}
        for kind in ("dice", "iou"):
            values |= {f"{kind} {name}": float(x) for name, x in zip(shown, means[f"class_{kind}"], strict=True)}
        return values

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of images with their true and predicted masks."""
        return predictions_sheet(model, [unchanged(record, None) for record in records], self.names)


def enlarged_loss(parts: Sequence[str], coarse: jax.Array, target: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the sum of the parts of the loss, and the parts.

    Args:
      parts: keys of `LOSSES`.
      coarse: (B, h, w, K) logits before the last upsampling.
      target: (B, H, W, K) of 0 and 1.
    """
    logits = bilinear(coarse, target.shape[1:3])
    values = {part: LOSSES[part](logits, target) for part in parts}
    return sum(values.values()), values


def predictions_sheet(model: nnx.Module, examples: Sequence[dict], class_names: Sequence[str]) -> Image.Image:
    """Returns a sheet with one row per example: the image, its true masks, the predicted masks.

    Args:
      model: in evaluation mode.
      examples: "image" (H, W, 3) float32 and "target" (H, W, K) of 0 and 1.
      class_names: K names; only the first twelve classes are drawn.
    """
    logits = np.asarray(jax.jit(type(model).__call__)(model, np.stack([example["image"] for example in examples])))
    rows, colours = [], class_colours(class_names[:SHOWN])
    for example, values in zip(examples, logits, strict=True):
        grey = example["image"].mean(axis=2)
        image = np.rint(255 * (grey - grey.min()) / max(np.ptp(grey), 1e-6)).astype(np.uint8)
        masks = [np.moveaxis(m[..., :SHOWN], -1, 0) for m in (example["target"] > 0, values > 0)]
        rows.append([image, *(overlay(image, np.ascontiguousarray(mask), colors=colours) for mask in masks)])
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(class_names[:SHOWN], colours, strict=True)]
    return contact_sheet(rows, titles=["image", "truth", "prediction"], legend=legend, sides=True)


def _model(config: Config, names: tuple[str, ...], size: tuple[int, int]) -> nnx.Module:
    cfg = config.model
    options = {"backbone": cfg.backbone, "width": cfg.width, "dropout": cfg.dropout, "dtype": config.trainer.precision}
    model = create("paxray", seed=config.seed, class_names=names, **options)
    model.card = dataclasses.replace(model.card, input_size=size, preprocessing=config.data.preprocessing)
    return model
