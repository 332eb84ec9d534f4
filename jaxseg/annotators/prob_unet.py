"""Probabilistic U-Net (Kohl et al. 2018, arXiv:1806.05034), as in rCampSemp/learn-vae-noisy-label. Arrays are NHWC."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.annotators.losses import sample_noise
from jaxseg.nn.layers import Conv, Dtype, Init, instance_norm
from jaxseg.nn.resize import Odd, double_aligned, halve, pad_or_crop
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Model, Shapes

Gaussian = tuple[jax.Array, jax.Array]  # mean and logarithm of the standard deviation, each (B, Z)


@dataclasses.dataclass(frozen=True)
class ProbUNetConfig:
    """Hyper-parameters; the defaults are the original's for LIDC.

    Attributes:
      in_channels: number of channels of the images.
      out_channels: number of independent logits per pixel; 1 corresponds to the original's `num_classes` of 2.
      filters: number of channels of each level of the U-Net and of both encoders, the finest first.
      latent: length of the latent vector.
      num_convs: number of 1x1 convolutions that combine features and latent vector, including the last; at least 2.
      odd: how maps of odd sizes are cropped, "floor" or "truncate"; see `jaxseg.nn.resize.pad_or_crop`.
      init: initial parameters, "torch" (PyTorch's defaults) or "lecun" (flax's).
      dtype: dtype of the convolutions, "float32" or "bfloat16"; parameters and latent vectors are float32.
    """

    OUTPUTS: ClassVar[str] = "out_channels"

    in_channels: Annotated[int, Range(1, 1024)] = 1
    out_channels: Annotated[int, Range(1, 1024)] = 1
    filters: tuple[Annotated[int, Range(1, 4096)], ...] = (4, 8, 16, 32)
    latent: Annotated[int, Range(1, 4096)] = 6
    num_convs: Annotated[int, Range(2, 64)] = 2
    odd: Odd = "floor"
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self, _misfits(self))

    @property
    def num_classes(self) -> int:
        """Number of output channels."""
        return self.out_channels

    @property
    def options(self) -> dict:
        """Options with which every convolution is built."""
        return {"init": self.init, "dtype": jnp.dtype(self.dtype)}


def _misfits(cfg: ProbUNetConfig) -> Iterator[str]:
    if len(cfg.filters) < 2:
        yield f"filters: {list(cfg.filters)} has {len(cfg.filters)} levels; give at least 2"


class Block(nnx.Module):
    """Two times: 3x3 convolution without bias, instance norm and ReLU."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, num_out: int, *, rngs: nnx.Rngs):
        options = cfg.options | {"use_bias": False, "rngs": rngs}
        self.convs = nnx.List([Conv(num_in, num_out, 3, **options), Conv(num_out, num_out, 3, **options)])
        self.norms = nnx.List([instance_norm(num_out) for _ in range(2)])

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return x


class EncoderBlock(nnx.Module):
    """A 3x3 convolution without bias, instance norm and ReLU; then a convolution with bias, without norm, and ReLU."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, num_out: int, *, rngs: nnx.Rngs):
        self.first = Conv(num_in, num_out, 3, use_bias=False, **cfg.options, rngs=rngs)
        self.norm = instance_norm(num_out)
        self.second = Conv(num_out, num_out, 3, **cfg.options, rngs=rngs)

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.relu(self.norm(self.first(x))), relu=True)


class Encoder(nnx.Module):
    """Predicts the Gaussian of the latent vector of (B, H, W, C) arrays."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, *, rngs: nnx.Rngs):
        inputs = (num_in, *cfg.filters[:-1])
        self.levels = nnx.List([EncoderBlock(cfg, n, m, rngs=rngs) for n, m in zip(inputs, cfg.filters, strict=True)])
        self.moments = Conv(cfg.filters[-1], 2 * cfg.latent, 1, init=cfg.init, rngs=rngs)

    def __call__(self, x: jax.Array) -> Gaussian:
        return self.gaussian(self.features(x))

    def features(self, x: jax.Array) -> jax.Array:
        for i, level in enumerate(self.levels):
            x = level(halve(x) if i else x)
        return x

    def gaussian(self, features: jax.Array) -> Gaussian:
        means = features.astype(jnp.float32).mean((1, 2), keepdims=True)
        mean, log_sigma = jnp.split(self.moments(means)[:, 0, 0], 2, axis=-1)
        return mean, log_sigma


