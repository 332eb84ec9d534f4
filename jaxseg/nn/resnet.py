"""ResNet feature extractor; arrays are NHWC.

Source: He et al. 2016, arXiv:1512.03385; as in torchvision, the 3x3 convolution of a bottleneck block has the stride.
"""

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.nn.layers import ConvNorm, Dtype, Init
from jaxseg.nn.resize import max_pool
from jaxseg.nn.views import recomputable
from jaxseg.settings import Range, verify

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]

# name -> (blocks per stage, whether they are bottleneck blocks); Table 1 of the paper
VARIANTS: dict[Backbone, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One of the five published depths; `width` 64 is the published width.

    The published network has no bias in its stem. SegAE's stem has one, which PyTorch initialises as any convolution's.
    """

    variant: Backbone = "resnet50"
    in_channels: Annotated[int, Range(1, 1024)] = 3
    width: Annotated[int, Range(1, 1024)] = 64
    init: Init = "torch"
    dtype: Dtype = "float32"
    stem_bias: bool = False

    def __post_init__(self) -> None:
        verify(self)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of f1 (stem) to f5 (last stage)."""
        expansion = 4 if VARIANTS[self.variant][1] else 1
        return (self.width, *(self.width * 2**i * expansion for i in range(4)))


class Block(nnx.Module):
    """A residual block, basic (two 3x3) or bottleneck (1x1, 3x3, 1x1), with stride s.

    It maps (B, H, W, C) to (B, ceil(H/s), ceil(W/s), C').
    """

    def __init__(
        self, num_in: int, width: int, stride: int, bottleneck: bool, *, options: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        num_out = width * 4 if bottleneck else width
        if bottleneck:
            plan = [(num_in, width, 1, 1), (width, width, 3, stride), (width, num_out, 1, 1)]
        else:
            plan = [(num_in, width, 3, stride), (width, width, 3, 1)]
        self.convs = nnx.List([ConvNorm(i, o, k, stride=s, **options, rngs=rngs) for i, o, k, s in plan])
        self.shortcut = nnx.data(
            ConvNorm(num_in, num_out, 1, stride=stride, **options, rngs=rngs)
            if stride != 1 or num_in != num_out
            else None
        )

    @recomputable
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        *inner, last = self.convs
        for layer in inner:
            x = layer(x, relu=True)
        return last(x, shortcut, relu=True)


class ResNet(nnx.Module):
    """ResNet without its classifier: (B, H, W, in_channels) -> five maps, at H/4, H/4, H/8, H/16 and H/32 (rounded up).

    The first map is the output of the stem's max-pooling. Height and width may be any numbers from 1.
    """

    def __init__(self, cfg: ResNetConfig, *, rngs: nnx.Rngs) -> None:
        blocks, bottleneck = VARIANTS[cfg.variant]
        options: dict[str, Any] = {
            "init": "torchvision" if cfg.init == "torch" else cfg.init,
            "dtype": jnp.dtype(cfg.dtype),
        }
        stem = options | ({"use_bias": True, "init": cfg.init} if cfg.stem_bias else {})
        self.stem = ConvNorm(cfg.in_channels, cfg.width, 7, stride=2, **stem, rngs=rngs)
        self.stages: nnx.List[nnx.List[Block]] = nnx.List()
        num_in = cfg.width
        for i, count in enumerate(blocks):
            stage: nnx.List[Block] = nnx.List()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(Block(num_in, cfg.width * 2**i, stride, bottleneck, options=options, rngs=rngs))
                num_in = cfg.channels[i + 1]
            self.stages.append(stage)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        x = max_pool(self.stem(x, relu=True))
        maps = [x]
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps


def torch_names(cfg: ResNetConfig, stem: tuple[str, str] = ("conv1", "bn1"), prefix: str = "") -> dict[str, str]:
    """Returns the mapping from our module paths to the module names of a torchvision checkpoint.

    Args:
      cfg: the network.
      stem: names of the stem's convolution and norm in the checkpoint.
      prefix: prefix of all names in the checkpoint.
    """
    names = {"stem.conv": prefix + stem[0], "stem.norm": prefix + stem[1]}
    blocks, bottleneck = VARIANTS[cfg.variant]
    for i, count in enumerate(blocks):
        for j in range(count):
            ours, theirs = f"stages.{i}.{j}", f"{prefix}layer{i + 1}.{j}"
            for k in range(3 if bottleneck else 2):
                names |= {
                    f"{ours}.convs.{k}.conv": f"{theirs}.conv{k + 1}",
                    f"{ours}.convs.{k}.norm": f"{theirs}.bn{k + 1}",
                }
            if j == 0 and (i > 0 or bottleneck):
                names |= {
                    f"{ours}.shortcut.conv": f"{theirs}.downsample.0",
                    f"{ours}.shortcut.norm": f"{theirs}.downsample.1",
                }
    return names


def variant_of(names: Collection[str], prefix: str = "") -> Backbone | None:
    """Returns the name in `VARIANTS` of the network in a torchvision checkpoint; None if no variant matches.

    Args:
      names: names of all tensors in the checkpoint.
      prefix: prefix of the names that belong to the network.
    """
    counts = []
    for stage in range(1, 5):
        start = f"{prefix}layer{stage}."
        counts.append(len({name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}))
    found = (tuple(counts), f"{prefix}layer1.0.conv3.weight" in names)
    return next((name for name, variant in VARIANTS.items() if variant == found), None)
