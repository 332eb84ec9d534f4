"""Training of one confusion matrix per annotator, for sets that name their annotators.

Source: Zhang et al. 2020, arXiv:2007.15963, as in rCampSemp/learn-vae-noisy-label.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.annotators.cmvae import CMVAEConfig
from jaxseg.annotators.energy import dice_original
from jaxseg.annotators.losses import named_annotators_loss
from jaxseg.annotators.task import AnnotatorsTask, measures, sheet
from jaxseg.settings import Range, section
from jaxseg.training.config.config import Config
from jaxseg.weights.load import create


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(CMVAEConfig, "width", "depth", "norm", "odd")):
    """The network, see `jaxseg.annotators.cmvae_layers.CMVAEConfig`.

    Attributes:
      matrices: "annotator": one small network per annotator. "global": one matrix per annotator, for all images and
        pixels; a baseline.
    """

    matrices: Literal["annotator", "global"] = "annotator"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weight of the trace.

    Attributes:
      trace_weight: weight of the matrices' mean trace, which is minimised: annotators are as unreliable as their labels
        allow. If it is too large, the matrices explain everything, and the clean mask is wrong.
      warm_up: share of the epochs at the start in which the trace is maximised instead, with a weight of 1, so that the
        matrices begin near the identity. The paper does so; the original's code has no warm-up.
      softmax_twice: whether a softmax is applied to the annotators' probabilities, as in the original's code; the paper
        has none.
    """

    trace_weight: Annotated[float, Range(0, 1e6)] = 0.01
    warm_up: Annotated[float, Range(0, 1)] = 0.3
    softmax_twice: bool = False


class NamedAnnotatorsTask(AnnotatorsTask):
    """Trains a segmentation and the matrices of named annotators; making the task lists the data."""

    Model, Loss = ModelConfig, LossConfig

    def __init__(self, config: Config):
        if config.data.layout != "mnist":
            given = f"data.layout is {config.data.layout!r}, whose annotators have no names"
            raise ValueError(f"{given}; this task needs the layout mnist, or use the task cmvae")
        super().__init__(config)
        self.weights = config.loss
        steps = max(1, len(self.splits["train"]) // config.trainer.batch_size)
        self.warm_steps = round(config.loss.warm_up * config.trainer.epochs * steps)
        self.model = _model(config, self.image_shape, self.splits["train"].annotators)

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the sum of the parts of `named_annotators_loss` for the labels of all annotators."""
        weight = jnp.where(step < self.warm_steps, -1.0, self.weights.trace_weight)
        options = {"trace_weight": weight, "softmax_twice": self.weights.softmax_twice}
        return named_annotators_loss(**model.named_outputs(batch["image"]), labels=batch["labels"], **options)

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the measures of every image; its samples are one predicted mask per annotator."""
        found = _predicted(model, batch["image"])
        labels = jnp.moveaxis(batch["labels"] > 0, -1, 1)  # (B, A, H, W)
        own = dice_original(found["masks"], labels).mean(-1)
        values = measures(found["clean"], found["masks"], batch, {"dice_own": own})
        return {name: value for name, value in values.items() if name != "dice_one_sample"}  # nothing is sampled

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of images with their annotators, the clean mask, and each annotator's predicted mask."""
        images = jnp.asarray(np.stack([record["image"] for record in records]))
        found = jax.jit(_predicted)(model, images)
        return sheet(records, np.asarray(found["clean"]), np.asarray(found["masks"]))


def _predicted(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
    """Returns clean masks (B, H, W) bool, and the masks that each annotator would draw, (B, A, H, W) bool."""

    def one(image: jax.Array) -> dict[str, jax.Array]:
        started = model.start_samples(image)
        masks = model.annotator_masks(started, jnp.arange(model.cfg.annotators))["masks"]
        return {"clean": model.clean_mask(started) > 0, "masks": masks > 0}

    return jax.vmap(one)(images)


def _model(config: Config, shape: tuple[int, int, int], annotators: int):
    options = dataclasses.asdict(config.model) | {"image_size": shape[:2], "in_channels": shape[2]}
    try:
        return create("cmvae", seed=config.seed, dtype=config.trainer.precision, annotators=annotators, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
