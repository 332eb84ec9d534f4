"""PAX-Ray's other losses and networks equal their definitions in PyTorch: values, gradients, tensor names and logits.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from loss_cases import PARTS, case

from benchmarks.torch_models import paxray_losses, paxray_networks
from jaxseg.anatomy.fpn import FeaturePyramid
from jaxseg.anatomy.objective import Objective
from jaxseg.anatomy.plain_unet import PlainUNet
from jaxseg.nn.losses_pixel import balancing_weights, cross_entropy
from jaxseg.weights.fill import fill

pytestmark = [pytest.mark.torch, pytest.mark.optimised]


def nchw(array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("exclusive", [False, True], ids=["independent", "exclusive"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_loss_and_its_gradient_equal_pytorchs(part, exclusive):
    logits, target = case(exclusive=exclusive)
    given = nchw(logits).requires_grad_()
    wanted = paxray_losses.value_of(part, given, nchw(target), exclusive=exclusive)
    wanted.backward()
    objective = Objective((part,), exclusive)
    value, gradient = jax.value_and_grad(lambda x: objective(x, jnp.asarray(target))[part])(jnp.asarray(logits))
    assert float(value) == pytest.approx(wanted.item(), rel=2e-6)
    largest = float(given.grad.abs().max())
    np.testing.assert_allclose(gradient, given.grad.numpy().transpose(0, 2, 3, 1), rtol=2e-5, atol=2e-5 * largest)


def test_balanced_pixels_equal_the_originals_class_weight():
    logits, target = case(exclusive=True)
    wanted = paxray_losses.balancing(nchw(target))
    weights = balancing_weights(jnp.asarray(target), exclusive=True)
    np.testing.assert_allclose(np.sum(np.asarray(weights) * target, -1), wanted.numpy(), rtol=1e-6)
    value = cross_entropy(jnp.asarray(logits), jnp.asarray(target), exclusive=True, weights=weights)
    theirs = paxray_losses.cross_entropy(nchw(logits), nchw(target), exclusive=True, weight=wanted)
    assert float(value) == pytest.approx(theirs.item(), rel=2e-6)


NETWORKS = {
    "unet": (PlainUNet, lambda: paxray_networks.PlainUNet(3, width=8), (50, 67)),
    "fpn": (FeaturePyramid, lambda: paxray_networks.FeaturePyramid(3, "resnet18"), (64, 96)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_the_same_weights_give_the_same_logits(name):
    ours, theirs, size = NETWORKS[name]
    torch.manual_seed(0)
    reference = theirs().eval()
    with torch.no_grad():
        for key, tensor in reference.state_dict().items():  # running statistics that are not 0 and 1
            if key.endswith("running_mean"):
                tensor.uniform_(-0.1, 0.1)
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    tensors = {key: value.numpy() for key, value in reference.state_dict().items()}
    cfg = ours.config_from_shapes({key: value.shape for key, value in tensors.items()})
    assert cfg.num_classes == 3
    empty = nnx.eval_shape(lambda: ours(cfg, rngs=nnx.Rngs(0)))
    model = fill(empty, tensors, ours.torch_names(cfg), ignored=ours.torch_unused(cfg))
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    with torch.inference_mode():
        wanted = reference(nchw(x)).numpy().transpose(0, 2, 3, 1)
    found = nnx.view(model, use_running_average=True, deterministic=True)(jnp.asarray(x))
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_names_of_newer_torchvisions_are_read():
    newer = {"module.fpn.inner_blocks.2.0.weight": 1, "module.fpn.inner_blocks.0.0.weight": 2, "pred_conv.weight": 3}
    wanted = {"module.fpn.inner_blocks.2.weight": 1, "module.fpn.inner_blocks.0.weight": 2, "pred_conv.weight": 3}
    assert FeaturePyramid.torch_renamed(newer) == FeaturePyramid.torch_renamed(wanted) == wanted
