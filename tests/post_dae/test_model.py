"""The autoencoder compared with the original, layer by layer; its two layouts, one training step, and accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from tiny_dae import SMALL, WORKING, abstract, answer, evaluation, masks, original_config, small

import jaxseg
from jaxseg.nn.losses import probability_dice_loss
from jaxseg.post_dae import model as dae
from jaxseg.post_dae.model import DAE, DAEConfig
from jaxseg.weights.fill import fill

FORWARD = ["dae_tiny", "dae_small", "dae_three_inter", "dae_default_features", "dae_512"]


def build(kit, name: str) -> DAE:
    cfg = original_config(kit, name)
    return fill(abstract(cfg), kit.weights(name), dae.DAE.torch_names(cfg))


def nchw(array) -> np.ndarray:
    return np.asarray(array).transpose(0, 3, 1, 2) if array.ndim == 4 else np.asarray(array)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORWARD[:3], *(pytest.param(name, marks=pytest.mark.full) for name in FORWARD[3:])])
def test_every_layer_and_the_output_equal_the_original(kit, name):
    golden, model = f"{name}/forward", build(kit, name)
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state, x):
        model = nnx.merge(graphdef, state)
        return model.features(x), model.logits(x), model(x)

    x = jnp.asarray(kit.input(golden, "x").transpose(0, 2, 3, 1))
    features, logits, probabilities = forward(state, x)
    named = {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    assert named == {*features, "out"}
    for key, value in features.items():
        kit.check(golden, key, nchw(jax.nn.sigmoid(value) if key.startswith("decode") else value))
    kit.check(golden, "out", nchw(probabilities))
    np.testing.assert_array_equal(probabilities, jax.nn.sigmoid(logits))


def test_every_golden_of_the_autoencoder_is_compared(kit):
    assert {name.split("/")[0] for name in kit.names("dae_") if name.endswith("/forward")} == set(FORWARD)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
@pytest.mark.parametrize("values", [{}, WORKING], ids=["original", "working"])
def test_the_network_works_in_both_modes_of_nnx(graph, values):
    with nnx.set_graph_mode(graph):
        model = small(**values)
        apply, state = evaluation(model)
        x = masks(model.cfg)
        once = jax.jit(apply)(state, x)
        stacked = jax.jit(jax.vmap(apply, in_axes=(None, 0)))(state, jnp.stack([x, 1 - x]))
        gradient = jax.jit(jax.grad(lambda x: apply(state, x).sum()))(x)
    assert (once.shape, once.dtype) == ((2, 32, 48, 1), jnp.float32)
    assert 0 < float(once.min()) < float(once.max()) < 1
    np.testing.assert_allclose(stacked[0], once, atol=1e-6)
    assert not np.allclose(stacked[1], once, atol=1e-6)
    assert float(jnp.abs(gradient).max()) > 0


def test_the_last_intermediate_number_has_no_effect():
    one, other = (small(intermediate=(7, last)) for last in (9, 1000))
    x = masks(one.cfg)
    np.testing.assert_array_equal(answer(one, x), answer(other, x))


@pytest.mark.slow
def test_the_option_relu_replaces_the_sigmoids_between_the_levels():
    model, other = small(), small(decoder_activation="relu")
    x = masks(model.cfg)
    named, changed = model.features(x), other.features(x)
    # The level's own result, before either activation.
    np.testing.assert_array_equal(named["decode_0"], changed["decode_0"])
    np.testing.assert_array_equal(model.decode[1](nnx.sigmoid(named["decode_0"])), named["decode_1"])
    np.testing.assert_array_equal(model.decode[1](nnx.relu(named["decode_0"])), changed["decode_1"])


def test_only_the_first_linear_layer_is_followed_by_relu():
    model = small(intermediate=(7, 6, 9))
    for layer in model.intermediate:
        layer.kernel.set_value(jnp.zeros(layer.kernel.shape))
        layer.bias.set_value(jnp.full(layer.bias.shape, -1.0))
    model.intermediate[1].kernel.set_value(jnp.ones(model.intermediate[1].kernel.shape))
    model.intermediate[2].kernel.set_value(jnp.ones(model.intermediate[2].kernel.shape))
    np.testing.assert_array_equal(model.features(masks(model.cfg))["intermediate"], np.full((2, 8 * 12 * 6), -7.0))


def step(model: DAE, x: jax.Array, target: jax.Array) -> tuple[DAE, float]:
    """Returns the model after one step like the first step of Adam, and the loss before it."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def update(params, rest):
        def objective(params):
            model = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, rest))  # statistics that belong to this trace
            return probability_dice_loss(model(x), target), nnx.state(model, nnx.Not(nnx.Param))

        (loss, moved), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 1e-2 * jnp.sign(g), params, gradient), moved, loss

    params, rest, loss = update(params, rest)
    return nnx.merge(graphdef, params, rest), float(loss)


