"""Backbone U-Net of CXAS (Seibold et al. 2023, arXiv:2306.03934) and PAX-Ray (2022, arXiv:2210.03416).

Arrays are NHWC.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.nn import resnet
from jaxseg.nn.layers import Conv, ConvNorm, Dtype, Init
from jaxseg.nn.resize import bilinear
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Model, Shapes, Tensor


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Hyper-parameters; the defaults are the published CXAS network.

    Attributes:
      backbone: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
      num_classes: number of output channels; each is an independent logit.
      in_channels: number of channels of the input.
      width: number of channels of the stem; all others are multiples of it.
      dropout: share of the last features that is dropped in training. The originals build a dropout layer (PAX-Ray:
        0.2) that they never call, so 0.0 reproduces them.
      exclusive: whether classes exclude each other: a pixel then belongs to the class with the highest logit. Otherwise
        classes are independent and may overlap.
      init: initial parameters, "torch" (PyTorch's defaults; torchvision's for the backbone) or "lecun" (flax's).
      dtype: dtype of the arithmetic, "float32" or "bfloat16"; parameters are always float32.
    """

    OUTPUTS: ClassVar[str] = "num_classes"

    backbone: resnet.Backbone = "resnet50"
    num_classes: Annotated[int, Range(1, 65_536)] = 159
    in_channels: Annotated[int, Range(1, 1024)] = 3
    width: Annotated[int, Range(1, 1024)] = 64
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    exclusive: bool = False
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self)

    @property
    def trunk(self) -> resnet.ResNetConfig:
        """Hyper-parameters of the backbone."""
        return resnet.ResNetConfig(self.backbone, self.in_channels, self.width, self.init, self.dtype)


