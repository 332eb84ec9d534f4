"""Contact sheets show every picture completely, without overlaps, and with a legend that fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.draw.pictures import cut, font_of, line_height, wrap
from jaxseg.draw.sheet import _flow, contact_sheet

GREY = np.full((40, 60), 100, np.uint8)


def sheet(rows=None, **changes):
    rows = rows if rows is not None else [[GREY, GREY], [GREY, GREY]]
    arguments = {"titles": ["image", "masks"], "legend": [("heart", (230, 159, 0))], "cell": 80} | changes
    return contact_sheet(rows, **arguments)


def test_the_size_of_a_sheet_follows_its_columns_and_rows():
    one, two = sheet([[GREY, GREY]]), sheet()
    assert one.mode == "RGB"
    assert one.width == two.width == 2 * (80 + 12) + 12
    assert two.height - one.height == 80 + 12


def test_legend_and_caption_are_below_the_grid():
    bare, legend = sheet(legend=[]), sheet()
    captioned, long = sheet(caption="a word"), sheet(caption="a word " * 30)
    assert bare.height < legend.height < captioned.height < long.height
    top = bare.height - 12  # legend and caption are below the grid
    np.testing.assert_array_equal(np.asarray(bare)[:top], np.asarray(long)[:top])


def test_pictures_are_complete_and_centred_and_keep_their_colour():
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


def test_legend_entries_stay_inside_the_sheet_and_do_not_overlap():
    font = font_of(16)
    line = line_height(font)
    legend = [(f"class number {k} " + "x" * k, (k, k, k)) for k in range(60)]
    entries, height = _flow(legend, font, line, 300)
    assert len(entries) == 60
    ends = {}
    for (text, _), x, y in entries:
        assert x >= ends.get(y, 12)
        assert x + line + font.getlength(text) <= 300 - 12 + 1
        assert y + line <= height
        ends[y] = x + line + font.getlength(text)


@given(st.text(alphabet="abc xyz", max_size=80), st.integers(30, 300))
def test_wrapped_lines_fit_and_contain_all_short_words(text, width):
    font = font_of(12)
    lines = wrap(text, font, width)
    assert all(font.getlength(line) <= width or line == "..." for line in lines)
    if all(font.getlength(word) <= width for word in text.split()):
        assert " ".join(lines).split() == text.split()


def test_long_titles_are_shortened_to_the_column():
    font = font_of(12)
    short = cut("a title that is far too long for its column", font, 80)
    assert short.endswith("...")
    assert font.getlength(short) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two\nlines", "tab\tand \x1b[31mred", "half a pair \ud800", "", "x" * 100_000])
def test_any_name_can_be_drawn(name):
    sheet(titles=[name, name], legend=[(name, (1, 2, 3))], caption=name)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([[GREY]], {}, r"each row must hold 2 pictures, one per title, got \[1\]"),
        ([[GREY, GREY], [GREY]], {}, r"got \[1, 2\]"),
        ([], {}, r"each row must hold 2 pictures, one per title, got \[\]"),
        ([[]], {"titles": []}, "each row must hold 0 pictures"),
        ([[GREY, GREY / 2]], {}, "image must be uint8"),
        (None, {"cell": 10}, "cell must be at least 64 pixels, got 10"),
    ],
)
def test_bad_arguments_of_a_sheet_are_refused(rows, changes, message):
    with pytest.raises(ValueError, match=message):
        sheet(rows, **changes)