class Combine(nnx.Module):
    """1x1 convolutions on features (B, H, W, C) and a latent vector (B, Z), the same at every pixel."""

    def __init__(self, cfg: ProbUNetConfig, *, rngs: nnx.Rngs):
        width = cfg.filters[0]
        inputs = (width + cfg.latent, *[width] * (cfg.num_convs - 2))
        self.layers = nnx.List([Conv(n, width, 1, **cfg.options, rngs=rngs) for n in inputs])
        self.last = Conv(width, cfg.out_channels, 1, **cfg.options, rngs=rngs)

    def __call__(self, features: jax.Array, z: jax.Array) -> jax.Array:
        return self.finish(self.begin(features), z)

    def begin(self, features: jax.Array) -> jax.Array:
        """Returns the part of the first convolution that is the same for all samples."""
        kernel = self._kernel(features.dtype)[: features.shape[-1]]
        precision = jax.lax.Precision.HIGHEST if features.dtype == jnp.float32 else None
        return jnp.einsum("bhwc,cd->bhwd", features, kernel, precision=precision)

    def finish(self, started: jax.Array, z: jax.Array) -> jax.Array:
        """Returns (B, H, W, K) float32 logits."""
        kernel = self._kernel(jnp.float32)[-z.shape[-1] :]
        shift = jnp.matmul(z, kernel, precision=jax.lax.Precision.HIGHEST) + self.layers[0].bias[...].reshape(1, -1)
        x = nnx.relu(started + shift.astype(started.dtype)[:, None, None])
        for layer in self.layers[1:]:
            x = layer(x, relu=True)
        return self.last(x).astype(jnp.float32)

    def _kernel(self, dtype: jnp.dtype) -> jax.Array:
        return self.layers[0].kernel[...][0, 0].astype(dtype)  # (C + Z, C')