class Up(nnx.Module):
    """Merges a deep map into a finer one: two 3x3 convolutions on [skip, resized deep map]."""

    def __init__(self, num_in: int, num_out: int, *, options: dict, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [
                ConvNorm(num_in, num_in // 2, 3, **options, rngs=rngs),
                ConvNorm(num_in // 2, num_out, 3, **options, rngs=rngs),
            ]
        )

    @recomputable
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        x = jnp.concatenate([skip, bilinear(x, skip.shape[1:3])], axis=-1)  # (B, H, W, C_skip + C_x)
        for layer in self.convs:
            x = layer(x, relu=True)
        return x


class UNet(Model):
    """U-Net with a ResNet as encoder: (B, H, W, 3) normalised float32 -> (B, H, W, K) float32 logits, any H and W.

    `sigmoid(logits) > 0.5` is the mask of a class; of exclusive classes, the highest logit decides.
    Max |difference| from the original (PyTorch 2.13, float32, CPU, (1, 3, 128, 128)) with the parity kit's weights:
    3e-5 on logits up to 14.5.
    """

    Config = UNetConfig
    INPUT = ("image", "a normalised X-ray; jaxseg.images.preprocess makes it, as `preprocessing` names")

    def __init__(self, cfg: UNetConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.backbone = resnet.ResNet(cfg.trunk, rngs=rngs)
        f1, f2, f3, f4, f5 = cfg.trunk.channels
        options = {"use_bias": True, "init": cfg.init, "dtype": jnp.dtype(cfg.dtype)}
        self.reduce = ConvNorm(f5, f5 // 2, 3, **options, rngs=rngs)
        outputs = (f3, f2, f1, 2 * f1)
        inputs = (f4 + f5 // 2, f3 + f3, f2 + f2, f1 + f1)
        self.ups = nnx.List([Up(i, o, options=options, rngs=rngs) for i, o in zip(inputs, outputs, strict=True)])
        self.dropout = nnx.Dropout(cfg.dropout)
        self.classify = Conv(2 * f1, cfg.num_classes, 1, init=cfg.init, dtype=jnp.dtype(cfg.dtype), rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns (B, H, W, K) float32 logits of (B, H, W, C) images; `rngs` feeds the dropout in training."""
        return bilinear(self.coarse_logits(x, rngs=rngs), x.shape[1:3])

    def predict(self, *arrays: jax.Array) -> jax.Array:
        """Returns the logits of images, (B, H, W, K); of exclusive classes their `margins`. Masks are above 0."""
        logits = self(*arrays)
        return margins(logits) if self.cfg.exclusive else logits

    def coarse_logits(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns (B, ceil(H/4), ceil(W/4), K) float32 logits, before the last upsampling.

        The originals upsample the 128 features first and classify them afterwards. A 1x1 convolution and a resize whose
        weights sum to one commute, so this order computes the same logits with 1/16 of the multiplications.
        """
        features = self.dropout(self.features(x)["up4"], rngs=rngs)
        return self.classify(features).astype(jnp.float32)

    @property
    def num_pooled(self) -> int:
        """Number of features that `pooled` returns."""
        return self.cfg.trunk.channels[-1]

    def pooled(self, x: jax.Array) -> jax.Array:
        """Returns the global mean of the backbone's deepest map: (B, H, W, C) -> (B, F) float32.

        Only the backbone runs. F is 2048 in the published network, otherwise 32 (8 for ResNet-18 and 34) times `width`.
        These features distinguish images that are inverted or turned, see `jaxseg.anatomy.orientation`.
        """
        self._check(x)
        return _pooled(self.backbone(x.astype(self.cfg.dtype))[-1])

    def coarse_logits_and_pooled(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns what `coarse_logits` and `pooled` return, in one pass and without dropout."""
        maps = self.features(x)
        return self.classify(maps["up4"]).astype(jnp.float32), _pooled(maps["f5"])

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: f1 to f5 of the backbone, up1 to up4 of the decoder, each NHWC."""
        self._check(x)
        *skips, deepest = maps = self.backbone(x.astype(self.cfg.dtype))
        named = {f"f{i + 1}": m for i, m in enumerate(maps)}
        x = self.reduce(deepest, relu=True)
        for i, (up, skip) in enumerate(zip(self.ups, reversed(skips), strict=True)):
            named[f"up{i + 1}"] = x = up(x, skip)
        return named

    def _check(self, x: jax.Array) -> None:
        if x.ndim != 4 or x.shape[-1] != self.cfg.in_channels:
            raise ValueError(f"images must be (B, H, W, {self.cfg.in_channels}), got {x.shape}")

    @staticmethod
    def torch_names(cfg: UNetConfig) -> dict[str, str]:
        """Returns our module paths -> module names in the released PyTorch checkpoints."""
        trunk = resnet.torch_names(cfg.trunk, stem=("layer0.0", "layer0.1"), prefix="backbone.backbone.")
        names = {f"backbone.{ours}": theirs for ours, theirs in trunk.items()}
        names |= {
            "reduce.conv": "head.up1.conv1.conv.0",
            "reduce.norm": "head.up1.conv1.conv.1",
            "classify": "head.out.conv",
        }
        for i in range(4):
            theirs = f"head.up{i + 1}.conv{'2' if i == 0 else ''}.double_conv"
            for j in range(2):
                names |= {
                    f"ups.{i}.convs.{j}.conv": f"{theirs}.{3 * j}",
                    f"ups.{i}.convs.{j}.norm": f"{theirs}.{3 * j + 1}",
                }
        return names

    @staticmethod
    def torch_renamed(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the tensors under the names of `torch_names`: some checkpoints call the backbone only `backbone`."""
        if any("backbone.backbone." in name for name in tensors):
            return tensors
        inner = re.compile(r"(^|\.)backbone\.(?=layer\d)")
        return {inner.sub(r"\1backbone.backbone.", name): tensor for name, tensor in tensors.items()}

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> UNetConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not a checkpoint of this U-Net.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.
        """
        stem, out = shapes.get("backbone.backbone.layer0.0.weight"), shapes.get("head.out.conv.weight")
        if stem is None or out is None or len(stem) != 4 or len(out) != 4:
            return None
        backbone = resnet.variant_of(shapes, "backbone.backbone.")
        if backbone is None:
            return None
        return UNetConfig(backbone=backbone, num_classes=out[0], in_channels=stem[1], width=stem[0])


def margins(logits: jax.Array) -> jax.Array:
    """Returns by how much each logit exceeds the highest one of the other classes.

    So it is above 0 for the class that a pixel belongs to if classes exclude each other. Its sigmoid is the probability
    of this class against the most probable other one.

    Args:
      logits: (..., K), K >= 2.

    >>> margins(jnp.array([1.0, 4.0, 2.0])).tolist()
    [-3.0, 2.0, -2.0]
    """
    numbers = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
    highest = numbers == jnp.argmax(logits, -1, keepdims=True)
    first = jnp.max(logits, -1, keepdims=True)
    second = jnp.max(jnp.where(highest, -jnp.inf, logits), -1, keepdims=True)
    return logits - jnp.where(highest, second, first)


def _pooled(deepest: jax.Array) -> jax.Array:
    return jnp.mean(deepest.astype(jnp.float32), axis=(1, 2))
