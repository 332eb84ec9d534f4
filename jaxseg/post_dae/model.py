"""Denoising autoencoder of Post-DAE (Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297). Arrays are NHWC."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.nn.layers import BatchNorm, Conv, ConvTranspose, Dtype, Init, linear
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Model, Shapes

ACTIVATIONS = {"sigmoid": nnx.sigmoid, "relu": nnx.relu}

Side = Annotated[int, Range(8, 8192)]  # a model card requires at least 8 pixels
Width = Annotated[int, Range(1, 4096)]
Stride = Annotated[int, Range(2, 8)]


@dataclasses.dataclass(frozen=True)
class DAEConfig:
    """Hyper-parameters; the defaults are the original's.

    Attributes:
      in_channels: number of channels of the masks.
      out_channels: number of channels of the output.
      image_size: height and width. The network accepts no others. They are multiples of the product of `strides`.
      features: number of channels of each encoder level, the finest first.
      decoder_features: number of channels of each decoder level, the coarsest first. The last two are equal, because
        the original's last convolution requires it.
      intermediate: widths of the linear layers in the middle. The first is the size of the code. The last has no
        effect, as in the original: the last layer is as wide as the encoder's output.
      strides: stride of each level. With a stride of 2 a level halves the image. With another stride s a decoder level
        turns H rows into (H - 1) s + 2, as the original does, so that the output's size differs from the mask's.
      decoder_activation: activation at the end of every decoder level except the last, which ends in a sigmoid.
        "sigmoid" is the original's; for long, training then answers every mask with one mean shape. "relu" does not.
      norm: normalisation after every convolution. "none" is the original's; "batch" works.
      skips: whether each decoder level also gets the maps of the encoder at its size, and the last one the mask itself.
        The original has none. With them, details of undamaged parts are kept.
      init: initial parameters, "torch" (PyTorch's defaults) or "lecun" (flax's).
      dtype: dtype of the arithmetic, "float32" or "bfloat16"; parameters are always float32.
    """

    OUTPUTS: ClassVar[str] = "out_channels"

    in_channels: Annotated[int, Range(1, 1024)] = 1
    out_channels: Annotated[int, Range(1, 1024)] = 1
    image_size: tuple[Side, Side] = (512, 512)
    features: tuple[Width, ...] = (16, 32, 32, 32, 32)
    decoder_features: tuple[Width, ...] = (16, 16, 16, 16, 16)
    intermediate: tuple[Annotated[int, Range(1, 65_536)], ...] = (512, 1024)
    strides: tuple[Stride, ...] = (2, 2, 2, 2, 2)
    decoder_activation: Literal["sigmoid", "relu"] = "sigmoid"
    norm: Literal["none", "batch"] = "none"
    skips: bool = False
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self, _misfits(self))

    @property
    def num_classes(self) -> int:
        """Number of output channels."""
        return self.out_channels

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the encoder's output."""
        height, width = (side // math.prod(self.strides) for side in self.image_size)
        return height, width, self.features[-1]


def _misfits(cfg: DAEConfig) -> Iterator[str]:
    step = math.prod(cfg.strides)
    if any(side % step for side in cfg.image_size):
        yield f"image_size: {cfg.image_size} must be two multiples of {step}, the product of strides"
    if not len(cfg.features) == len(cfg.decoder_features) == len(cfg.strides) >= 2:
        counts = f"{len(cfg.features)}, {len(cfg.decoder_features)} and {len(cfg.strides)}"
        yield f"features, decoder_features and strides: have {counts} levels; give the same number of each, at least 2"
    if len(cfg.intermediate) < 2:
        yield f"intermediate: {cfg.intermediate} must be two or more numbers; the last has no effect"
    if cfg.skips and set(cfg.strides) - {2}:
        yield f"skips: need a stride of 2 at every level, got strides {cfg.strides}"
    if len(cfg.decoder_features) > 1 and cfg.decoder_features[-1] != cfg.decoder_features[-2]:
        yield f"decoder_features: the last two must be equal, as in the original, got {cfg.decoder_features}"


class Encode(nnx.Module):
    """A level of the encoder: a convolution with a stride, then one without. The last level has only the first."""

    def __init__(self, cfg: DAEConfig, level: int, *, rngs: nnx.Rngs):
        num_in, num_out = (cfg.in_channels, *cfg.features)[level : level + 2]
        options = {"init": cfg.init, "dtype": jnp.dtype(cfg.dtype), "rngs": rngs}
        self.convs = nnx.List([Conv(num_in, num_out, 3, stride=cfg.strides[level], **options)])
        if level + 1 < len(cfg.features):
            self.convs.append(Conv(num_out, num_out, 3, **options))
        self.norms = nnx.List([BatchNorm(num_out) for _ in self.convs if cfg.norm == "batch"])

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.convs):
            x = nnx.relu(self.norms[i](layer(x))) if self.norms else layer(x, relu=True)
        return x


