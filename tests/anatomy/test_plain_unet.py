"""The plain U-Net and the feature pyramid: any size, names of the original's tensors, and pooled features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.anatomy.fpn import FeaturePyramid
from jaxseg.anatomy.plain_unet import PlainUNet, PlainUNetConfig, _halved
from jaxseg.anatomy.unet import UNetConfig, margins

pytestmark = pytest.mark.usefixtures("shallow")
CONFIGS = {
    "unet": (PlainUNet, PlainUNetConfig(num_classes=3, width=4)),
    "fpn": (FeaturePyramid, UNetConfig(backbone="resnet18", num_classes=3, width=4)),
}


def evaluated(name: str) -> nnx.Module:
    network, cfg = CONFIGS[name]
    return nnx.view(network(cfg, rngs=nnx.Rngs(0)), use_running_average=True, deterministic=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(32, 64), (33, 50)])
def test_logits_have_the_size_of_the_image(name, size):
    model = evaluated(name)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    graphdef, state = nnx.split(model)
    logits, coarse, both, pooled = jax.jit(lambda state, x: everything(nnx.merge(graphdef, state), x))(state, x)
    assert logits.shape == (2, *size, 3)
    np.testing.assert_allclose(coarse, both, atol=1e-6)
    assert pooled.shape == (2, model.num_pooled)
    assert np.isfinite(logits).all()


def everything(model, x):
    coarse, pooled = model.coarse_logits_and_pooled(x)
    return model(x), model.coarse_logits(x), coarse, pooled


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_a_name_in_the_originals_checkpoints(name):
    network, cfg = CONFIGS[name]
    names = network.torch_names(cfg)
    state = nnx.state(nnx.eval_shape(lambda: network(cfg, rngs=nnx.Rngs(0))), (nnx.Param, nnx.BatchStat))
    modules = {".".join(map(str, path[:-1])) for path, _ in nnx.to_flat_state(state)}
    assert modules == set(names)
    assert len(set(names.values())) == len(names)


def test_other_checkpoints_are_not_taken_for_these_networks():
    assert PlainUNet.config_from_shapes({"inc.double_conv.0.weight": (8, 3, 3, 3)}) is None
    assert FeaturePyramid.config_from_shapes({"pred_conv.weight": (3, 128, 1, 1)}) is None
    found = PlainUNet.config_from_shapes({"inc.double_conv.0.weight": (8, 1, 3, 3), "outc.conv.weight": (5, 8, 1, 1)})
    assert found == PlainUNetConfig(num_classes=5, in_channels=1, width=8)


def test_images_that_are_too_small_or_have_other_channels_are_refused():
    model = evaluated("unet")
    with pytest.raises(ValueError, match="images must have at least 16 rows and columns"):
        model(jnp.zeros((1, 15, 32, 3)))
    with pytest.raises(ValueError, match=r"images must be \(B, H, W, 3\)"):
        model(jnp.zeros((1, 32, 32, 1)))


def test_pooling_leaves_an_odd_last_row_out():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(_halved(x)[0, ..., 0], [[6, 8]])


def test_margins_are_positive_for_the_chosen_class_only():
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    found = np.asarray(margins(jnp.asarray(logits)))
    np.testing.assert_array_equal(found > 0, logits == logits.max(-1, keepdims=True))
    others = [np.delete(logits, k, 1).max(1) for k in range(4)]
    np.testing.assert_allclose(found, logits - np.stack(others, 1), atol=1e-6)
