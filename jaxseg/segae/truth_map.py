"""A second head of SegAE: it predicts where the organ is, and computes the Dice of the given mask from that.

A single number for each slice says little about what is wrong with a mask. Learning every place of the truth is a
stronger signal, so that few patients are enough to learn what the border of an organ looks like. Like QCResUNet (Qiu et
al. 2024, arXiv:2412.07156), which predicts where a mask is wrong, the network then predicts a number and a map.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.nn import resnet
from jaxseg.nn.layers import Conv, ConvNorm, linear
from jaxseg.nn.resize import bilinear


class TruthMap(nnx.Module):
    """Maps of the backbone and text embeddings -> logits that a place belongs to the organ, at a quarter of the side.

    Args:
      trunk: hyper-parameters of the backbone.
      embedding_size: length of a text embedding.
      options: `init` and `dtype` of the layers.
    """

    def __init__(self, trunk: resnet.ResNetConfig, embedding_size: int, *, options: dict, rngs: nnx.Rngs):
        width = trunk.channels[1]
        made = options | {"rngs": rngs}
        self.laterals = nnx.List([Conv(channels, width, 1, **made) for channels in trunk.channels[1:]])
        self.named = linear(embedding_size, width, init=options["init"], rngs=rngs)
        self.joined = ConvNorm(width, width, 3, **made)
        self.classify = Conv(width, 1, 3, **made)

    def __call__(self, maps: Sequence[jax.Array], embedding: jax.Array) -> jax.Array:
        """Returns (B, h, w) float32 logits.

        Args:
          maps: (B, H, W, C) each, the last four of the backbone, the finest first.
          embedding: (B, E).
        """
        size = maps[0].shape[1:3]
        total = sum(bilinear(lateral(found), size) for lateral, found in zip(self.laterals, maps, strict=True))
        named = self.named(embedding.astype(jnp.float32))[:, None, None]
        return self.classify(self.joined(total * (1 + named), relu=True))[..., 0].astype(jnp.float32)


def shares(plane: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the share of each place of a coarser grid that a mask covers, (B, h, w) float32.

    Args:
      plane: (B, H, W) in [0, 1].
      size: h and w.
    """
    for axis, length in enumerate(size, 1):
        weights = _overlaps(plane.shape[axis], length)
        rows = jnp.moveaxis(plane.astype(jnp.float32), axis, -1)
        plane = jnp.moveaxis(jnp.matmul(rows, weights, precision=jax.lax.Precision.HIGHEST), -1, axis)
    return plane


def map_dice(mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns the Dice of a mask and the expected truth, (B,) float32; both arguments are (B, h, w)."""
    truth = jax.nn.sigmoid(logits)
    return 2 * (mask * truth).sum((1, 2)) / jnp.maximum((mask + truth).sum((1, 2)), 1e-6)


def _overlaps(fine: int, coarse: int) -> np.ndarray:
    """Returns (fine, coarse) weights: the share of each coarse interval that each fine one covers."""
    edges, steps = np.arange(coarse + 1) * fine / coarse, np.arange(fine + 1)
    covered = np.minimum(edges[None, 1:], steps[1:, None]) - np.maximum(edges[None, :-1], steps[:-1, None])
    return (np.maximum(covered, 0) * coarse / fine).astype(np.float32)