class Decode(nnx.Module):
    """A level of the decoder: a transposed convolution, ReLU and a convolution; its activation is the network's.

    With `skips`, the convolution also gets the maps of the encoder of the same size, or the mask.
    """

    def __init__(self, cfg: DAEConfig, level: int, *, rngs: nnx.Rngs):
        num_in, num_mid = (cfg.features[-1], *cfg.decoder_features)[level : level + 2]
        last = level + 1 == len(cfg.decoder_features)
        num_out = cfg.out_channels if last else num_mid
        options = {"init": cfg.init, "dtype": jnp.dtype(cfg.dtype), "rngs": rngs}
        self.upconv = ConvTranspose(num_in, num_mid, stride=cfg.strides[::-1][level], **options)
        beside = (cfg.in_channels, *cfg.features)[::-1][level + 1] if cfg.skips else 0
        self.conv = Conv(num_mid + beside, num_out, 3, **options)
        widths = (num_mid,) if last else (num_mid, num_out)  # the output itself is not normalised
        self.norms = nnx.List([BatchNorm(width) for width in widths if cfg.norm == "batch"])

    @recomputable
    def __call__(self, x: jax.Array, *beside: jax.Array) -> jax.Array:
        x = nnx.relu(self.norms[0](self.upconv(x))) if self.norms else self.upconv(x, relu=True)
        x = self.conv(jnp.concatenate([x, *beside], -1) if beside else x)
        return self.norms[1](x) if len(self.norms) > 1 else x


