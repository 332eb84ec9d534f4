"""Parts of the networks with confusion matrices: hyper-parameters, the U-Net's block, and where the matrices come from.

Arrays are NHWC. Confusion matrices are (..., K, K), annotated class before true class.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.annotators.prob_unet import Combine, Encoder, Gaussian, ProbUNetConfig
from jaxseg.nn.layers import BatchNorm, Conv, Dtype, GroupNorm, Init, PReLU, instance_norm, linear
from jaxseg.nn.resize import Odd
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify

Norm = Literal["in", "bn", "gn", "ln"]
# Matrices of the image:
FILTERS = (8, 16, 32, 64)  # channels of the levels of the networks of prior and posterior
COMBINED = 3  # convolutions that combine features and latent vector
START = 3.0  # with log(K - 1) the first scores of the diagonal: it has 95 % of each column
MOST_CLASSES = 32  # the matrices of a pixel are K * K <= 1024 channels
Side = Annotated[int, Range(8, 8192)]  # no card allows fewer than 8 pixels


@dataclasses.dataclass(frozen=True)
class CMVAEConfig:
    """Hyper-parameters; the defaults are the original's for LIDC.

    Attributes:
      in_channels: number of channels of the images.
      num_classes: number of classes, background included; a pixel belongs to the class with the largest logit.
      image_size: height and width; the network accepts no others.
      width: number of channels of the finest level.
      depth: number of levels; each is half as large as the one before.
      latent: length of the latent vector.
      norm: "in" instance, "bn" batch or "gn" group norm (channels // 8 groups). "ln" is the same as "in", as in the
        original, where it is not layer norm either.
      odd: how maps of odd sizes are cropped, "floor" or "truncate"; see `jaxseg.nn.resize.pad_or_crop`.
      cm_normalisation: normalisation of the confusion matrices in `sample`. "consistent": softmax, as in training, and
        as in the original's main program. "original": they are divided by their sums, as in two scripts of the original
        that stop with an error.
      matrices: where the confusion matrices come from. "latent": an autoencoder, the VAE. "annotator": a small network
        per annotator, which sees the U-Net's features. "global": one matrix per annotator, for all images and pixels.
      source: what the matrices of a latent vector depend on. "latent": only the vector, as in the original. "image":
        the vector and the image, and the vector's Gaussian is learned from the annotators' masks.
      annotators: number of annotators, if the matrices are "annotator" or "global".
      init: initial parameters, "torch" (PyTorch's defaults) or "lecun" (flax's).
      dtype: dtype of the U-Net's arithmetic, "float32" or "bfloat16"; parameters, the autoencoder and the networks
        of the matrices are float32.
    """

    OUTPUTS: ClassVar[str] = "num_classes"

    in_channels: Annotated[int, Range(1, 1024)] = 1
    num_classes: Annotated[int, Range(1, 64)] = 2
    image_size: tuple[Side, Side] = (64, 64)
    width: Annotated[int, Range(1, 1024)] = 24
    depth: Annotated[int, Range(2, 10)] = 3
    latent: Annotated[int, Range(2, 4096)] = 6
    norm: Norm = "in"
    odd: Odd = "floor"
    cm_normalisation: Literal["consistent", "original"] = "consistent"
    matrices: Literal["latent", "annotator", "global"] = "latent"
    source: Literal["latent", "image"] = "latent"
    annotators: Annotated[int, Range(1, 64)] = 4
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self, _misfits(self))

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each encoder level, the finest first; the deepest has as many as the level before."""
        return tuple(self.width * 2**i for i in range(self.depth - 1)) + (self.width * 2 ** (self.depth - 2),)


def _misfits(cfg: CMVAEConfig) -> Iterator[str]:
    if cfg.norm == "gn" and any(n < 8 or n % (n // 8) for n in cfg.channels):
        yield f"width: {cfg.width} gives channels {cfg.channels}, which do not divide into channels // 8 groups"
    if cfg.source == "image" and cfg.matrices != "latent":
        yield f"source: 'image' is for matrices of a latent vector, not for {cfg.matrices!r}"
    if cfg.source == "image" and cfg.num_classes < 2:
        yield f"num_classes: matrices of the image need at least 2 classes, got {cfg.num_classes}"
    if cfg.source == "image" and cfg.num_classes > MOST_CLASSES:
        yield f"num_classes: matrices of the image allow at most {MOST_CLASSES} classes, got {cfg.num_classes}"
    if min(cfg.image_size) < 2**cfg.depth:
        yield f"depth: {cfg.depth} levels need images of at least {2**cfg.depth} pixels, got {cfg.image_size}"


class Block(nnx.Module):
    """Two times: 3x3 convolution, norm and PReLU. The first convolution has the stride."""

    def __init__(self, cfg: CMVAEConfig, num_in: int, num_out: int, *, stride: int = 1, rngs: nnx.Rngs):
        options = {"use_bias": False, "init": cfg.init, "dtype": jnp.dtype(cfg.dtype), "rngs": rngs}
        self.convs = nnx.List(
            [Conv(num_in, num_out, 3, stride=stride, **options), Conv(num_out, num_out, 3, **options)]
        )
        norm = {"bn": BatchNorm, "gn": lambda n: GroupNorm(n, n // 8)}.get(cfg.norm, instance_norm)
        self.norms = nnx.List([norm(num_out) for _ in range(2)])
        self.activations = nnx.List([PReLU() for _ in range(2)])

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, norm, activation in zip(self.convs, self.norms, self.activations, strict=True):
            x = activation(norm(layer(x)))
        return x


class Confusion(nnx.Module):
    """The autoencoder: (B, H, W, C) features -> latent Gaussian (B, Z) -> (B, H, W, K, K) confusion matrices."""

    def __init__(self, cfg: CMVAEConfig, *, rngs: nnx.Rngs):
        self.shape = (cfg.num_classes, cfg.num_classes, *cfg.image_size)
        pixels, hidden, options = math.prod(cfg.image_size), cfg.latent // 2, {"init": cfg.init, "rngs": rngs}
        self.encoder = linear(cfg.width * pixels, hidden, **options)
        self.mean = linear(hidden, cfg.latent, **options)
        self.log_variance = linear(hidden, cfg.latent, **options)
        self.decoder = linear(cfg.latent, cfg.num_classes**2 * pixels, **options)

    def encode(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = features.astype(jnp.float32).transpose(0, 3, 1, 2).reshape(features.shape[0], -1)  # as PyTorch flattens
        x = nnx.relu(self.encoder(x))
        return self.mean(x), self.log_variance(x)

    def decode(self, z: jax.Array) -> jax.Array:
        return self.planes(z).transpose(0, 3, 4, 1, 2)

    def planes(self, z: jax.Array) -> jax.Array:
        """Returns the matrices of latent vectors (B, Z) as (B, annotated, true, H, W)."""
        return nnx.softplus(self.decoder(z)).reshape(z.shape[0], *self.shape)


class ImageMatrices(nnx.Module):
    """Matrices that depend on image and latent vector, whose Gaussian is learned from the annotators' masks.

    As in the probabilistic U-Net, one network predicts the Gaussian of an image, the prior, and another that of an
    image with a mask, the posterior. The matrices of a pixel come from its features and the vector, which all pixels
    share, so that neighbours have similar matrices. They begin near the identity, for all numbers of classes equally.
    """

    def __init__(self, cfg: CMVAEConfig, *, rngs: nnx.Rngs):
        self.classes = cfg.num_classes
        options = {"out_channels": cfg.num_classes**2, "latent": cfg.latent, "init": cfg.init}
        encoders = ProbUNetConfig(filters=FILTERS, **options)
        self.prior = Encoder(encoders, cfg.in_channels, rngs=rngs)
        self.posterior = Encoder(encoders, cfg.in_channels + cfg.num_classes - 1, rngs=rngs)
        combined = ProbUNetConfig(filters=(cfg.width, cfg.width), num_convs=COMBINED, **options)
        self.combine = Combine(combined, rngs=rngs)

    def encode(self, image: jax.Array, labels: jax.Array) -> tuple[Gaussian, Gaussian]:
        """Returns posterior and prior of (B, H, W, C) images and one annotator's classes of each, (B, H, W)."""
        return self.with_labels(image, labels), self.prior(image.astype(jnp.float32))

    def with_labels(self, image: jax.Array, labels: jax.Array) -> Gaussian:
        """Returns only the posterior."""
        marked = jax.nn.one_hot(labels.astype(jnp.int32) - 1, self.classes - 1)  # the background has no channel
        return self.posterior(jnp.concatenate([image.astype(jnp.float32), marked], axis=-1))

    def begin(self, features: jax.Array) -> jax.Array:
        """Returns the part that all latent vectors of the (B, H, W, C) features share."""
        return self.combine.begin(features.astype(jnp.float32))

    def finish(self, started: jax.Array, z: jax.Array) -> jax.Array:
        """Returns the (B, H, W, K, K) matrices of latent vectors (B, Z), normalised."""
        scores = self.combine.finish(started, z)
        scores = scores.reshape(*scores.shape[:-1], self.classes, self.classes)
        identity = jnp.broadcast_to(jnp.eye(self.classes), scores.shape)
        return jax.nn.softmax(scores + (START + math.log(self.classes - 1)) * identity, axis=-2)


class AnnotatorMatrices(nnx.Module):
    """A small network per annotator: (B, H, W, C) features -> (B, H, W, A, K, K) matrices, which are not normalised.

    Source: Zhang et al. 2020, arXiv:2007.15963.
    """

    def __init__(self, cfg: CMVAEConfig, *, rngs: nnx.Rngs):
        plain, self.classes = dataclasses.replace(cfg, dtype="float32"), cfg.num_classes
        self.blocks, self.outputs = nnx.List([]), nnx.List([])
        for _ in range(cfg.annotators):
            self.blocks.append(nnx.List([Block(plain, cfg.width, cfg.width, rngs=rngs) for _ in range(2)]))
            self.outputs.append(Conv(cfg.width, cfg.num_classes**2, 1, init=cfg.init, rngs=rngs))

    def __call__(self, features: jax.Array) -> jax.Array:
        found = []
        for (first, second), output in zip(self.blocks, self.outputs, strict=True):
            found.append(output(second(first(features.astype(jnp.float32)))))
        matrices = nnx.softplus(jnp.stack(found, axis=3))  # (B, H, W, A, K K)
        return matrices.reshape(*matrices.shape[:-1], self.classes, self.classes)


class GlobalMatrices(nnx.Module):
    """One matrix per annotator: (B, H, W, C) features, of which only the shape counts -> (B, H, W, A, K, K) matrices.

    Source: Zhang et al. 2020, arXiv:2007.15963, who compare with it.
    """

    def __init__(self, cfg: CMVAEConfig, *, rngs: nnx.Rngs):
        self.weights = nnx.Param(jnp.tile(jnp.eye(cfg.num_classes), (cfg.annotators, 1, 1)))

    def __call__(self, features: jax.Array) -> jax.Array:
        matrices = nnx.softplus(self.weights[...])
        return jnp.broadcast_to(matrices, (*features.shape[:3], *matrices.shape))
