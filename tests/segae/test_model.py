"""SegAE compared with the original, stage by stage; text embeddings; folding; both NNX modes; all backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_segae import answer, evaluation, inputs, small, table

import jaxseg
from jaxseg.nn.inference import fold_batch_norm, for_inference
from jaxseg.nn.layers import BatchNorm, EmbeddingTable
from jaxseg.segae.model import SegAE, SegAEConfig, embedding_of
from jaxseg.weights.fill import fill

NAMES = {  # our names -> the golden's names
    "f1": "stem",
    **{f"f{i + 1}": f"layer{i}" for i in range(1, 5)},
    "pooled": "pooled",
    "attention_pooled": "attention1",
    "attention_hidden": "attention2",
    "hidden": "fc1",
    "dice": "out",
}
FORWARD = ["segae_resnet50/forward_2x2x128x128", "segae_resnet50/forward_2x2x256x256"]
FORWARD += ["segae_resnet18/forward_2x2x128x128"]


@pytest.fixture(scope="module")
def models(kit) -> dict[str, nnx.Module]:
    built = {}
    for name in ("segae_resnet50", "segae_resnet18"):
        cfg = SegAEConfig(backbone=name.removeprefix("segae_"))
        model = nnx.eval_shape(lambda cfg=cfg: SegAE(cfg, rngs=nnx.Rngs(0)))
        filled = fill(model, kit.weights(name), SegAE.torch_names(cfg), ignored=SegAE.torch_unused(cfg))
        built[name] = nnx.view(filled, use_running_average=True)
    return built


@pytest.mark.slow
@pytest.mark.parametrize("golden", [*(pytest.param(one, marks=pytest.mark.full) for one in FORWARD[:2]), FORWARD[2]])
@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
def test_every_stage_and_the_predicted_dice_equal_the_original(kit, models, golden, folded):
    model = models[golden.split("/")[0]]
    graphdef, state = nnx.split(for_inference(model) if folded else model)

    @jax.jit
    def forward(state, x, embedding):
        model = nnx.merge(graphdef, state)
        return model.features(x, embedding), model(x, embedding)

    x, embedding = kit.input(golden, "x").transpose(0, 2, 3, 1), kit.input(golden, "embedding")
    features, dice = forward(state, jnp.asarray(x), jnp.asarray(embedding))
    assert {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")} == set(NAMES.values())
    assert set(features) == set(NAMES)
    for ours, theirs in NAMES.items():
        value = np.asarray(features[ours])
        kit.check(golden, theirs, value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)
    assert (dice.shape, dice.dtype) == ((2,), jnp.float32)
    np.testing.assert_array_equal(dice, features["dice"][:, 0])


def test_every_golden_of_the_network_is_compared(kit):
    assert sorted(kit.names("segae_resnet")) == sorted(FORWARD)


@pytest.mark.slow
def test_folding_merges_the_stem_with_its_bias_and_keeps_the_embeddings():
    model = small().with_embeddings(table())
    x, embedding = inputs()
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.mean.set_value(jnp.linspace(-0.5, 0.5, module.mean.shape[0]))
            module.var.set_value(jnp.linspace(0.5, 2, module.var.shape[0]))
    folded = fold_batch_norm(nnx.view(model, use_running_average=True))
    assert not any(isinstance(module, BatchNorm) for _, module in nnx.iter_modules(folded))
    np.testing.assert_allclose(answer(folded, x, embedding), answer(model, x, embedding), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(folded.embeddings[...], table())


@pytest.mark.full
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_every_backbone_predicts_a_number_for_each_slice(backbone):
    model = nnx.eval_shape(lambda: SegAE(SegAEConfig(backbone=backbone, width=4), rngs=nnx.Rngs(0)))
    apply, state = evaluation(model)
    shapes = (jax.ShapeDtypeStruct((3, 33, 47, 2), jnp.float32), jax.ShapeDtypeStruct((3, 512), jnp.float32))
    found = jax.eval_shape(apply, state, *shapes)
    assert (found.shape, found.dtype) == ((3,), jnp.float32)


@pytest.mark.parametrize("name", ["segae_resnet18", "segae_resnet50"])
def test_the_number_of_parameters_is_the_originals_without_unused_ones(kit, name):
    manifest = kit.manifest(name)
    sizes = {key: int(np.prod(shape)) for key, shape, _ in manifest["tensors"]}
    unused = {key for key in manifest["unused"] if not key.endswith(("running_mean", "running_var", "tracked"))}
    cfg = SegAEConfig(backbone=name.removeprefix("segae_"))
    model = nnx.eval_shape(lambda: SegAE(cfg, rngs=nnx.Rngs(0)))
    found = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert found == manifest["n_parameters"] - sum(sizes[key] for key in unused)


@pytest.mark.parametrize("name", ["segae_resnet18", "segae_resnet50"])
def test_the_unused_tensors_are_those_of_the_original_and_no_others(kit, name):
    assert sorted(SegAE.torch_unused(SegAEConfig())) == sorted(kit.manifest(name)["unused"])


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
def test_it_works_in_both_modes_of_nnx(graph):
    with nnx.set_graph_mode(graph):
        apply, state = evaluation(small().with_embeddings(table()))
        x, embedding = inputs()
        once = jax.jit(apply)(state, x, embedding)
        stacked = jax.jit(jax.vmap(apply, in_axes=(None, 0, 0)))(state, *(jnp.stack([a, 2 * a]) for a in inputs()))
        gradient = jax.jit(jax.grad(lambda x: apply(state, x, embedding).sum()))(x)
    np.testing.assert_allclose(stacked[0], once, atol=1e-5)
    assert not np.allclose(stacked[1], once)
    assert float(jnp.abs(gradient).max()) > 0


def test_the_prediction_depends_on_text_and_image():
    model = small()
    x, embedding = inputs()
    once = answer(model, x, embedding)
    assert not np.allclose(once, answer(model, x, embedding[::-1]))
    assert not np.allclose(once, answer(model, x[..., ::-1], embedding))
    np.testing.assert_allclose(once[::-1], answer(model, x[::-1], embedding[::-1]), atol=1e-6)


@pytest.mark.slow
def test_bfloat16_computes_the_backbone_in_bfloat16_and_the_heads_in_float32():
    exact, rough = small(width=8), small(width=8, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
    x, embedding = inputs(size=(64, 64))
    features = nnx.eval_shape(lambda m: m.features(x, embedding), rough)
    assert (features["f5"].dtype, features["hidden"].dtype) == (jnp.bfloat16, jnp.float32)
    a, b = (answer(model, x, embedding) for model in (exact, rough))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.15 * np.abs(a).max()


def test_torch_initialisation_has_pytorchs_spread_in_the_stem_the_trunk_and_the_heads():
    model = jaxseg.create("segae", backbone="resnet18")
    stem, bound = model.backbone.stem.conv, (2 * 49) ** -0.5
    for value in (stem.kernel, stem.bias):
        assert bound * 0.9 < np.abs(np.asarray(value[...])).max() <= bound
    trunk = np.asarray(model.backbone.stages[2][1].convs[1].conv.kernel[...])  # 3x3, 256 -> 256
    assert np.abs(trunk.std() / (2 / (256 * 9)) ** 0.5 - 1) < 0.01
    assert model.backbone.stages[0][0].convs[0].conv.bias is None
    assert np.abs(np.asarray(model.attention_pooled.kernel[...])).max() <= (512 + 512) ** -0.5


def test_embeddings_start_as_zeros_are_set_in_a_copy_and_are_not_parameters():
    model = small()
    assert not np.asarray(model.embeddings[...]).any()
    given = model.with_embeddings(table().astype(np.float64))
    assert not np.asarray(model.embeddings[...]).any()
    np.testing.assert_array_equal(given.embeddings[...], table())
    assert given.embeddings[...].dtype == jnp.float32
    np.testing.assert_array_equal(embedding_of(given.embeddings[...], 2), table()[2])
    assert given.card is model.card
    assert [path for path, _ in nnx.to_flat_state(nnx.state(given, EmbeddingTable))] == [("embeddings",)]
    assert ("embeddings",) not in [path for path, _ in nnx.to_flat_state(nnx.state(given, nnx.Param))]


@pytest.mark.full
def test_training_does_not_change_the_embeddings():
    model = small().with_embeddings(table())
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x, embedding = inputs()

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, rest))
            return jnp.mean((model(x, embedding) - 0.5) ** 2), nnx.state(model, nnx.Not(nnx.Param))

        (value, rest_after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), rest_after, value

    params, after, first = step(params, rest)
    np.testing.assert_array_equal(nnx.merge(graphdef, params, after).embeddings[...], table())
    assert float(step(params, after)[2]) < float(first)


def test_the_error_of_a_model_without_embeddings_names_the_file_to_give():
    with pytest.raises(ValueError, match=r"no text embedding of any class: .*label_embedding\.pkl.*no licence"):
        embedding_of(small().embeddings[...], 1)
    part = table()
    part[1] = 0
    given = small().with_embeddings(part)
    with pytest.raises(ValueError, match=r"no text embedding of class 1: .*Schuture/Quality-Sentinel"):
        embedding_of(given.embeddings[...], 1)
    np.testing.assert_array_equal(embedding_of(given.embeddings[...], 0), part[0])


@pytest.mark.parametrize("organ", [-1, 3])
def test_a_class_that_does_not_exist_is_refused(organ):
    with pytest.raises(ValueError, match=rf"class {organ} is not in 0\.\.2"):
        embedding_of(small().with_embeddings(table()).embeddings[...], organ)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (table(2), r"must be \(3, 6\) decimals, got \(2, 6\) float32"),
        (np.ones((3, 6), np.int32), "int32"),
        (np.zeros((3, 6), np.float32), "not all zeros"),
        (np.full((3, 6), np.nan, np.float32), "must be finite"),
    ],
)
def test_an_impossible_table_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        small().with_embeddings(given)


def test_only_a_segae_accepts_embeddings():
    with pytest.raises(ValueError, match="model 'post_dae' takes no text embeddings"):
        jaxseg.create("post_dae", image_size=(32, 32)).with_embeddings(table())


@pytest.mark.parametrize(
    ("x", "embedding", "words"),
    [
        ((2, 8, 8, 1), (2, 6), r"must be \(B, H, W, 2\), got \(2, 8, 8, 1\)"),
        ((2, 8, 8), (2, 6), r"must be \(B, H, W, 2\)"),
        ((2, 8, 8, 2), (6,), r"must be \(2, 6\), one per slice, got \(6,\)"),
        ((2, 8, 8, 2), (1, 6), r"must be \(2, 6\)"),
        ((2, 8, 8, 2), (2, 5), r"must be \(2, 6\)"),
    ],
)
def test_wrong_shapes_are_refused(x, embedding, words):
    with pytest.raises(ValueError, match=words):
        small()(jnp.ones(x), jnp.ones(embedding))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"backbone": "vgg"}, "resnet18"),
        ({"hidden": 0}, "hidden: must be from 1 to 65536, got 0"),
        ({"embedding_size": 1.5}, "embedding_size: 1.5"),
        ({"num_labels": True}, "num_labels: true"),
        ({"width": 10_000}, "width: must be from 1 to 1024, got 10000"),
        ({"dtype": "fp8", "init": "zeros"}, "init: 'zeros'(?s:.*)dtype: 'fp8'"),
        ({"classes": 8}, "unknown hyper-parameter classes; known: backbone"),
    ],
)
def test_impossible_hyper_parameters_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.create("segae", **values)
