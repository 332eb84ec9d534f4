"""Training of the probabilistic U-Net: masks as different as those of the annotators.

Source: Kohl et al. 2018, arXiv:1806.05034, as in rCampSemp/learn-vae-noisy-label.
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
from jaxseg.annotators.losses import draw_annotator, gaussian_kl, negative_elbo, sample_noise, sum_of_norms
from jaxseg.annotators.prob_unet import draw as latent
from jaxseg.annotators.prob_unet import regularised
from jaxseg.annotators.task import DataConfig, measures, summarise, with_seed
from jaxseg.settings import Range, verify
from jaxseg.training.config.config import Config
from jaxseg.training.task import Problem
from jaxseg.weights.load import create

Filters = tuple[Annotated[int, Range(1, 4096)], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; `jaxseg.annotators.prob_unet.ProbUNetConfig` explains it."""

    filters: Filters = (4, 8, 16, 32)
    latent: Annotated[int, Range(1, 4096)] = 6
    num_convs: Annotated[int, Range(2, 64)] = 2
    odd: Literal["floor", "truncate"] = "floor"

    def __post_init__(self):
        verify(self, [] if len(self.filters) > 1 else ["filters: name two levels at least"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The negative evidence lower bound.

    Attributes:
      beta: weight of the KL divergence.
      kl: "analytic", or "sampled": estimated at the posterior's draw, as published code does by option.
      regularisation: weight of the sum of the norms of the encoders' and the last layers' parameters.
    """

    beta: Annotated[float, Range(0, 1e6)] = 5.0
    kl: Literal["analytic", "sampled"] = "analytic"
    regularisation: Annotated[float, Range(0, 1e6)] = 1e-5


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config; lists the data, and reads the first image for its channels."""
    cfg, splits = config.data, config.data.splits()
    measure = functools.partial(scores, count=cfg.samples)
    return Problem(
        _model(config, annotators.shape_of(splits["train"])),
        splits,
        cfg.augmentation(),
        with_seed,
        functools.partial(loss, cfg=config.loss, data=cfg),
        measure,
        summarise,
        "dice",
        draw,
        annotators.facts(splits),
        examine=functools.partial(annotators.examine, scores=measure, on_error=cfg.on_error),
    )


def loss(model, batch: dict, key: jax.Array, *, cfg: LossConfig, data: DataConfig) -> tuple:
    """The negative evidence lower bound and the norms, for the annotators and the noise that `key` draws."""
    for_label, for_noise = jax.random.split(key)
    target = draw_annotator(for_label, batch["labels"], batch["present"], per=data.draw)[..., None]
    noise = jax.random.normal(for_noise, (len(target), model.cfg.latent))
    found = model.outputs(batch["image"], target, noise)
    z = found.pop("z")
    value, parts = negative_elbo(target=target, **found, beta=cfg.beta, z=z if cfg.kl == "sampled" else None)
    if not cfg.regularisation:
        return value, parts
    parts["norms"] = cfg.regularisation * sum_of_norms(regularised(model))
    return value + parts["norms"], parts


def scores(model, batch: dict, *, count: int) -> dict[str, jax.Array]:
    """What is measured of every image, with `count` masks drawn by its own seed; the KL against the consensus."""
    keys = jax.vmap(jax.random.key)(batch["seed"])
    found = _sampled(model, batch["image"], keys, count)
    target = batch["truth"][..., None]
    posterior = model.posterior(model.with_target(batch["image"], target))
    return measures(found["clean"], found["masks"], batch, {"kl": gaussian_kl(*posterior, *found["prior"])})


def draw(model, records: Sequence[dict]) -> Image.Image:
    """A sheet of images with their annotators, the masks at the mean of the prior, and sampled ones."""
    images = jnp.asarray(np.stack([record["image"] for record in records]))
    keys = jax.random.split(jax.random.key(0), len(records))
    found = jax.jit(_sampled, static_argnums=3)(model, images, keys, 16)
    return annotators.sheet(records, np.asarray(found["clean"]), np.asarray(found["masks"]))


def _sampled(model, images: jax.Array, keys: jax.Array, count: int) -> dict[str, jax.Array]:
    """Masks at the mean of the prior (B, H, W) bool, `count` sampled ones of each (B, S, H, W), and the prior."""
    begun, prior = model.begin(images)
    noise = jax.vmap(lambda key: sample_noise(key, count, model.cfg.latent))(keys)  # (B, S, Z)
    drawn = jax.vmap(lambda noise: model.combine.finish(begun, latent(prior, noise)), 1, 1)(noise)
    clean = model.combine.finish(begun, prior[0])
    return {"clean": clean[..., 0] > 0, "masks": drawn[..., 0] > 0, "prior": prior}


def _model(config: Config, shape: tuple[int, int, int]):
    options = dataclasses.asdict(config.model) | {"in_channels": shape[2]}
    try:
        model = create("prob_unet", seed=config.seed, dtype=config.trainer.precision, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
    model.card = dataclasses.replace(model.card, input_size=shape[:2])
    return model
