"""Creating, loading and converting models: layouts, misfits, round trips."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_writer import save

import jaxseg
from jaxseg.card import read_card
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.usefixtures("shallow")
TINY = {"backbone": "resnet18", "width": 4}


@pytest.fixture(scope="module")
def tensors(shallow) -> dict[str, np.ndarray]:
    """A U-Net of 166 classes, narrow, in PyTorch's layout."""
    from jaxseg.anatomy import unet
    from jaxseg.weights.fill import LEAVES

    cfg = unet.UNetConfig(num_classes=166, **TINY)
    model = jaxseg.create("paxray", **TINY)
    names, rng, found = unet.UNet.torch_names(cfg), np.random.default_rng(0), {}
    for path, module in nnx.iter_modules(model):
        for leaf, (theirs, axes) in LEAVES.get(type(module), {}).items():
            variable = getattr(module, leaf)
            if variable is not None:
                shape = variable.shape if axes is None else tuple(np.array(variable.shape)[np.argsort(axes)].tolist())
                array = rng.uniform(0.5, 1.5, shape) * (0.2 if axes else 1)
                found[f"{names['.'.join(map(str, path))]}.{theirs}"] = array.astype(np.float32)
    found["head.up2.conv.double_conv.1.num_batches_tracked"] = np.array(3)
    return found


def output(model) -> np.ndarray:
    apply, state = jaxseg.functional(model)
    return np.asarray(jax.jit(apply)(state, jnp.ones((1, 32, 32, 3))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("under", "prefix"), [("", ""), ("model", "module."), ("state_dict", "model."), ("state_dict", "net.unet.")]
)
def test_every_layout_in_the_wild_loads_the_same_model(tmp_path, tensors, under, prefix):
    plain = output(jaxseg.load("paxray", save(tmp_path / "plain.pth", tensors)))
    other = jaxseg.load("paxray", save(tmp_path / "other.pth", tensors, under=under, prefix=prefix))
    np.testing.assert_array_equal(output(other), plain)


def test_a_bare_file_is_recognised_by_its_tensors(tmp_path, tensors):
    model = jaxseg.load(save(tmp_path / "x.pth", tensors))
    assert (model.card.model, model.card.source) == ("paxray", "x.pth")
    assert len(model.card.source_sha256) == 64


def test_a_file_of_no_known_model_is_refused_with_the_names(tmp_path):
    path = save(tmp_path / "x.pth", {"layer.weight": np.ones((2, 2), np.float32)})
    names = "cxas, paxray, paxray_unet, paxray_fpn, post_dae"
    with pytest.raises(ValueError, match=rf"none of the models {names}.*; its first.* are layer.weight"):
        jaxseg.load(path)


def test_a_file_with_another_number_of_classes_needs_its_model_named(tmp_path, tensors):
    few = {k: v[:5] if k.startswith("head.out") else v for k, v in tensors.items()}
    path = save(tmp_path / "x.pth", few)
    with pytest.raises(ValueError, match="5 classes; name its model, one of cxas, paxray"):
        jaxseg.load(path)
    model = jaxseg.load("paxray", path)
    assert model.card.class_names == ("class_000", "class_001", "class_002", "class_003", "class_004")
    named = jaxseg.load("paxray", path, class_names=list("abcde"))
    assert named.card.class_names == tuple("abcde")
    with pytest.raises(ValueError, match="the model has 5 classes; 2 different names"):
        jaxseg.load("paxray", path, class_names=["a", "b"])


def test_all_misfits_are_listed_at_once(tmp_path, tensors):
    broken = dict(tensors)
    del broken["head.out.conv.bias"]
    broken["head.up4.conv.double_conv.0.weight"] = np.ones((3, 3), np.float32)
    broken["extra.weight"] = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="3 problems") as error:
        jaxseg.load("paxray", save(tmp_path / "x.pth", broken))
    text = str(error.value)
    assert "missing     head.out.conv.bias  for classify.bias" in text
    assert "mis-shaped  head.up4.conv.double_conv.0.weight: (3, 3), the model needs (4, 8, 3, 3)" in text
    assert "unexpected  extra.weight" in text


@pytest.mark.slow
def test_convert_writes_a_directory_that_loads_to_the_same_numbers(tmp_path, tensors):
    source = save(tmp_path / "x.pth", tensors, under="model", prefix="module.")
    folder = jaxseg.convert(source, tmp_path / "model", model="paxray")
    card = read_card(folder)
    assert (card.model, card.source, card.jaxseg) == ("paxray", "x.pth", jaxseg.__version__)
    assert card.licence.startswith("not stated")
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "params"]
    for again in (jaxseg.load("paxray", folder), jaxseg.load(folder)):
        np.testing.assert_array_equal(output(again), output(jaxseg.load("paxray", source)))
    with pytest.raises(FileExistsError, match="exists"):
        jaxseg.convert(source, folder)
    jaxseg.convert(source, folder, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "x.pth"]


def test_convert_refuses_to_overwrite_anything_but_a_model(tmp_path, tensors):
    source = save(tmp_path / "x.pth", tensors)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "card.json").write_text("{}")
    (tmp_path / "precious" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError):
        jaxseg.convert(source, tmp_path / "precious", overwrite=True)


@pytest.mark.slow
def test_a_training_run_means_its_model(tmp_path, tensors):
    source = save(tmp_path / "x.pth", tensors)
    jaxseg.convert(source, tmp_path / "run" / "model")
    np.testing.assert_array_equal(output(jaxseg.load("paxray", tmp_path / "run")), output(jaxseg.load(source)))


