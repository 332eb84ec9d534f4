"""The confusion-matrix VAE compared with the original, block by block; sampling; files; both NNX modes."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxseg
from jaxseg.annotators import cmvae
from jaxseg.annotators.cmvae import CMVAE, CMVAEConfig, sample
from jaxseg.annotators.cmvae_layers import Norm
from jaxseg.annotators.losses import confusion_vae_loss, noisy_logits, normalised_matrices
from jaxseg.registry import find
from jaxseg.weights.fill import fill
from jaxseg.weights.load import recognise
from jaxseg.weights.store import save_model
from jaxseg.weights.torch_file import read_torch_file, read_torch_modules

FORWARD = [f"scm_{name}/forward" for name in ("tiny", "lidc_in", "lidc_bn", "lidc_gn", "lidc_ln", "mnist_in")]
FORWARD += ["scm_three_class/forward", "scm_mnist_in/forward_truncating"]
OTHER_NORMS = sorted({*get_args(Norm)} - {"in"})
SMALL = {"image_size": (16, 24), "width": 8, "depth": 3, "latent": 4}


def original_config(kit, golden: str) -> CMVAEConfig:
    given = kit.manifest(golden.split("/")[0])["constructor"]["kwargs"]
    return CMVAEConfig(
        given["in_ch"],
        given["class_no"],
        (given["resolution"],) * 2,
        given["width"],
        given["depth"],
        given["latent"],
        given["norm"],
        "truncate" if golden.endswith("truncating") else "floor",
    )


def evaluation(model: CMVAE) -> CMVAE:
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def abstract(cfg: CMVAEConfig) -> CMVAE:
    return nnx.eval_shape(lambda: CMVAE(cfg, rngs=nnx.Rngs(0)))


def original(kit, golden: str) -> CMVAE:
    cfg = original_config(kit, golden)
    model = abstract(cfg)
    return evaluation(fill(model, kit.weights(golden.split("/")[0]), cmvae.CMVAE.torch_names(cfg)))


def small(**values) -> CMVAE:
    return CMVAE(CMVAEConfig(**SMALL | values), rngs=nnx.Rngs(0))


def images(cfg: CMVAEConfig, count: int = 2) -> jax.Array:
    drawn = np.random.default_rng(0).standard_normal((count, *cfg.image_size, cfg.in_channels))
    return jnp.asarray(drawn, jnp.float32)


def flat(matrices) -> np.ndarray:
    """Converts matrices from (B, H, W, K, K) to (B, K K H W), the original's layout."""
    return np.asarray(matrices).transpose(0, 3, 4, 1, 2).reshape(matrices.shape[0], -1)


@jax.jit
def everything(model: CMVAE, x: jax.Array, noise: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
    """Returns the values that the goldens hold; they apply the prior's first matrices to all images."""
    found = model.outputs(x, noise)
    logits, prior = found["logits"], model.confusion.decode(z)
    first = jnp.broadcast_to(prior[:1], prior.shape)
    for name, matrices in (("noisy_argmax", found["matrices"]), ("noisy_argmax_prior", first)):
        found[name] = jnp.argmax(noisy_logits(logits, normalised_matrices(matrices)), -1)
    return model.maps(x) | found | {"prior": prior, "argmax": jnp.argmax(logits, -1)}


@pytest.mark.slow
@pytest.mark.parametrize("golden", FORWARD)
def test_every_block_the_latent_vector_and_the_matrices_equal_the_original(kit, golden):
    x, noise, z = (jnp.asarray(kit.input(golden, key)) for key in ("x", "eps", "z_prior"))
    found = everything(original(kit, golden), x.transpose(0, 2, 3, 1), noise, z)
    found |= {"cm": flat(found.pop("matrices")), "cm_from_prior": flat(found.pop("prior"))}
    found |= {"mu": found.pop("mean"), "logvar": found.pop("log_variance")}
    assert set(found) == {key for key in kit.golden(golden)[0]["arrays"] if not key.startswith("in:")}
    for key, value in found.items():
        kit.check(golden, key, np.asarray(value).transpose(0, 3, 1, 2) if value.ndim == 4 else np.asarray(value))


def test_every_golden_of_the_network_is_compared(kit):
    assert sorted(kit.names("scm_")) == sorted([*FORWARD, *kit.names("scm_loss/")])


def test_the_number_of_parameters_is_the_originals(kit):
    for golden in FORWARD[:-1]:
        model = abstract(original_config(kit, golden))
        found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert found == kit.manifest(golden.split("/")[0])["n_parameters"]


def masks_of(model, logits, z):
    """Returns the samples of latent vectors (S, Z) for clean logits (H, W, K)."""
    return model.finish_samples({"logits": logits}, z)


@pytest.mark.slow
@pytest.mark.parametrize(("normalisation", "how"), [("original", "sum"), ("consistent", "softmax")])
def test_given_latent_vectors_the_masks_are_those_of_the_normalised_matrices(normalisation, how):
    model = small(cm_normalisation=normalisation, num_classes=3)
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((16, 24, 3)), jnp.float32)
    z = jnp.asarray(np.random.default_rng(2).standard_normal((5, 4)), jnp.float32)
    found = jax.jit(masks_of)(model, logits, z)
    matrices = normalised_matrices(model.confusion.decode(z), how)
    np.testing.assert_allclose(found["matrices"], matrices.transpose(0, 3, 4, 1, 2), atol=1e-6)
    np.testing.assert_allclose(found["matrices"].sum(1), 1, atol=1e-5)  # for every true class
    expected = np.einsum("shwij,hwj->shwi", matrices, logits)
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["masks"], found["logits"].argmax(-1))
    assert found["masks"].dtype == jnp.uint8