@pytest.mark.slow
def test_a_step_of_the_working_layout_lowers_the_loss_and_moves_statistics_only_there():
    original, model = small(), small(**WORKING)
    assert jax.tree.leaves(nnx.state(original, nnx.BatchStat)) == []
    both = [jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(one))) for one in (original, model)]
    x = masks(model.cfg)
    target = jnp.zeros_like(x).at[:, 8:24, 12:36].set(1.0)
    trained, first = step(model, x, target)
    _, second = step(trained, x, target)
    assert second < first
    statistics = nnx.to_flat_state(nnx.state(trained, nnx.BatchStat))
    assert len(statistics) == 2 * (2 + 1 + 2 + 1)  # means and variances of all convolutions except the last one
    before = dict(nnx.to_flat_state(nnx.state(model, nnx.BatchStat)))
    for path, leaf in statistics:
        assert not np.array_equal(leaf[...], before[path][...]), path
    after = [jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(one))) for one in (original, model)]
    jax.tree.map(np.testing.assert_array_equal, both, after)


@pytest.mark.slow
def test_batch_statistics_are_used_in_evaluation_and_kept():
    model = small(**WORKING)
    x = masks(model.cfg)
    separate = jnp.concatenate([answer(model, x[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(answer(model, x), separate, atol=1e-6)  # each mask is independent of the others
    assert not np.allclose(model(x), separate, atol=1e-3)  # in training it is not


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    exact, rough = (small(dtype=dtype, **WORKING) for dtype in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
    x = masks(rough.cfg)
    named = nnx.eval_shape(lambda model, x: model.features(x), rough, x)
    assert {value.dtype for value in named.values()} == {jnp.dtype("bfloat16")}
    a, b = (np.asarray(answer(model, x)) for model in (exact, rough))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("values", [{}, WORKING | {"dtype": "bfloat16"}], ids=["original", "working"])
def test_forward_pass_and_gradient_can_be_lowered_for_accelerators(platform, values):
    apply, state = evaluation(abstract(DAEConfig(image_size=(64, 64), **values)))
    x = jax.ShapeDtypeStruct((8, 64, 64, 1), jnp.float32)
    for function in (apply, jax.grad(lambda state, x: apply(state, x).sum())):
        assert export.export(jax.jit(function), platforms=[platform])(state, x).platforms == (platform,)


def test_float32_uses_full_float32_products():
    apply, state = evaluation(abstract(DAEConfig(image_size=(64, 64))))
    text = jax.jit(apply).lower(state, jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)).as_text()
    products = [
        line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert (
        len(products) == 9 + 2 + 5 * 5
    )  # encoder; linear; four of a transposed convolution and one more per level of the decoder
    assert all(line.count("HIGHEST") == 2 for line in products)


def test_torch_initialisation_is_within_pytorchs_bounds():
    model = DAE(DAEConfig(image_size=(128, 128)), rngs=nnx.Rngs(0))
    layers = [  # (layer, number that PyTorch uses as fan-in)
        (model.encode[0].convs[0], 1 * 9),
        (model.encode[1].convs[1], 32 * 9),
        (model.intermediate[0], 4 * 4 * 32),
        (model.intermediate[1], 512),
        (model.decode[0].upconv, 16 * 9),  # 32 channels in, 16 out: for a transposed convolution it uses the latter
        (model.decode[1].upconv, 16 * 9),
        (model.decode[4].conv, 16 * 9),
    ]
    for layer, count in layers:
        bound = count**-0.5
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        assert bound * 0.9 < np.abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / 3**0.5) - 1) < 0.15
        assert 0 < np.abs(bias).max() <= bound


def test_the_same_seed_gives_the_same_parameters():
    one, same, other = (jaxseg.create("post_dae", seed=seed, **SMALL) for seed in (1, 1, 2))
    kernels = [np.asarray(model.decode[0].upconv.kernel[...]) for model in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
