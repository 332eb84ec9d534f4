"""Segmentation from files to masks: the originals' goldens, classes, thresholds, batches, devices, arrays."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg.anatomy.segment import Segmenter
from jaxseg.images.read import ImageError
from jaxseg.masks.segmentation import Segmentation
from jaxseg.weights.store import save_model

FILES = ["gray8_png", "mono2_12bit_dcm"]


@pytest.fixture(scope="module")
def published(kit, tmp_path_factory):
    """Returns the network of the published size, from a `.pth` file as described by the kit."""
    from torch_writer import save

    path = tmp_path_factory.mktemp("weights") / "UNet_ResNet50_default.pth"
    save(path, kit.weights("cxas_unet_resnet50"), under="model", prefix="module.")
    return jaxseg.load("cxas", path)


@pytest.fixture(scope="module")
def tiny():
    model = jaxseg.create("cxas", class_names=("a", "b", "c"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    return model


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)


@pytest.mark.full
@pytest.mark.optimised
@pytest.mark.parametrize("name", FILES)
def test_files_give_the_originals_masks(kit, published, name):
    golden = f"cxas_end_to_end/{name}"
    entry, _ = kit.golden(golden)
    segmenter = Segmenter(published)
    path = kit.folder / entry["params"]["file"]
    prepared = segmenter.prepare(path)
    assert list(prepared.size) == entry["params"]["file_size"]
    apply, state = jaxseg.functional(published)
    logits = np.asarray(jax.jit(apply)(state, prepared.x[None]))
    kit.check(golden, "logits", logits.transpose(0, 3, 1, 2))
    kit.check(golden, "logits_class_mean", logits.mean((1, 2), dtype=np.float64))
    result = segmenter(path)
    kit.check(golden, "area_512", np.unpackbits(result.bits, axis=2).sum((1, 2)))
    kit.check(golden, "area_file", result.masks.sum((1, 2)))
    mask = np.unpackbits(result.bits, axis=2).astype(bool)
    sure = np.abs(logits[0].transpose(2, 0, 1)) >= 1e-4  # folding and rounding may flip the rest
    np.testing.assert_array_equal(mask[sure], (logits[0].transpose(2, 0, 1) > 0)[sure])


def test_masks_are_enlarged_as_in_the_original(kit):
    name = "cxas_output/resize_to_file_size"
    mask = kit.input(name, "mask")[0]
    for size in ((300, 415), (1024, 777), (2021, 1500)):
        result = Segmentation(("a",) * 4, (0, 1, 2, 3), size, np.packbits(mask, axis=2))
        key = f"{size[0]}x{size[1]}"
        kit.check(name, f"{key}_packed", np.packbits(result.masks[:2]))
        kit.check(name, f"{key}_area", result.masks.sum((1, 2)))
        np.testing.assert_array_equal(np.unpackbits(result.packed_mask(2), axis=1)[:, : size[1]], result.mask(2))


@pytest.mark.slow
def test_probabilities_agree_with_the_masks_at_every_threshold(tiny, picture):
    for threshold in (0.0, 0.3, 0.5, 1.0):
        result = jaxseg.segment(picture, tiny, threshold=threshold, probabilities=True)
        assert result.masks.shape == result.probabilities.shape == (3, 50, 70)
        near = np.abs(result.probabilities - threshold) < 1e-6
        np.testing.assert_array_equal(result.masks[~near], (result.probabilities > threshold)[~near])
    assert not result.masks.any()  # no probability exceeds 1
    with pytest.raises(ValueError, match="probabilities=True"):
        _ = jaxseg.segment(picture, tiny).probabilities


def test_selected_classes_equal_those_of_a_full_segmentation(tiny, picture):
    whole = jaxseg.segment(picture, tiny)
    part = jaxseg.segment(picture, tiny, classes="C, a")
    assert (part.names, part.indices) == (("a", "c"), (0, 2))
    np.testing.assert_array_equal(part.masks, whole.masks[[0, 2]])


def test_paths_and_arrays_give_the_same_masks(tiny, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "x.png")
    from_path = jaxseg.segment(tmp_path / "x.png", tiny)
    np.testing.assert_array_equal(from_path.masks, jaxseg.segment(picture, tiny).masks)
    np.testing.assert_array_equal(from_path.masks, jaxseg.segment(str(tmp_path / "x.png"), Segmenter(tiny)).masks)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 8])
def test_padding_batches_and_devices_change_nothing(tiny, count):
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (40 + i, 60), np.uint8) for i in range(count)]
    one = Segmenter(tiny)
    many = Segmenter(tiny, batch_size=8, devices=jax.devices()[:4])
    many.compile()
    results = many.predict([many.prepare(p) for p in pictures])
    for picture, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result.bits, one(picture).bits)
        assert result.size == picture.shape


def test_a_longer_run_compiles_once(tiny, picture):
    segmenter = Segmenter(tiny, batch_size=2)
    from jaxseg.nn import inference

    segmenter.predict([segmenter.prepare(picture)])
    before = inference._run._cache_size()
    segmenter.predict([segmenter.prepare(picture)] * 2)
    Segmenter(tiny, batch_size=2).predict([segmenter.prepare(picture)])
    assert inference._run._cache_size() == before


def test_later_changes_of_the_model_affect_the_next_segmentation(picture):
    model = jaxseg.create("cxas", class_names=("a",), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    model.classify.bias.set_value(model.classify.bias[...] + 100)
    assert jaxseg.segment(picture, model).masks.all()
    model.classify.bias.set_value(model.classify.bias[...] - 200)
    assert not jaxseg.segment(picture, model).masks.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"classes": "hart"}, "unknown class 'hart'"),
        ({"preprocessing": "none"}, "unknown preprocessing 'none'; known: cxas"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_wrong_options_are_named(tiny, options, words):
    with pytest.raises(ValueError, match=words):
        Segmenter(tiny, **options)


def test_options_of_a_segmenter_cannot_be_given_twice(tiny, picture):
    with pytest.raises(ValueError, match="threshold belong to the Segmenter"):
        jaxseg.segment(picture, Segmenter(tiny), threshold=0.1)


@pytest.mark.slow
def test_a_model_is_named_by_its_path_and_its_options_are_checked_first(tiny, picture, tmp_path):
    path = save_model(tiny, tmp_path / "model", tiny.card)
    assert jaxseg.segment(picture, path, classes=lambda names: names[:2]).names == ("a", "b")
    with pytest.raises(ValueError, match="unknown option clases; did you mean classes?"):
        jaxseg.segment(picture, tmp_path / "missing", clases="a")
    with pytest.raises(ValueError, match="unknown option zoom; known: threshold, classes"):
        jaxseg.segment(picture, tiny, zoom=2)


def test_bad_arrays_are_refused(tiny):
    with pytest.raises(ImageError, match=r"got \(2, 3, 4, 5\)"):
        jaxseg.segment(np.zeros((2, 3, 4, 5), np.uint8), tiny)