@pytest.mark.slow
def test_a_stored_model_keeps_its_normalisation(tmp_path):
    new = jaxseg.create("cmvae", **SMALL)
    assert new.cfg.cm_normalisation == "consistent"
    model = jaxseg.create("cmvae", **SMALL, cm_normalisation="original")
    assert jaxseg.load(save_model(model, tmp_path / "model", model.card)).cfg == model.cfg


@pytest.mark.slow
@pytest.mark.parametrize("source", cmvae.SOURCES)
def test_equal_keys_sample_equal_masks_also_if_sampled_one_by_one(source):
    model = small()
    image, key = images(model.cfg)[0], jax.random.key(3)
    draw = jax.jit(functools.partial(sample, source=source), static_argnums=2)
    found = draw(model, image, 6, key)
    jax.tree.map(np.testing.assert_array_equal, found, draw(model, image, 6, key))
    assert not np.allclose(found["matrices"], draw(model, image, 6, jax.random.key(4))["matrices"])
    assert not np.allclose(found["matrices"][0], found["matrices"][1])
    noise = jnp.stack([jax.random.normal(k, (4,)) for k in jax.random.split(key, 6)])
    outputs = jax.jit(lambda model, *given: model.outputs(*given))(model, image[None], noise[:1])
    if source == "image":
        noise = outputs["mean"] + noise * jnp.exp(0.5 * outputs["log_variance"])
    draw_one = jax.jit(masks_of)
    for i in range(6):
        one = draw_one(model, outputs["logits"][0], noise[i : i + 1])
        np.testing.assert_allclose(found["noisy_logits"][i], one["logits"][0], atol=1e-5)


def test_a_thousand_masks_are_sampled_in_one_call_that_runs_the_network_once():
    model = small()
    image = images(model.cfg)[0]
    masks = jax.jit(lambda model, image, key: sample(model, image, 1000, key)["masks"])
    assert masks(model, image, jax.random.key(0)).shape == (1000, 16, 24)
    text = masks.lower(model, image, jax.random.key(0)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2 * 6  # the last one, 1x1, is a matrix product
    assert not any("tensor<1000x" in line for line in convolutions)


@pytest.mark.slow
def test_samples_depend_on_the_image_only_with_the_source_image():
    model = small()
    one, other = images(model.cfg)
    for source, same in (("prior", True), ("image", False)):
        draw = jax.jit(functools.partial(sample, num_samples=2, key=jax.random.key(0), source=source))
        found = [draw(model, x)["matrices"] for x in (one, other)]
        assert np.allclose(*found, atol=1e-6) == same


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
@pytest.mark.parametrize("norm", ["in", *(pytest.param(norm, marks=pytest.mark.full) for norm in OTHER_NORMS)])
def test_it_trains_in_both_modes_of_nnx(graph, norm):
    with nnx.set_graph_mode(graph):
        model = small(norm=norm, depth=2)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        x, noise = images(model.cfg), jnp.ones((2, 4))
        labels = (x[..., 0] > 0).astype(jnp.float32)

        @jax.jit
        def step(params, rest):
            def objective(params):
                model = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, rest))
                loss, _ = confusion_vae_loss(**model.outputs(x, noise), labels=labels, kl_weight=0.1)
                return loss, nnx.state(model, nnx.Not(nnx.Param))

            (loss, moved), gradient = jax.value_and_grad(objective, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * jnp.sign(g), params, gradient), moved, loss

        params, moved, first = step(params, rest)
        _, _, second = step(params, moved)
    assert float(second) < float(first)
    assert bool(jax.tree.leaves(moved)) == (norm == "bn")


