"""U-Net with confusion matrices of the annotators, by default from a variational autoencoder.

Arrays are NHWC. Sources: rCampSemp/learn-vae-noisy-label, for the autoencoder; Zhang et al. 2020, arXiv:2007.15963, for
matrices of named annotators.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.annotators.cmvae_layers import (
    COMBINED,
    AnnotatorMatrices,
    Block,
    CMVAEConfig,
    Confusion,
    GlobalMatrices,
    ImageMatrices,
)
from jaxseg.annotators.losses import noisy_logits, normalised_matrices, sample_noise
from jaxseg.annotators.prob_unet import Gaussian, draw
from jaxseg.nn.layers import Conv
from jaxseg.nn.resize import double_aligned, pad_or_crop
from jaxseg.weights.model import Model, Modules, Shapes

SOURCES = ("prior", "image")
DEPENDS = (
    "this model was trained with model.source: image, so its samples depend on the image already; leave out "
    "`--source image` (Python: `source`)"
)


class CMVAE(Model):
    """Segments images and models the annotators' errors: (B, H, W, C) images -> (B, H, W, K) float32 clean logits.

    `outputs` returns what training needs, `image_outputs` if the matrices depend on the image (`source` "image" of the
    configuration), `named_outputs` if they are those of named annotators. `sample` returns masks that annotators might
    draw. If the matrices depend only on a latent vector, it comes from the standard normal (source "prior" of `sample`)
    or from the Gaussian that the network predicts for the image (source "image"). Matrices of the image have a prior
    of the image, and no other source. The deepest level is enlarged, cropped back and concatenated with itself, as in
    the original. The original accepts only square images.

    Max |difference| from the original (PyTorch 2.13, float32, CPU, (2, 1, 64, 64)) with the parity kit's weights: 1e-5
    for logits up to 15, 3e-5 for matrices up to 10.
    """

    Config = CMVAEConfig
    OUTPUT = ("logits", "of the true segmentation; a pixel belongs to the class with the largest")
    SOURCES = SOURCES
    has_confusion = True

    def __init__(self, cfg: CMVAEConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        widths = cfg.channels
        inputs = (cfg.in_channels, *widths[:-1])
        strides = (1, *[2] * (cfg.depth - 1))
        encoders = zip(inputs, widths, strides, strict=True)
        self.encoders = nnx.List([Block(cfg, n, m, stride=s, rngs=rngs) for n, m, s in encoders])
        outputs = (widths[0], *widths[:-2], widths[-1])
        decoders = zip(widths, (*outputs[1:], widths[-1]), outputs, strict=True)  # skip, level below, output
        self.decoders = nnx.List([Block(cfg, n + m, o, rngs=rngs) for n, m, o in decoders])
        self.classify = Conv(cfg.width, cfg.num_classes, 1, init=cfg.init, dtype=jnp.dtype(cfg.dtype), rngs=rngs)
        latent = ImageMatrices if cfg.source == "image" else Confusion
        kinds = {"latent": latent, "annotator": AnnotatorMatrices, "global": GlobalMatrices}
        self.confusion = kinds[cfg.matrices](cfg, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, K) float32 clean logits of (B, H, W, C) images."""
        return self.logits(self.maps(x)["decoder0"])

    def logits(self, features: jax.Array) -> jax.Array:
        """Returns (B, H, W, K) float32 clean logits of the last decoder's features."""
        return self.classify(features).astype(jnp.float32)

    def outputs(self, x: jax.Array, noise: jax.Array) -> dict[str, jax.Array]:
        """Returns what the loss needs, under the names of the arguments of `confusion_vae_loss`.

        Args:
          x: (B, H, W, C) images.
          noise: (B, Z) standard normal numbers.

        Returns:
          "logits" (B, H, W, K) clean; "matrices" (B, H, W, K, K) confusion matrices, positive and not normalised,
          annotated class before true class; "mean" and "log_variance" (B, Z) of the latent vector.
        """
        features = self.maps(x)["decoder0"]
        mean, log_variance = self.confusion.encode(features)
        matrices = self.confusion.decode(mean + noise * jnp.exp(0.5 * log_variance))
        return {
            "logits": self.logits(features),
            "matrices": matrices,
            "mean": mean,
            "log_variance": log_variance,
        }

    def image_outputs(self, x: jax.Array, labels: jax.Array, noise: jax.Array) -> dict[str, jax.Array | Gaussian]:
        """Returns what the loss needs if the matrices depend on the image, as arguments of `image_confusion_loss`.

        Args:
          x: (B, H, W, C) images.
          labels: (B, H, W) class indices of one annotator of each, any dtype.
          noise: (B, Z) standard normal numbers.

        Returns:
          "logits" (B, H, W, K) clean; "matrices" (B, H, W, K, K), normalised; "posterior" and "prior", each mean and
          logarithm of the standard deviation (B, Z).
        """
        features = self.maps(x)["decoder0"]
        posterior, prior = self.confusion.encode(x, labels)
        matrices = self.confusion.finish(self.confusion.begin(features), draw(posterior, noise))
        return {"logits": self.logits(features), "matrices": matrices, "posterior": posterior, "prior": prior}

    def named_outputs(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns what `named_annotators_loss` needs: "logits" (B, H, W, K) and "matrices" (B, H, W, A, K, K).

        Args:
          x: (B, H, W, C) images.
        """
        features = self.maps(x)["decoder0"]
        return {"logits": self.logits(features), "matrices": self.confusion(features)}

    def maps(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: encoder0 ..., then decoder_(depth - 1) to decoder0, each NHWC."""
        size = (*self.cfg.image_size, self.cfg.in_channels)
        if x.ndim != 4 or x.shape[1:] != size:
            raise ValueError(f"images must be (B, {', '.join(map(str, size))}), got {x.shape}")
        x, named, skips = x.astype(self.cfg.dtype), {}, []
        for i, level in enumerate(self.encoders):
            named[f"encoder{i}"] = x = level(x)
            skips.append(x)
        for i in reversed(range(self.cfg.depth)):
            x = pad_or_crop(double_aligned(x), skips[i].shape[1:3], odd=self.cfg.odd)
            named[f"decoder{i}"] = x = self.decoders[i](jnp.concatenate([skips[i], x], axis=-1))
        return named

    def start_samples(self, image: jax.Array, *, source: str = "prior") -> dict[str, jax.Array]:
        """Returns what all samples of an image share; `finish_samples` needs it.

        Args:
          image: (H, W, C).
          source: one of `SOURCES`, see `sample`.

        Returns:
          "logits" (H, W, K), the clean logits; with source "image" also "mean" and "log_sigma" (1, Z); for named
          annotators also their "matrices" (H, W, A, K, K), normalised; for matrices that depend on the image "mean",
          "log_sigma" and "features" (1, H, W, C).

        Raises:
          ValueError: the source is unknown or does not suit the matrices, or the image has another shape.
        """
        if source not in self.SOURCES:
            raise ValueError(f"unknown source {source!r}; known: {', '.join(self.SOURCES)}")
        features = self.maps(image[None])["decoder0"]
        started = {"logits": self.logits(features)[0]}
        if self.cfg.matrices != "latent":
            if source == "image":
                raise ValueError(f"source 'image' is for matrices of a latent vector, not for {self.cfg.matrices!r}")
            return started | {"matrices": normalised_matrices(self.confusion(features)[0], "sum")}
        if self.cfg.source == "image":
            if source == "image":
                raise ValueError(DEPENDS)
            mean, log_sigma = self.confusion.prior(image[None].astype(jnp.float32))
            return started | {"features": self.confusion.begin(features), "mean": mean, "log_sigma": log_sigma}
        if source == "image":
            mean, log_variance = self.confusion.encode(features)
            started |= {"mean": mean, "log_sigma": 0.5 * log_variance}
        return started

    def clean_mask(self, started: dict[str, jax.Array]) -> jax.Array:
        """Returns the (H, W) uint8 classes of the model's own segmentation, from what `start_samples` returned."""
        return jnp.argmax(started["logits"], axis=-1).astype(jnp.uint8)

    def finish_samples(self, started: dict[str, jax.Array], noise: jax.Array) -> dict[str, jax.Array]:
        """Returns samples of the masks that annotators might draw.

        Args:
          started: the result of `start_samples`.
          noise: (S, Z) standard normal numbers: the latent vectors, or moved and scaled by "mean" and "log_sigma" if
            `started` has them. With named annotators, each row selects one of them, all with the same probability.

        Returns:
          "logits" (S, H, W, K) noisy, "masks" (S, H, W) uint8, the class with the largest noisy logit, and "matrices"
          (S, K, K, H, W), the normalised confusion matrices as planes, annotated class first. If the matrices depend on
          the image or are those of named annotators, the logits are logarithms of the probabilities.
        """
        if "matrices" in started:
            share = jax.scipy.stats.norm.cdf(noise[:, 0])
            chosen = jnp.minimum((share * self.cfg.annotators).astype(jnp.int32), self.cfg.annotators - 1)
            return self.annotator_masks(started, chosen)
        z = draw((started["mean"], started["log_sigma"]), noise) if "mean" in started else noise
        if "features" in started:
            matrices = jax.vmap(lambda z: self.confusion.finish(started["features"], z[None])[0])(z)
            return self._annotated(started["logits"], matrices)
        how = "sum" if self.cfg.cm_normalisation == "original" else "softmax"
        # Each step once: XLA would compute the matrices again for each of their uses.
        planes = jax.lax.optimization_barrier(self.confusion.planes(z))
        matrices = jax.lax.optimization_barrier(normalised_matrices(planes, how, axis=1))
        clean = started["logits"].transpose(2, 0, 1)
        # Class by class, because XLA's sum over the few true classes takes four times as long.
        noisy = sum(matrices[:, :, k] * clean[k][None, None] for k in range(len(clean)))  # (S, K, H, W)
        return {"logits": jnp.moveaxis(noisy, 1, -1), "masks": _largest(noisy), "matrices": matrices}

    def annotator_masks(self, started: dict[str, jax.Array], annotators: jax.Array) -> dict[str, jax.Array]:
        """Returns the masks that named annotators would draw.

        Args:
          started: the result of `start_samples`, with "matrices".
          annotators: (S,) int32, numbers of annotators.

        Returns:
          As `finish_samples`; "logits" are the logarithms of the probabilities.
        """
        return self._annotated(started["logits"], jnp.moveaxis(started["matrices"], 2, 0)[annotators])

    def _annotated(self, logits: jax.Array, matrices: jax.Array) -> dict[str, jax.Array]:
        """Returns masks of (S, H, W, K, K) matrices that change the probabilities of clean (H, W, K) logits."""
        probabilities = noisy_logits(jax.nn.softmax(logits)[None], matrices)
        logits = jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))
        masks = jnp.argmax(probabilities, axis=-1).astype(jnp.uint8)
        return {"logits": logits, "masks": masks, "matrices": matrices.transpose(0, 3, 4, 1, 2)}

    @property
    def num_mask_classes(self) -> int:
        """Number of classes in a sampled mask, background included."""
        return self.cfg.num_classes

    @property
    def numbers_per_pixel(self) -> int:
        """Number of float32 values that one sample needs per pixel, to estimate its memory."""
        hidden = COMBINED * self.cfg.width + self.cfg.num_classes**2 if self.cfg.source == "image" else 0
        return self.cfg.num_classes**2 + 2 * self.cfg.num_classes + hidden

    @property
    def fixed_size(self) -> tuple[int, int]:
        return self.cfg.image_size

    @staticmethod
    def torch_names(cfg: CMVAEConfig) -> dict[str, str]:
        """Returns our module paths -> module names in the original's checkpoints.

        {} for matrices that the original does not have.

        Those of named annotators are for comparisons with PyTorch: `config_from_shapes` does not recognise such a file.
        """
        if cfg.matrices == "global" or cfg.source == "image":
            return {}
        parts = {"encoder": "fc_encoder", "decoder": "fc_decoder", "mean": "fc_mu", "log_variance": "fc_var"}
        names = {f"confusion.{ours}": f"cm_network.{theirs}" for ours, theirs in parts.items()}
        blocks = {f"{side}.{i}": f"{side}.{i}" for side in ("encoders", "decoders") for i in range(cfg.depth)}
        if cfg.matrices == "annotator":
            networks = range(cfg.annotators)
            names = {f"confusion.outputs.{i}": f"decoders_noisy_layers.{i}.conv_last" for i in networks}
            for i in networks:
                blocks |= {f"confusion.blocks.{i}.{j}": f"decoders_noisy_layers.{i}.conv_{j + 1}" for j in range(2)}
        names["classify"] = "conv_last"
        for ours, theirs in blocks.items():
            for j in range(2):
                kinds = enumerate(("convs", "norms", "activations"))
                names |= {f"{ours}.{kind}.{j}": f"{theirs}.{3 * j + k}" for k, kind in kinds}
        return names

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> CMVAEConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not a checkpoint of this network.

        The shapes do not contain everything: images are assumed to be square, as the original's are, and the norm to be
        "in" unless it is "bn", because "gn" has the same tensors as "in". If the file holds the module itself,
        `config_from_modules` distinguishes them.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.

        Raises:
          ValueError: the image cannot be square.
        """
        stem, out = shapes.get("encoders.0.0.weight", ()), shapes.get("conv_last.weight", ())
        latent, decoder = shapes.get("cm_network.fc_mu.weight", ()), shapes.get("cm_network.fc_decoder.weight", ())
        if len(stem) != 4 or len(out) != 4 or len(latent) != 2 or len(decoder) != 2 or not out[0]:
            return None
        depth = 0
        while f"encoders.{depth}.0.weight" in shapes:
            depth += 1
        side = math.isqrt(decoder[0] // out[0] ** 2)
        if side**2 * out[0] ** 2 != decoder[0]:
            raise ValueError(
                f"its confusion matrices of {out[0]} classes have {decoder[0]} numbers, which is not a square image: "
                "build a jaxseg.annotators.cmvae.CMVAE with the right image_size, and fill it with "
                "jaxseg.weights.fill.fill"
            )
        norm = "bn" if "encoders.0.1.running_mean" in shapes else "in"
        return CMVAEConfig(stem[1], out[0], (side, side), width=stem[0], depth=depth, latent=latent[0], norm=norm)

    @staticmethod
    def config_from_modules(cfg: CMVAEConfig, modules: Modules) -> CMVAEConfig:
        """Returns the hyper-parameters with the norm of the modules that a PyTorch file contains, if it contains any.

        Args:
          cfg: the result of `config_from_shapes`.
          modules: paths -> class names and plain attributes of the modules.

        Raises:
          ValueError: the original has no such norm.
        """
        kind, attributes = next((v for name, v in modules.items() if name.endswith("encoders.0.1")), ("", {}))
        if kind != "GroupNorm":
            return cfg
        groups = attributes.get("num_groups")
        norm = {cfg.width // 8: "gn", cfg.width: "ln"}.get(groups)
        if norm is None:
            raise ValueError(
                f"its group norm has {groups} groups of {cfg.width} channels; the original has {cfg.width // 8} or "
                f"{cfg.width} groups"
            )
        return dataclasses.replace(cfg, norm=norm)


def sample(
    model: CMVAE, image: jax.Array, num_samples: int, key: jax.Array, *, source: str = "prior"
) -> dict[str, jax.Array]:
    """Returns masks that annotators might draw on an image; the U-Net runs only once.

    Args:
      model: a model in evaluation mode.
      image: (H, W, C).
      num_samples: number of samples, S; under `jax.jit` it must be static.
      key: random key; sample i depends only on `jax.random.split(key, S)[i]`.
      source: "prior": latent vectors do not depend on the image, as in the original; those of a model trained with
        `model.source: image` depend on it all the same. "image", only for a model trained with `model.source: latent`:
        they are sampled from the Gaussian that the network predicts for the image, as in training.

    Returns:
      "logits" (H, W, K) clean, "matrices" (S, H, W, K, K) normalised, "noisy_logits" (S, H, W, K), and "masks"
      (S, H, W) uint8, the class with the largest noisy logit. Under `jax.jit`, unused results are not computed.

    Raises:
      ValueError: the source is unknown or does not suit the model, or the image has another shape.
    """
    started = model.start_samples(image, source=source)
    found = model.finish_samples(started, sample_noise(key, num_samples, model.cfg.latent))
    named = {"logits": started["logits"], "noisy_logits": found["logits"], "masks": found["masks"]}
    return named | {"matrices": found["matrices"].transpose(0, 3, 4, 1, 2)}


def _largest(planes: jax.Array) -> jax.Array:
    """Returns the class with the largest logit, the first of equal ones, of (S, K, H, W) logits, (S, H, W) uint8."""
    best, index = planes[:, 0], jnp.zeros((planes.shape[0], *planes.shape[2:]), jnp.uint8)
    for k in range(1, planes.shape[1]):  # a loop of comparisons; on CPUs `argmax` is several times as slow
        index = jnp.where(planes[:, k] > best, jnp.uint8(k), index)
        best = jnp.maximum(best, planes[:, k])
    return index