@pytest.mark.slow
def test_the_dtype_of_the_arithmetic_can_be_chosen(tmp_path, tensors):
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    assert jaxseg.load(folder, dtype="bfloat16").cfg.dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no card", "text", "list", "format", "config", "names", "params"])
def test_damaged_model_directories_are_named(tmp_path, tensors, damage):
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    path = folder / "card.json"
    card = json.loads(path.read_text())
    if damage == "no card":
        path.unlink()
    elif damage == "params":
        for file in (folder / "params").rglob("*"):
            if file.is_file() and file.stat().st_size > 500:
                file.write_bytes(file.read_bytes()[:100])
    else:
        changed = {
            "text": "{",
            "list": "[]",
            "format": json.dumps(card | {"format": 9}),
            "config": json.dumps(card | {"config": {"width": "wide"}}),
            "names": json.dumps(card | {"class_names": [1]}),
        }
        path.write_text(changed[damage])
    with pytest.raises(ValueError, match="model|width"):
        jaxseg.load(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cxsa", "unknown model|neither a model name"),
        ("post_dae", "post_dae.*no published weights"),
        ("segae", "cannot be fetched"),
    ],
)
def test_models_without_weights_say_what_to_do(name, words, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    with pytest.raises((ValueError, OSError), match=words):
        jaxseg.load(name)


def test_create_is_seeded():
    one, same, other = (jaxseg.create("cxas", seed=s, num_classes=2, **TINY) for s in (1, 1, 2))
    kernels = [np.asarray(m.classify.kernel[...]) for m in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert one.card.class_names == ("class_000", "class_001")


@pytest.mark.slow
def test_weights_of_another_model_are_refused(tmp_path, tensors):
    path = save(tmp_path / "x.pth", tensors)
    with pytest.raises(ValueError, match="166 classes of model 'paxray', not those of 'cxas'"):
        jaxseg.load("cxas", path)
    folder = jaxseg.convert(path, tmp_path / "model")
    with pytest.raises(ValueError, match="holds a 'paxray' model, not 'cxas'"):
        jaxseg.load("cxas", folder)


def test_a_single_changed_bit_of_the_parameters_is_noticed(tmp_path, tensors):
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    largest = max((p for p in (folder / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        jaxseg.load(folder)


def test_a_card_with_another_number_of_names_is_refused(tmp_path, tensors):
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"class_names": card["class_names"][:5]}))
    with pytest.raises(ValueError, match="names 5 classes, the model has 166"):
        jaxseg.load(folder)


def test_a_card_of_other_hyper_parameters_is_refused(tmp_path, tensors):
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    card["config"]["width"] = 8
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="do not fit its card: other names or shapes"):
        jaxseg.load(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path, tensors):
    broken = dict(tensors) | {"head.out.conv.bias": np.full(166, np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"classify\.bias has values that are not finite"):
        jaxseg.load("paxray", save(tmp_path / "x.pth", broken))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxseg.create("cxas", class_names="lung"),
        lambda: jaxseg.create(None),
        lambda: jaxseg.functional(None),
        lambda: jaxseg.segment(np.ones((3, 3)), None),
    ],
)
def test_wrong_arguments_are_value_errors_with_an_explanation(call):
    with pytest.raises(ValueError, match="list of names|unknown model|needed"):
        call()


def test_weights_that_do_not_exist_are_reported_with_what_is_allowed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file.*; weights are a model directory, a training run"):
        jaxseg.load("cxas", weights=tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match="no such file.*; a model directory, a training run, a PyTorch or.* converted"
    ):
        jaxseg.convert(tmp_path / "nowhere.pth", tmp_path / "model")


def test_a_run_without_a_model_yet_is_reported_as_such(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="the training run has no model yet"):
        jaxseg.load(tmp_path / "run")


def test_a_directory_that_orbax_wrote_is_read(tmp_path, tensors):
    """Earlier versions stored the parameters so."""
    import orbax.checkpoint as ocp

    from jaxseg import files

    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    model = jaxseg.load(folder)

    def texts(tree):
        return {str(key): texts(value) for key, value in tree.items()} if isinstance(tree, dict) else tree

    shutil.rmtree(folder / "params")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", texts(nnx.to_pure_dict(nnx.state(model))))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"params_sha256": files.sha256(folder / "params")}))
    found = jaxseg.load(folder)
    assert nnx.to_pure_dict(nnx.state(found)).keys() == nnx.to_pure_dict(nnx.state(model)).keys()
    np.testing.assert_array_equal(output(found), output(model))


def test_a_file_that_is_changed_later_does_not_change_the_model(tmp_path, tensors):
    """The file is mapped into memory, so arrays must be copies."""
    folder = jaxseg.convert(save(tmp_path / "x.pth", tensors), tmp_path / "model")
    model = jaxseg.load(folder)
    before = output(model)
    path = folder / "params" / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    np.testing.assert_array_equal(output(model), before)


def test_commands_that_segment_import_neither_orbax_nor_scipy(tmp_path):
    """They would take half a second of every start."""
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    folder = save_model(model, tmp_path / "model", model.card)
    code = "import sys; from jaxseg.anatomy import segment, folders; from jaxseg.weights import store\n"
    code += "from jaxseg.nn import resnet; resnet.VARIANTS['resnet18'] = ((1, 1, 1, 1), False)  # as `shallow`\n"
    code += "store.open_model(sys.argv[1]).read()\n"
    code += "print([name for name in ('orbax', 'orbax.checkpoint', 'scipy.ndimage', 'pydicom') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
