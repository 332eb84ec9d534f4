"""The probabilistic U-Net compared with the original, block by block; sampling; files; both NNX modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_writer import save

import jaxseg
from jaxseg.annotators import prob_unet
from jaxseg.annotators.losses import gaussian_kl, gaussian_log_prob, negative_elbo, sum_of_norms
from jaxseg.annotators.prob_unet import ProbUNet, ProbUNetConfig, regularised, sample
from jaxseg.registry import find
from jaxseg.weights.fill import fill
from jaxseg.weights.load import recognise
from jaxseg.weights.torch_file import read_torch_file

FORWARD = ["punet_lidc/forward", "punet_wide/forward", "punet_mnist/forward", "punet_mnist/forward_truncating"]
SMALL = {"filters": (4, 6, 8), "latent": 3}


def original_config(kit, golden: str) -> ProbUNetConfig:
    given = kit.manifest(golden.split("/")[0])["constructor"]["kwargs"]
    return ProbUNetConfig(
        in_channels=given["input_channels"],
        filters=tuple(given["num_filters"]),
        latent=given["latent_dim"],
        num_convs=given["no_convs_fcomb"],
        odd="truncate" if golden.endswith("truncating") else "floor",
    )


def abstract(cfg: ProbUNetConfig) -> ProbUNet:
    return nnx.eval_shape(lambda: ProbUNet(cfg, rngs=nnx.Rngs(0)))


def original(kit, golden: str) -> ProbUNet:
    cfg = original_config(kit, golden)
    model = abstract(cfg)
    return fill(model, kit.weights(golden.split("/")[0]), prob_unet.ProbUNet.torch_names(cfg))


def small(**values) -> ProbUNet:
    return ProbUNet(ProbUNetConfig(**SMALL | values), rngs=nnx.Rngs(0))


def example(height: int = 16, width: int = 21) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns two images, their masks, and noise."""
    random = np.random.default_rng(0)
    x, noise = random.standard_normal((2, height, width, 1)), random.standard_normal((2, 3))
    return jnp.asarray(x, jnp.float32), jnp.asarray(x > 0.5, jnp.float32), jnp.asarray(noise, jnp.float32)


def sigma(gaussian) -> jax.Array:
    return jnp.exp(gaussian[1])


@jax.jit
def networks(model: ProbUNet, x, target, z, noise) -> dict[str, jax.Array]:
    """Returns the network outputs that the goldens hold."""
    both = model.with_target(x, target)
    named = {"prior_encoder": model.prior.features(x), "posterior_encoder": model.posterior.features(both)}
    for name, gaussian in (("prior", model.prior(x)), ("posterior", model.posterior(both))):
        named |= {f"{name}_mu": gaussian[0], f"{name}_sigma": sigma(gaussian)}
    features = model.features(x)
    named |= model.maps(x) | {"unet_features": features, "fcomb": model.combine(features, z)}
    draw = prob_unet.draw(model.prior(x), noise)
    return named | {
        "sample_test": model.combine(features, draw),
        "reconstruction": model.outputs(x, target, noise)["logits"],
    }


@jax.jit
def losses(model: ProbUNet, x, target, noise, beta) -> dict[str, jax.Array]:
    """Returns the losses that the goldens hold."""
    found = model.outputs(x, target, noise)
    posterior, prior, z = found["posterior"], found["prior"], found["z"]
    named = {}
    for name, point in (("elbo", None), ("elbo_sampled_kl", z)):
        loss, parts = negative_elbo(found["logits"], target, posterior, prior, beta=beta, z=point)
        named[name] = jnp.stack([-loss, parts["reconstruction"], parts["kl"]])
    named["kl_per_sample"] = gaussian_kl(*posterior, *prior)
    named["kl_analytic"] = named["kl_per_sample"].mean()
    named |= {"log_prob_posterior": gaussian_log_prob(z, *posterior), "log_prob_prior": gaussian_log_prob(z, *prior)}
    for name, part in (("posterior", model.posterior), ("prior", model.prior), ("fcomb_layers", model.combine.layers)):
        named[f"l2_{name}"] = sum_of_norms(jax.tree.leaves(nnx.state(part)))
    return named | {"train_loss": -named["elbo"][0] + 1e-5 * sum_of_norms(regularised(model))}


