"""Folders segmented into one file: mean probabilities, resuming, and results that are iterated over."""

import dataclasses
import json

import numpy as np
import pandas
import pytest
from PIL import Image

import jaxseg
from jaxseg.anatomy.segment import Segmenter

KINDS = {"coco-lines": "masks.jsonl", "parquet": "masks.parquet"}


@pytest.fixture(scope="module")
def model():
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    return model


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one.png", "two.png", "three.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def threshold(model):
    """Returns a threshold that half of the pixels of a class exceed in the image one.png; the weights are random."""
    image = np.random.default_rng(len("one.png")).integers(0, 256, (40, 30), np.uint8)
    return float(np.median(Segmenter(model, probabilities=True)(image).scores[0]))


def means_of(path) -> dict[tuple[str, str], float]:
    """Returns the mean probability by (image, class)."""
    if path.suffix == ".parquet":
        found = pandas.read_parquet(path).dropna(subset=["class"])
        return {(row["image"], row["class"]): row["mean_probability"] for row in found.to_dict("records")}
    head, *images = [json.loads(line) for line in path.read_text().splitlines()]
    names = {category["id"]: category["name"] for category in head["categories"]}
    return {
        (line["image"]["file_name"], names[one["category_id"]]): one.get("score")
        for line in images
        for one in line["annotations"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_probability_in_each_mask_is_written(model, threshold, images, tmp_path, kind):
    result = jaxseg.segment_folder(images, tmp_path / "out", model, output_type=kind, threshold=threshold)
    assert [path.name for path in result.merged] == [KINDS[kind]]
    found = means_of(tmp_path / "out" / KINDS[kind])
    whole = Segmenter(model, threshold=threshold, probabilities=True)
    wanted, shares = {}, []
    for file in result:
        assert file.outputs[kind] == tmp_path / "out" / KINDS[kind]
        masks = whole(file.source)
        assert masks.source == file.source
        for k, name in enumerate(masks.names):
            inside = np.unpackbits(masks.bits[k], axis=1).view(bool)
            shares.append(inside.mean())
            if inside.any():
                wanted[file.source.name, name] = float(masks.scores[k][inside].mean())
    assert any(0.4 < share < 0.6 for share in shares)
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"mean_probabilities": True}, {"probabilities": True}, {"confidence": True}])
def test_a_segmenter_that_is_given_decides_about_the_mean_probability(model, threshold, images, tmp_path, options):
    """As the docstring of `segment_folder` says."""
    segmenter = Segmenter(model, threshold=threshold, **options)
    jaxseg.segment_folder(images, tmp_path / "out", segmenter, output_type="parquet")
    found = pandas.read_parquet(tmp_path / "out" / "masks.parquet").dropna(subset=["class"])
    assert len(found) > 0
    assert found["mean_probability"].notna().all() == bool(options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_probability_is_unknown_if_masks_were_changed_afterwards(model, images, tmp_path, kind):
    class Stripes:
        settings = {"stripes": True}

        def __call__(self, found):
            return [dataclasses.replace(masks, bits=np.full_like(masks.bits, 0xF0)) for masks in found]

    jaxseg.segment_folder(images, tmp_path / "out", model, output_type=kind, postprocess=Stripes())
    found = means_of(tmp_path / "out" / KINDS[kind])
    assert found
    assert all(value is None or np.isnan(value) for value in found.values())


def test_means_are_computed_on_request_only_and_are_nan_for_empty_masks(model):
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    assert Segmenter(model)(image).mean_probabilities is None
    found = Segmenter(model, mean_probabilities=True, threshold=0.0)(image)
    both = Segmenter(model, probabilities=True, threshold=0.0)(image)
    np.testing.assert_allclose(found.mean_probabilities, both.scores.mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found.mean_probabilities, both.mean_probabilities)
    assert found.rotated(1).mean_probabilities is found.mean_probabilities
    assert np.isnan(Segmenter(model, mean_probabilities=True, threshold=1.0)(image).mean_probabilities).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_and_the_file_completed(model, images, tmp_path, kind):
    output = tmp_path / "out"
    segmenter = Segmenter(model)
    with pytest.raises(KeyboardInterrupt):
        jaxseg.segment_folder(images, output, segmenter, output_type=kind, report=interrupt)
    found = jaxseg.segment_folder(images, output, segmenter, output_type=kind)
    assert (found.done + found.skipped, found.failed) == (3, 0)
    assert found.skipped >= 1
    whole = jaxseg.segment_folder(images, tmp_path / "other", segmenter, output_type=kind)
    assert means_of(output / KINDS[kind]).keys() == means_of(whole.files[0].outputs[kind]).keys()
    assert not list(output.glob(".jaxseg-*"))


def interrupt(outcome):
    raise KeyboardInterrupt


def test_a_single_image_and_chosen_classes(model, images, tmp_path):
    jaxseg.segment_folder(images / "one.png", tmp_path / "out", model, output_type="coco-lines", classes="lung")
    head = json.loads((tmp_path / "out" / "masks.jsonl").read_text().splitlines()[0])
    assert [(one["id"], one["name"]) for one in head["categories"]] == [(1, "lung")]
    with pytest.raises(ValueError, match="results made with other settings: classes"):
        jaxseg.segment_folder(images, tmp_path / "out", model, output_type="coco-lines")


def test_extract_stores_masks_beside_its_table(model, images, tmp_path):
    result = jaxseg.extract_folder(
        images, tmp_path / "out", "area", model, store_masks=True, output_type="parquet", table="parquet"
    )
    assert [path.name for path in result.merged] == ["images.parquet", "masks.parquet"]
    table = pandas.read_parquet(result.merged[0])
    assert table["filename"].tolist() == ["one.png", "three.png", "two.png"]
    assert table["heart_area"].dtype == float
    assert set(pandas.read_parquet(tmp_path / "out" / "masks.parquet")["image"]) == set(table["filename"])
