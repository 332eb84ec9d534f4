"""The PyTorch confusion-matrix VAE equals the original block by block, and ours equals it on random weights.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from benchmarks.torch_models import cmvae as theirs
from jaxseg.annotators import cmvae as ours
from jaxseg.annotators.losses import confusion_vae_loss, kl_schedule, named_annotators_loss
from jaxseg.weights.fill import LEAVES, fill
from jaxseg.weights.load import convert, load

pytestmark = [pytest.mark.torch, pytest.mark.optimised]

FORWARD = [f"scm_{name}/forward" for name in ("tiny", "lidc_in", "lidc_bn", "lidc_gn", "lidc_ln", "mnist_in")]
FORWARD += ["scm_three_class/forward", "scm_mnist_in/forward_truncating"]
RANDOM = {
    "two levels": {"width": 4, "depth": 2, "resolution": 10},
    "five levels": {"width": 4, "depth": 5, "resolution": 36, "class_no": 4, "latent": 9},
    "odd": {"width": 4, "depth": 3, "resolution": 13, "in_ch": 3},
    "odd, truncating": {"width": 4, "depth": 3, "resolution": 13, "truncating": True},
    "batch": {"width": 6, "depth": 3, "resolution": 16, "norm": "bn"},
    "group": {"width": 16, "depth": 3, "resolution": 16, "norm": "gn"},
}


def pair(name: str) -> tuple[ours.CMVAE, theirs.CMVAE, np.ndarray, np.ndarray]:
    """Returns both models with the same random weights in training mode, three images (B, C, H, W) and noise (B, Z)."""
    given = {"in_ch": 1, "class_no": 2, "latent": 6, "norm": "in", "truncating": False} | RANDOM[name]
    torch.manual_seed(0)
    model = theirs.CMVAE(**given)
    cfg = ours.CMVAEConfig(
        given["in_ch"],
        given["class_no"],
        (given["resolution"],) * 2,
        given["width"],
        given["depth"],
        given["latent"],
        given["norm"],
        "truncate" if given["truncating"] else "floor",
    )
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    filled = fill(nnx.eval_shape(lambda: ours.CMVAE(cfg, rngs=nnx.Rngs(0))), tensors, ours.CMVAE.torch_names(cfg))
    random = np.random.default_rng(0)
    shapes = (3, given["in_ch"], *cfg.image_size), (3, given["latent"])
    return filled, model, *(random.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize("golden", FORWARD)
def test_names_shapes_and_every_block_equal_the_original(kit, golden):
    name = golden.split("/")[0]
    model = theirs.CMVAE(**kit.manifest(name)["constructor"]["kwargs"], truncating=golden.endswith("truncating"))
    tensors = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
    assert tensors == kit.manifest(name)["tensors"]
    model.load_state_dict({key: torch.from_numpy(value) for key, value in kit.weights(name).items()})
    x, noise, z = (torch.from_numpy(kit.input(golden, key)) for key in ("x", "eps", "z_prior"))
    with torch.inference_mode():
        logits, cm, mean, log_variance = model.eval()(x, noise)
        found = model.features(x) | {"logits": logits, "cm": cm, "mu": mean, "logvar": log_variance}
        found["cm_from_prior"] = prior = model.cm_network.decode(z)
        found["argmax"] = logits.argmax(1)
        found["noisy_argmax"] = theirs.noisy_logits(logits, cm).argmax(1)
        found["noisy_argmax_prior"] = theirs.noisy_logits(logits, prior[:1].expand_as(prior).contiguous()).argmax(1)
    assert set(found) == {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    for key, value in found.items():
        kit.check(golden, key, value.numpy())


@pytest.mark.parametrize("golden", ["scm_loss/lidc_two_class", "scm_loss/lidc_three_class", "scm_loss/mnist_two_class"])
def test_the_loss_in_pytorch_equals_the_originals(kit, golden):
    outputs = [torch.from_numpy(kit.input(golden, key)) for key in ("pred", "cm", "mu", "logvar")]
    labels, values = torch.from_numpy(kit.input(golden, "labels"))[:, 0], []
    for mode, epoch, epochs, ramp_up, beta, index in kit.golden(golden)[0]["params"]["points"]:
        kind = {"anneal": "anneal", "cyc": "cyclic"}[mode]
        weight = float(kl_schedule(kind, epochs, ramp_up=ramp_up)[epoch]) * beta
        values.append(theirs.loss(outputs, labels[..., index], weight)[0].item())
    kit.check(golden, "total", np.array(values))


@pytest.mark.parametrize("name", RANDOM)
def test_ours_equals_pytorch_on_random_weights_with_gradients(name):
    model, original, x, noise = pair(name)
    labels = np.random.default_rng(1).integers(0, model.cfg.num_classes, (3, *model.cfg.image_size))
    outputs = original(torch.from_numpy(x), torch.from_numpy(noise))
    loss, _ = theirs.loss(outputs, torch.from_numpy(labels), 0.3)
    loss.backward()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def objective(params, x, noise):
        found = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, rest)).outputs(x, noise)
        return confusion_vae_loss(**found, labels=labels, kl_weight=0.3)[0], found["logits"]

    (value, logits), gradient = jax.value_and_grad(objective, has_aux=True)(params, x.transpose(0, 2, 3, 1), noise)
    np.testing.assert_allclose(np.asarray(logits).transpose(0, 3, 1, 2), outputs[0].detach(), atol=2e-5)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    assert_gradients_equal(nnx.merge(graphdef, gradient, rest), original)


@pytest.mark.parametrize("softmax_twice", [True, False])
@pytest.mark.parametrize(("classes", "annotators"), [(2, 4), (3, 2)])
def test_matrices_of_named_annotators_equal_pytorch_with_gradients(classes, annotators, softmax_twice):
    torch.manual_seed(0)
    original = theirs.NamedAnnotators(1, 4, 3, classes, annotators)
    options = {"width": 4, "depth": 3, "matrices": "annotator", "annotators": annotators}
    cfg = ours.CMVAEConfig(1, classes, (16, 16), **options)
    tensors = {key: tensor.numpy() for key, tensor in original.state_dict().items()}
    model = fill(nnx.eval_shape(lambda: ours.CMVAE(cfg, rngs=nnx.Rngs(0))), tensors, ours.CMVAE.torch_names(cfg))
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 1, 16, 16)).astype(np.float32)
    labels = random.integers(0, classes, (3, annotators, 16, 16))
    logits, matrices = original(torch.from_numpy(x))
    loss = theirs.named_loss(logits, matrices, torch.from_numpy(labels), 0.3, softmax_twice=softmax_twice)
    loss.backward()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def objective(params, x):
        found = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, rest)).named_outputs(x)
        given = {"labels": labels.transpose(0, 2, 3, 1), "trace_weight": 0.3, "softmax_twice": softmax_twice}
        return named_annotators_loss(**found, **given)[0], found["matrices"]

    (value, found), gradient = jax.value_and_grad(objective, has_aux=True)(params, x.transpose(0, 2, 3, 1))
    wanted = torch.stack(matrices, 1).detach().reshape(3, annotators, classes, classes, 16, 16)
    np.testing.assert_allclose(np.asarray(found).transpose(0, 3, 4, 5, 1, 2), wanted, atol=2e-5)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    assert_gradients_equal(nnx.merge(graphdef, gradient, rest), original)


def assert_gradients_equal(gradient: ours.CMVAE, original: torch.nn.Module) -> None:
    """Asserts that a model of gradients equals the gradients in PyTorch, and that none is left over."""
    names, expected = ours.CMVAE.torch_names(gradient.cfg), dict(original.named_parameters())
    for path, module in nnx.iter_modules(gradient):
        for leaf, (name_of_leaf, axes) in LEAVES.get(type(module), {}).items():
            if getattr(module, leaf) is None or name_of_leaf.startswith("running"):
                continue
            wanted = expected.pop(f"{names['.'.join(map(str, path))]}.{name_of_leaf}").grad.numpy()
            wanted = wanted if axes is None else wanted.transpose(axes)
            # The norms cancel most of a gradient: the rest is the rounding error of sums over all pixels.
            scale = 1e-4 * np.abs(wanted).max() + 1e-5
            np.testing.assert_allclose(getattr(module, leaf)[...], wanted, atol=scale, err_msg=f"{path} {leaf}")
    assert not expected


@pytest.mark.parametrize(("norm", "found"), [("in", "in"), ("bn", "bn"), ("gn", "gn"), ("ln", "ln")])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_keeps_its_norm(tmp_path, norm, found, zipped):
    torch.manual_seed(0)
    model = theirs.CMVAE(1, 16, 16, 3, 2, norm=norm).eval()
    path = tmp_path / "model.pt"
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    converted = load(convert(path, tmp_path / "converted"))
    assert converted.cfg.norm == found
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x))[0].numpy()
    logits = jax.jit(lambda model, x: model(x))(converted, x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(np.asarray(logits).transpose(0, 3, 1, 2), expected, atol=2e-5)
