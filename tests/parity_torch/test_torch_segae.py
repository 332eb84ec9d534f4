"""The PyTorch SegAE equals the original stage by stage, and ours equals it on random weights, with gradients.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import pickle

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from benchmarks.torch_models.segae import QualitySentinel
from jaxseg.nn import resnet
from jaxseg.segae import model as segae
from jaxseg.segae.model import SegAE, SegAEConfig
from jaxseg.weights.embeddings import read_embeddings
from jaxseg.weights.fill import LEAVES, fill
from jaxseg.weights.load import load

pytestmark = pytest.mark.torch

FORWARDS = ["segae_resnet50/forward_2x2x128x128", "segae_resnet50/forward_2x2x256x256"]
FORWARDS += ["segae_resnet18/forward_2x2x128x128"]
BACKBONES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
NAMES = {
    **{f"f{i + 1}": f"layer{i}" if i else "stem" for i in range(5)},
    "pooled": "pooled",
    "attention_pooled": "attention1",
    "attention_hidden": "attention2",
    "hidden": "fc1",
    "dice": "out",
}


def filled(cfg: SegAEConfig, model: QualitySentinel) -> SegAE:
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    abstract = nnx.eval_shape(lambda: SegAE(cfg, rngs=nnx.Rngs(0)))
    return fill(abstract, tensors, segae.SegAE.torch_names(cfg), ignored=segae.SegAE.torch_unused(cfg))


def pair(backbone: str) -> tuple[SegAE, QualitySentinel, np.ndarray, np.ndarray]:
    """Returns our model and PyTorch's with the same weights and statistics, two slices (B, C, H, W), two embeddings."""
    torch.manual_seed(0)
    theirs = QualitySentinel(backbone=backbone)
    rng = np.random.default_rng(0)
    x, embedding = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 2, 45, 64), (2, 512)))
    with torch.no_grad():
        for _ in range(3):  # statistics of these slices, with which values stay of order one
            theirs(torch.from_numpy(x), torch.from_numpy(embedding))
    return (
        nnx.view(filled(SegAEConfig(backbone=backbone), theirs), use_running_average=True),
        theirs.eval(),
        x,
        embedding,
    )


@pytest.mark.parametrize("name", ["segae_resnet50", "segae_resnet18"])
def test_state_dict_has_the_published_names_shapes_and_types_in_order(kit, name):
    with torch.device("meta"):
        tensors = QualitySentinel(**kit.manifest(name)["constructor"]["kwargs"]).state_dict()
    found = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in tensors.items()]
    assert found == kit.manifest(name)["tensors"]


@pytest.mark.parametrize("golden", FORWARDS)
def test_every_stage_equals_the_original(kit, golden):
    name = golden.split("/")[0]
    model = QualitySentinel(**kit.manifest(name)["constructor"]["kwargs"]).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in kit.weights(name).items()})
    with torch.inference_mode():
        found = model.features(*(torch.from_numpy(kit.input(golden, key)) for key in ("x", "embedding")))
    assert set(found) == {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    for key, value in found.items():
        kit.check(golden, key, value.numpy())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_ours_equals_pytorch_with_every_backbone(backbone):
    ours, theirs, x, embedding = pair(backbone)
    graphdef, state = nnx.split(ours)
    features = jax.jit(lambda state, *a: nnx.merge(graphdef, state).features(*a))(
        state, x.transpose(0, 2, 3, 1), embedding
    )
    with torch.inference_mode():
        expected = theirs.features(torch.from_numpy(x), torch.from_numpy(embedding))
    assert set(features) == set(NAMES)
    assert set(expected) == set(NAMES.values())
    for key, value in features.items():
        found, wanted = np.asarray(value), expected[NAMES[key]].numpy()
        found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
        np.testing.assert_allclose(found, wanted, atol=2e-5 * max(np.abs(wanted).max(), 1), err_msg=key)


@pytest.mark.optimised
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_gradients_equal_pytorchs_and_unused_parameters_have_none(backbone):
    ours, theirs, x, embedding = pair(backbone)
    ((theirs(torch.from_numpy(x), torch.from_numpy(embedding))[:, 0] - 0.5) ** 2).mean().backward()
    graphdef, params, rest = nnx.split(ours, nnx.Param, ...)

    @jax.jit
    def gradients(params, rest, x, embedding):
        def loss(params):
            return ((nnx.merge(graphdef, params, rest)(x, embedding) - 0.5) ** 2).mean()

        return jax.grad(loss)(params)

    found = nnx.merge(graphdef, gradients(params, rest, x.transpose(0, 2, 3, 1), embedding), rest)
    names, expected = segae.SegAE.torch_names(ours.cfg), dict(theirs.named_parameters())
    for path, module in nnx.iter_modules(found):
        for leaf, (name_of_leaf, axes) in LEAVES.get(type(module), {}).items():
            if getattr(module, leaf) is None or leaf in ("mean", "var"):
                continue
            wanted = expected.pop(f"{names['.'.join(map(str, path))]}.{name_of_leaf}").grad.numpy()
            wanted = wanted if axes is None else wanted.transpose(axes)
            got = np.asarray(getattr(module, leaf)[...])
            np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max() + 1e-9, err_msg=str(path))
    assert set(expected) <= set(segae.SegAE.torch_unused(ours.cfg))
    assert all(parameter.grad is None for parameter in expected.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_checkpoint_of_every_backbone_is_recognised_and_loaded(backbone, tmp_path):
    torch.manual_seed(0)
    theirs = QualitySentinel(hidden_dim=7, backbone=backbone, embedding_size=9).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    model = load(tmp_path / "x.pth")
    assert model.cfg == SegAEConfig(backbone=backbone, hidden=7, embedding_size=9)
    wanted = theirs.attention2.weight.detach().numpy().T
    np.testing.assert_array_equal(model.attention_hidden.kernel[...], wanted)
    assert resnet.variant_of(theirs.state_dict(), "net.") == backbone


def test_embeddings_saved_by_torch_are_read(tmp_path):
    rows = torch.randn(5, 6)
    torch.save({i: rows[i : i + 1] for i in range(5)}, tmp_path / "x.pth")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "x.pth", shape=(5, 6)), rows.numpy())
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({i: rows[i : i + 1] for i in range(5)}))
    np.testing.assert_array_equal(read_embeddings(tmp_path / "x.pkl", shape=(5, 6)), rows.numpy())