class ProbUNet(Model):
    """Samples plausible masks: (B, H, W, C) images -> (B, H, W, K) float32 logits at the prior's mean, any H and W.

    `sigmoid(logits) > 0.5` is a mask. `outputs` returns what training needs, `sample` returns several masks per image.

    Max |difference| from the original (PyTorch 2.13, float32, CPU, (2, 1, 64, 64)) with the parity kit's weights: 7e-6
    for logits up to 10.
    """

    Config = ProbUNetConfig
    OUTPUT = ("logits", "at the prior's mean; a pixel belongs to every class whose logit is above 0")
    SOURCES = ("prior",)
    has_confusion = False

    def __init__(self, cfg: ProbUNetConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        inputs = (cfg.in_channels, *cfg.filters[:-1])
        self.down = nnx.List([Block(cfg, n, m, rngs=rngs) for n, m in zip(inputs, cfg.filters, strict=True)])
        coarse, fine = cfg.filters[:0:-1], cfg.filters[-2::-1]  # deepest first
        self.up = nnx.List([Block(cfg, n + m, m, rngs=rngs) for n, m in zip(coarse, fine, strict=True)])
        self.prior = Encoder(cfg, cfg.in_channels, rngs=rngs)
        self.posterior = Encoder(cfg, cfg.in_channels + cfg.out_channels, rngs=rngs)
        self.combine = Combine(cfg, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, K) float32 logits of (B, H, W, C) images, at the mean of the prior."""
        started, (mean, _) = self.begin(x)
        return self.combine.finish(started, mean)

    def begin(self, x: jax.Array) -> tuple[jax.Array, Gaussian]:
        """Returns what all samples share: the first part of `combine`, and the prior."""
        return self.combine.begin(self.features(x)), self.prior(self._checked(x))

    def outputs(self, x: jax.Array, target: jax.Array, noise: jax.Array) -> dict[str, jax.Array | Gaussian]:
        """Returns what the loss needs, under the names of the arguments of `negative_elbo`.

        Args:
          x: (B, H, W, C) images.
          target: (B, H, W, K) one annotator's masks of 0 and 1, any dtype.
          noise: (B, Z) standard normal numbers.

        Returns:
          "logits" (B, H, W, K) of the reconstruction; "posterior" and "prior", each mean and logarithm of the standard
          deviation (B, Z); "z" (B, Z), sampled from the posterior.
        """
        x = self._checked(x)
        prior, posterior = self.prior(x), self.posterior(self.with_target(x, target))
        z = draw(posterior, noise)
        return {"logits": self.combine(self.features(x), z), "posterior": posterior, "prior": prior, "z": z}

    def with_target(self, x: jax.Array, target: jax.Array) -> jax.Array:
        """Returns the posterior's input: (B, H, W, C + K)."""
        if target.shape != (*x.shape[:3], self.cfg.out_channels):
            raise ValueError(f"masks must be {(*x.shape[:3], self.cfg.out_channels)}, got {target.shape}")
        return jnp.concatenate([x, target.astype(x.dtype)], axis=-1)

    def features(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, filters[0]) features of the U-Net, which do not depend on the latent vector."""
        return self.maps(x)[f"up{len(self.up) - 1}"]

    def maps(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the U-Net's named intermediates: down0 ..., then up0 (the coarsest) ..., each NHWC."""
        x, named, bridges = self._checked(x), {}, []
        for i, level in enumerate(self.down):
            named[f"down{i}"] = x = level(halve(x) if i else x)
            bridges.append(x)
        for i, (level, bridge) in enumerate(zip(self.up, bridges[-2::-1], strict=True)):
            x = pad_or_crop(double_aligned(x), bridge.shape[1:3], odd=self.cfg.odd)
            named[f"up{i}"] = x = level(jnp.concatenate([x, bridge], axis=-1))
        return named

    def _checked(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4 or x.shape[-1] != self.cfg.in_channels:
            raise ValueError(f"images must be (B, H, W, {self.cfg.in_channels}), got {x.shape}")
        return x.astype(self.cfg.dtype)

    def start_samples(self, image: jax.Array, *, source: str = "prior") -> dict[str, jax.Array]:
        """Returns what all samples of an image share; `finish_samples` needs it.

        Args:
          image: (H, W, C).
          source: "prior", the only one; the prior depends on the image.

        Returns:
          "features" (1, H, W, filters[0]), "mean" and "log_sigma" (1, Z).

        Raises:
          ValueError: the source is unknown, or the image has another shape.
        """
        if source not in self.SOURCES:
            raise ValueError(f"unknown source {source!r}; known: {', '.join(self.SOURCES)}")
        features, (mean, log_sigma) = self.begin(image[None])
        return {"features": features, "mean": mean, "log_sigma": log_sigma}

    def clean_mask(self, started: dict[str, jax.Array]) -> jax.Array:
        """Returns the (H, W) uint8 mask at the mean of the prior, from what `start_samples` returned."""
        return (self.combine.finish(started["features"], started["mean"])[0, ..., 0] > 0).astype(jnp.uint8)

    def finish_samples(self, started: dict[str, jax.Array], noise: jax.Array) -> dict[str, jax.Array]:
        """Returns samples of the masks that annotators might draw.

        Args:
          started: the result of `start_samples`.
          noise: (S, Z) standard normal numbers.

        Returns:
          "logits" (S, H, W, K), and "masks" (S, H, W) uint8, the mask of the first output channel.
        """
        z = started["mean"] + jnp.exp(started["log_sigma"]) * noise
        logits = jax.vmap(lambda z: self.combine.finish(started["features"], z[None])[0])(z)
        return {"logits": logits, "masks": (logits[..., 0] > 0).astype(jnp.uint8)}

    @property
    def num_mask_classes(self) -> int:
        """Number of classes in a sampled mask, background included; a ValueError for several masks that may overlap."""
        if self.cfg.out_channels > 1:
            raise ValueError(f"the model draws {self.cfg.out_channels} masks that may overlap; it must draw one")
        return 2

    @property
    def numbers_per_pixel(self) -> int:
        """Number of float32 values that one sample needs per pixel, to estimate its memory."""
        return self.cfg.num_convs * self.cfg.filters[0] + 2

    @property
    def smallest_side(self) -> int:
        return 2 ** (len(self.cfg.filters) - 1)

    @staticmethod
    def torch_names(cfg: ProbUNetConfig) -> dict[str, str]:
        """Returns our module paths -> module names in the original's state dict."""
        # First, because `wrapper_prefix` searches for it: no other module name ends in it.
        names = {"combine.last": "fcomb.last_layer"}
        names |= {f"combine.layers.{i}": f"fcomb.layers.{2 * i}" for i in range(cfg.num_convs - 1)}
        for i in range(len(cfg.filters)):
            pool = int(i > 0)  # the pooling before a level takes the first place
            for j in range(2):
                down, up = f"unet.contracting_path.{i}.layers", f"unet.upsampling_path.{i}.conv_block.layers"
                for k, kind in enumerate(("convs", "norms")):
                    names[f"down.{i}.{kind}.{j}"] = f"{down}.{pool + 3 * j + k}"
                    names[f"up.{i}.{kind}.{j}"] = f"{up}.{3 * j + k}"
            for side in ("prior", "posterior"):
                places = {"first": 6 * i, "norm": 6 * i + 1, "second": 6 * i + 3}
                names |= {f"{side}.levels.{i}.{ours}": f"{side}.encoder.layers.{k}" for ours, k in places.items()}
        return names | {f"{side}.moments": f"{side}.conv_layer" for side in ("prior", "posterior")}

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> ProbUNetConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is another model's.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.
        """
        names = [f"unet.contracting_path.{i}.layers.{int(i > 0)}.weight" for i in range(64)]
        levels = [shapes[name] for name in names if name in shapes]
        moments, last = shapes.get("prior.conv_layer.weight", ()), shapes.get("fcomb.last_layer.weight", ())
        if len(levels) < 2 or any(len(shape) != 4 for shape in (*levels, moments, last)):
            return None
        num_convs = 1
        while f"fcomb.layers.{2 * (num_convs - 1)}.weight" in shapes:
            num_convs += 1
        filters = tuple(shape[0] for shape in levels)
        return ProbUNetConfig(levels[0][1], last[0], filters, moments[0] // 2, num_convs)


def draw(gaussian: Gaussian, noise: jax.Array) -> jax.Array:
    """Returns latent vectors (B, Z) of a Gaussian, from standard normal numbers (B, Z)."""
    mean, log_sigma = gaussian
    return mean + jnp.exp(log_sigma) * noise


def sample(model: ProbUNet, image: jax.Array, num_samples: int, key: jax.Array) -> dict[str, jax.Array]:
    """Returns masks that annotators might draw on an image; U-Net and prior run only once.

    Args:
      model: a model in any mode.
      image: (H, W, C).
      num_samples: number of samples, S; under `jax.jit` it must be static.
      key: random key; sample i depends only on `jax.random.split(key, S)[i]`.

    Returns:
      "logits" (S, H, W, K) and "masks" (S, H, W, K) bool. Under `jax.jit`, unused results are not computed.
    """
    found = model.finish_samples(model.start_samples(image), sample_noise(key, num_samples, model.cfg.latent))
    return {"logits": found["logits"], "masks": found["logits"] > 0}


def regularised(model: ProbUNet) -> list[jax.Array]:
    """Returns the parameters whose norms the original adds to its loss: those of both encoders and `combine.layers`.

    The parameters of the last convolution and of the U-Net are not among them.
    """
    parts = (model.prior, model.posterior, model.combine.layers)
    return [leaf for part in parts for leaf in jax.tree.leaves(nnx.state(part, nnx.Param))]
