"""Probabilistic U-Net (Kohl et al. 2018, arXiv:1806.05034), as in rCampSemp/learn-vae-noisy-label. Arrays are NHWC."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.annotators.draws import sample_noise
from jaxseg.nn.layers import Dtype, Init, conv
from jaxseg.nn.norms import instance_norm
from jaxseg.nn.recompute import recomputable
from jaxseg.nn.resize import Odd, double_aligned, halve, pad_or_crop
from jaxseg.settings import Range, verify

Gaussian = tuple[jax.Array, jax.Array]  # mean and logarithm of the standard deviation, each (B, Z)


@dataclasses.dataclass(frozen=True)
class ProbUNetConfig:
    """Hyper-parameters; the defaults are the original's for LIDC.

    Attributes:
      in_channels: channels of the images.
      out_channels: logits a pixel, each on its own; 1 is the original's `num_classes` of 2.
      filters: channels of the levels, the finest first, of the U-Net and of both encoders.
      latent: length of the latent vector.
      num_convs: 1x1 convolutions that join features and latent vector, the last one included; at least 2.
      odd: how maps of odd sizes are cropped, "floor" or "truncate"; see `jaxseg.nn.resize.pad_or_crop`.
      init: "torch" (PyTorch's defaults) or "lecun" (flax's).
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
        """Output channels."""
        return self.out_channels

    @property
    def options(self) -> dict:
        """What every convolution is built with."""
        return {"init": self.init, "dtype": jnp.dtype(self.dtype)}


def _misfits(cfg: ProbUNetConfig) -> Iterator[str]:
    if len(cfg.filters) < 2:
        yield f"filters: {list(cfg.filters)} has {len(cfg.filters)} levels; give at least 2"


class Block(nnx.Module):
    """Twice a 3x3 convolution without bias, instance norm and ReLU."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, num_out: int, *, rngs: nnx.Rngs):
        options = cfg.options | {"use_bias": False, "rngs": rngs}
        self.convs = nnx.List([conv(num_in, num_out, 3, **options), conv(num_out, num_out, 3, **options)])
        self.norms = nnx.List([instance_norm(num_out) for _ in range(2)])

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return x


class EncoderBlock(nnx.Module):
    """A 3x3 convolution without bias, instance norm and ReLU; then one with bias, no norm, and ReLU."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, num_out: int, *, rngs: nnx.Rngs):
        self.first = conv(num_in, num_out, 3, use_bias=False, **cfg.options, rngs=rngs)
        self.norm = instance_norm(num_out)
        self.second = conv(num_out, num_out, 3, **cfg.options, rngs=rngs)

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.second(nnx.relu(self.norm(self.first(x)))))


class Encoder(nnx.Module):
    """(B, H, W, C) -> the Gaussian of a latent vector."""

    def __init__(self, cfg: ProbUNetConfig, num_in: int, *, rngs: nnx.Rngs):
        inputs = (num_in, *cfg.filters[:-1])
        self.levels = nnx.List([EncoderBlock(cfg, n, m, rngs=rngs) for n, m in zip(inputs, cfg.filters, strict=True)])
        self.moments = conv(cfg.filters[-1], 2 * cfg.latent, 1, init=cfg.init, rngs=rngs)

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
        self.layers = nnx.List([conv(n, width, 1, **cfg.options, rngs=rngs) for n in inputs])
        self.last = conv(width, cfg.out_channels, 1, **cfg.options, rngs=rngs)

    def __call__(self, features: jax.Array, z: jax.Array) -> jax.Array:
        return self.finish(self.begin(features), z)

    def begin(self, features: jax.Array) -> jax.Array:
        """Returns the part of the first convolution that all samples share."""
        kernel = self._kernel(features.dtype)[: features.shape[-1]]
        return jnp.einsum("bhwc,cd->bhwd", features, kernel, precision=self.layers[0].precision)

    def finish(self, begun: jax.Array, z: jax.Array) -> jax.Array:
        """Returns (B, H, W, K) float32 logits."""
        kernel = self._kernel(jnp.float32)[-z.shape[-1] :]
        shift = jnp.matmul(z, kernel, precision=jax.lax.Precision.HIGHEST) + self.layers[0].bias[...].reshape(1, -1)
        x = nnx.relu(begun + shift.astype(begun.dtype)[:, None, None])
        for layer in self.layers[1:]:
            x = nnx.relu(layer(x))
        return self.last(x).astype(jnp.float32)

    def _kernel(self, dtype: jnp.dtype) -> jax.Array:
        return self.layers[0].kernel[...][0, 0].astype(dtype)  # (C + Z, C')


