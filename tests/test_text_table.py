"""Text tables fit a terminal of 80 columns, and lose no number and no word."""

import re

import pytest

from jaxseg.annotators.task import MEASURES
from jaxseg.text_table import text_table
from jaxseg.vocabulary.labels import CXAS

LONGEST = sorted(CXAS, key=len)[-5:]


def widest(table: str) -> int:
    return max(map(len, table.splitlines()))


def test_a_table_that_fits_is_aligned():
    table = text_table(["class", "Dice"], [["heart", "0.9"], ["right lung", "n/a"]])
    assert table.splitlines() == ["class       Dice", "heart        0.9", "right lung   n/a"]
    assert text_table((), []) == ""


def test_the_longest_names_of_classes_are_wrapped_and_numbers_are_kept():
    header = ["class", *(f"measure number {i}" for i in range(6))]
    rows = [
        [f"{name} of {other}", *(f"{i}.12345678" for i in range(6))]
        for name, other in zip(LONGEST, LONGEST[::-1], strict=True)
    ]
    table = text_table(header, rows)
    assert widest(table) <= 80
    words = re.split(r"\s+", " ".join(line[:12] for line in table.splitlines()))
    assert {word for name in LONGEST for word in name.split()} <= set(words)
    assert table.count(".12345678") == 6 * len(rows)


def test_a_word_that_is_too_long_is_shortened_in_its_middle():
    name = "a_name_without_any_blank_" + 10 * "0123456789" + "_and_its_end"
    table = text_table(["case", "Dice"], [[name, "0.5"]])
    assert widest(table) <= 80
    shown = table.splitlines()[1].split()[0]
    assert shown.startswith("a_name_without_any_blank_")
    assert shown.endswith("_and_its_end")
    assert "..." in shown


@pytest.mark.parametrize("count", [3, 12, 40])
def test_columns_that_do_not_fit_follow_below_after_the_first_column(count):
    header = ["trial", *(f"optimizer.setting_{i}" for i in range(count))]
    table = text_table(header, [["0001", *(f"{i}.5e-05" for i in range(count))], ["0002", *["-"] * count]])
    assert widest(table) <= 80
    assert [word for word in table.split() if word.endswith(".5e-05")] == [f"{i}.5e-05" for i in range(count)]
    assert table.split().count("0001") == table.split().count("trial")


def test_the_measures_of_annotators_fit():
    rows = [[name, text, "0.1234", "+- 0.1234", "of 12 images"] for name, text in MEASURES.items()]
    table = text_table((), rows)
    assert widest(table) <= 80
    assert all(name in table for name in MEASURES)
    assert "..." not in table
