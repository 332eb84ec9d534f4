"""Pictures of results: colours that differ, fills and contours where the masks are, sheets without overlaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from jaxseg.images import draw

GREY = np.full((40, 60), 100, np.uint8)


def square(top: int, left: int, side: int, shape: tuple[int, int] = GREY.shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_palette_has_no_two_colours_alike():
    colours = draw.palette(159)
    assert (colours.shape, colours.dtype) == ((159, 3), np.uint8)
    assert len(np.unique(colours, axis=0)) == 159


def test_palette_begins_with_okabe_ito():
    assert draw.palette(7).tolist() == [list(colour) for colour in draw._OKABE_ITO]


@pytest.mark.parametrize("num_classes", [0, 1, 7, 8, 9, 36, 200, 201])
def test_a_shorter_palette_starts_a_longer_one(num_classes):
    np.testing.assert_array_equal(draw.palette(num_classes), draw.palette(300)[:num_classes])


@pytest.mark.parametrize("eyes", [0, 1, 2], ids=["usual", "red-blind", "green-blind"])
@pytest.mark.parametrize(("num_classes", "least"), [(20, 0.07), (159, 0.02)])
def test_colours_stay_apart_for_the_colour_blind(eyes, num_classes, least):
    """In OKLab about 0.02 is just noticeable; Okabe and Ito's own seven are 0.079 apart for green-blind eyes."""
    seen = draw._oklab(draw.palette(num_classes))[:, eyes]
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(num_classes)
    assert apart.min() > least


def test_palette_can_be_changed_without_harm():
    draw.palette(3)[:] = 0
    assert draw.palette(3).any()


def test_colours_that_a_red_blind_reader_confuses_are_close_for_that_reader_only():
    red, green = draw._oklab(np.array([[255, 0, 0], [0, 127, 0]]))
    apart = np.linalg.norm(red - green, axis=-1)
    assert apart[0] > 0.35
    assert apart[1] < 0.6 * apart[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_pixels_outside_masks_are_untouched(seed, alpha):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    masks = rng.random((3, 17, 23)) > rng.random()
    before = image.copy()
    painted = draw.overlay(image, masks, alpha=alpha)
    outside = ~masks.any(axis=0)
    np.testing.assert_array_equal(painted[outside], image[outside])
    np.testing.assert_array_equal(image, before)


def test_fill_mixes_image_and_colour():
    colours = np.array([[200, 0, 40]], np.uint8)
    painted = draw.overlay(GREY, square(10, 10, 20)[None], alpha=0.25, colors=colours)
    assert painted.dtype == np.uint8
    assert painted[20, 20].tolist() == [125, 75, 85]


@pytest.mark.parametrize(("side", "width"), [(64, 1), (800, 2)])
def test_contour_is_inside_and_as_wide_as_the_image_asks(side, width):
    image = np.zeros((side, side), np.uint8)
    mask = square(20, 20, 24, image.shape)
    painted = draw.overlay(image, mask[None], alpha=0)
    contour = (painted == draw.palette(1)[0]).all(axis=-1)
    expected = mask & ~square(20 + width, 20 + width, 24 - 2 * width, image.shape)
    np.testing.assert_array_equal(contour, expected)


def test_contour_follows_the_inner_edge_of_a_hole():
    mask = square(5, 5, 30) & ~square(15, 15, 8)
    painted = draw.overlay(GREY, mask[None], alpha=0)
    assert painted[14, 18].tolist() == draw.palette(1)[0].tolist()
    assert painted[16, 18].tolist() == [100, 100, 100]


def test_a_small_class_stays_visible_on_a_large_one():
    colours = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    large, small = square(2, 2, 36), square(12, 12, 10)
    for masks, order in ((np.stack([small, large]), [1, 0]), (np.stack([large, small]), [0, 1])):
        painted = draw.overlay(GREY, masks, alpha=1, colors=colours[order])
        assert painted[16, 16].tolist() == [255, 255, 255]
        assert painted[6, 6].tolist() == [0, 0, 0]


def test_empty_classes_are_skipped():
    masks = np.stack([square(5, 5, 9), np.zeros_like(GREY, bool)])
    alone = draw.overlay(GREY, masks[:1], colors=draw.palette(2)[:1])
    np.testing.assert_array_equal(draw.overlay(GREY, masks), alone)
    nothing = draw.overlay(GREY, masks[1:], names=["heart"])
    np.testing.assert_array_equal(nothing, np.repeat(GREY[..., None], 3, axis=2))


def test_names_go_to_the_upper_corner_that_hides_less():
    image = np.zeros((128, 256), np.uint8)
    for left, listed in ((0, slice(128, None)), (196, slice(0, 128))):
        mask = square(0, left, 60, image.shape)
        plain, named = draw.overlay(image, mask[None]), draw.overlay(image, mask[None], names=["heart"])
        changed = np.flatnonzero((plain != named).any(axis=(0, 2)))
        assert changed.size
        assert set(changed) <= set(range(256)[listed])


def test_many_names_end_in_a_count_and_keep_the_shape():
    masks = np.stack([square(k, k, 5, (64, 64)) for k in range(40)])
    painted = draw.overlay(np.zeros((64, 64), np.uint8), masks, names=[f"class {k}" for k in range(40)])
    assert painted.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": GREY.astype(np.float32)}, r"image must be uint8 .* got float32 \(40, 60\)"),
        ({"image": GREY[None]}, r"image must be uint8 .* got uint8 \(1, 40, 60\)"),
        ({"image": [[1]]}, "image must be uint8 .* got int64"),
        ({"image": GREY[:0], "masks": np.zeros((1, 0, 60), bool)}, "image must have pixels"),
        ({"masks": np.zeros((2, 40, 60), np.uint8)}, "masks must be bool, got uint8; threshold"),
        ({"masks": np.zeros((40, 60), bool)}, r"masks must be .* the image's \(40, 60\), got \(40, 60\)"),
        ({"masks": np.zeros((2, 60, 40), bool)}, r"masks must be .* got \(2, 60, 40\)"),
        ({"names": ["one"]}, "names must be as many as the 2 masks, got 1"),
        ({"colors": draw.palette(3)}, r"colors must be \(2, 3\) integers from 0 to 255, got uint8 \(3, 3\)"),
        ({"colors": np.full((2, 3), 0.5)}, r"colors must be \(2, 3\) integers .* got float64"),
        ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
    ],
)
def test_overlay_refuses_what_does_not_fit(change, message):
    given_ = {"image": GREY, "masks": np.zeros((2, 40, 60), bool)} | change
    with pytest.raises(ValueError, match=message):
        draw.overlay(given_.pop("image"), given_.pop("masks"), **given_)


