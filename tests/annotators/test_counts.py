"""Bars of counts."""

import numpy as np
import pytest

from jaxseg.annotators.lidc.counts import MAX_ROWS, count_bars
from jaxseg.palette import OKABE_ITO


def blue(picture) -> np.ndarray:
    """The longest bar of every row of pixels."""
    return (np.asarray(picture) == OKABE_ITO[1]).all(-1).sum(1)


def test_bars_are_as_long_as_their_numbers_say():
    lengths = blue(count_bars({"a": {"x": 8, "y": 4, "z": 0}}))
    found = [length for length in dict.fromkeys(lengths.tolist()) if length]
    assert len(found) == 2
    assert found[0] / found[1] == pytest.approx(2, abs=0.05)


def test_many_classes_are_summed_up_and_empty_tables_are_drawn():
    many = count_bars({"a": {str(k): 1 for k in range(MAX_ROWS + 50)}, "none": {}}, caption="what this is " * 20)
    few = count_bars({"a": {str(k): 1 for k in range(MAX_ROWS)}})
    assert many.height < few.height + 120
    assert many.mode == "RGB"
    with pytest.raises(ValueError, match="one table and one column"):
        count_bars({})