class DAE(Model):
    """Denoising autoencoder of masks: (B, H, W, C) in [0, 1] -> (B, H, W, C') float32 probabilities.

    H and W must be those of the config.

    Max |difference| from the original (PyTorch 2.13, float32, CPU, (1, 1, 512, 512)) with the parity kit's weights:
    5e-7, and 3e-6 for the intermediate layers.
    """

    Config = DAEConfig
    INPUT = ("mask", "a mask of 0 and 1")
    OUTPUT = ("probabilities", "a pixel belongs to the restored mask if this is above 0.5")

    def __init__(self, cfg: DAEConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        levels = range(len(cfg.features))
        self.encode = nnx.List([Encode(cfg, level, rngs=rngs) for level in levels])
        flat = math.prod(cfg.code_shape)
        widths = (flat, *cfg.intermediate[:-1], flat)
        options = {"init": cfg.init, "dtype": jnp.dtype(cfg.dtype), "rngs": rngs}
        self.intermediate = nnx.List(
            [linear(num_in, num_out, **options) for num_in, num_out in zip(widths[:-1], widths[1:], strict=True)]
        )
        self.decode = nnx.List([Decode(cfg, level, rngs=rngs) for level in levels])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, C') float32 probabilities of (B, H, W, C) masks."""
        return nnx.sigmoid(self.logits(x))

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, C') float32 logits of (B, H, W, C) masks."""
        return self.features(x)[f"decode_{len(self.decode) - 1}"].astype(jnp.float32)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: encode_0 ..., intermediate (B, h w c) in PyTorch's order, decode_0 ....

        The last level of the decoder is returned as logits.
        """
        size = (*self.cfg.image_size, self.cfg.in_channels)
        if x.ndim != 4 or x.shape[1:] != size:
            raise ValueError(f"masks must be (B, {', '.join(map(str, size))}), got {x.shape}; `jaxseg.denoise` resizes")
        x, named = x.astype(self.cfg.dtype), {}
        maps = [x]
        for i, level in enumerate(self.encode):
            named[f"encode_{i}"] = x = level(x)
            maps.append(x)
        height, width, channels = self.cfg.code_shape
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channels first, as PyTorch flattens it
        for i, layer in enumerate(self.intermediate):
            x = layer(x)
            if i == 0:  # the original's other activations share one name, and only the first takes effect
                x = nnx.relu(x)
        named["intermediate"] = x
        x = x.reshape(x.shape[0], channels, height, width).transpose(0, 2, 3, 1)
        for i, level in enumerate(self.decode):
            x = x if i == 0 else ACTIVATIONS[self.cfg.decoder_activation](x)
            x = level(x, maps[-2 - i]) if self.cfg.skips else level(x)
            named[f"decode_{i}"] = x
        return named

    @property
    def fixed_size(self) -> tuple[int, int]:
        return self.cfg.image_size

    @staticmethod
    def torch_names(cfg: DAEConfig) -> dict[str, str]:
        """Returns our module paths -> module names in the original's checkpoints, which have no norms."""
        names = {f"intermediate.{i}": f"intermediate.inter_{i}" for i in range(len(cfg.intermediate))}
        for i in range(len(cfg.features)):
            names |= {f"encode.{i}.convs.{j}": f"encode.encode_{i}.conv{j}" for j in range(2)}
            names[f"decode.{i}.upconv"] = f"decode.decode_{i}.upconv0"
            names[f"decode.{i}.conv"] = f"decode.decode_{i}.conv0"
        return names

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> DAEConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not a checkpoint of this autoencoder.

        The shapes do not contain everything: strides are assumed to be 2 and images to be square, as in the original's
        program. The last number of `intermediate`, which has no effect, is the default's.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.

        Raises:
          ValueError: the image cannot be square.
        """
        encoder = _series(shapes, "encode.encode_{}.conv0.weight", 4)
        decoder = _series(shapes, "decode.decode_{}.upconv0.weight", 4)
        middle = _series(shapes, "intermediate.inter_{}.weight", 2)
        out = shapes.get(f"decode.decode_{len(decoder) - 1}.conv0.weight")
        if min(len(encoder), len(middle)) < 2 or len(decoder) != len(encoder) or out is None or len(out) != 4:
            return None
        features = tuple(shape[0] for shape in encoder)
        side = math.isqrt(middle[0][1] // max(features[-1], 1))
        if side == 0 or side**2 * features[-1] != middle[0][1]:
            raise ValueError(
                f"its code has {middle[0][1]} numbers of {features[-1]} channels, which is not a square image: "
                "build a jaxseg.post_dae.model.DAE with the right image_size, and fill it with jaxseg.weights.fill.fill"
            )
        return DAEConfig(
            in_channels=encoder[0][1],
            out_channels=out[0],
            image_size=(side * 2 ** len(encoder),) * 2,
            features=features,
            decoder_features=tuple(shape[1] for shape in decoder),
            intermediate=(*(shape[0] for shape in middle[:-1]), DAEConfig.intermediate[-1]),
            strides=(2,) * len(encoder),
        )


def _series(shapes: Shapes, name: str, rank: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the tensors called `name` with 0, 1, ...; an empty list if one has another rank."""
    found: list[tuple[int, ...]] = []
    while name.format(len(found)) in shapes:
        found.append(shapes[name.format(len(found))])
    return found if all(len(shape) == rank for shape in found) else []
