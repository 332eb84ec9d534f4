"""benchmarks/README.md and the results agree, and no measured figure of the page is typed by hand."""

import re

import pytest

from benchmarks import page

# a figure with a unit of something measured; sizes of inputs (px, seeds, epochs) and settings are no results
MEASURED = re.compile(
    r"\d+(\.\d+)?\s*(s|ms|seconds|minutes|GB|times as (fast|long|slow))\b|Dice (of )?\d|\b0\.\d\d\d\b"
)
SETTINGS = (  # not results
    "at most ten minutes",
    "1.2 times as fast",  # the target on a GPU
)


def test_the_tables_of_the_page_are_those_of_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python benchmarks/page.py"


def test_the_page_has_every_table_once():
    text = page.PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- table (\w+) -->", text)) == sorted(page.TABLES)


def test_measured_figures_are_in_tables():
    text = page.without_tables(page.PAGE.read_text(encoding="utf-8"))
    for setting in SETTINGS:
        text = text.replace(setting, "")
    assert [found[0] for found in MEASURED.finditer(text)] == []


@pytest.mark.parametrize(
    ("ratio", "least", "wanted", "verdict"),
    [
        (1.2, 1.0, 1.2, "reached"),
        (1.1, 1.0, 1.2, "between"),
        (0.9, 1.0, 1.2, "**missed**"),
        (0.5, None, 0.9, "below"),
        (1.05, 1.1, 1.0, "**missed**"),
    ],
)
def test_a_ratio_is_judged_by_both_targets(ratio, least, wanted, verdict):
    assert page.verdict(ratio, least, wanted) == verdict