@pytest.mark.full
@pytest.mark.parametrize("golden", FORWARD)
def test_every_block_the_gaussians_the_bound_and_the_norms_equal_the_original(kit, golden):
    model = original(kit, golden)
    x, target = (jnp.asarray(kit.input(golden, key).transpose(0, 2, 3, 1)) for key in ("x", "segm"))
    z, noise = (jnp.asarray(kit.input(golden, key)) for key in ("z", "eps"))
    beta = float(kit.manifest(golden.split("/")[0])["constructor"]["kwargs"]["beta"])
    found = networks(model, x, target, z, noise) | losses(model, x, target, noise, beta)
    assert set(found) == {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    for key, value in found.items():
        kit.check(golden, key, np.asarray(value).transpose(0, 3, 1, 2) if value.ndim == 4 else np.asarray(value))


def test_every_golden_of_the_network_is_compared(kit):
    assert sorted(kit.names("punet_")) == sorted(FORWARD)


def test_the_number_of_parameters_is_the_originals(kit):
    for golden in FORWARD[:-1]:
        model = abstract(original_config(kit, golden))
        found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert found == kit.manifest(golden.split("/")[0])["n_parameters"]


@pytest.mark.slow
def test_equal_keys_sample_equal_masks_also_if_sampled_one_by_one():
    model, (x, _, _), key = small(), example(), jax.random.key(3)
    draw = jax.jit(sample, static_argnums=2)
    found = draw(model, x[0], 5, key)
    jax.tree.map(np.testing.assert_array_equal, found, draw(model, x[0], 5, key))
    assert not np.allclose(found["logits"], draw(model, x[0], 5, jax.random.key(4))["logits"])
    assert not np.allclose(found["logits"][0], found["logits"][1])
    np.testing.assert_array_equal(found["masks"], found["logits"] > 0)
    features, prior = jax.jit(lambda model, x: (model.features(x), model.prior(x)))(model, x[:1])
    combine = jax.jit(lambda model, *given: model.combine(*given))
    for i, one in enumerate(jax.random.split(key, 5)):
        z = prob_unet.draw(prior, jax.random.normal(one, (1, 3)))
        np.testing.assert_allclose(found["logits"][i], combine(model, features, z)[0], atol=1e-5)


@pytest.mark.slow
def test_a_thousand_masks_are_sampled_in_one_call_that_runs_u_net_and_prior_once():
    model, (x, _, _) = small(), example()
    masks = jax.jit(lambda model, image, key: sample(model, image, 1000, key)["masks"])
    assert masks(model, x[0], jax.random.key(0)).shape == (1000, 16, 21, 1)
    text = masks.lower(model, x[0], jax.random.key(0)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2 * 5 + 2 * 3  # 1x1 convolutions are matrix products
    assert not any("tensor<1000x" in line for line in convolutions)


@pytest.mark.slow
def test_outputs_are_the_logits_at_the_mean_of_the_prior():
    model, (x, _, _) = small(num_convs=4), example()
    both = jax.jit(lambda model, x: (model(x), model.combine(model.features(x), model.prior(x)[0])))
    found, expected = both(model, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (expected.shape, expected.dtype) == ((2, 16, 21, 1), jnp.float32)


@pytest.mark.slow
def test_joining_in_parts_equals_the_convolution_of_features_and_latent_vector():
    model, (x, _, z) = small(), example()
    features = jax.jit(lambda model, x: model.features(x))(model, x)
    wide = jnp.concatenate([features, jnp.broadcast_to(z[:, None, None], (*features.shape[:3], 3))], axis=-1)
    expected = model.combine.last(nnx.relu(model.combine.layers[0](wide)))
    np.testing.assert_allclose(model.combine(features, z), expected, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("graph", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
def test_it_trains_in_both_modes_of_nnx_and_every_parameter_has_a_finite_gradient(graph):
    with nnx.set_graph_mode(graph):
        model, (x, target, noise) = small(), example()
        graphdef, params = nnx.split(model, nnx.Param)

        @jax.jit
        def step(params):
            def objective(params):
                model = nnx.merge(graphdef, params)
                found = model.outputs(x, target, noise)
                loss, _ = negative_elbo(
                    found["logits"], target, found["posterior"], found["prior"], beta=5.0, z=found["z"]
                )
                return loss + 1e-5 * sum_of_norms(regularised(model))

            loss, gradient = jax.value_and_grad(objective)(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * jnp.sign(g), params, gradient), gradient, loss

        params, gradient, first = step(params)
        _, _, second = step(params)
    assert float(second) < float(first)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_bfloat16_changes_outputs_little_and_keeps_float32_parameters():
    exact, rough = (small(dtype=dtype) for dtype in ("float32", "bfloat16"))
    x, _, _ = example()
    answer = jax.jit(lambda model, x: model(x))
    a, b = (np.asarray(answer(model, x)) for model in (exact, rough))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["punet_lidc", "punet_wide"])
def test_a_state_dict_is_recognised_converted_and_loaded(kit, tmp_path, name):
    path = save(tmp_path / "x.pth", kit.weights(name), prefix="module.")
    assert recognise(read_torch_file(path), path) is find("prob_unet")
    model = jaxseg.load(jaxseg.convert(path, tmp_path / "model"))
    golden = f"{name}/forward"
    assert model.cfg == original_config(kit, golden)
    assert len(model.card.class_names) == 1
    x = jnp.asarray(kit.input(golden, "x").transpose(0, 2, 3, 1))
    features = jax.jit(lambda model, x: model.features(x))(model, x)
    kit.check(golden, "unet_features", np.asarray(features).transpose(0, 3, 1, 2))


@pytest.mark.slow
def test_impossible_shapes_are_refused():
    model, (x, target, noise) = small(), example()
    with pytest.raises(ValueError, match=r"images must be \(B, H, W, 1\), got \(16, 21, 1\)"):
        model(x[0])
    with pytest.raises(ValueError, match=r"masks must be \(2, 16, 21, 1\), got \(2, 16, 21\)"):
        model.outputs(x, target[..., 0], noise)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"filters": (4,)}, r"filters: \[4\] has 1 levels; give at least 2"),
        (
            {"filters": (4, 0), "num_convs": 1},
            r"filters\[1\]: must be from 1 to 4096, got 0\nnum_convs: must be from 2 to",
        ),
        ({"filters": 4}, "filters: 4 is not a list"),
        ({"odd": "ceil", "dtype": "int8"}, "odd: 'ceil'(?s:.*)dtype: 'int8'"),
        ({"num_filters": (4, 8)}, "unknown hyper-parameter num_filters; known: in_channels"),
    ],
)
def test_impossible_hyper_parameters_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.create("prob_unet", **values)
