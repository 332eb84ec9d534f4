"""Training of PAX-Ray: a U-Net with independent, overlapping classes on chest X-rays.

Source: Seibold et al. 2022, arXiv:2210.03416; ConstantinSeibold/multilabel_segmentation_paxray.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.anatomy.augment import Augmentation, unchanged
from jaxseg.anatomy.data import Split, subset
from jaxseg.anatomy.objective import Objective, weights_of
from jaxseg.anatomy.paxray_settings import NETWORKS, DataConfig, LossConfig, ModelConfig, read_set
from jaxseg.draw.overlay import overlay
from jaxseg.draw.sheet import contact_sheet
from jaxseg.nn import resnet
from jaxseg.nn.losses import image_by_image
from jaxseg.nn.metrics import intersection_over_union, mean_scores
from jaxseg.nn.resize import bilinear
from jaxseg.palette import class_colours
from jaxseg.settings import pick
from jaxseg.training.config.config import Config
from jaxseg.training.task import Task
from jaxseg.weights.fill import fill
from jaxseg.weights.hub import local_path
from jaxseg.weights.load import create, read_tensors

SHOWN = 12  # largest number of classes in a picture; more would hide each other


class PaxrayTask(Task):
    """Trains a U-Net on a data set in the layout of PAX-Ray."""

    Data, Model, Loss = DataConfig, ModelConfig, LossConfig
    prepare = staticmethod(unchanged)

    def __init__(self, config: Config):
        cfg, size = config.data, (config.data.load_size,) * 2
        exclusive = config.model.exclusive
        data = read_set(cfg, exclusive=exclusive)
        if exclusive and len(data.names) < 2:
            raise ValueError("model.exclusive: it needs at least two classes, one of which is the background")
        pairs = dict(data.splits)
        if cfg.train_fraction < 1:
            pairs["train"] = subset(pairs["train"], cfg.train_fraction, cfg.subset_seed)
        self.names = data.names
        self.splits = {
            split: Split(tuple(pairs[split]), len(data.names), size, cfg.prepared, data.root, exclusive)
            for split in ("train", "val", "test")
            if pairs[split]
        }
        if "train" not in self.splits:
            raise ValueError(f"{', '.join(cfg.lists.values())} in {data.root} has no training images")
        self.facts = {split: [source.name(i) for i in range(len(source))] for split, source in self.splits.items()}
        white = 255.0 if cfg.preprocessing == "paxray" else 1.0
        self.augment = pick(Augmentation, cfg, crop=cfg.crop_size, white=white)
        loss = config.loss
        self.objective = Objective(loss.parts, exclusive, loss.balance, weights_of(loss.class_weights, data.names))
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
        """Returns the sum of the parts of the loss, and the parts."""
        coarse = model.coarse_logits(batch["image"], rngs=nnx.Rngs(dropout=key))
        loss = functools.partial(enlarged_loss, self.objective)
        compute = functools.partial(image_by_image, loss) if self.objective.by_image else loss
        total, values = compute(coarse, batch["target"])
        return total, {part: values[part] for part in self.objective.parts}

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the intersection over union of every image and class, (B, K)."""
        return {"iou": intersection_over_union(model.predict(batch["image"]) > 0, batch["target"] > jnp.uint8(0))}

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns mean Dice and intersection over union, of all classes and of each class, without the background."""
        means = mean_scores(found["iou"], self.names, background=self.objective.exclusive)
        shown = self.names[-len(means["class_iou"]) :]  # all names, or those after the background
        values = {"dice": float(means["dice"]), "iou": float(means["iou"])}
        for kind in ("dice", "iou"):
            values |= {f"{kind} {name}": float(x) for name, x in zip(shown, means[f"class_{kind}"], strict=True)}
        return values

    @staticmethod
    def table(scores: Mapping[str, float]) -> list[dict[str, object]]:
        """Returns the rows of the CSV file of an evaluation: the means, then each class, with IoU and Dice."""
        names = [name.removeprefix("dice ") for name in scores if name.startswith("dice ")]
        rows = [("mean of the classes", "")] + [(name, f" {name}") for name in names]
        return [{"class": name, "iou": scores[f"iou{end}"], "dice": scores[f"dice{end}"]} for name, end in rows]

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of images with their true and predicted masks."""
        return predictions_sheet(model, [unchanged(record, None) for record in records], self.names)


def enlarged_loss(objective: Objective, coarse: jax.Array, target: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the sum of the parts of the loss, and the parts.

    Args:
      objective: the loss.
      coarse: (B, h, w, K) logits before the last upsampling.
      target: (B, H, W, K) of 0 and 1.
    """
    values = objective(bilinear(coarse, target.shape[1:3]), target)
    return sum(values.values()), values


def predictions_sheet(model: nnx.Module, examples: Sequence[dict], class_names: Sequence[str]) -> Image.Image:
    """Returns a sheet with one row per example: the image, its true masks, the predicted masks.

    Args:
      model: in evaluation mode.
      examples: "image" (H, W, 3) float32 and "target" (H, W, K) of 0 and 1.
      class_names: K names; only the first twelve classes are drawn.
    """
    logits = np.asarray(jax.jit(type(model).predict)(model, np.stack([example["image"] for example in examples])))
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
    options = {"width": cfg.width, "dropout": cfg.dropout, "exclusive": cfg.exclusive}
    options |= {"dtype": config.trainer.precision} | ({} if cfg.network == "unet" else {"backbone": cfg.backbone})
    model = create(NETWORKS[cfg.network], seed=config.seed, class_names=names, **options)
    model.card = dataclasses.replace(model.card, input_size=size, preprocessing=config.data.prepared)
    return model