@pytest.mark.slow
def test_outputs_are_the_clean_logits_and_bfloat16_changes_them_little():
    exact, rough = (small(dtype=dtype) for dtype in ("float32", "bfloat16"))
    x = images(exact.cfg)
    answers = jax.jit(lambda model, x: (model(x), model.outputs(x, jnp.zeros((2, 4)))["logits"]))
    (a, same), (b, _) = (map(np.asarray, answers(model, x)) for model in (exact, rough))
    np.testing.assert_allclose(a, same, atol=1e-6)
    assert (a.dtype, b.dtype) == (np.float32, np.float32)
    assert 0 < np.abs(a - b).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_the_originals_pickled_module_is_recognised_converted_and_loaded(kit, tmp_path, kind):
    path = kit.folder / "files" / "checkpoints" / f"scm_tiny_whole_module_{kind}.pt"
    assert recognise(read_torch_file(path), path) is find("cmvae")
    model = jaxseg.load(jaxseg.convert(path, tmp_path / "model"))
    assert model.cfg == original_config(kit, "scm_tiny/forward")
    assert (model.card.model, model.card.input_size) == ("cmvae", (16, 16))
    x = jnp.asarray(kit.input("scm_tiny/forward", "x").transpose(0, 2, 3, 1))
    apply, state = jaxseg.functional(model)
    kit.check("scm_tiny/forward", "logits", np.asarray(jax.jit(apply)(state, x)).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["scm_lidc_in", "scm_lidc_bn", "scm_mnist_in", "scm_three_class"])
def test_hyper_parameters_are_derived_from_the_shapes(kit, name):
    shapes = {key: tuple(shape) for key, shape, _ in kit.manifest(name)["tensors"]}
    assert cmvae.CMVAE.config_from_shapes(shapes) == original_config(kit, f"{name}/forward")


def test_a_checkpoint_of_named_annotators_is_not_recognised(kit):
    shapes = {key: tuple(shape) for key, shape, _ in kit.manifest("scm_tiny")["tensors"] if "cm_network" not in key}
    more = {f"decoders_noisy_layers.{i}.conv_last.weight": (4, 16, 1, 1) for i in range(3)}
    assert cmvae.CMVAE.config_from_shapes(shapes | more) is None


def test_the_norm_is_read_from_the_modules_if_the_file_holds_them(kit):
    path = kit.folder / "files" / "checkpoints" / "scm_tiny_whole_module_legacy.pt"
    modules = read_torch_modules(path)
    assert modules["encoders.0.1"][0] == "InstanceNorm2d"
    assert modules[""] == ("UNet_SCM", {"training": True, "depth": 3, "final_in": 2})
    cfg = CMVAEConfig(width=16)
    for groups, norm in ((2, "gn"), (16, "ln")):
        given = {"module.encoders.0.1": ("GroupNorm", {"num_groups": groups})}
        assert cmvae.CMVAE.config_from_modules(cfg, given).norm == norm
    with pytest.raises(ValueError, match="group norm has 4 groups of 16 channels"):
        cmvae.CMVAE.config_from_modules(cfg, {"encoders.0.1": ("GroupNorm", {"num_groups": 4})})
    assert cmvae.CMVAE.config_from_modules(cfg, {}) is cfg


def test_a_file_with_only_tensors_holds_no_modules(kit):
    assert read_torch_modules(kit.folder / "files" / "checkpoints" / "dae_tiny_lightning.ckpt") == {}


def test_impossible_shapes_and_sources_are_refused(kit):
    model = small()
    with pytest.raises(ValueError, match=r"images must be \(B, 16, 24, 1\), got \(1, 16, 16, 1\)"):
        model(jnp.ones((1, 16, 16, 1)))
    with pytest.raises(ValueError, match="unknown source 'posterior'; known: prior, image"):
        sample(model, jnp.ones((16, 24, 1)), 1, jax.random.key(0), source="posterior")
    shapes = {key: tuple(shape) for key, shape, _ in kit.manifest("scm_tiny")["tensors"]}
    with pytest.raises(ValueError, match="have 1028 numbers, which is not a square image"):
        cmvae.CMVAE.config_from_shapes(shapes | {"cm_network.fc_decoder.weight": (1028, 6)})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"norm": "layer", "odd": "up"}, "norm: 'layer'(?s:.*)odd: 'up'"),
        ({"cm_normalisation": "softmax"}, "not one of consistent, original"),
        ({"depth": 1}, "depth: must be from 2 to 10, got 1"),
        ({"latent": True}, "latent: true"),
        ({"image_size": 64}, "image_size: 64"),
        ({"norm": "gn", "width": 4}, "do not divide"),
        ({"norm": "gn", "width": 44}, "do not divide"),
        ({"image_size": (64, 12), "depth": 4}, "at least 16 pixels"),
        ({"classes": 8}, "unknown hyper-parameter classes; known: in_channels"),
    ],
)
def test_impossible_hyper_parameters_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.create("cmvae", **values)
