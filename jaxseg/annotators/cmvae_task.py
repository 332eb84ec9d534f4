"""Training of the confusion-matrix VAE: a segmentation and the annotators' errors, from annotators who disagree.

Source: rCampSemp/learn-vae-noisy-label.
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
from jaxseg.annotators.losses import (
    annotator_shares,
    confusion_vae_loss,
    draw_annotator,
    gaussian_kl,
    image_confusion_loss,
    kl_schedule,
)
from jaxseg.annotators.task import AnnotatorsTask, measures, sheet
from jaxseg.settings import Range, section
from jaxseg.training.config.config import Config
from jaxseg.weights.load import create

_NETWORK = section(CMVAEConfig, "width", "depth", "latent", "norm", "odd", "cm_normalisation", "source")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(_NETWORK):
    """The network, see `jaxseg.annotators.cmvae.CMVAEConfig`; with `source: image`, `loss.beta` must be small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weight of the KL term.

    Attributes:
      beta: the largest weight. With `model.source: image` about 1e-4: with the default all samples are alike.
      schedule: "anneal" raises the weight evenly in the first `ramp_up` of the epochs, "cyclic" does so five times
        (with five epochs or fewer it stays 0, as in the original), "constant" does not change it. The original always
        anneals.
      ramp_up: share of the epochs.
      kl_twice: whether the term is added twice; the original adds it in its loss and again in its training loop.
      free_nats: only with `model.source: image`: the KL divergence of an example costs nothing up to this value.
    """

    beta: Annotated[float, Range(0, 1e6)] = 20.0
    schedule: Literal["anneal", "cyclic", "constant"] = "anneal"
    ramp_up: Annotated[float, Range(0, 1)] = 0.3
    kl_twice: bool = True
    free_nats: Annotated[float, Range(0, 1e6)] = 0.0


class CMVAETask(AnnotatorsTask):
    """Trains the confusion-matrix VAE; making the task lists the data and reads the first image for its size."""

    Model, Loss = ModelConfig, LossConfig

    def __init__(self, config: Config):
        _verify(config)
        super().__init__(config)
        self.weights = config.loss
        self.steps_per_epoch = max(1, len(self.splits["train"]) // config.trainer.batch_size)
        epochs, schedule = config.trainer.epochs, config.loss.schedule
        self.factors = kl_schedule(schedule, epochs, ramp_up=config.loss.ramp_up)  # (epochs,)
        self.model = _model(config, self.image_shape)

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the loss and its parts for annotators and noise sampled with `key`.

        With `model.source: latent` it is `confusion_vae_loss`, with `model.source: image` `image_confusion_loss`.
        """
        for_label, for_noise = jax.random.split(key)
        labels = draw_annotator(for_label, batch["labels"], batch["present"], per=self.cfg.draw)
        noise = jax.random.normal(for_noise, (len(labels), model.cfg.latent))
        epoch = jnp.minimum(step // self.steps_per_epoch, len(self.factors) - 1)
        weight = self.weights.beta * jnp.asarray(self.factors)[epoch]
        if model.cfg.source == "image":
            weight, free = weight * (2 if self.weights.kl_twice else 1), self.weights.free_nats
            found = model.image_outputs(batch["image"], labels, noise)
            shares = annotator_shares(batch["labels"], batch["present"], model.cfg.num_classes)
            return image_confusion_loss(**found, labels=labels, shares=shares, kl_weight=weight, free_nats=free)
        options = {"kl_weight": weight, "kl_twice": self.weights.kl_twice}
        return confusion_vae_loss(**model.outputs(batch["image"], noise), labels=labels, **options)

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the measures of every image, with masks sampled with its own seed."""
        found = _sampled(model, batch["image"], jax.vmap(jax.random.key)(batch["seed"]), self.cfg.samples)
        if model.cfg.source == "image":  # as for the probabilistic U-Net, the posterior of the consensus
            kl = gaussian_kl(*model.confusion.with_labels(batch["image"], batch["truth"]), *found["gaussian"])
        else:
            mean, log_sigma = found["gaussian"]
            kl = gaussian_kl(mean, log_sigma, jnp.zeros_like(mean), jnp.zeros_like(mean))
        return measures(found["clean"], found["masks"], batch, {"kl": kl})

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of images with annotators, clean and sampled masks, the reconstruction and two matrices."""
        images = jnp.asarray(np.stack([record["image"] for record in records]))
        keys = jax.random.split(jax.random.key(0), len(records))
        found = jax.jit(_sampled, static_argnums=3)(model, images, keys, 16)
        more = {"reconstruction": np.asarray(found["reconstruction"])}
        for i, matrix in enumerate(np.moveaxis(np.asarray(found["matrices"])[:, :2], 1, 0)):
            more |= {f"missed, {i + 1}": matrix[:, 0, 1], f"drawn beside, {i + 1}": matrix[:, 1, 0]}
        return sheet(records, np.asarray(found["clean"]), np.asarray(found["masks"]), more)


def _sampled(model, images: jax.Array, keys: jax.Array, count: int) -> dict[str, jax.Array]:
    """Returns clean masks (B, H, W) bool, S = `count` sampled masks each (B, S, H, W), and their matrices.

    The reconstruction (B, H, W) is the noisy mask at the mean of the "gaussian" that the network computes for the
    image, mean and logarithm of the standard deviation (B, Z).
    """
    prior_sees_image = model.cfg.source == "image"

    def one(image: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        started = model.start_samples(image, source="prior" if prior_sees_image else "image")
        noise = jax.random.normal(key, (count, model.cfg.latent))
        of_prior = started if prior_sees_image else {"logits": started["logits"]}
        found = model.finish_samples(of_prior, noise)
        middle = model.finish_samples(started, jnp.zeros((1, model.cfg.latent)))
        return {
            "clean": model.clean_mask(started) > 0,
            "masks": found["masks"] > 0,
            "matrices": found["matrices"],
            "gaussian": (started["mean"][0], started["log_sigma"][0]),
            "reconstruction": middle["masks"][0] > 0,
        }

    return jax.vmap(one)(images, keys)


def _verify(config: Config) -> None:
    """Raises ValueError if settings exclude each other."""
    if config.model.source == "latent" and config.loss.free_nats > 0:
        raise ValueError(f"loss.free_nats: {config.loss.free_nats} is only for model.source: image; leave it out")
    if config.model.source == "image" and config.model.cm_normalisation == "original":
        raise ValueError("model.cm_normalisation: 'original' is only for model.source: latent; leave it out")


def _model(config: Config, shape: tuple[int, int, int]):
    options = dataclasses.asdict(config.model) | {"image_size": shape[:2], "in_channels": shape[2]}
    try:
        return create("cmvae", seed=config.seed, dtype=config.trainer.precision, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
