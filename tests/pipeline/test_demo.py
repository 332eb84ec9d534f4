"""The demo: which earlier folders it replaces, its damaged phantoms, and the shapes that its Post-DAE learns."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.datasets import phantom
from jaxseg.pipeline import demo


@pytest.fixture(scope="module")
def veil():
    image, masks = phantom.draw(1, 128)
    return image, masks[0], demo.veiled(image, masks[0], 3)


def test_the_veil_is_bright_and_hides_only_a_part_of_one_lung(veil):
    image, lung, damaged = veil
    changed = np.abs(damaged.astype(int) - image) > 25
    assert 0.1 < changed[lung].mean() < 0.9
    other = phantom.draw(1, 128)[1][1]
    assert changed[other].mean() < 0.2
    assert damaged[changed & lung].mean() > image[changed & lung].mean() + 30


def test_the_veil_depends_only_on_its_seed(veil):
    image, lung, damaged = veil
    np.testing.assert_array_equal(demo.veiled(image, lung, 3), damaged)
    assert (demo.veiled(image, lung, 4) != damaged).any()


def test_damaged_phantoms_are_not_those_of_the_training_and_have_their_true_masks(tmp_path):
    paths, truths = demo.write_damaged(tmp_path / "damaged", 64)
    assert len(paths) == len(truths) == demo.COUNT
    for path, truth in zip(paths[:2], truths, strict=False):
        folder = tmp_path / "damaged" / "truth" / path.stem
        assert {file.stem for file in folder.iterdir()} == {"right lung", "left lung", "heart"}
        for name, mask in zip(demo.LUNGS, truth, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{name}.png")), mask)
    first = phantom.draw(demo.UNSEEN + demo.COUNT, 64)[1]
    np.testing.assert_array_equal(truths[0], first[[0, 1]])


def test_the_shapes_are_lungs_of_training_phantoms_and_the_steps_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SHAPE_COUNT", 3)
    config = demo.start_restoring(tmp_path, 5)
    assert config.trainer.max_steps == 5
    masks = [np.load(path) for path in sorted((tmp_path / "shapes").iterdir())]
    assert [mask.shape for mask in masks] == [(2, 64, 64)] * 3
    np.testing.assert_array_equal(masks[0], phantom.draw(config.seed, 64)[1][[0, 1]])
    (tmp_path / "other").mkdir()
    assert demo.start_restoring(tmp_path / "other", None).trainer.max_steps > 100


def test_an_earlier_demo_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "training").mkdir()
    with pytest.raises(ValueError, match="holds other things than an earlier demo"):
        demo.start(tmp_path, 1)
    (tmp_path / "training" / "config.yaml").write_text("task: phantom\n")
    for name in ("restoring", "pipeline", "damaged", "shapes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("x")
    demo.start(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
