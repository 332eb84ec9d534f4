"""A ResNet with a feature pyramid and a segmentation head, as PAX-Ray's original has it (`--model segfpn`).

Arrays are NHWC. Source: Lin et al. 2017, arXiv:1612.03144; Kirillov et al. 2019, arXiv:1901.02446.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.nn import resnet
from jaxseg.nn.indices import nearest_indices
from jaxseg.nn.layers import Conv, GroupNorm
from jaxseg.nn.resize import bilinear
from jaxseg.nn.views import recomputable
from jaxseg.weights.model import Shapes, Tensor

LEVELS = 4  # maps of the pyramid


class Step(nnx.Module):
    """A 3x3 convolution, group norm and ReLU, enlarged to the size of the next map: (B, H, W, C) -> (B, H', W', C')."""

    def __init__(self, num_in: int, num_out: int, groups: int, *, options: dict, rngs: nnx.Rngs):
        self.conv = _conv(num_in, num_out, 3, options=options, rngs=rngs)
        self.norm = GroupNorm(num_out, groups)

    @recomputable
    def __call__(self, x: jax.Array, like: jax.Array) -> jax.Array:
        return bilinear(nnx.relu(self.norm(self.conv(x))), like.shape[1:3])


class FeaturePyramid(UNet):
    """Feature pyramid on a ResNet: (B, H, W, 3) normalised float32 -> (B, H, W, K) float32 logits, any H and W.

    The maps of the pyramid have 4 times `width` channels, those of the head 2 times. The head enlarges each map step by
    step to a quarter of the image and adds them. The original enlarges by factors of two, which is the same for sides
    that are multiples of 32, and fails for others. It also freezes the whole backbone, although it means to freeze
    two stages of it; here all parts are trained.
    """

    def __init__(self, cfg: UNetConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.backbone = resnet.ResNet(cfg.trunk, rngs=rngs)
        inner, outer = 4 * cfg.width, 2 * cfg.width
        options = {"init": cfg.init, "dtype": jnp.dtype(cfg.dtype)}
        made = {"options": options, "rngs": rngs}
        self.laterals = nnx.List([_conv(channels, inner, 1, **made) for channels in cfg.trunk.channels[1:]])
        self.smooths = nnx.List([_conv(inner, inner, 3, **made) for _ in range(LEVELS)])
        self.finest = _conv(inner, outer, 3, **made)
        groups = next(count for count in range(min(32, outer), 0, -1) if outer % count == 0)
        self.steps = nnx.List(
            [
                nnx.List([Step(inner if j == 0 else outer, outer, groups, **made) for j in range(level)])
                for level in range(1, LEVELS)
            ]
        )
        self.dropout = nnx.Dropout(cfg.dropout)
        self.classify = Conv(outer, cfg.num_classes, 1, **options, rngs=rngs)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: f1 to f5 of the backbone, p2 to p5 of the pyramid, and their sum, up4."""
        self._check(x)
        maps = self.backbone(x.astype(self.cfg.dtype))
        named = {f"f{i + 1}": m for i, m in enumerate(maps)}
        pyramid: list[jax.Array] = []
        for lateral, found in zip(reversed(self.laterals), reversed(maps[1:]), strict=True):
            found = lateral(found)
            pyramid.insert(0, found if not pyramid else found + _enlarged(pyramid[0], found.shape[1:3]))
        pyramid = [smooth(found) for smooth, found in zip(self.smooths, pyramid, strict=True)]
        total = self.finest(pyramid[0])
        for level, steps in enumerate(self.steps, 1):
            found = pyramid[level]
            for j, step in enumerate(steps):
                found = step(found, pyramid[level - j - 1])
            total = total + found
        return named | {f"p{i + 2}": m for i, m in enumerate(pyramid)} | {"up4": total}

    @staticmethod
    def torch_names(cfg: UNetConfig) -> dict[str, str]:
        """Returns our module paths -> module names in PyTorch checkpoints of the original."""
        trunk = resnet.torch_names(cfg.trunk, stem=("layer0.0", "layer0.1"), prefix="backbone.backbone.")
        names = {f"backbone.{ours}": theirs for ours, theirs in trunk.items()}
        names |= {"classify": "pred_conv", "finest": "seg_fpn.module.layer1"}
        for i in range(LEVELS):
            names |= {f"laterals.{i}": f"fpn.inner_blocks.{i}", f"smooths.{i}": f"fpn.layer_blocks.{i}"}
        for level in range(1, LEVELS):
            for j in range(level):
                theirs = f"seg_fpn.module.layer{level + 1}.{j}.conv"
                names |= {f"steps.{level - 1}.{j}.conv": f"{theirs}.0", f"steps.{level - 1}.{j}.norm": f"{theirs}.1"}
        return names

    @staticmethod
    def torch_unused(cfg: UNetConfig) -> tuple[str, ...]:
        """Returns the names of the two coarsest maps, which the original computes and does not use."""
        return tuple(f"fpn.extra_blocks.{p}.{kind}" for p in ("p6", "p7") for kind in ("weight", "bias"))

    @staticmethod
    def torch_renamed(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the tensors under the names of `torch_names`: newer versions of torchvision add one more number."""
        if "fpn.inner_blocks.0.0.weight" not in {re.sub(r"^.*?(?=fpn\.inner)", "", name) for name in tensors}:
            return tensors
        more = re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.")
        return {more.sub(r"\1.", name): tensor for name, tensor in tensors.items()}

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> UNetConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not one of this network.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.
        """
        stem, out = shapes.get("backbone.backbone.layer0.0.weight"), shapes.get("pred_conv.weight")
        backbone = resnet.variant_of(shapes, "backbone.backbone.")
        if stem is None or out is None or len(stem) != 4 or len(out) != 4 or backbone is None:
            return None
        return UNetConfig(backbone=backbone, num_classes=out[0], in_channels=stem[1], width=stem[0])


def _conv(num_in: int, num_out: int, kernel: int, *, options: dict, rngs: nnx.Rngs) -> Conv:
    """Returns a convolution; "torch" means torchvision's initial parameters of a pyramid: uniform, with bias 0."""
    conv = Conv(num_in, num_out, kernel, **options, rngs=rngs)
    if options["init"] == "torch" and conv.bias is not None:
        conv.kernel.set_value(conv.kernel[...] * 3**0.5)
        conv.bias.set_value(jnp.zeros_like(conv.bias[...]))
    return conv


def _enlarged(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns maps enlarged by nearest neighbour, as PyTorch enlarges them."""
    for axis, length in enumerate(size, 1):
        x = jnp.take(x, nearest_indices(x.shape[axis], length), axis=axis)
    return x
