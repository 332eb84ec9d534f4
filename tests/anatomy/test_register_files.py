"""Registering folders: the original's files, failures, resuming, changed settings, and references built from images."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from vertebra_model import vertebra_model

import jaxseg
from jaxseg.anatomy.orientation import ANGLES, Reference
from jaxseg.anatomy.register import Registrar
from jaxseg.datasets import phantom
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import read_picture

LANDMARKS = ((10.0, 8.0), (12.0, 25.0))
ENDS = {"registered": "registered.png", "metadata": "metadata.json", "affine": "affine.txt"}
ENDS |= {"registered_mask": "registered_mask.npy", "registered_preview": "registered.preview.jpg"}


@pytest.fixture(scope="module")
def model(shallow):
    return vertebra_model()


@pytest.fixture(scope="module")
def reference():
    features = np.random.default_rng(0).random((5, 32), np.float32)
    return Reference(features[:2], features[1:], LANDMARKS, "b" * 64)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(("one.png", "two.png")):
        Image.fromarray(phantom.draw(i, 48)[0]).save(folder / name)
    (folder / "bad.png").write_bytes(b"not an image")
    return folder


@pytest.mark.slow
def test_a_folder_is_registered_into_the_originals_files_and_resumes(model, reference, images, tmp_path):
    out, seen = tmp_path / "out", []
    registrar = Registrar(model, reference=reference, correction=False, masks=True)
    options = {"save_masks": True, "preview": True}
    result = jaxseg.register_folder(images, out, registrar, report=seen.append, **options)
    assert (result.done, result.failed, len(seen)) == (2, 1, 3)
    assert "not a png or jpg file" in result.files[0].reason
    entry = json.loads((out / "summary.json").read_text())["files"]["one"]
    found = jaxseg.register(images / "one.png", registrar)
    for kind, end in ENDS.items():
        assert result.files[1].outputs[kind] == out / f"one_{end}"
        assert (out / f"one_{end}").is_file()
    with Image.open(out / "one_registered.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), found.image)
    np.testing.assert_array_equal(np.loadtxt(out / "one_affine.txt"), found.matrix)
    masks = np.load(out / "one_registered_mask.npy")
    assert (masks.dtype, masks.shape) == (np.dtype(bool), (5, 48, 48))
    np.testing.assert_array_equal(masks[2], found.masks.mask(2))
    assert json.loads((out / "one_metadata.json").read_text()) == found.metadata
    assert entry["registration"] == {"matrix": found.matrix.tolist(), "reason": found.reason}
    again = jaxseg.register_folder(images, out, registrar, **options)
    assert (again.done, again.skipped, again.failed) == (0, 2, 1)
    other = dataclasses.replace(reference, landmarks=((1.0, 2.0), (3.0, 40.0)))
    changed = Registrar(model, reference=other, correction=False, masks=True)
    with pytest.raises(ValueError, match="made with other settings: reference"):
        jaxseg.register_folder(images, out, changed, **options)


@pytest.mark.slow
def test_an_image_without_t4_is_written_unmoved_with_the_reason(model, reference, images, tmp_path):
    (images / "bad.png").unlink()
    empty = vertebra_model(T4=-100)
    result = jaxseg.register_folder(images, tmp_path / "out", empty, reference=reference, correction=False)
    assert (result.done, result.failed) == (2, 0)
    assert result.files[0].notes == ("one.png: not registered: T4 was not found",)
    with Image.open(tmp_path / "out" / "one_registered.png") as picture, Image.open(images / "one.png") as before:
        np.testing.assert_array_equal(np.asarray(picture)[..., 0], np.asarray(before))
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "out" / "one_affine.txt"), np.eye(2, 3))
    assert json.loads((tmp_path / "out" / "one_metadata.json").read_text())["registration_success"] is False
    entry = json.loads(result.summary.read_text())["files"]["one"]["registration"]
    assert entry == {"matrix": np.eye(2, 3).tolist(), "reason": "T4 was not found"}


def test_the_folder_of_the_images_is_refused_as_output(model, images):
    with pytest.raises(ValueError, match="holds the images themselves; name another folder"):
        jaxseg.register_folder(images, images, model)


@pytest.mark.slow
def test_a_reference_is_built_from_a_folder_and_leaves_out_what_cannot_be_read(model, images):
    seen, steps = [], []
    masks = [np.unpackbits(jaxseg.segment(images / name, model).bits, axis=2) for name in ("one.png", "two.png")]
    centres = np.mean([[np.argwhere(mask).mean(axis=0)[::-1] for mask in found[:2]] for found in masks], axis=0)
    found = jaxseg.build_reference(images, model, report=seen.append, progress=lambda *step: steps.append(step))
    assert [outcome.item.source.name for outcome in seen if outcome.error] == ["bad.png"]
    assert (steps[0], steps[-1]) == ((0, 3, ""), (3, 3, "two.png"))
    assert (found.images, found.weights_sha256) == (2, "b" * 64)
    np.testing.assert_allclose(found.landmarks, centres)
    full = vertebra_model(T4=100, T10=100)  # both masks fill the grid
    assert jaxseg.build_reference(images / "one.png", full).landmarks is None
    x = cxas(read_picture(images / "one.png"), (64, 64))
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True, deterministic=True))
    pooled = jax.jit(lambda state, x: nnx.merge(graphdef, state).pooled(x))
    want = pooled(state, np.stack([np.rot90(x, angle // 90) for angle in ANGLES]))
    np.testing.assert_allclose(found.rotations, want, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.colours[0], found.rotations[0])
    assert jaxseg.build_reference(images / "one.png", vertebra_model(T4=-100)).landmarks is None
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        jaxseg.build_reference(images, model, files=[images / "bad.png"])
