"""Every row of the registry names a complete model class, and a new model needs only one more row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import SMALL
from toy_model import ToyConfig

import jaxseg
from jaxseg import registry
from jaxseg.export.export import export_model
from jaxseg.weights.model import Model
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.usefixtures("shallow")
TOY = registry.Entry(
    name="toy",
    title="a toy",
    project="tests",
    citation="none",
    architecture="toy",
    model="toy_model:Toy",
    preprocessing="as_stored",
)


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_every_row_names_a_model_class(entry):
    model_class = entry.model_class
    assert issubclass(model_class, Model)
    assert registry.MODELS[entry.architecture] == entry.model
    config = model_class.make_config(**dict(entry.config))
    assert config.OUTPUTS in {field.name for field in dataclasses.fields(config)}
    assert config.num_classes >= 1
    if entry.weights_file or model_class.torch_names is not Model.torch_names:
        assert model_class.torch_names(config)  # a model without an original does not define it
    assert model_class.config_from_shapes({}) is None


def test_all_networks_of_paxray_have_its_166_classes_by_default():
    entries = [entry for entry in registry.ENTRIES if entry.name.startswith("paxray")]
    counts = {entry.name: entry.model_class.make_config(**dict(entry.config)).num_classes for entry in entries}
    assert counts == dict.fromkeys(("paxray", "paxray_unet", "paxray_fpn"), 166)


def small_model(name: str) -> Model:
    """Returns a small model that is ready for inference."""
    model = jaxseg.create(name, **SMALL.get(name, {}))
    if model.embedding_shape is None:
        return model
    card, table = model.card, np.random.default_rng(0).normal(size=model.embedding_shape)
    model = model.with_embeddings(table)
    model.card = card
    return model


def example(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns an input: normal numbers, or zeros if it holds indices."""
    whole = np.issubdtype(dtype, np.integer)
    return np.zeros(shape, dtype) if whole else np.random.default_rng(1).normal(size=shape).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in registry.ENTRIES])
def test_every_model_is_created_stored_loaded_and_exported(name, tmp_path):
    model = small_model(name)
    loaded = jaxseg.load(save_model(model, tmp_path / name, model.card))
    assert (loaded.cfg, loaded.card.model) == (model.cfg, name)
    before, after = (nnx.state(one, nnx.Param, nnx.BatchStat) for one in (model, loaded))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    size = model.fixed_size or (32, 32)
    facts = export_model(loaded, tmp_path / "x.stablehlo", platforms=["cpu"], image_size=size)
    arrays = [example((2, *one.shape), one.dtype) for one in model.inputs(size)]
    view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, state = nnx.split(view)
    wanted = jax.jit(lambda state, *arrays: nnx.merge(graphdef, state).predict(*arrays))(state, *arrays)
    found = jaxseg.load_exported(tmp_path / "x.stablehlo")(*arrays)
    assert found.shape == (2, *facts.outputs[0].shape[1:])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"unknown architecture 'vit'; known: {', '.join(registry.MODELS)}"):
        registry.model_class("vit")


@pytest.fixture
def row(monkeypatch):
    """Adds one row to the registry."""
    monkeypatch.setattr(registry, "ENTRIES", (*registry.ENTRIES, TOY))
    monkeypatch.setitem(registry.BY_NAME, "toy", TOY)
    monkeypatch.setitem(registry.MODELS, "toy", TOY.model)


@pytest.mark.slow
@pytest.mark.usefixtures("row")
def test_a_new_model_needs_only_its_row(tmp_path):
    with pytest.raises(ValueError, match="width: must be from 1 to 64, got 0"):
        jaxseg.create("toy", width=0)
    model = jaxseg.create("toy", class_names=("left", "right"))
    assert model.cfg == ToyConfig(num_classes=2)
    with pytest.raises(ValueError, match="model 'toy' takes no text embeddings"):
        model.with_embeddings(np.ones((2, 3)))
    loaded = jaxseg.load(save_model(model, tmp_path / "toy", model.card))
    assert loaded.card.class_names == ("left", "right")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    apply, state = jaxseg.functional(loaded)
    wanted = jax.jit(apply)(state, x)
    np.testing.assert_array_equal(wanted, nnx.jit(model)(x))
    facts = export_model(loaded, tmp_path / "toy.stablehlo", platforms=["cpu"], image_size=(8, 8))
    assert (facts.inputs[0].name, facts.outputs[0].shape) == ("image", ("batch", 8, 8, 2))
    found = jaxseg.load_exported(tmp_path / "toy.stablehlo")(np.asarray(x))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
