"""The PyTorch probabilistic U-Net equals the original block by block, and ours equals it on random weights.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from benchmarks.torch_models import prob_unet as theirs
from jaxseg.annotators import prob_unet as ours
from jaxseg.annotators.losses import negative_elbo, sum_of_norms
from jaxseg.weights.fill import LEAVES, fill

pytestmark = [pytest.mark.torch, pytest.mark.optimised]

FORWARD = ["punet_lidc/forward", "punet_wide/forward", "punet_mnist/forward", "punet_mnist/forward_truncating"]
RANDOM = {
    "plain": {"num_filters": [4, 8], "size": (12, 20)},
    "odd": {"num_filters": [4, 6, 8, 10], "size": (29, 27), "latent_dim": 3, "no_convs_fcomb": 4},
    "odd, truncating": {"num_filters": [4, 6, 8], "size": (15, 13), "truncating": True},
    "channels": {"input_channels": 3, "num_filters": [4, 6], "size": (8, 8), "no_convs_fcomb": 3},
}


@pytest.mark.parametrize("golden", FORWARD)
def test_names_shapes_and_every_block_equal_the_original(kit, golden):
    name = golden.split("/")[0]
    model = theirs.ProbUNet(**kit.manifest(name)["constructor"]["kwargs"], truncating=golden.endswith("truncating"))
    tensors = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
    assert tensors == kit.manifest(name)["tensors"]
    model.load_state_dict({key: torch.from_numpy(value) for key, value in kit.weights(name).items()})
    x, mask, z, noise = (torch.from_numpy(kit.input(golden, key)) for key in ("x", "segm", "z", "eps"))
    with torch.inference_mode():
        found = model.unet.maps(x) | {"prior_mu": model.prior(x).mean, "prior_sigma": model.prior(x).stddev}
        found["fcomb"] = model.fcomb(model.unet(x), z)
        found["sample_test"] = model(x, noise)
        found["train_loss"], parts = model.loss(x, mask, noise)
        _, sampled = model.loss(x, mask, noise, sampled_kl=True)
        for key, some in (("elbo", parts), ("elbo_sampled_kl", sampled)):
            both = [some["reconstruction"], some["kl"]]
            found[key] = torch.stack([-both[0] - both[1], *both])
    for key, value in found.items():
        kit.check(golden, key, value.numpy())


@pytest.mark.parametrize("sampled", [False, True], ids=["analytic", "sampled"])
@pytest.mark.parametrize("name", RANDOM)
def test_ours_equals_pytorch_on_random_weights_with_gradients(name, sampled):
    given = dict(RANDOM[name])
    height, width = given.pop("size")
    torch.manual_seed(0)
    original = theirs.ProbUNet(**given)
    cfg = ours.ProbUNetConfig(
        given.get("input_channels", 1),
        filters=tuple(given["num_filters"]),
        latent=given.get("latent_dim", 6),
        num_convs=given.get("no_convs_fcomb", 2),
        odd="truncate" if given.get("truncating") else "floor",
    )
    tensors = {key: tensor.numpy() for key, tensor in original.state_dict().items()}
    model = fill(nnx.eval_shape(lambda: ours.ProbUNet(cfg, rngs=nnx.Rngs(0))), tensors, ours.ProbUNet.torch_names(cfg))
    random = np.random.default_rng(0)
    x, noise = random.standard_normal((3, cfg.in_channels, height, width)), random.standard_normal((3, cfg.latent))
    x, mask, noise = (array.astype(np.float32) for array in (x, x[:, :1] > 0.5, noise))
    loss, _ = original.loss(*(torch.from_numpy(array) for array in (x, mask, noise)), sampled_kl=sampled)
    loss.backward()
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    def objective(params, x, mask, noise):
        model = nnx.merge(graphdef, params)
        found = model.outputs(x, mask, noise)
        z = found["z"] if sampled else None
        value, _ = negative_elbo(found["logits"], mask, found["posterior"], found["prior"], beta=5.0, z=z)
        return value + 1e-5 * sum_of_norms(ours.regularised(model))

    x, mask = (array.transpose(0, 2, 3, 1) for array in (x, mask))
    value, gradient = jax.value_and_grad(objective)(params, x, mask, noise)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    names, expected = ours.ProbUNet.torch_names(cfg), dict(original.named_parameters())
    for path, module in nnx.iter_modules(nnx.merge(graphdef, gradient)):
        for leaf, (name_of_leaf, axes) in LEAVES.get(type(module), {}).items():
            if getattr(module, leaf) is None:
                continue
            wanted = expected.pop(f"{names['.'.join(map(str, path))]}.{name_of_leaf}").grad.numpy()
            wanted = wanted if axes is None else wanted.transpose(axes)
            scale = 1e-4 * np.abs(wanted).max() + 1e-5
            np.testing.assert_allclose(getattr(module, leaf)[...], wanted, atol=scale, err_msg=f"{path} {leaf}")
    assert not expected
