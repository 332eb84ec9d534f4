"""Models in one safetensors file: round trips, PyTorch's names and layout, damage, and what may be replaced."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL

import jaxseg
from jaxseg import registry
from jaxseg.weights import store
from jaxseg.weights.fill import misfits, torch_tensors
from jaxseg.weights.model import describe
from jaxseg.weights.safetensors import map_arrays, read_metadata, write_arrays
from jaxseg.weights.store import file_card, open_model_file, save_model, save_model_file

pytestmark = pytest.mark.usefixtures("shallow")
PLAIN_DAE = SMALL["post_dae"] | {"norm": "none"}  # as the original's


def small(name: str, **config) -> jaxseg.weights.model.Model:
    """Returns a small model with random statistics, and with text embeddings if it takes any."""
    model = jaxseg.create(name, **SMALL[name] | config)
    rng, card = np.random.default_rng(0), model.card
    for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        leaf.set_value(jax.numpy.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype))
    if model.embedding_shape is not None:
        model = model.with_embeddings(rng.normal(size=model.embedding_shape))
    model.card = dataclasses.replace(card, source="x.pth", source_sha256="ab" * 32, licence="CC0", note='a "note"\n€')
    return model


def assert_equal(one, other) -> None:
    """Checks that two models have the same hyper-parameters, arrays and cards, except the digests of the arrays."""
    assert one.cfg == other.cfg
    first, second = (nnx.to_pure_dict(nnx.state(model)) for model in (one, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    first, second = (dataclasses.replace(model.card, params_sha256="", jaxseg="") for model in (one, other))
    assert first == second


MODELS = [(entry.name, {}) for entry in registry.ENTRIES] + [("post_dae", PLAIN_DAE)]


@pytest.fixture(scope="module")
def tiny(shallow):
    return small("cxas")


@pytest.fixture
def path(tiny, tmp_path):
    return save_model_file(tiny, tmp_path / "tiny.safetensors", tiny.card)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), MODELS, ids=[name + "_plain" * bool(config) for name, config in MODELS])
def test_every_model_is_equal_after_a_file_and_a_folder(name, config, tmp_path):
    model = small(name, **config)
    path = save_model_file(model, tmp_path / "new" / "x.safetensors", model.card)
    found = open_model_file(path).read()
    assert_equal(found, model)
    folder = jaxseg.convert(path, tmp_path / "folder")
    again = jaxseg.convert(folder, tmp_path / "again.safetensors")
    assert_equal(open_model_file(again).read(), model)
    assert again.read_bytes() == path.read_bytes()
    with_norms = name == "post_dae" and not config
    assert read_metadata(path)["format"] == ("flax" if with_norms else "pt")
    assert sorted(item.name for item in path.parent.iterdir()) == ["x.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), [one for one in MODELS if one != ("post_dae", {})])
def test_the_authors_library_finds_the_originals_names_and_layout(name, config, tmp_path):
    model = small(name, **config)
    save_model_file(model, tmp_path / "x.safetensors", model.card)
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    found.pop("embeddings", None)
    names = model.torch_names(model.cfg)
    abstract = describe(type(model), model.cfg)
    assert misfits(abstract, found, names, ignored=model.torch_unused(model.cfg)) == []
    convolution = next(path for path, module in nnx.iter_modules(model) if type(module).__name__ == "Conv")
    kernel = dict(nnx.iter_modules(model))[convolution].kernel[...]
    np.testing.assert_array_equal(
        found[f"{names['.'.join(map(str, convolution))]}.weight"], kernel.transpose(3, 2, 0, 1)
    )


def test_a_file_of_the_authors_library_with_our_metadata_is_read(path, tiny, tmp_path):
    """Programs of others may write the arrays in another order."""
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(arrays, tmp_path / "y.safetensors", metadata)
    assert_equal(open_model_file(tmp_path / "y.safetensors").read(), tiny)


def test_a_layer_without_a_name_in_pytorch_is_noticed(tiny):
    names = dict(tiny.torch_names(tiny.cfg))
    assert torch_tensors(tiny, names) is not None
    del names["classify"]
    assert torch_tensors(tiny, names) is None
    assert torch_tensors(tiny, {}) is None


def test_a_changed_value_is_noticed(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny.safetensors do not fit.*they are damaged or belong to another card"):
        open_model_file(path).read()


def rewritten(path, *, card=None, arrays=None, **metadata):
    """Writes a file again, with other fields of the card, other arrays or other metadata, and without its digest."""
    texts = read_metadata(path)
    fields = json.loads(texts["jaxseg"]) | {"params_sha256": ""} | (card or {})
    found = {name: np.array(array) for name, array in map_arrays(path).items()} | (arrays or {})
    write_arrays(path, {name: array for name, array in found.items() if array is not None}, texts | {
        "jaxseg": json.dumps(fields)
    } | metadata)  # fmt: skip
    return path


FIRST = "backbone.backbone.layer0.0.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arrays": {FIRST: None}}, f"missing     {FIRST}"),
        ({"arrays": {FIRST: np.zeros((4, 3, 7, 8), np.float32)}}, f"mis-shaped  {FIRST}"),
        ({"arrays": {"more": np.zeros(2, np.float32)}}, "unexpected  more"),
        ({"arrays": {FIRST: np.zeros((4, 3, 7, 7), np.int64)}}, f"not decimal {FIRST}: int64"),
        ({"arrays": {FIRST: np.full((4, 3, 7, 7), np.nan, np.float32)}}, "has values that are not finite"),
        ({"format": "flax"}, "other names or shapes"),
        ({"card": {"class_names": ["a"]}}, "names 1 classes, the model has 3"),
        ({"card": {"architecture": "vit"}}, "unknown architecture 'vit'"),
        ({"card": {"config": {"width": 10**9}}}, "width"),
        ({"card": {"config": {"widths": [1] * 65}}}, "config: must map names"),
        ({"card": {"format": 2}}, "has no card of format 1"),
        ({"jaxseg": "[]"}, "has no card of format 1"),
        ({"jaxseg": "{"}, "the card in .* is damaged"),
        ({"jaxseg": "[" * 100_000}, "nested too deeply"),
        ({"jaxseg": " " * (8 * 2**20 + 1)}, "more than 8,388,608 characters"),
    ],
)
def test_arrays_and_cards_that_do_not_fit_are_refused(path, change, reason):
    with pytest.raises(ValueError, match=reason) as error:
        open_model_file(rewritten(path, **change)).read()
    assert str(path) in str(error.value)


def test_nothing_is_allocated_for_a_large_model_that_the_file_does_not_hold(path, monkeypatch):
    """A card may name the widest network; only the arrays in the file decide what is copied."""
    monkeypatch.setattr(jax.numpy, "array", lambda *_: pytest.fail("an array was copied"))
    card = {"config": {"width": 1024, "backbone": "resnet18", "num_classes": 3}}
    with pytest.raises(ValueError, match="mis-shaped"):
        open_model_file(rewritten(path, card=card)).read()


def test_text_embeddings_are_stored_and_must_fit(tmp_path):
    model = small("segae")
    path = save_model_file(model, tmp_path / "x.safetensors", model.card)
    np.testing.assert_array_equal(open_model_file(path).read().embeddings[...], model.embeddings[...])
    with pytest.raises(ValueError, match=r"embeddings is missing, or has another shape than \(5, 6\)"):
        open_model_file(rewritten(path, arrays={"embeddings": None})).read()


def test_only_files_of_jaxseg_are_replaced(path, tiny, tmp_path):
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="replace the model with --overwrite"):
        save_model_file(tiny, path, tiny.card)
    assert path.read_bytes() == before
    assert save_model_file(tiny, path, tiny.card, overwrite=True) == path
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not a model")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("other", "text", "folder"):
        with pytest.raises(FileExistsError, match="is not a model file of jaxseg"):
            save_model_file(tiny, tmp_path / f"{name}.safetensors", tiny.card, overwrite=True)
    with pytest.raises(ValueError, match="must end in .safetensors"):
        save_model_file(tiny, tmp_path / "x.pth", tiny.card)
    with pytest.raises(FileExistsError, match="is not a model directory"):
        save_model(tiny, path, tiny.card, overwrite=True)


def test_a_failed_write_leaves_the_old_file(path, tiny, monkeypatch):
    def fail(temporary, *_):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(store, "write_arrays", fail)
    with pytest.raises(OSError, match="tiny.safetensors"):
        save_model_file(tiny, path, tiny.card, overwrite=True)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["tiny.safetensors"]


def test_a_file_without_a_card(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "x.safetensors")
    assert file_card(tmp_path / "x.safetensors") is None
    with pytest.raises(ValueError, match="holds no card"):
        open_model_file(tmp_path / "x.safetensors").read()


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """Returns the path and the content of a model file; tests change the file."""
    path = save_model_file(tiny, tmp_path_factory.mktemp("stored") / "x.safetensors", tiny.card)
    return path, path.read_bytes()


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_damaged_model_files_are_refused_or_equal(stored, tiny, data):
    """The header and the card are changed at random; a file that loads holds the model that was written."""
    path, content = stored
    changed, header = bytearray(content), int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 8 + header - 1))
        changed[place] = data.draw(st.sampled_from(b' 0129{}[]",:\\-aexm\x00\xff'))
    path.write_bytes(changed)
    try:
        found = open_model_file(path).read()
    except ValueError:
        return
    first, second = (nnx.to_pure_dict(nnx.state(model)) for model in (found, tiny))
    jax.tree.map(np.testing.assert_array_equal, first, second)