@pytest.mark.parametrize("num_classes", [-1, 1001])
def test_palette_refuses_counts_out_of_range(num_classes):
    with pytest.raises(ValueError, match=f"from 0 to 1000, got {num_classes}"):
        draw.palette(num_classes)


def sheet(rows=None, **changes):
    rows = rows if rows is not None else [[GREY, GREY], [GREY, GREY]]
    arguments = {"titles": ["image", "masks"], "legend": [("heart", (230, 159, 0))], "cell": 80} | changes
    return draw.contact_sheet(rows, **arguments)


def test_sheet_holds_its_columns_and_rows():
    one, two = sheet([[GREY, GREY]]), sheet()
    assert one.mode == "RGB"
    assert one.width == two.width == 2 * (80 + 12) + 12
    assert two.height - one.height == 80 + 12


def test_legend_and_caption_add_lines_of_their_own():
    bare, legend = sheet(legend=[]), sheet()
    captioned, long = sheet(caption="a word"), sheet(caption="a word " * 30)
    assert bare.height < legend.height < captioned.height < long.height
    top = bare.height - 12  # all that follows the grid is below it
    np.testing.assert_array_equal(np.asarray(bare)[:top], np.asarray(long)[:top])


def test_pictures_are_whole_centred_and_colour_keeps():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:] = (10, 200, 30)
    pixels = np.asarray(sheet([[picture]], titles=["x"], legend=[]))
    rows, columns = np.nonzero((pixels == (10, 200, 30)).all(axis=-1))
    assert (columns.min(), columns.max() + 1) == (12, 92)
    assert rows.max() + 1 - rows.min() == 40
    assert pixels.shape[0] - (rows.max() + 1) == 12 + 20


def test_sides_are_marked_in_the_lower_corners_only():
    pixels = [np.asarray(sheet([[GREY]], titles=["x"], legend=[], sides=sides)).astype(int) for sides in (False, True)]
    rows, columns = np.nonzero(np.abs(pixels[0] - pixels[1]).sum(axis=-1))
    middle = pixels[0].shape[1] // 2
    assert (columns < middle).any()
    assert (columns > middle).any()
    assert rows.min() > pixels[0].shape[0] - 12 - 80 / 2
    assert np.abs(columns - middle).min() > 20


def test_legend_lines_stay_inside_the_sheet_and_apart():
    font = ImageFont.load_default(size=16)
    legend = [(f"class number {k} " + "x" * k, (k, k, k)) for k in range(60)]
    entries, height = draw._flow(legend, font, 24, 300)
    assert len(entries) == 60
    ends = {}
    for text, _, x, y in entries:
        assert x >= ends.get(y, 12)
        assert x + 24 + font.getlength(text) <= 300 - 12 + 1
        assert y + 24 <= height
        ends[y] = x + 24 + font.getlength(text)


@given(st.text(alphabet="abc xyz", max_size=80), st.integers(30, 300))
def test_wrapped_lines_fit_and_short_words_all_appear(text, width):
    font = ImageFont.load_default(size=12)
    lines = draw._wrap(text, font, width)
    assert all(font.getlength(line) <= width or line == "..." for line in lines)
    if all(font.getlength(word) <= width for word in text.split()):
        assert " ".join(lines).split() == text.split()


def test_long_titles_are_cut_to_the_column():
    font = ImageFont.load_default(size=12)
    cut = draw._cut("a title that is far too long for its column", font, 80)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 80


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([[GREY]], {}, r"each row must hold 2 pictures, one for each title, got \[1\]"),
        ([[GREY, GREY], [GREY]], {}, r"got \[1, 2\]"),
        ([], {}, r"each row must hold 2 pictures, one for each title, got \[\]"),
        ([[]], {"titles": []}, "each row must hold 0 pictures"),
        ([[GREY, GREY / 2]], {}, "image must be uint8"),
        (None, {"cell": 10}, "cell must be at least 64 pixels, got 10"),
    ],
)
def test_sheet_refuses_what_does_not_fit(rows, changes, message):
    with pytest.raises(ValueError, match=message):
        sheet(rows, **changes)
