"""Small networks, their loss and their examples, for the tests of training steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.nn import resnet
from jaxseg.nn.layers import BatchNorm, Conv
from jaxseg.nn.losses import binary_cross_entropy
from jaxseg.nn.resize import bilinear


def loss(model, batch, key, step):
    value = binary_cross_entropy(model(batch["image"], rngs=nnx.Rngs(dropout=key)), batch["target"])
    return value, {"ce": value}


def unet(**options) -> UNet:
    """The U-Net on a ResNet with one block per stage, which compiles in half the time of the smallest published one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "resnet18", ((1, 1, 1, 1), False))
        return UNet(UNetConfig("resnet18", num_classes=2, width=4, **options), rngs=nnx.Rngs(0))


def examples(count: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((count, 32, 32, 3)).astype(np.float32)
    return {"image": jnp.asarray(image), "target": jnp.asarray((image[..., :2] > 0).astype(np.uint8))}


class Normed(nnx.Module):
    """A network of a convolution, batch norm and a convolution."""

    def __init__(self, *, dtype=jnp.float32):
        self.first = Conv(3, 8, 3, dtype=dtype, rngs=nnx.Rngs(1))
        self.norm = BatchNorm(8)
        self.last = Conv(8, 2, 1, dtype=dtype, rngs=nnx.Rngs(2))

    def __call__(self, x, *, rngs=None):
        return self.last(nnx.relu(self.norm(self.first(x))))


class Blocks(nnx.Module):
    """Two ResNet blocks that support recomputation; the shortcut of the second is the identity."""

    def __init__(self):
        options = {"bottleneck": False, "options": {}, "rngs": nnx.Rngs(1)}
        self.layers = nnx.List([resnet.Block(3, 4, 2, **options), resnet.Block(4, 4, 1, **options)])
        self.last = Conv(4, 2, 1, rngs=nnx.Rngs(2))

    def __call__(self, x, *, rngs=None):
        for layer in self.layers:
            x = layer(x)
        return bilinear(self.last(x), (32, 32))


class Plain(nnx.Module):
    """A network without batch statistics, so that the parts of a batch are independent of each other."""

    def __init__(self, *, dropout: float = 0.0):
        self.layer = Conv(3, 2, 3, rngs=nnx.Rngs(1))
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x, *, rngs=None):
        return self.layer(self.dropout(x, rngs=rngs))


def close(found, wanted, relative=1e-5):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * max(np.abs(b).max(), 1e-6), err_msg=str(path))
