"""Files of weights: safetensors files of other programs, both layouts of the backbone, conversions, the commands."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from torch_writer import save

import jaxseg
from jaxseg.cli.main import main
from jaxseg.weights.fill import torch_tensors
from jaxseg.weights.load import card_of, choose_model, read_tensors

pytestmark = pytest.mark.usefixtures("shallow")
TINY = {"backbone": "resnet18", "width": 4}
UNDER = ["", "model", "state_dict", "model_state_dict", "network", "net"]  # where torchvision and others keep tensors


@pytest.fixture(scope="module")
def tensors(shallow) -> dict[str, np.ndarray]:
    """A narrow U-Net of 166 classes under PyTorch's names."""
    model = jaxseg.create("paxray", seed=3, **TINY)
    found = torch_tensors(model, model.torch_names(model.cfg))
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def short(tensors) -> dict[str, np.ndarray]:
    """Returns the tensors as they are named if the backbone is not wrapped."""
    found = {name.replace("backbone.backbone.", "backbone."): array for name, array in tensors.items()}
    assert "backbone.layer0.0.weight" in found
    return found


def arrays(model) -> dict:
    return nnx.to_pure_dict(nnx.state(model))


def assert_equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, arrays(one), arrays(other))


@pytest.fixture(scope="module")
def plain(tensors, tmp_path_factory):
    return jaxseg.load("paxray", save(tmp_path_factory.mktemp("plain") / "x.pth", tensors))


@pytest.mark.slow
@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_both_layouts_of_the_backbone_are_read_below_a_key_or_not(plain, tensors, tmp_path, under, prefix):
    path = save(tmp_path / "x.pth", short(tensors), under=under, prefix=prefix)
    assert_equal(jaxseg.load(path), plain)
    if prefix == "":
        card = card_of(jaxseg.convert(path, tmp_path / "model"))
        assert (card.source, len(card.source_sha256), card.model) == ("x.pth", 64, "paxray")


def test_misfits_of_the_short_layout_are_listed_under_the_long_names(tensors, tmp_path):
    broken = short(tensors) | {"backbone.layer0.0.weight": np.zeros((4, 3, 5, 5), np.float32)}
    with pytest.raises(ValueError, match=r"mis-shaped  backbone.backbone.layer0.0.weight: \(4, 3, 5, 5\)"):
        jaxseg.load(save(tmp_path / "x.pth", broken))


def test_a_mixture_of_both_layouts_is_refused(tensors, tmp_path):
    mixed = {name: array for name, array in short(tensors).items() if ".layer0." in name} | {
        name: array for name, array in tensors.items() if ".layer0." not in name
    }
    with pytest.raises(ValueError, match="none of the models"):
        jaxseg.load(save(tmp_path / "x.pth", mixed))


@pytest.mark.slow
@pytest.mark.parametrize("rename", [dict, short], ids=["long", "short"])
def test_a_safetensors_file_of_another_program_is_read_like_a_pytorch_file(plain, tensors, tmp_path, rename):
    path = tmp_path / "other.safetensors"
    counted = rename(tensors) | {"head.up2.conv.double_conv.1.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(counted, path, {"format": "pt"})
    for model in (jaxseg.load(path), jaxseg.load("paxray", path), jaxseg.load("paxray", weights=str(path))):
        assert_equal(model, plain)
        assert (model.card.source, model.card.model, len(model.card.source_sha256)) == (
            "other.safetensors",
            "paxray",
            64,
        )
        assert model.card.licence.startswith("not stated")
    assert read_tensors(path).keys() == counted.keys()
    with pytest.raises(ValueError, match="has the 166 classes of model 'paxray', not those of 'cxas'"):
        jaxseg.load("cxas", path)


@pytest.mark.slow
def test_half_precision_is_read_into_float32(tensors, tmp_path):
    from jaxseg.weights.safetensors import write_arrays

    path = tmp_path / "half.safetensors"
    write_arrays(path, {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()})
    kernel = jaxseg.load(path).classify.kernel[...]
    assert kernel.dtype == np.float32
    wanted = tensors["head.out.conv.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(kernel, wanted.transpose(2, 3, 1, 0))


def test_whole_numbers_are_no_weights(tensors, tmp_path):
    path = tmp_path / "whole.safetensors"
    safetensors.numpy.save_file(tensors | {"head.out.conv.bias": np.zeros(166, np.int8)}, path)
    with pytest.raises(ValueError, match="1 problems[^$]*not decimal head.out.conv.bias: int8"):
        jaxseg.load(path)


@pytest.mark.slow
def test_a_file_with_a_card_needs_no_name(plain, tensors, tmp_path):
    source = save(tmp_path / "x.pth", tensors)
    path = jaxseg.convert(source, tmp_path / "x.safetensors", class_names=[f"class {i}" for i in range(166)])
    assert choose_model(None, path) == (path, None)
    assert choose_model("paxray", path) == ("paxray", path)
    assert choose_model(None, source) == ("cxas", source)
    model = jaxseg.load(path)
    assert_equal(model, plain)
    assert (model.card.class_names[165], model.card.source) == ("class 165", "x.pth")
    assert jaxseg.load(path, dtype="bfloat16").cfg.dtype == "bfloat16"
    assert jaxseg.load(path, class_names=list(map(str, range(166)))).card.class_names[5] == "5"
    with pytest.raises(ValueError, match="holds a 'paxray' model, not 'cxas'"):
        jaxseg.load("cxas", path)
    with pytest.raises(ValueError, match="holds a 'paxray' model, not 'cxas'"):
        jaxseg.convert(path, tmp_path / "model", model="cxas")
    mask = np.asarray(jaxseg.segment(np.zeros((40, 30), np.uint8), path).masks)  # a predictor takes the path, too
    assert mask.shape == (166, 40, 30)


def test_files_with_the_wrong_suffix_say_so(tensors, tmp_path):
    path = save(tmp_path / "x.safetensors", tensors)
    for read in (jaxseg.load, read_tensors, card_of):
        with pytest.raises(ValueError, match="x.safetensors is not a safetensors file, or is damaged: its header"):
            read(path)
    safetensors.numpy.save_file(tensors, tmp_path / "y.pth")
    with pytest.raises(ValueError, match="is a safetensors file, not one of torch.save: jaxseg.load reads"):
        jaxseg.load(tmp_path / "y.pth")


def run(*words) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


@pytest.mark.slow
def test_convert_and_models_from_the_command_line(plain, tensors, tmp_path, capsys):
    source = save(tmp_path / "x.pth", tensors)
    assert run("convert", source, tmp_path / "a.safetensors") == 0
    out = capsys.readouterr().out
    assert "model paxray, 166 classes, from x.pth; licence of the weights: not stated" in out
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "model") == 0
    assert run("convert", tmp_path / "model", tmp_path / "b.safetensors") == 0
    assert_equal(jaxseg.load(tmp_path / "b.safetensors"), plain)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    capsys.readouterr()
    assert run("convert", source, tmp_path / "a.safetensors") == 1
    assert "a.safetensors exists; name a new place, or replace" in capsys.readouterr().err
    assert run("convert", source, tmp_path / "a.safetensors", "--overwrite") == 0
    capsys.readouterr()
    assert run("models", tmp_path / "a.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["num_classes"] == 166


def test_models_of_a_file_without_a_card_is_an_error(tmp_path, tensors, capsys):
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_text("nothing")
    for name, words in (("x", "is a file without a card"), ("y", "is not a safetensors file, or is damaged")):
        assert run("models", tmp_path / f"{name}.safetensors") == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
