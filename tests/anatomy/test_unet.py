"""The U-Net compared with the original: every intermediate, every golden, both NNX modes, folded and unfolded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxseg
from jaxseg.anatomy import unet
from jaxseg.nn.inference import fold_batch_norm, for_inference
from jaxseg.nn.layers import BatchNorm
from jaxseg.weights.fill import fill

NAMES = {  # our names -> the golden's names
    **{f"f{i}": f"feats_{i}_map" for i in range(1, 5)},
    "f5": "feats_last_map",
    **{f"up{i}": f"up{i}" for i in range(1, 5)},
}
FORWARD = [
    ("cxas_unet_resnet50", "forward_1x3x128x128"),
    ("cxas_unet_resnet50", "forward_2x3x96x160"),
    ("cxas_unet_resnet50", "forward_1x3x101x76"),
    ("paxray_unet_resnet50", "forward_1x3x96x128"),
]
CASES = [pytest.param(*case, marks=[] if "101x76" in case[1] else pytest.mark.full) for case in FORWARD]


def build(kit, name: str) -> nnx.Module:
    tensors = kit.weights(name)
    cfg = unet.UNetConfig(num_classes=tensors["head.out.conv.weight"].shape[0])
    model = nnx.eval_shape(lambda: unet.UNet(cfg, rngs=nnx.Rngs(0)))
    return nnx.view(fill(model, tensors, unet.UNet.torch_names(cfg)), use_running_average=True, deterministic=True)


@pytest.fixture(scope="module")
def models(kit):
    """Returns a function (name, folded) -> model; each is made once."""

    @functools.cache
    def made(name: str, folded: bool) -> nnx.Module:
        return for_inference(made(name, False)) if folded else build(kit, name)

    return made


def evaluate(model, x) -> np.ndarray:
    apply, state = jaxseg.functional(nnx.view(model, use_running_average=True, deterministic=True))
    return np.asarray(jax.jit(apply)(state, x))


def nchw(array) -> np.ndarray:
    return np.asarray(array).transpose(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize(
    "folded", [pytest.param(False, marks=pytest.mark.full, id="plain"), pytest.param(True, id="folded")]
)
def test_every_map_and_the_logits_equal_the_original(kit, models, name, case, folded):
    golden = f"{name}/{case}"
    graphdef, state = nnx.split(models(name, folded))

    @jax.jit
    def forward(state, x):
        model = nnx.merge(graphdef, state)
        return model.features(x), model(x)

    x = jnp.asarray(kit.input(golden, "x").transpose(0, 2, 3, 1))
    features, logits = forward(state, x)
    for ours, theirs in NAMES.items():
        kit.check(golden, theirs, nchw(features[ours]))
    kit.check(golden, "feats_pooled", np.asarray(features["f5"]).mean((1, 2)))
    kit.check(golden, "logits", nchw(logits))
    kit.check(golden, "logits_class_mean", np.asarray(logits).mean((1, 2), dtype=np.float64))
    kit.check(golden, "mask_area", (np.asarray(logits) > 0).sum((1, 2)))


def test_folding_leaves_no_batch_norm_and_the_model_untouched():
    model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=4)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    folded = fold_batch_norm(nnx.view(model, use_running_average=True, deterministic=True))
    assert not any(isinstance(module, BatchNorm) for _, module in nnx.iter_modules(folded))
    after = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet101", "resnet152"])
def test_every_backbone_gives_logits_of_the_input_size(backbone):
    cfg = unet.UNetConfig(backbone=backbone, width=4, num_classes=3)
    model = nnx.eval_shape(lambda: unet.UNet(cfg, rngs=nnx.Rngs(0)))
    apply, state = jaxseg.functional(nnx.view(model, use_running_average=True, deterministic=True))
    abstract = jax.eval_shape(apply, state, jax.ShapeDtypeStruct((2, 33, 47, 3), jnp.float32))
    assert abstract.shape == (2, 33, 47, 3)
    assert abstract.dtype == jnp.float32


@pytest.mark.parametrize(("backbone", "parameters"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)])
def test_backbones_have_the_published_number_of_parameters(backbone, parameters):
    cfg = unet.UNetConfig(backbone=backbone)
    model = nnx.eval_shape(lambda: unet.UNet(cfg, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model.backbone, nnx.Param))
    assert sum(np.prod(leaf.shape) for leaf in leaves) == parameters


@pytest.mark.full
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("graph", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
def test_it_works_in_both_modes_of_nnx(graph):
    with nnx.set_graph_mode(graph):
        model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=4)
        apply, state = jaxseg.functional(nnx.view(model, use_running_average=True, deterministic=True))
        x = jnp.ones((1, 32, 32, 3))
        once = jax.jit(apply)(state, x)
        stacked = jax.jit(jax.vmap(apply, in_axes=(None, 0)))(state, jnp.stack([x, 2 * x]))
        gradient = jax.jit(jax.grad(lambda x: apply(state, x).sum()))(x)
    np.testing.assert_allclose(stacked[0], once, atol=1e-5)
    assert not np.allclose(stacked[1], once)
    assert float(jnp.abs(gradient).max()) > 0


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    exact = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=8)
    rough = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=8, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
    x = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    assert nnx.eval_shape(lambda m, x: m.features(x), rough, x)["up4"].dtype == jnp.bfloat16
    a, b = (evaluate(model, x) for model in (exact, rough))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.15 * np.abs(a).max()


@pytest.mark.full
@pytest.mark.usefixtures("shallow")
def test_dropout_is_inert_by_default_and_active_by_option():
    x = jnp.ones((1, 32, 32, 3))
    for dropout in (0.0, 0.5):
        model = jaxseg.create("paxray", num_classes=2, backbone="resnet18", width=4, dropout=dropout)
        apply, state = jaxseg.functional(model)
        trained = jax.jit(lambda state, x, key, apply=apply: apply(state, x, rngs=nnx.Rngs(dropout=key)))
        one, other = (trained(state, x, jax.random.key(seed)) for seed in (0, 1))
        assert np.array_equal(one, other) == (dropout == 0)
    evaluate(model, x)  # without random numbers


@pytest.mark.slow
def test_torch_initialisation_has_pytorchs_spread():
    model = jaxseg.create("cxas", num_classes=2)
    kernel = np.asarray(model.reduce.conv.kernel[...])
    bound = (2048 * 9) ** -0.5  # uniform within 1 / sqrt(fan_in)
    assert bound * 0.999 < np.abs(kernel).max() <= bound
    assert np.abs(kernel.std() / (bound / 3**0.5) - 1) < 0.01
    assert 0 < np.abs(np.asarray(model.reduce.conv.bias[...])).max() <= bound
    trunk = np.asarray(model.backbone.stages[2][1].convs[1].conv.kernel[...])  # 3x3, 256 -> 256
    assert np.abs(trunk.std() / (2 / (256 * 9)) ** 0.5 - 1) < 0.01


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_classes": 0}, "num_classes: must be from 1 to 65536, got 0"),
        ({"backbone": "vgg"}, "resnet18"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        ({"dtype": "fp8"}, "bfloat16"),
        ({"init": "zeros"}, "torch"),
        ({"wdith": 8}, "unknown hyper-parameter wdith; known: backbone"),
    ],
)
def test_impossible_hyper_parameters_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.create("cxas", **values)


def test_wrong_channels_are_refused():
    model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=4)
    with pytest.raises(ValueError, match=r"images must be \(B, H, W, 3\), got \(1, 32, 32, 1\)"):
        model(jnp.ones((1, 32, 32, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "backbone", "count"), [(4, "resnet18", 32), (2, "resnet50", 64)])
def test_pooled_features_are_the_mean_of_the_deepest_map_and_come_with_the_logits(width, backbone, count):
    model = jaxseg.create("cxas", num_classes=3, width=width, backbone=backbone)
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True, deterministic=True))
    x = np.random.default_rng(0).random((2, 40, 33, 3), np.float32)

    @jax.jit
    def run(state, x):
        model = nnx.merge(graphdef, state)
        return model.pooled(x), model.coarse_logits_and_pooled(x), model.coarse_logits(x), model.features(x)["f5"]

    pooled, (logits, together), coarse, deepest = run(state, x)
    assert pooled.shape == (2, count) == (2, model.num_pooled)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, np.asarray(deepest).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(together, pooled, rtol=1e-5)
    np.testing.assert_allclose(logits, coarse, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="images must be"):
        model.pooled(x[0])