class ProbUNet(nnx.Module):
    """Draws plausible masks: (B, H, W, C) images -> (B, H, W, K) float32 logits at the prior's mean, any H and W.

    `sigmoid(logits) > 0.5` is a mask. `outputs` gives what training needs, `sample` several masks of an image.

    Max |difference| from the original (PyTorch 2.13, float32, CPU, (2, 1, 64, 64)) with the parity kit's weights: 7e-6
    on logits up to 10.
    """

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
        begun, (mean, _) = self.begin(x)
        return self.combine.finish(begun, mean)

    def begin(self, x: jax.Array) -> tuple[jax.Array, Gaussian]:
        """Returns what all samples of images share: the first part of `combine`, and the prior."""
        return self.combine.begin(self.features(x)), self.prior(self._checked(x))

    def outputs(self, x: jax.Array, target: jax.Array, noise: jax.Array) -> dict[str, jax.Array | Gaussian]:
        """Returns what the loss needs, by the names of `negative_elbo`.

        Args:
          x: (B, H, W, C) images.
          target: (B, H, W, K) one annotator's masks of 0 and 1, any dtype.
          noise: (B, Z) standard normal numbers.

        Returns:
          "logits" (B, H, W, K) of the reconstruction; "posterior" and "prior", each mean and logarithm of the standard
          deviation (B, Z); "z" (B, Z), the posterior's draw.
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
        """Returns (B, H, W, filters[0]) features of the U-Net, which know nothing of the latent vector."""
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


def draw(gaussian: Gaussian, noise: jax.Array) -> jax.Array:
    """Returns latent vectors (B, Z) of a Gaussian, from standard normal numbers (B, Z)."""
    mean, log_sigma = gaussian
    return mean + jnp.exp(log_sigma) * noise


def sample(model: ProbUNet, image: jax.Array, num_samples: int, key: jax.Array) -> dict[str, jax.Array]:
    """Returns masks that annotators might draw on an image; U-Net and prior run once, whatever the number.

    Args:
      model: any, in any mode.
      image: (H, W, C).
      num_samples: S; under `jax.jit` a static number.
      key: of the draws; sample i depends on `jax.random.split(key, S)[i]` alone.

    Returns:
      "logits" (S, H, W, K) and "masks" (S, H, W, K) bool. Under `jax.jit`, what is not used is not computed.
    """
    noise = sample_noise(key, num_samples, model.cfg.latent)
    begun, prior = model.begin(image[None])
    logits = jax.vmap(lambda noise: model.combine.finish(begun, draw(prior, noise[None]))[0])(noise)
    return {"logits": logits, "masks": logits > 0}


def regularised(model: ProbUNet) -> list[jax.Array]:
    """Returns the parameters whose norms the original adds to its loss: of both encoders and of `combine`'s layers.

    Those of the last convolution and of the U-Net are left out.
    """
    parts = (model.prior, model.posterior, model.combine.layers)
    return [leaf for part in parts for leaf in jax.tree.leaves(nnx.state(part, nnx.Param))]


def torch_names(cfg: ProbUNetConfig) -> dict[str, str]:
    """Returns our module paths -> module names in the original's state dict."""
    names = {"combine.last": "fcomb.last_layer"}  # first: no other module ends in it, which tells a wrapper's prefix
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


def config_from_shapes(shapes: dict[str, tuple[int, ...]]) -> ProbUNetConfig | None:
    """Returns the hyper-parameters of a PyTorch checkpoint, or None where it is no probabilistic U-Net.

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
