"""The PyTorch autoencoder equals the original layer by layer, and ours equals it on random weights.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from benchmarks.torch_models.dae import DAE
from jaxseg.nn.doubling import doubling
from jaxseg.nn.layers import ConvTranspose, dilated_transpose
from jaxseg.nn.losses import probability_dice_loss
from jaxseg.post_dae import model as dae
from jaxseg.weights.fill import LEAVES, fill

pytestmark = pytest.mark.torch

MODELS = ["dae_tiny", "dae_small", "dae_three_inter", "dae_default_features", "dae_512"]
THREE = {"features": (8, 16, 16), "decoder_features": (8, 8, 8), "intermediate": (32, 64), "strides": (2, 2, 2)}
RANDOM = {
    "512": {},
    "wide": {"image_size": (64, 128)},
    "channels": {"in_channels": 3, "out_channels": 2, "image_size": (32, 32)},
    "four linear": THREE | {"image_size": (48, 80), "intermediate": (24, 20, 16, 9)},
    "stride 3": {
        "image_size": (36, 48),
        "features": (4, 6),
        "decoder_features": (5, 5),
        "intermediate": (16, 32),
        "strides": (3, 2),
    },
}


def filled(cfg: dae.DAEConfig, model: DAE) -> dae.DAE:
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return fill(nnx.eval_shape(lambda: dae.DAE(cfg, rngs=nnx.Rngs(0))), tensors, dae.DAE.torch_names(cfg))


def nchw(array: jax.Array) -> np.ndarray:
    return np.asarray(array).transpose(0, 3, 1, 2) if array.ndim == 4 else np.asarray(array)


def pair(name: str) -> tuple[dae.DAE, DAE, np.ndarray]:
    """Returns our model and PyTorch's with the same random weights, and two masks (B, C, H, W)."""
    cfg = dae.DAEConfig(**RANDOM[name])
    torch.manual_seed(0)
    model = DAE(**{"image_size": cfg.image_size} | RANDOM[name]).eval()
    x = np.random.default_rng(0).random((2, cfg.in_channels, *cfg.image_size)) > 0.5
    return filled(cfg, model), model, x.astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_has_the_original_names_shapes_and_types_in_order(kit, name):
    with torch.device("meta"):
        tensors = DAE(**kit.manifest(name)["constructor"]["kwargs"]).state_dict()
    found = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in tensors.items()]
    assert found == kit.manifest(name)["tensors"]


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_the_original(kit, name):
    golden = f"{name}/forward"
    model = DAE(**kit.manifest(name)["constructor"]["kwargs"])
    model.load_state_dict({key: torch.from_numpy(value) for key, value in kit.weights(name).items()})
    with torch.inference_mode():
        found = model.features(torch.from_numpy(kit.input(golden, "x")))
    assert set(found) == {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    for key, value in found.items():
        kit.check(golden, key, value.numpy())


@pytest.mark.parametrize("name", RANDOM)
def test_ours_equals_pytorch_on_random_weights(name):
    ours, theirs, x = pair(name)
    graphdef, state = nnx.split(ours)
    forward = jax.jit(lambda state, x: nnx.merge(graphdef, state).features(x))
    features = forward(state, x.transpose(0, 2, 3, 1))
    with torch.inference_mode():
        expected = theirs.features(torch.from_numpy(x))
    assert set(expected) == {*features, "out"}
    for key, value in features.items():
        found = nchw(jax.nn.sigmoid(value) if key.startswith("decode") else value)
        np.testing.assert_allclose(found, expected[key].numpy(), atol=2e-6, err_msg=key)


@pytest.mark.optimised
@pytest.mark.parametrize("name", ["wide", "four linear"])
def test_gradients_of_the_loss_equal_pytorchs(name):
    ours, theirs, x = pair(name)
    target = np.flip(x, 2).copy()
    probabilities = theirs(torch.from_numpy(x))
    overlap = (probabilities * torch.from_numpy(target)).sum((2, 3))
    sums = probabilities.sum((2, 3)) + torch.from_numpy(target).sum((2, 3))
    (1 - ((2 * overlap + 1e-5) / (sums + 1e-5)).mean()).backward()
    graphdef, state = nnx.split(ours)

    @jax.jit
    def gradients(state, x, target):
        return jax.grad(lambda state: probability_dice_loss(nnx.merge(graphdef, state)(x), target))(state)

    found = nnx.merge(graphdef, gradients(state, *(a.transpose(0, 2, 3, 1) for a in (x, target))))
    names, expected = dae.DAE.torch_names(ours.cfg), dict(theirs.named_parameters())
    for path, module in nnx.iter_modules(found):
        for leaf, (name_of_leaf, axes) in LEAVES.get(type(module), {}).items():
            theirs_gradient = expected.pop(f"{names['.'.join(map(str, path))]}.{name_of_leaf}").grad.numpy()
            wanted = theirs_gradient if axes is None else theirs_gradient.transpose(axes)
            got = np.asarray(getattr(module, leaf)[...])
            # One rounding error in the last bit of a sum over all pixels is about 1e-6 of the largest gradient.
            np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max() + 1e-9, err_msg=str(path))
    assert not expected


@pytest.mark.optimised
@pytest.mark.parametrize("shape", [(2, 4, 4, 32), (1, 5, 7, 3), (2, 16, 16, 16), (1, 1, 1, 2)])
@pytest.mark.parametrize("stride", [2, 3])
def test_transposed_convolutions_and_their_gradients_equal_pytorchs(shape, stride):
    torch.manual_seed(1)
    theirs = torch.nn.ConvTranspose2d(shape[3], 6, 3, stride, padding=1, output_padding=1)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = theirs(inputs)
    expected.sin().sum().backward()
    kernel = theirs.weight.detach().numpy().transpose(2, 3, 1, 0)
    bias = theirs.bias.detach().numpy().reshape(1, 1, 1, -1)
    forms = [lambda x, kernel: dilated_transpose(x, kernel, stride=stride)]
    forms += [doubling] if stride == 2 else []
    for form in forms:
        np.testing.assert_allclose(nchw(jax.jit(form)(x, kernel) + bias), expected.detach(), atol=5e-6)
        found = jax.jit(jax.grad(lambda x, k, form=form: jax.numpy.sin(form(x, k) + bias).sum(), (0, 1)))(x, kernel)
        np.testing.assert_allclose(nchw(found[0]), inputs.grad, atol=2e-5)
        wanted = theirs.weight.grad.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(found[1], wanted, atol=1e-5 * max(np.abs(wanted).max(), 1))


@pytest.mark.parametrize(("num_in", "num_out"), [(32, 16), (16, 64)])
def test_transposed_convolutions_start_within_pytorchs_bounds(num_in, num_out):
    torch.manual_seed(2)
    theirs = torch.nn.ConvTranspose2d(num_in, num_out, 3)
    ours = ConvTranspose(num_in, num_out, rngs=nnx.Rngs(0))
    for parameter, variable in ((theirs.weight, ours.kernel), (theirs.bias, ours.bias)):
        found, wanted = np.abs(np.asarray(variable[...])).max(), float(parameter.detach().abs().max())
        assert abs(found / wanted - 1) < 0.1
