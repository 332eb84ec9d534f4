"""Training of the confusion-matrix VAE: a segmentation and the annotators' errors, from annotators who disagree.

Source: rCampSemp/learn-vae-noisy-label.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxseg.annotators import task as annotators
from jaxseg.annotators.cmvae import drawn
from jaxseg.annotators.losses import confusion_vae_loss, draw_annotator, kl_schedule, kl_to_standard_normal
from jaxseg.annotators.task import DataConfig, measures, summarise, with_seed
from jaxseg.settings import Range
from jaxseg.training.config.config import Config
from jaxseg.training.task import Problem
from jaxseg.weights.load import create


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; `jaxseg.annotators.cmvae.CMVAEConfig` explains it."""

    width: Annotated[int, Range(1, 1024)] = 24
    depth: Annotated[int, Range(2, 10)] = 3
    latent: Annotated[int, Range(2, 4096)] = 6
    norm: Literal["in", "bn", "gn", "ln"] = "in"
    odd: Literal["floor", "truncate"] = "floor"
    cm_normalisation: Literal["original", "consistent"] = "original"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weight of the KL term.

    Attributes:
      beta: the weight at its highest.
      schedule: "anneal" rises evenly in the first `ramp_up` of the epochs, "cyclic" five times over (with five epochs
        or fewer it stays 0, as in the original), "constant" not. The original anneals whatever it is asked.
      ramp_up: share of the epochs.
      kl_twice: the original adds the term in its loss and once more in its training loop.
    """

    beta: Annotated[float, Range(0, 1e6)] = 20.0
    schedule: Literal["anneal", "cyclic", "constant"] = "anneal"
    ramp_up: Annotated[float, Range(0, 1)] = 0.3
    kl_twice: bool = True


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config; lists the data, and reads the first image for its size."""
    cfg, splits = config.data, config.data.splits()
    source = splits["train"]
    steps = max(1, len(source) // config.trainer.batch_size)
    factors = kl_schedule(config.loss.schedule, config.trainer.epochs, ramp_up=config.loss.ramp_up)
    weighted = functools.partial(loss, cfg=config.loss, data=cfg, factors=factors, steps_per_epoch=steps)
    measure = functools.partial(scores, count=cfg.samples)
    return Problem(
        _model(config, annotators.shape_of(source)),
        splits,
        cfg.augmentation(),
        with_seed,
        weighted,
        measure,
        summarise,
        "dice",
        draw,
        annotators.facts(splits),
        examine=functools.partial(annotators.examine, scores=measure, on_error=cfg.on_error),
        timed=True,
    )


def loss(
    model,
    batch: dict,
    key: jax.Array,
    *,
    step: jax.Array,
    cfg: LossConfig,
    data: DataConfig,
    factors: np.ndarray,
    steps_per_epoch: int,
) -> tuple:
    """The parts of `confusion_vae_loss`, added, for the annotators and the noise that `key` draws.

    Args:
      step: how many were taken before.
      factors: (epochs,) of the KL term.
      steps_per_epoch: of the run.
    """
    for_label, for_noise = jax.random.split(key)
    labels = draw_annotator(for_label, batch["labels"], batch["present"], per=data.draw)
    noise = jax.random.normal(for_noise, (len(labels), model.cfg.latent))
    epoch = jnp.minimum(step // steps_per_epoch, len(factors) - 1)
    weight = cfg.beta * jnp.asarray(factors)[epoch]
    options = {"kl_weight": weight, "kl_twice": cfg.kl_twice}
    return confusion_vae_loss(**model.outputs(batch["image"], noise), labels=labels, **options)


def scores(model, batch: dict, *, count: int) -> dict[str, jax.Array]:
    """What is measured of every image, with `count` masks drawn by its own seed."""
    found = _sampled(model, batch["image"], jax.vmap(jax.random.key)(batch["seed"]), count)
    return measures(found["clean"], found["masks"], batch, {"kl": found["kl"]})


def draw(model, records: Sequence[dict]) -> Image.Image:
    """A sheet of images: annotators, clean and sampled masks, the reconstruction and two sampled confusion matrices."""
    images = jnp.asarray(np.stack([record["image"] for record in records]))
    keys = jax.random.split(jax.random.key(0), len(records))
    found = jax.jit(_sampled, static_argnums=3)(model, images, keys, 16)
    more = {"reconstruction": np.asarray(found["reconstruction"])}
    for i, matrix in enumerate(np.moveaxis(np.asarray(found["matrices"])[:, :2], 1, 0)):
        more |= {f"missed, {i + 1}": matrix[..., 0, 1], f"drawn beside, {i + 1}": matrix[..., 1, 0]}
    return annotators.sheet(records, np.asarray(found["clean"]), np.asarray(found["masks"]), more)


def _sampled(model, images: jax.Array, keys: jax.Array, count: int) -> dict[str, jax.Array]:
    """Clean masks (B, H, W) bool, `count` sampled ones of each (B, S, H, W), their matrices, and the KL term (B,).

    The reconstruction (B, H, W) is the noisy mask at the middle of the Gaussian that the network finds for the image.
    """
    features = model.maps(images)["decoder0"]
    logits = model.logits(features)
    mean, log_variance = model.confusion.encode(features)
    z = jax.vmap(lambda key: jax.random.normal(key, (count, model.cfg.latent)))(keys)
    found = jax.vmap(functools.partial(drawn, model))(logits, z)
    kl = jax.vmap(lambda m, v: kl_to_standard_normal(m[None], v[None]))(mean, log_variance)
    clean = jnp.argmax(logits, axis=-1) > 0
    middle = jax.vmap(functools.partial(drawn, model))(logits, mean[:, None])["masks"][:, 0] > 0
    masks = found["masks"] > 0
    return {"clean": clean, "masks": masks, "matrices": found["matrices"], "kl": kl, "reconstruction": middle}


def _model(config: Config, shape: tuple[int, int, int]):
    options = dataclasses.asdict(config.model) | {"image_size": shape[:2], "in_channels": shape[2]}
    try:
        return create("cmvae", seed=config.seed, dtype=config.trainer.precision, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
