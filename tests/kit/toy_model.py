"""The smallest model: one convolution. Its class has everything that a new model needs except its registry row."""

import dataclasses
from typing import Annotated, ClassVar

import jax
from flax import nnx

from jaxseg.nn.layers import Conv
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Model


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    OUTPUTS: ClassVar[str] = "num_classes"

    num_classes: Annotated[int, Range(1, 64)] = 1
    in_channels: Annotated[int, Range(1, 64)] = 1
    width: Annotated[int, Range(1, 64)] = 3
    dtype: str = "float32"

    def __post_init__(self):
        verify(self)


class Toy(Model):
    Config = ToyConfig

    def __init__(self, cfg: ToyConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.classify = Conv(cfg.in_channels, cfg.num_classes, cfg.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classify(x)
