"""Masks are shown in the right place at every size, with a complete and legible legend."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import jaxseg
from jaxseg.datasets import phantom
from jaxseg.draw import visualize as module
from jaxseg.draw.pictures import BACKGROUND
from jaxseg.draw.visualize import PREVIEW_CLASSES, preview, preview_classes, visualize
from jaxseg.images.read import read_picture
from jaxseg.masks.read import LoadedMasks, open_masks
from jaxseg.masks.segmentation import Segmentation
from jaxseg.palette import class_colours
from jaxseg.vocabulary import labels

IMAGE = np.full((100, 80), 60, np.uint8)


def disc(row=50, column=40, radius=20, shape=IMAGE.shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def legend_of(page: Image.Image, picture_width: int) -> np.ndarray:
    return np.asarray(page)[:, picture_width:]


def has(pixels: np.ndarray, colour) -> bool:
    return bool((pixels == np.asarray(colour)).all(axis=-1).any())


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(5, 60), st.integers(5, 60)),
    st.tuples(st.integers(3, 200), st.integers(3, 200)),
    st.integers(0, 999),
)
def test_a_scaled_mask_has_the_place_of_the_mask(size, target, seed):
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, side)) for side in size)
    mask = np.zeros(size, bool)
    mask[top : top + rng.integers(1, size[0]), left : left + rng.integers(1, size[1])] = True
    part = module._scaled(mask, target)
    shown = np.zeros(target, bool)
    shown[part.box] = part.inside
    assert shown.any()
    for axis, (old, new) in enumerate(zip(size, target, strict=True)):
        true = np.flatnonzero(mask.any(axis=1 - axis)) / old
        seen = np.flatnonzero(shown.any(axis=1 - axis)) / new
        slack = 1 / new + 0.5 / old
        assert true[0] - slack <= seen[0] <= true[0] + slack + 0.5 / old
        assert true[-1] + 1 / old - slack <= seen[-1] + 1 / new + 0.5 / old
        assert seen[-1] + 1 / new <= true[-1] + 1 / old + slack


@pytest.mark.parametrize(("side", "shown"), [(64, 768), (512, 1024), (768, 768), (1600, 1600), (2000, 1600)])
def test_small_images_are_enlarged_by_a_whole_number_and_large_ones_reduced(side, shown):
    image = np.zeros((side // 2, side), np.uint8)
    page = visualize(image, np.zeros((1, side // 2, side), bool), sides=False)
    assert page.size == (shown, max(shown // 2, 240))


def test_the_width_is_that_of_the_picture_without_the_legend():
    page = visualize(IMAGE, disc(), width=160, sides=False, labels=["heart"])
    assert page.height == 240
    picture = np.asarray(page)[:200, :160]
    (colour,) = class_colours(["heart"])
    assert has(picture, colour)
    assert not has(np.asarray(page)[200:, :160], colour)


def test_fill_contour_and_image_are_in_their_places():
    page = np.asarray(visualize(IMAGE, disc(), alpha=0.5, sides=False, width=80))
    colour = class_colours(["class_000"])[0].astype(int)
    assert page[50, 40].tolist() == np.rint((60 + colour) / 2).astype(int).tolist()
    assert page[50, 20].tolist() == colour.tolist()
    assert page[50, 18].tolist() == [60, 60, 60]
    np.testing.assert_array_equal(page[:20, :80], np.full((20, 80, 3), 60))


def test_the_legend_lists_non_empty_classes_in_their_colours_beside_the_picture():
    masks = np.stack([disc(), np.zeros_like(IMAGE, bool), disc(20, 20, 8)])
    named = visualize(IMAGE, masks, labels=["heart", "liver", "lung"], sides=False)
    colours = class_colours(["heart", "liver", "lung"])
    legend = legend_of(named, 640)
    assert [has(legend, colour) for colour in colours] == [True, False, True]
    bare = visualize(IMAGE, masks, labels=["", "", ""], colors=colours, sides=False)
    np.testing.assert_array_equal(np.asarray(named)[:, :640], np.asarray(bare)[:, :640])


def texts(monkeypatch) -> list[str]:
    """Returns a list that receives the texts of all pictures drawn from now on."""
    written = []
    original = module.ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **options):
        written.append(text)
        return original(self, xy, text, *args, **options)

    monkeypatch.setattr(module.ImageDraw.ImageDraw, "text", text)
    return written


def test_empty_classes_are_listed_only_if_they_were_named(monkeypatch):
    written = texts(monkeypatch)
    masks = np.stack([disc(), np.zeros_like(IMAGE, bool)])
    visualize(IMAGE, masks, labels=["heart", "liver"], sides=False)
    visualize(IMAGE, masks, labels=["heart", "liver"], sides=False, classes="all")
    assert written == ["heart", "heart"]
    written.clear()
    visualize(IMAGE, masks, labels=["heart", "liver"], sides=False, classes="heart, liver")
    assert written == ["heart", "not found:", "liver"]


def test_sides_and_title_are_optional(monkeypatch):
    written = texts(monkeypatch)
    visualize(IMAGE, disc(), labels=["heart"], title="A title")
    assert sorted(written) == ["A title", "L", "R", "heart"]
    right, left = (np.asarray(visualize(IMAGE, disc(), sides=on)).astype(int) for on in (True, False))
    rows, columns = np.nonzero(np.abs(right - left).sum(axis=-1))
    assert rows.min() > 500
    assert set(columns // 320) == {0, 1}
    assert not set(columns) & set(range(100, 540))


def cxas_masks(size=IMAGE.shape) -> LoadedMasks:
    rng = np.random.default_rng(0)
    masks = np.stack([disc(rng.integers(20, 80), rng.integers(20, 60), 9, size) for _ in labels.CXAS])
    return LoadedMasks.of(labels.CXAS, masks)


@pytest.mark.slow
def test_all_159_names_are_in_the_legend_of_a_large_picture(monkeypatch):
    written = texts(monkeypatch)
    page = visualize(np.zeros((1024, 1024), np.uint8), cxas_masks((1024, 1024)), classes="all")
    assert set(labels.CXAS) <= set(written)
    assert page.width < 2 * 1024


def test_a_legend_without_room_reports_how_many_classes_it_leaves_out(monkeypatch):
    written = texts(monkeypatch)
    page = visualize(np.zeros((300, 300), np.uint8), cxas_masks((300, 300)), classes="all", width=300, sides=False)
    listed = [text for text in written if text in labels.CXAS]
    assert len(set(listed)) == len(listed) >= 10
    assert f"and {159 - len(listed)} more" in written
    assert page.width <= 300 + 0.8 * 300 + 1


def test_a_choice_of_many_cxas_classes_is_shown_by_default(monkeypatch):
    written = texts(monkeypatch)
    by_default = preview(IMAGE, cxas_masks())
    assert [text for text in written if text in labels.CXAS] == list(PREVIEW_CLASSES)
    assert "17 of 159 classes" in written
    asked = visualize(IMAGE, cxas_masks(), classes=[f"label:{name}" for name in PREVIEW_CLASSES])
    assert asked.size == by_default.size
    assert set(PREVIEW_CLASSES) <= set(labels.CXAS)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (labels.CXAS, PREVIEW_CLASSES),
        (labels.CXAS[:30], labels.CXAS[:30]),
        (labels.CXAS[36:80], labels.CXAS[36:80]),  # none of the choice is among them
        (labels.numbered(159), labels.numbered(159)),
    ],
)
def test_classes_shown_by_default(names, expected):
    assert preview_classes(names) == tuple(expected)


def test_a_colour_belongs_to_its_class_whichever_classes_are_shown():
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    masks = np.stack([disc(20), disc(50), disc(80)])
    page = np.asarray(visualize(IMAGE, masks, labels=list("abc"), classes="b", colors=colors, sides=False))
    assert has(page, colors[1])
    assert not has(page, colors[0])
    assert not has(page, colors[2])


def test_all_kinds_of_images_and_masks_give_the_same_picture(tmp_path):
    image, masks = phantom.draw(0, 64)
    Image.fromarray(image).save(tmp_path / "image.png")
    np.save(tmp_path / "masks.npy", masks)
    names = list(phantom.CLASSES)
    expected = np.asarray(visualize(image, masks, labels=names))
    picture = read_picture(tmp_path / "image.png")
    segmentation = Segmentation(phantom.CLASSES, tuple(range(6)), (64, 64), np.packbits(masks, axis=2))
    for given_image, given_masks, given_labels in (
        (str(tmp_path / "image.png"), str(tmp_path / "masks.npy"), names),
        (picture, masks.astype(np.uint8), names),
        (np.repeat(image[..., None], 3, axis=2), masks.astype(np.float32), names),
        (image, LoadedMasks.of(phantom.CLASSES, masks), None),
        (image, LoadedMasks.of(labels.numbered(6), masks), names),
        (image, segmentation, None),
        (image, open_masks(tmp_path / "masks.npy"), names),
    ):
        shown = jaxseg.visualize(given_image, given_masks, labels=given_labels)
        np.testing.assert_array_equal(np.asarray(shown), expected)


def test_the_given_arrays_are_not_changed():
    image, masks = IMAGE.copy(), disc()
    visualize(image, masks)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(masks, disc())


def test_empty_masks_need_no_legend():
    page = visualize(np.zeros((768, 768), np.uint8), np.zeros((2, 768, 768), bool))
    assert page.size == (768, 768)


def test_the_page_is_dark_around_a_wide_picture():
    page = np.asarray(visualize(np.full((10, 1000), 255, np.uint8), disc(5, 5, 3, (10, 1000)), sides=False))
    assert page[-1, 0].tolist() == list(BACKGROUND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((1, 80, 100), bool)}, "the masks are 80 x 100, but the image is 100 x 80"),
        ({"masks": np.full((1, 100, 80), 2)}, "masks must be 0 and 1, got other values in int64"),
        ({"masks": np.full((1, 100, 80), 0.3)}, "masks must be 0 and 1, got other values in float64"),
        ({"masks": np.zeros(3)}, r"masks must be \(K, H, W\) or \(H, W\), got \(3,\)"),
        ({"labels": ["a", "b"]}, "1 masks need as many labels, got 2"),
        ({"labels": "heart"}, "labels must be a list of strings"),
        ({"classes": "hart", "labels": ["heart"]}, "unknown class 'hart'; did you mean 'heart'"),
        ({"colors": np.zeros((2, 3), int)}, r"colors must be \(1, 3\)"),
        ({"alpha": -0.1}, "alpha must be from 0 to 1, got -0.1"),
        ({"width": 10}, "width must be from 64 to 4096 pixels, got 10"),
        ({"image": np.zeros((3, 4, 5), np.uint8)}, r"image must be uint8"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"image": IMAGE, "masks": disc()} | change
    with pytest.raises(ValueError, match=message):
        visualize(**arguments)
