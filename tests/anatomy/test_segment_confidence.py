"""Confidence, test-time augmentation, several models, shape checks and smooth edges of a Segmenter, and of folders."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from mask_models import Echo
from PIL import Image

import jaxseg
from jaxseg.anatomy import segment as module
from jaxseg.anatomy.segment import Segmenter
from jaxseg.masks.confidence import SCORES
from jaxseg.masks.segmentation import Orientation
from jaxseg.nn.metrics import dice

NAMES = ("right lung", "left lung", "heart")


def network(seed: int = 0):
    model = jaxseg.create("cxas", class_names=NAMES, backbone="resnet18", width=4, seed=seed)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    return model


@pytest.fixture(scope="module")
def model(plain):
    return network()


@pytest.fixture(scope="module")
def other(plain):
    return network(1)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        Image.fromarray(picture(len(name) + ord(name[0]))).save(folder / name)
    return folder


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 30), np.uint8)


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_the_options_the_program_and_the_answer_are_the_usual_ones(model, monkeypatch):
    monkeypatch.setattr(module, "ForwardWithConfidence", None)
    monkeypatch.setattr(module, "dice_of_copy", None)
    segmenter = Segmenter(model)
    assert segmenter(picture()).confidence is None
    assert segmenter.start([segmenter.prepare(picture())]).answer[1:] == (None, None, None)


def test_confidence_leaves_the_masks_and_is_in_the_order_of_the_classes(model):
    plain, found = Segmenter(model)(picture()), Segmenter(model, confidence=True)(picture())
    np.testing.assert_array_equal(found.bits, plain.bits)
    assert found.scores is None
    sure = found.confidence
    assert sure.names == NAMES
    np.testing.assert_array_equal(sure.pixels, np.unpackbits(plain.bits, axis=2).sum((1, 2)))
    probabilities = Segmenter(model, probabilities=True)(picture()).scores
    masks = np.unpackbits(plain.bits, axis=2).astype(bool)
    wanted = [p[mask].mean() for p, mask in zip(probabilities, masks, strict=True)]
    np.testing.assert_allclose(sure.mean_probability, wanted, rtol=1e-5)
    assert all(np.isnan(getattr(sure, name)).all() for name in SCORES[2:])
    part = Segmenter(model, confidence=True, classes="heart, left lung")(picture()).confidence
    np.testing.assert_allclose(part.mean_probability, sure.mean_probability[1:], rtol=1e-6)


def test_copies_of_the_image_give_the_same_agreement_every_time_and_for_any_batch_and_device(model):
    one, segmenter = Segmenter(model, tta=3), Segmenter(model, tta=3, batch_size=4, devices=jax.devices()[:2])
    many = segmenter.predict([segmenter.prepare(picture(seed)) for seed in range(3)])
    for seed, found in enumerate(many):
        again = one(picture(seed))
        np.testing.assert_array_equal(found.bits, again.bits)
        np.testing.assert_allclose(found.confidence.tta_agreement, again.confidence.tta_agreement, atol=1e-6)
        assert (found.confidence.tta_agreement < 1).all()
    few = Segmenter(model, tta=3, classes="left lung")(picture(0)).confidence
    np.testing.assert_allclose(few.tta_agreement, many[0].confidence.tta_agreement[1:2], atol=1e-6)


def test_several_models_segment_by_the_mean_of_their_probabilities(model, other):
    both = Segmenter([model, other], probabilities=True)(picture())
    each = [Segmenter(one, probabilities=True)(picture()) for one in (model, other)]
    np.testing.assert_allclose(both.scores, (each[0].scores + each[1].scores) / 2, atol=1e-6)
    masks = [np.unpackbits(one.bits, axis=2).astype(bool) for one in each]
    np.testing.assert_allclose(both.confidence.model_agreement, dice(*masks), rtol=1e-5)
    np.testing.assert_array_equal(jaxseg.segment(picture(), [model, other]).bits, both.bits)


def test_a_shape_check_compares_masks_with_restored_ones(model):
    denoiser = jaxseg.Denoiser(Echo(answer=lambda x: x[:, ::-1]))  # it turns masks upside down
    found = Segmenter(model, shape_check=denoiser.postprocess(["heart", "right lung"]))(picture())
    masks = np.unpackbits(found.bits, axis=2).astype(bool)
    wanted = dice(masks, masks[:, ::-1])
    np.testing.assert_allclose(found.confidence.shape_agreement[[0, 2]], wanted[[0, 2]], rtol=1e-6)
    assert np.isnan(found.confidence.shape_agreement[1])


def test_the_confidence_of_a_corrected_image_is_that_of_the_upright_one(model, monkeypatch):
    def upside_down(run, x, answer, reference, *, preprocessing, correct):
        *results, _ = run(np.ascontiguousarray(np.rot90(x, 2, axes=(1, 2))))
        return tuple(results), [Orientation(rotation=180, corrected=True)] * len(x)

    square = np.random.default_rng(3).integers(0, 256, (32, 32), np.uint8)  # the grid's size: nothing is resized
    upright = Segmenter(model, tta=2)(square)
    segmenter = Segmenter(model, tta=2)
    monkeypatch.setattr(module, "oriented", upside_down)
    segmenter.reference = object()
    found = segmenter(np.ascontiguousarray(np.rot90(square, 2)))
    np.testing.assert_array_equal(found.masks, np.rot90(upright.masks, 2, axes=(1, 2)))
    for name in ("mean_probability", "tta_agreement"):
        np.testing.assert_allclose(getattr(found.confidence, name), getattr(upright.confidence, name), rtol=1e-5)


def test_smooth_edges_cut_the_enlarged_probabilities(model):
    smooth = Segmenter(model, edges="smooth")(picture())
    plain = Segmenter(model)(picture())
    np.testing.assert_array_equal(smooth.bits, plain.bits)
    assert (smooth.masks != plain.masks).any()
    clear = np.abs(smooth.probabilities - 0.5) > 1e-6
    np.testing.assert_array_equal(smooth.masks[clear], (smooth.probabilities > 0.5)[clear])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edges": "round"}, "edges must be one of original, smooth, got 'round'"),
        ({"tta": -1}, "tta must be a whole number of copies"),
        ({"tta": 2, "postprocess": list}, "leave out confidence or postprocess"),
        ({"edges": "smooth", "postprocess": list}, "leave out edges or postprocess"),
        ({"probabilities": True, "confidence": True, "postprocess": list}, "leave out probabilities, confidence or"),
    ],
)
def test_impossible_options_are_refused(model, options, words):
    with pytest.raises(ValueError, match=words):
        Segmenter(model, **options)


@pytest.mark.parametrize("models", [[], ["no model", 3]])
def test_a_list_of_something_else_than_models_is_refused(models):
    with pytest.raises(ValueError, match="models from jaxseg.load or jaxseg.create are needed"):
        Segmenter(models)


def test_a_folder_gets_one_table_that_resumes_and_covers_all_sources(model, images, tmp_path):
    segmenter, out = Segmenter(model, tta=1, probabilities=True), tmp_path / "out"
    result = jaxseg.segment_folder(images, out, segmenter, output_type="npy")
    assert [path.name for path in result.merged] == ["confidence.csv"]
    assert set(result.files[0].outputs) == {"npy", "confidence", "probabilities"}
    first = rows(out / "confidence.csv")
    assert [(row["filename"], row["class"]) for row in first] == [(f, c) for f in ("one.png", "two.png") for c in NAMES]
    sure = segmenter(images / "one.png").confidence
    assert [float(row["tta_agreement"]) for row in first[:3]] == pytest.approx(sure.tta_agreement, abs=1e-4)
    assert [row["model_agreement"] for row in first] == [""] * 6
    with np.load(result.files[0].outputs["probabilities"]) as archive:
        assert archive["probabilities"].shape == (3, 32, 32)
    again = jaxseg.segment_folder(images, out, segmenter, output_type="npy")
    assert (again.done, again.skipped) == (0, 2)
    assert rows(out / "confidence.csv") == first
    Image.fromarray(picture(9)).save(tmp_path / "extra.png")
    jaxseg.segment_folder(tmp_path / "extra.png", out, segmenter, output_type="npy")
    assert [row["filename"] for row in rows(out / "confidence.csv")][::3] == ["extra.png", "one.png", "two.png"]
    (out / "one.confidence.json").unlink()
    assert jaxseg.segment_folder(images, out, segmenter, output_type="npy").done == 1


def test_measuring_a_folder_writes_the_same_confidence(model, other, images, tmp_path):
    several, out, options = [model, other], tmp_path / "out", {"tta": 1, "probabilities": True}
    jaxseg.segment_folder(images, tmp_path / "wanted", several, output_type="npy", **options)
    found = jaxseg.extract_folder(images, out, "area", several, **options)
    assert [path.name for path in found.merged] == ["images.csv", "confidence.csv"]
    assert rows(out / "confidence.csv") == rows(tmp_path / "wanted" / "confidence.csv")
    assert set(found.files[0].outputs) == {"measurements", "confidence", "probabilities"}
    with pytest.raises(ValueError, match="made with other settings: tta"):
        jaxseg.extract_folder(images, out, "area", several, tta=2)
    with pytest.raises(ValueError, match="made with other settings: classes"):
        jaxseg.extract_folder(images, out, "area", several, tta=1, classes="heart")


def test_a_failed_image_has_no_row(model, images, tmp_path):
    (images / "bad.png").write_bytes(b"not an image")
    result = jaxseg.segment_folder(images, tmp_path / "out", model, confidence=True, output_type="npy")
    assert result.failed == 1
    assert {row["filename"] for row in rows(tmp_path / "out" / "confidence.csv")} == {"one.png", "two.png"}


def test_results_of_other_settings_are_not_mixed(model, images, tmp_path):
    options, out = {"output_type": "npy"}, tmp_path / "out"
    jaxseg.segment_folder(images, out, model, tta=1, **options)
    jaxseg.segment_folder(images, out, model, **options)  # the masks depend on no copies
    for changed, name in (({"tta": 2}, "tta"), ({"edges": "smooth"}, "edges")):
        with pytest.raises(ValueError, match=f"made with other settings: {name}"):
            jaxseg.segment_folder(images, out, model, **changed, **options)
    summary = json.loads((out / "summary.json").read_text())
    del summary["settings"]["edges"]  # as earlier versions wrote it
    (out / "summary.json").write_text(json.dumps(summary))
    assert jaxseg.segment_folder(images, out, model, **options).skipped == 2
    del summary["settings"]["tta"]
    (out / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="made with other settings: edges"):
        jaxseg.segment_folder(images, out, model, edges="smooth", **options)


def test_a_foreign_table_is_not_replaced(model, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "confidence.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"confidence\.csv is in the way"):
        jaxseg.segment_folder(images, tmp_path / "out", model, confidence=True)
    assert (tmp_path / "out" / "confidence.csv").read_text() == "mine"
