"""Training of PAX-Ray: a U-Net with independent classes that overlap, on chest X-rays.

Source: Seibold et al. 2022, arXiv:2210.03416; ConstantinSeibold/multilabel_segmentation_paxray.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.anatomy.augment import Augmentation, unchanged
from jaxseg.anatomy.data import Split, read_paxray, subset
from jaxseg.anatomy.pictures import predictions_sheet
from jaxseg.nn import resnet
from jaxseg.nn.losses import binary_cross_entropy, binary_dice_loss, dice_loss
from jaxseg.nn.metrics import intersection_over_union, mean_scores
from jaxseg.settings import Range, verify
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Problem
from jaxseg.weights.fill import fill
from jaxseg.weights.load import create
from jaxseg.weights.torch_file import read_torch_file

Share = Annotated[float, Range(0, 1)]
Side = Annotated[int, Range(32, 8192)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """The data set and its augmentation.

    Attributes:
      root: folder of the data set; `-i` of the command.
      file: the list in it.
      load_size: side that pictures and masks are brought to, and at which the network is validated and used.
      crop_size: side of the part that training sees.
      resize_prob: probability of stretching by up to `resize_scale`, before cropping.
      resize_scale: largest stretched side is below this times load_size.
      flip_prob: of mirroring; only where no class has a side.
      train_fraction: share of the training split that is used, chosen by `subset_seed`.
      subset_seed: of that choice.
      preprocessing: "paxray" normalises as the original trains, "cxas" divides by 255 first.
    """

    root: str
    file: str = "paxray.json"
    load_size: Side = 512
    crop_size: Side = 480
    resize_prob: Share = 0.6
    resize_scale: Annotated[float, Range(0.1, 10)] = 1.2
    flip_prob: Share = 0.0
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
            yield f"resize_scale: {self.resize_scale:g} times load_size leaves no more than crop_size, {self.crop_size}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Attributes:
      backbone: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
      width: channels of the stem; 64 is the published width.
      dropout: before the classifier; the original builds it and never calls it.
      backbone_weights: a torchvision ResNet's .pth, such as that of ImageNet, from which a new run starts; null:
        random. A run that goes on, or is evaluated, has no need of the file.
    """

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    width: Annotated[int, Range(1, 1024)] = 64
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    backbone_weights: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Attributes: `parts` are added. "dice" and "ce": the original's; "class_dice": Dice of every class, averaged."""

    parts: tuple[Literal["dice", "ce", "class_dice"], ...] = ("dice", "ce")

    def __post_init__(self):
        verify(self, [] if self.parts else ["parts: name at least one of dice, ce, class_dice"])


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}
LOSSES = {"dice": binary_dice_loss, "ce": binary_cross_entropy, "class_dice": dice_loss}


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config: reads the lists of the data set."""
    cfg, size, weights = config.data, (config.data.load_size,) * 2, config.model.backbone_weights
    data = read_paxray(Path(cfg.root), cfg.file)
    names = data.names
    train = data.splits["train"]
    if cfg.train_fraction < 1:
        train = subset(train, cfg.train_fraction, cfg.subset_seed)
    pairs = {"train": train, "val": data.splits["val"], "test": data.splits["test"]}
    splits = {
        split: Split(tuple(found), len(names), size, cfg.preprocessing, data.root)
        for split, found in pairs.items()
        if found
    }
    if "train" not in splits:
        raise ValueError(f"{cfg.file} in {data.root} lists nothing to train on")
    augment = Augmentation(cfg.crop_size, cfg.resize_prob, cfg.resize_scale, cfg.flip_prob)

    def draw(model, records):
        return predictions_sheet(model, [unchanged(record, None) for record in records], names)

    def summarise(scores: dict[str, np.ndarray]) -> dict[str, float]:
        return _named(mean_scores(scores["iou"], names), names)

    facts = {split: [source.name(i) for i in range(len(source))] for split, source in splits.items()}
    return Problem(
        _model(config, names, size),
        splits,
        augment,
        unchanged,
        _loss(config.loss.parts),
        scores,
        summarise,
        "dice",
        draw,
        facts,
        begin=functools.partial(_with_backbone, path=weights) if weights else None,
    )


def scores(model, batch: dict) -> dict:
    """Intersection over union of every image and class, (B, K)."""
    return {"iou": intersection_over_union(model(batch["image"]) > 0, batch["target"] > jnp.uint8(0))}


def _loss(parts: tuple[str, ...]):
    def loss(model, batch: dict, key) -> tuple:
        logits = model(batch["image"], rngs=nnx.Rngs(dropout=key))
        values = {part: LOSSES[part](logits, batch["target"]) for part in parts}
        return sum(values.values()), values

    return loss


def _model(config: Config, names: tuple[str, ...], size: tuple[int, int]):
    cfg = config.model
    options = {"backbone": cfg.backbone, "width": cfg.width, "dropout": cfg.dropout, "dtype": config.trainer.precision}
    model = create("paxray", seed=config.seed, class_names=names, **options)
    model.card = dataclasses.replace(model.card, input_size=size, preprocessing=config.data.preprocessing)
    return model


def _with_backbone(model, path: str):
    """Fills the backbone with a torchvision file."""
    try:
        names = resnet.torch_names(model.cfg.trunk)
        fill(model.backbone, read_torch_file(Path(path).expanduser()), names, ignored=("fc.weight", "fc.bias"))
    except ValueError as error:
        raise ValueError(f"model.backbone_weights: {error}") from None
    return model


def _named(found: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, float]:
    shown = names[1:] if names[0] == "background" else names
    values = {"dice": float(found["dice"]), "iou": float(found["iou"])}
    for kind in ("dice", "iou"):
        values |= {f"{kind} {name}": float(x) for name, x in zip(shown, found[f"class_{kind}"], strict=True)}
    return values
