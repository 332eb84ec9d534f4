"""The plain U-Net of PAX-Ray's original (`--model unet`): no ResNet, and maps of the image's own size.

Arrays are NHWC.
"""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.anatomy.unet import UNet, Up
from jaxseg.nn.layers import Conv, ConvNorm, Dtype, Init
from jaxseg.nn.resize import first_larger
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Shapes

LEVELS = 4  # halvings


@dataclasses.dataclass(frozen=True)
class PlainUNetConfig:
    """Hyper-parameters, with the original's defaults; they mean what they mean in `jaxseg.anatomy.unet.UNetConfig`.

    Attributes:
      width: number of channels of the first and the last map.
    """

    OUTPUTS: ClassVar[str] = "num_classes"

    num_classes: Annotated[int, Range(1, 65_536)] = 166
    in_channels: Annotated[int, Range(1, 1024)] = 3
    width: Annotated[int, Range(1, 1024)] = 64
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    exclusive: bool = False
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self)


class Double(nnx.Module):
    """Two 3x3 convolutions with batch norm: (B, H, W, C) -> (B, H, W, C')."""

    def __init__(self, num_in: int, num_out: int, *, options: dict, rngs: nnx.Rngs):
        self.convs = nnx.List([ConvNorm(i, num_out, 3, **options, rngs=rngs) for i in (num_in, num_out)])

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.convs:
            x = layer(x, relu=True)
        return x


class PlainUNet(UNet):
    """U-Net of five levels: (B, H, W, 3) normalised float32 -> (B, H, W, K) float32 logits, H and W from 16."""

    Config = PlainUNetConfig

    def __init__(self, cfg: PlainUNetConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        options = {"use_bias": True, "init": cfg.init, "dtype": jnp.dtype(cfg.dtype)}
        w = cfg.width
        widths = [cfg.in_channels, w, 2 * w, 4 * w, 8 * w, 8 * w]
        self.downs = nnx.List(
            [Double(i, o, options=options, rngs=rngs) for i, o in zip(widths, widths[1:], strict=False)]
        )
        outputs = (4 * w, 2 * w, w, w)
        inputs = (16 * w, 8 * w, 4 * w, 2 * w)
        self.ups = nnx.List([Up(i, o, options=options, rngs=rngs) for i, o in zip(inputs, outputs, strict=True)])
        self.dropout = nnx.Dropout(cfg.dropout)
        self.classify = Conv(w, cfg.num_classes, 1, init=cfg.init, dtype=jnp.dtype(cfg.dtype), rngs=rngs)

    @property
    def smallest_side(self) -> int:
        """The smallest height and width that the network accepts."""
        return 2**LEVELS

    @property
    def num_pooled(self) -> int:
        """Number of features that `pooled` returns."""
        return 8 * self.cfg.width

    def pooled(self, x: jax.Array) -> jax.Array:
        """Returns the global mean of the deepest map: (B, H, W, C) -> (B, 8 * width) float32."""
        self._check(x)
        return jnp.mean(self._maps(x)[-1].astype(jnp.float32), axis=(1, 2))

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: f1 (H x W) to f5 (H/16 x W/16), and up1 to up4 (H x W), each NHWC."""
        self._check(x)
        *skips, x = maps = self._maps(x)
        named = {f"f{i + 1}": m for i, m in enumerate(maps)}
        for i, (up, skip) in enumerate(zip(self.ups, reversed(skips), strict=True)):
            named[f"up{i + 1}"] = x = up(x, skip)
        return named

    def _maps(self, x: jax.Array) -> list[jax.Array]:
        first, *others = self.downs
        maps = [first(x.astype(self.cfg.dtype))]
        for down in others:
            maps.append(down(_halved(maps[-1])))
        return maps

    def _check(self, x: jax.Array) -> None:
        super()._check(x)
        if min(x.shape[1:3]) < self.smallest_side:
            raise ValueError(f"images must have at least {self.smallest_side} rows and columns, got {x.shape}")

    @staticmethod
    def torch_names(cfg: PlainUNetConfig) -> dict[str, str]:
        """Returns our module paths -> module names in PyTorch checkpoints of the original."""
        blocks = {"downs.0": "inc.double_conv"}
        blocks |= {f"downs.{i}": f"down{i}.maxpool_conv.1.double_conv" for i in range(1, LEVELS + 1)}
        blocks |= {f"ups.{i}": f"up{i + 1}.conv.double_conv" for i in range(LEVELS)}
        names = {"classify": "outc.conv"}
        for ours, theirs in blocks.items():
            for j in range(2):
                names |= {
                    f"{ours}.convs.{j}.conv": f"{theirs}.{3 * j}",
                    f"{ours}.convs.{j}.norm": f"{theirs}.{3 * j + 1}",
                }
        return names

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> PlainUNetConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not one of this network.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.
        """
        stem, out = shapes.get("inc.double_conv.0.weight"), shapes.get("outc.conv.weight")
        if stem is None or out is None or len(stem) != 4 or len(out) != 4:
            return None
        return PlainUNetConfig(num_classes=out[0], in_channels=stem[1], width=stem[0])


def _halved(x: jax.Array) -> jax.Array:
    """Returns the maxima of 2x2 pixels; an odd last row or column is left out, as by PyTorch's `MaxPool2d(2)`."""
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    x = x[:, :height, :width]
    x = first_larger(x[:, :, ::2], x[:, :, 1::2])
    return first_larger(x[:, ::2], x[:, 1::2])
