"""A network of four layers that replaces the U-Net in tests of runs: it compiles in one second instead of ten.

Run as a program, this file is `jaxseg` with that network.
"""

import jax
from flax import nnx

from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.nn.layers import Conv, ConvNorm
from jaxseg.registry import MODELS


class Plain(UNet):
    """Two convolutions with batch norm at a quarter of the size, dropout, a classifier; the interface of the U-Net."""

    def __init__(self, cfg: UNetConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.reduce = ConvNorm(cfg.in_channels, 16 * cfg.width, 7, stride=4, init=cfg.init, rngs=rngs)
        self.dense = ConvNorm(16 * cfg.width, 24, 3, init=cfg.init, rngs=rngs)
        self.dropout = nnx.Dropout(cfg.dropout)
        self.classify = Conv(24, cfg.num_classes, 1, init=cfg.init, rngs=rngs)

    def coarse_logits(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.classify(self.dropout(nnx.relu(self.dense(nnx.relu(self.reduce(x)))), rngs=rngs))


PLACE = {"unet": "plain_network:Plain"}

if __name__ == "__main__":
    from jaxseg.cli.main import main

    MODELS |= PLACE
    main()
