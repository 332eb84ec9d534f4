"""Hyper-parameters of the autoencoder: the effect of each option, refused values, values derived from shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tiny_dae import SMALL, abstract, evaluation, masks, original_config, small

import jaxseg
from jaxseg.post_dae import model as dae
from jaxseg.post_dae.model import DAEConfig


@pytest.mark.parametrize("name", ["dae_tiny", "dae_small", "dae_512"])
def test_hyper_parameters_are_derived_from_the_shapes(kit, name):
    shapes = {key: array.shape for key, array in kit.weights(name).items()}
    given = original_config(kit, name)
    unread = (*given.intermediate[:-1], DAEConfig.intermediate[-1])  # the last number has no effect
    assert dae.DAE.config_from_shapes(shapes) == dataclasses.replace(given, intermediate=unread)


def test_wide_codes_are_derived_from_the_shapes():
    cfg = DAEConfig(image_size=(512, 512), features=(16, 32), decoder_features=(16, 16), strides=(2, 2))
    shapes = {
        "intermediate.inter_0.weight": (512, 128 * 128 * 32),
        "intermediate.inter_1.weight": (128 * 128 * 32, 512),
    }
    for i, (num_in, num_out) in enumerate([(1, 16), (16, 32)]):
        shapes[f"encode.encode_{i}.conv0.weight"] = (num_out, num_in, 3, 3)
    for i, num_in in enumerate([32, 16]):
        shapes[f"decode.decode_{i}.upconv0.weight"] = (num_in, 16, 3, 3)
    shapes["decode.decode_1.conv0.weight"] = (1, 16, 3, 3)
    assert dae.DAE.config_from_shapes(shapes) == cfg


@pytest.mark.parametrize(
    ("changed", "shape"),
    [
        ("intermediate.inter_0.weight", None),
        ("decode.decode_1.upconv0.weight", None),
        ("decode.decode_1.conv0.weight", None),
        ("decode.decode_1.conv0.weight", (1, 4)),
        ("encode.encode_1.conv0.weight", (6, 4)),
        ("intermediate.inter_1.weight", (96,)),
    ],
)
def test_tensors_of_another_network_are_not_an_autoencoder(kit, changed, shape):
    shapes = {key: array.shape for key, array in kit.weights("dae_tiny").items()}
    shapes = {key: shape if key == changed else value for key, value in shapes.items()}
    assert dae.DAE.config_from_shapes({key: value for key, value in shapes.items() if value is not None}) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"intermediate.inter_0.weight": (8, 72)}, "72 numbers of 6 channels, which is not a square image"),
        ({"encode.encode_1.conv0.weight": (0, 4, 3, 3)}, "96 numbers of 0 channels"),
        ({"intermediate.inter_0.weight": (8, 0)}, "0 numbers of 6 channels"),
        ({"decode.decode_1.upconv0.weight": (4, 3, 3, 3)}, "the last two must be equal"),
        ({"intermediate.inter_0.weight": (8, 6 * 5000**2)}, r"image_size\[0\]: must be from 8 to 8192, got 20000"),
    ],
)
def test_impossible_shapes_of_a_checkpoint_are_named(kit, changed, words):
    shapes = {key: array.shape for key, array in kit.weights("dae_tiny").items()}
    with pytest.raises(ValueError, match=words):
        dae.DAE.config_from_shapes(shapes | changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"in_channels": 3},
        {"out_channels": 4},
        {"image_size": (8, 64)},
        {"features": (9, 2)},
        {"decoder_features": (3, 3)},
        {"intermediate": (7, 5, 3, 9)},
        {"init": "lecun"},
        {"norm": "batch"},
        {"decoder_activation": "relu"},
        {"dtype": "bfloat16"},
        {"features": (4,) * 3, "decoder_features": (6, 5, 5), "strides": (2,) * 3},
    ],
    ids=lambda values: "-".join(values),
)
def test_every_option_gives_probabilities_of_the_masks_size(values):
    model = abstract(DAEConfig(**SMALL | values))
    answer = jax.eval_shape(*evaluation(model), masks(model.cfg, 3))
    assert (answer.shape, answer.dtype) == ((3, *model.cfg.image_size, model.cfg.num_classes), jnp.float32)
    assert len(model.intermediate) == len(model.cfg.intermediate)


def test_another_stride_gives_the_originals_size():
    model = abstract(DAEConfig(**SMALL | {"strides": (2, 3), "image_size": (36, 48)}))
    named = nnx.eval_shape(lambda model, x: model.features(x), model, masks(model.cfg))
    rows = [named[name].shape[1] for name in ("encode_0", "encode_1", "decode_0", "decode_1")]
    assert rows == [18, 6, 17, 34]  # (6 - 1) * 3 + 2, because the decoder uses the strides in reverse order


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"in_channels": 0}, "in_channels: must be from 1 to 1024, got 0"),
        ({"in_channels": (1,)}, r"in_channels: \[1\] is not a whole number"),
        ({"out_channels": True}, "out_channels: true is not a whole number"),
        ({"out_channels": 1.0}, "out_channels: 1.0 is not a whole number"),
        ({"image_size": [32, 48]}, r"image_size: \[32, 48\] is a list; give a tuple"),
        ({"image_size": 64}, "image_size: 64 is not a list"),
        ({"image_size": (4, 4)}, r"image_size\[0\]: must be from 8 to 8192, got 4\nimage_size\[1\]: must be from 8"),
        ({"image_size": (32, 50)}, r"image_size: \(32, 50\) must be two multiples of 4, the product of strides"),
        ({"image_size": (32, 48, 64)}, r"image_size: \[32, 48, 64\] has 3 entries, it needs 2"),
        ({"features": ()}, "have 0, 2 and 2 levels"),
        ({"features": (4, 0)}, r"features\[1\]: must be from 1 to 4096, got 0"),
        ({"features": (4, "6")}, r"features\[1\]: '6' is not a whole number"),
        (
            {"features": (4, 6, 8)},
            "features, decoder_features and strides: have 3, 2 and 2 levels; give the",
        ),
        ({"features": (4,), "decoder_features": (5,), "strides": (2,)}, "have 1, 1 and 1 levels.*at least 2"),
        ({"decoder_features": (5, 4)}, r"decoder_features: the last two must be equal.*got \(5, 4\)"),
        ({"decoder_features": (5000, 5000)}, r"decoder_features\[1\]: must be from 1 to 4096, got 5000"),
        ({"intermediate": (7,)}, r"intermediate: \(7,\) must be two or more"),
        ({"intermediate": (0, 1)}, r"intermediate\[0\]: must be from 1 to 65536, got 0"),
        ({"strides": (1, 2)}, r"strides\[0\]: must be from 2 to 8, got 1"),
        ({"strides": (2, 9)}, r"strides\[1\]: must be from 2 to 8, got 9"),
        ({"decoder_activation": "tanh"}, "decoder_activation: 'tanh' is not one of sigmoid, relu"),
        ({"norm": "layer"}, "norm: 'layer' is not one of none, batch"),
        ({"init": "zeros"}, "init: 'zeros' is not one of torch, lecun"),
        ({"dtype": "float16"}, "dtype: 'float16' is not one of float32, bfloat16"),
        ({"num_classes": 2}, "unknown hyper-parameter num_classes; known: in_channels, out_channels"),
    ],
)
def test_impossible_hyper_parameters_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.create("post_dae", **SMALL | values)


def test_all_impossible_hyper_parameters_are_named_at_once():
    with pytest.raises(ValueError, match=r"in_channels: must be .*\nfeatures: 3 .*\nnorm: 'x' is not one of"):
        DAEConfig(in_channels=0, features=3, norm="x")


@pytest.mark.parametrize("shape", [(32, 48, 1), (2, 48, 32, 1), (2, 32, 48, 3), (2, 64, 96, 1)])
def test_masks_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"masks must be \(B, 32, 48, 1\), got .*resizes"):
        small()(jnp.ones(shape))
