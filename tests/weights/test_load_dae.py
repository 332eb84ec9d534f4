"""Autoencoders of masks: the original's `.ckpt` files, model directories, their cards, and refused files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_writer import save

import jaxseg
from jaxseg import registry
from jaxseg.card import read_card
from jaxseg.weights.load import recognise
from jaxseg.weights.store import save_model
from jaxseg.weights.torch_file import read_torch_file

SMALL = {
    "image_size": (32, 48),
    "features": (4, 6),
    "decoder_features": (5, 5),
    "intermediate": (7, 9),
    "strides": (2, 2),
}


@pytest.fixture(scope="module")
def checkpoint(kit):
    return kit.folder / "files" / "checkpoints" / "dae_tiny_lightning.ckpt"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """The model directory of the checkpoint."""
    return jaxseg.convert(checkpoint, tmp_path / "model")


def answer(model, x) -> np.ndarray:
    apply, state = jaxseg.functional(model)
    return np.asarray(jax.jit(apply)(state, jnp.asarray(x)))


@pytest.mark.slow
def test_the_originals_checkpoint_gives_the_originals_answer(kit, checkpoint, folder):
    x = kit.input("dae_tiny/forward", "x").transpose(0, 2, 3, 1)
    for model in (jaxseg.load(checkpoint), jaxseg.load("post_dae", checkpoint), jaxseg.load(folder)):
        assert (model.card.model, model.card.source) == ("post_dae", "dae_tiny_lightning.ckpt")
        kit.check("dae_tiny/forward", "out", answer(model, x).transpose(0, 3, 1, 2))


def test_the_card_of_a_checkpoint_has_its_sizes_and_the_original_layout(checkpoint):
    card = jaxseg.load(checkpoint).card
    assert (card.preprocessing, card.input_size, card.class_names) == ("mask", (16, 16), ("class_000",))
    assert dict(card.config) == {
        "in_channels": 1,
        "out_channels": 1,
        "image_size": (16, 16),
        "features": (4, 6),
        "decoder_features": (4, 4),
        "intermediate": (8, 1024),
        "strides": (2, 2),
        "decoder_activation": "sigmoid",
        "norm": "none",
        "skips": False,
        "init": "torch",
        "dtype": "float32",
    }
    assert jaxseg.load(checkpoint, dtype="bfloat16").cfg.dtype == "bfloat16"


def test_an_autoencoder_is_recognised_by_its_tensors(checkpoint):
    assert recognise(read_torch_file(checkpoint), checkpoint) is registry.find("post_dae")


@pytest.mark.parametrize(("under", "prefix"), [("", ""), ("state_dict", "model."), ("model", "module.")])
def test_every_layout_in_the_wild_loads_the_same_autoencoder(kit, checkpoint, tmp_path, under, prefix):
    path = save(tmp_path / "x.pth", kit.weights("dae_tiny"), under=under, prefix=prefix)
    x = kit.input("dae_tiny/forward", "x").transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(answer(jaxseg.load(path), x), answer(jaxseg.load(checkpoint), x))


def test_other_weights_are_not_recognised_as_an_autoencoder(kit, tmp_path):
    path = save(tmp_path / "x.pth", kit.weights("scm_tiny"))
    with pytest.raises(
        ValueError, match=r"does not fit model 'post_dae': 100 problems[^$]*missing     encode.encode_0.conv0.weight"
    ):
        jaxseg.load("post_dae", path)


def test_all_misfits_are_listed_at_once(kit, tmp_path):
    broken = kit.weights("dae_tiny") | {"extra.weight": np.ones(2, np.float32)}
    broken["encode.encode_1.conv0.bias"] = np.ones(5, np.float32)
    del broken["decode.decode_0.upconv0.bias"]
    with pytest.raises(ValueError, match="3 problems") as error:
        jaxseg.load(save(tmp_path / "x.pth", broken))
    assert "missing     decode.decode_0.upconv0.bias  for decode.0.upconv.bias" in str(error.value)
    assert "mis-shaped  encode.encode_1.conv0.bias: (5,), the model needs (6,)" in str(error.value)
    assert "unexpected  extra.weight" in str(error.value)


def test_weights_that_are_not_finite_are_refused(kit, tmp_path):
    broken = kit.weights("dae_tiny")
    broken["intermediate.inter_0.bias"] = np.full(8, np.inf, np.float32)
    with pytest.raises(ValueError, match=r"intermediate\.0\.bias has values that are not finite"):
        jaxseg.load(save(tmp_path / "x.pth", broken))


@pytest.mark.parametrize("name", [None, "post_dae"])
def test_an_image_that_is_not_square_is_refused_with_what_to_do(kit, tmp_path, name):
    path = save(tmp_path / "wide.ckpt", kit.weights("dae_three_inter"), under="state_dict")
    with pytest.raises(
        ValueError, match=r"wide.ckpt: its code has 720 numbers of 12 channels.*with the right image_size"
    ):
        jaxseg.load(name, path) if name else jaxseg.load(path)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (5000, 4, 3, 3)])
def test_impossible_sizes_of_a_checkpoint_are_value_errors(kit, tmp_path, shape):
    broken = kit.weights("dae_tiny") | {"encode.encode_1.conv0.weight": np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match="x.pth: "):
        jaxseg.load(save(tmp_path / "x.pth", broken))


@pytest.mark.slow
def test_class_names_name_the_output_channels(kit, checkpoint, tmp_path):
    assert jaxseg.load(checkpoint, class_names=["lungs"]).card.class_names == ("lungs",)
    folder = jaxseg.convert(checkpoint, tmp_path / "named", class_names=["lungs"])
    assert jaxseg.load(folder).card.class_names == ("lungs",)
    for call in (
        lambda: jaxseg.load(checkpoint, class_names=["a", "b"]),
        lambda: jaxseg.load(folder, class_names="ab"),
    ):
        with pytest.raises(ValueError, match="1 classes; 2 different names|list of names"):
            call()
    model = jaxseg.create("post_dae", class_names=["right lung", "left lung"], in_channels=2, **SMALL)
    assert (model.cfg.out_channels, model.card.class_names) == (2, ("right lung", "left lung"))
    assert model(jnp.ones((1, 32, 48, 2))).shape == (1, 32, 48, 2)


def test_create_gives_the_original_layout_at_any_size():
    model = jaxseg.create(
        "post_dae", image_size=(64, 64), features=(8, 16, 16), decoder_features=(8,) * 3, strides=(2,) * 3
    )
    assert (model.card.input_size, model.card.preprocessing) == ((64, 64), "mask")
    assert (model.cfg.decoder_activation, model.cfg.norm) == ("sigmoid", "none")
    assert answer(model, np.ones((2, 64, 64, 1), np.float32)).shape == (2, 64, 64, 1)


@pytest.mark.parametrize("values", [{}, {"decoder_activation": "relu", "norm": "batch", "dtype": "bfloat16"}])
def test_a_model_directory_keeps_tuples_and_numbers(tmp_path, values):
    model = jaxseg.create("post_dae", seed=3, **SMALL | values)
    folder = save_model(model, tmp_path / "model", model.card)
    written = json.loads((folder / "card.json").read_text())
    assert written["config"]["image_size"] == written["input_size"] == [32, 48]
    card = read_card(folder)
    assert (card.config, card.input_size) == (model.card.config, (32, 48))
    again = jaxseg.load(folder)
    assert again.cfg == model.cfg
    arrays = [jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(one))) for one in (again, model)]
    jax.tree.map(np.testing.assert_array_equal, *arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image_size": [16, 18]}, r"image_size: \(16, 18\) must be two multiples of 4"),
        ({"image_size": 16}, "image_size: 16 is not a list"),
        ({"image_size": []}, r"image_size: \[\] has 0 entries, it needs 2"),
        ({"image_size": [16, 16.0]}, "config: must map names to words, numbers and lists of whole numbers"),
        ({"image_size": [16, True]}, "config: must map names"),
        ({"image_size": [[16, 16]]}, "config: must map names"),
        ({"image_size": {"height": 16}}, "config: must map names"),
        ({"image_size": None}, "config: must map names"),
        ({"image_size": [32, 32]}, "do not fit its card"),
        ({"features": [4, 4096]}, "do not fit its card"),
        ({"features": [10**30, 6]}, r"features\[0\]: must be from 1 to 4096, got 10+"),
        ({"strides": [2, 0]}, r"strides\[1\]: must be from 2 to 8, got 0"),
        ({"norm": "batch"}, "do not fit its card"),
        ({"norm": ["batch"]}, "config: must map names"),
        ({"out_channels": 2}, "names 1 classes, the model has 2"),
        ({"depth": 3}, "unknown hyper-parameter depth"),
    ],
)
def test_a_damaged_card_is_named(folder, changed, words):
    card = json.loads((folder / "card.json").read_text())
    card["config"] |= changed
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=words):
        jaxseg.load(folder)


def test_an_autoencoder_refuses_an_x_ray(checkpoint):
    model = jaxseg.load(checkpoint)
    for options in ({}, {"preprocessing": "cxas"}):
        with pytest.raises(ValueError, match="model 'post_dae' takes masks, not images; `jaxseg denoise`"):
            jaxseg.segment(np.zeros((20, 20), np.uint8), model, **options)
