"""Training of the probabilistic U-Net: samples masks that vary as those of the annotators do.

Source: Kohl et al. 2018, arXiv:1806.05034, as in rCampSemp/learn-vae-noisy-label.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.annotators.losses import draw_annotator, gaussian_kl, negative_elbo, sample_noise, sum_of_norms
from jaxseg.annotators.prob_unet import ProbUNetConfig, regularised
from jaxseg.annotators.task import AnnotatorsTask, measures, sheet
from jaxseg.settings import Range, problems_of, section, verify
from jaxseg.training.config.config import Config
from jaxseg.weights.load import create


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(ProbUNetConfig, "filters", "latent", "num_convs", "odd")):
    """The network, see `jaxseg.annotators.prob_unet.ProbUNetConfig`."""

    def __post_init__(self):
        verify(self, problems_of(ProbUNetConfig, self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The negative evidence lower bound.

    Attributes:
      beta: weight of the KL divergence.
      kl: "analytic", or "sampled": estimated at a sample of the posterior, as the published code does by option.
      regularisation: weight of the sum of the norms of the encoders' and the last layers' parameters.
    """

    beta: Annotated[float, Range(0, 1e6)] = 5.0
    kl: Literal["analytic", "sampled"] = "analytic"
    regularisation: Annotated[float, Range(0, 1e6)] = 1e-5


class ProbUNetTask(AnnotatorsTask):
    """Trains the probabilistic U-Net; making the task lists the data and reads the first image for its channels."""

    Model, Loss = ModelConfig, LossConfig

    def __init__(self, config: Config):
        super().__init__(config)
        self.weights = config.loss
        self.model = _model(config, self.image_shape)

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the negative evidence lower bound plus the norms, for annotators and noise sampled with `key`."""
        cfg = self.weights
        for_label, for_noise = jax.random.split(key)
        target = draw_annotator(for_label, batch["labels"], batch["present"], per=self.cfg.draw)[..., None]
        noise = jax.random.normal(for_noise, (len(target), model.cfg.latent))
        found = model.outputs(batch["image"], target, noise)
        z = found.pop("z")
        value, parts = negative_elbo(target=target, **found, beta=cfg.beta, z=z if cfg.kl == "sampled" else None)
        if not cfg.regularisation:
            return value, parts
        parts["norms"] = cfg.regularisation * sum_of_norms(regularised(model))
        return value + parts["norms"], parts

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns the measures of every image, with masks sampled by its own seed; KL is to the consensus."""
        keys = jax.vmap(jax.random.key)(batch["seed"])
        found = _sampled(model, batch["image"], keys, self.cfg.samples)
        target = batch["truth"][..., None]
        posterior = model.posterior(model.with_target(batch["image"], target))
        return measures(found["clean"], found["masks"], batch, {"kl": gaussian_kl(*posterior, *found["prior"])})

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of images with their annotators, the masks at the mean of the prior, and sampled masks."""
        images = jnp.asarray(np.stack([record["image"] for record in records]))
        keys = jax.random.split(jax.random.key(0), len(records))
        found = jax.jit(_sampled, static_argnums=3)(model, images, keys, 16)
        return sheet(records, np.asarray(found["clean"]), np.asarray(found["masks"]))


def _sampled(model, images: jax.Array, keys: jax.Array, count: int) -> dict:
    """Returns masks at the mean of the prior (B, H, W) bool, S = `count` sampled masks (B, S, H, W), and the prior."""

    def one(image: jax.Array, key: jax.Array) -> dict:
        started = model.start_samples(image)
        found = model.finish_samples(started, sample_noise(key, count, model.cfg.latent))
        prior = started["mean"][0], started["log_sigma"][0]
        return {"clean": model.clean_mask(started) > 0, "masks": found["masks"] > 0, "prior": prior}

    return jax.vmap(one)(images, keys)


def _model(config: Config, shape: tuple[int, int, int]):
    options = dataclasses.asdict(config.model) | {"in_channels": shape[2]}
    try:
        model = create("prob_unet", seed=config.seed, dtype=config.trainer.precision, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
    model.card = dataclasses.replace(model.card, input_size=shape[:2])
    return model
