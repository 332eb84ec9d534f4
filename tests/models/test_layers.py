"""BatchNorm in training, pooling and convolution padding against PyTorch's operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.models.layers import BatchNorm, conv, max_pool

GOLDEN = "ops/torch_operators"


def nhwc(array: np.ndarray):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def test_batch_norm_trains_like_pytorch_with_unbiased_running_variance(kit):
    norm = BatchNorm(3)
    out = norm(nhwc(kit.input(GOLDEN, "x")))
    kit.check(GOLDEN, "batch_norm_train", np.asarray(out).transpose(0, 3, 1, 2))
    kit.check(GOLDEN, "batch_norm_running_mean", norm.mean[...])
    kit.check(GOLDEN, "batch_norm_running_var", norm.var[...])


def test_batch_norm_in_evaluation_uses_and_keeps_its_statistics():
    norm = BatchNorm(2)
    norm.mean.set_value(jnp.asarray([1.0, 2.0]))
    view = nnx.view(norm, use_running_average=True)
    out = view(jnp.full((1, 2, 2, 2), 3.0))
    np.testing.assert_allclose(out[0, 0, 0], np.array([2.0, 1.0]) / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [1.0, 2.0])


def test_max_pool_equals_pytorch(kit):
    out = max_pool(nhwc(kit.input(GOLDEN, "x")))
    kit.check(GOLDEN, "maxpool3_s2_p1", np.asarray(out).transpose(0, 3, 1, 2))


def test_strided_convolution_pads_both_sides():
    layer = conv(1, 1, 3, stride=2, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0))
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    out = layer(image)[0, :, :, 0]
    np.testing.assert_array_equal(out, [[0, 0], [0, 5]])  # the tap reads one row and column before: padding, then 1,1


@pytest.mark.parametrize("init", ["torch", "torchvision", "lecun"])
def test_initialisers_have_one_spread_whether_traced_or_not(init):
    deviation = {"torch": (16 * 9) ** -0.5 / 3**0.5, "torchvision": (2 / (64 * 9)) ** 0.5, "lecun": (16 * 9) ** -0.5}

    def kernel():
        return conv(16, 64, 3, init=init, rngs=nnx.Rngs(7)).kernel[...]

    for drawn in (kernel(), jax.jit(kernel)()):
        assert (drawn.shape, drawn.dtype) == ((3, 3, 16, 64), jnp.float32)
        assert abs(float(drawn.std()) / deviation[init] - 1) < 0.03
        assert abs(float(drawn.mean())) < 0.05 * deviation[init]
    np.testing.assert_array_equal(kernel(), kernel())
