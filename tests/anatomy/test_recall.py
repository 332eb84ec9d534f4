"""Masks of an earlier run that are changed without the network: the same results, and when the network is needed."""

import numpy as np
import pytest
from PIL import Image
from pipeline_runs import NAMES, invert, write_models, write_phantoms

import jaxseg
from jaxseg.anatomy.recall import Recalled, RecallingSegmenter
from jaxseg.anatomy.segment import Segmenter
from jaxseg.post_dae import denoise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(plain, tmp_path_factory):
    folder = write_phantoms(tmp_path_factory.mktemp("recall"), 2)
    write_models(folder)
    small = np.asarray(Image.open(folder / "images" / "p0.png").resize((40, 40)))
    Image.fromarray(small).save(folder / "images" / "small.png")  # smaller than the network's input
    return folder


@pytest.fixture(scope="module")
def model(work):
    return jaxseg.load(work / "network")


@pytest.fixture
def restoring(work, monkeypatch):
    monkeypatch.setattr(denoise, "_forward", invert)
    return jaxseg.Denoiser(jaxseg.load(work / "shapes")).postprocess(["right lung", "heart"])


@pytest.mark.parametrize("kind", ["png", "npy", "json", "coco-lines"])
def test_the_masks_are_those_of_a_segmenter_that_changes_them(work, model, restoring, tmp_path, kind):
    segmenter = Segmenter(model)
    jaxseg.segment_folder(work / "images", tmp_path / "masks", segmenter, output_type=kind)
    recalling = RecallingSegmenter(model, tmp_path / "masks", restoring)
    images = sorted((work / "images").glob("*.png"))
    prepared = [recalling.prepare(path) for path in images]
    assert [isinstance(one, Recalled) for one in prepared] == [True, True, False]
    expected = Segmenter(model, postprocess=restoring)
    for path, one in zip(images, prepared, strict=True):
        found, wanted = recalling.predict([one])[0], expected(path)
        np.testing.assert_array_equal(found.masks, wanted.masks)
        assert (found.names, found.indices, found.size) == (wanted.names, wanted.indices, wanted.size)
        assert (found.notes, found.source, found.turned) == (wanted.notes, wanted.source, wanted.turned)
        before = segmenter(path)
        assert (found.mask(0) != before.mask(0)).mean() > 0.5  # the changes are large in this test
        np.testing.assert_array_equal(found.mask(1), before.mask(1))


def test_a_folder_gets_the_results_of_segment_with_denoise(work, model, restoring, tmp_path):
    jaxseg.segment_folder(work / "images", tmp_path / "masks", Segmenter(model, confidence=True))
    recalling = RecallingSegmenter(model, tmp_path / "masks", restoring)
    found = jaxseg.segment_folder(work / "images", tmp_path / "found", recalling)
    wanted = jaxseg.segment_folder(work / "images", tmp_path / "wanted", Segmenter(model, postprocess=restoring))
    assert (found.done, found.settings) == (3, wanted.settings)
    for image in ("p0", "p1", "small"):
        for name in NAMES:
            files = [tmp_path / folder / image / f"{name}.png" for folder in ("found", "wanted")]
            assert files[0].read_bytes() == files[1].read_bytes()


def test_images_and_masks_that_have_changed_need_the_network(work, model, restoring, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "c"):
        (images / f"{name}.png").write_bytes((work / "images" / "p0.png").read_bytes())
    jaxseg.segment_folder(images, tmp_path / "masks", Segmenter(model), output_type="npy")
    masks = np.load(tmp_path / "masks" / "b.npy")
    masks[0, ::2] ^= True  # no mask of the network's grid looks like this
    np.save(tmp_path / "masks" / "b.npy", masks)
    Image.fromarray(255 - np.asarray(Image.open(images / "c.png"))).save(images / "c.png")
    recalling = RecallingSegmenter(model, tmp_path / "masks", restoring)
    found = [isinstance(recalling.prepare(images / f"{name}.png"), Recalled) for name in ("a", "b", "c")]
    assert found == [True, False, False]
    assert not isinstance(recalling.prepare(np.zeros((96, 96), np.uint8)), Recalled)


def test_a_run_with_other_settings_or_no_run_is_refused(work, model, restoring, tmp_path):
    jaxseg.segment_folder(work / "images", tmp_path / "masks", Segmenter(model, threshold=0.4, classes="heart"))
    with pytest.raises(ValueError, match="other settings: threshold, classes"):
        RecallingSegmenter(model, tmp_path / "masks", restoring)
    with pytest.raises(ValueError, match="other settings: threshold"):
        RecallingSegmenter(model, tmp_path / "masks", restoring, classes="heart")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no results of jaxseg segment"):
        RecallingSegmenter(model, tmp_path / "empty", restoring)
