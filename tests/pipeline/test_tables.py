"""The tables of the summary: numbers that are unknown, one side or two, and masks to check."""

from types import SimpleNamespace

import pytest

from jaxseg.pipeline.config import make_config
from jaxseg.pipeline.tables import number, summary


def row(name, measure, mean, unit=""):
    return {"class": name, "measure": measure, "unit": unit, "count": 2, "mean": mean, "low": None, "high": None}


def stage(images=2, failed=0):
    return {"images": images, "done": images - failed, "skipped": 0, "failed": failed}


def compared(dice, hd95, unit="mm"):
    rows = [row("heart", "dice", dice), row("heart", "hd95", hd95, unit), row("lung", "dice", 0.5)]
    return {"images": 2, "failed": {}, "images_without": 0, "rows": rows}


def plan(tmp_path, restoring=None, **sections):
    config = make_config({"segment": None} | sections, "p.yaml")
    return SimpleNamespace(
        config=config,
        segmenter=SimpleNamespace(names=("heart", "lung")),
        restoring=restoring,
        folder=lambda stage: tmp_path,
    )


def test_unknown_numbers_are_empty_cells():
    assert [number(value) for value in (0.25, None, float("nan"))] == ["0.2500", "", ""]


def test_one_comparison_has_no_change(tmp_path):
    stages = {"segment": stage(2, 1), "compare segment": compared(0.9, None)}
    done, scores = summary(plan(tmp_path, compare=None), stages, [])
    assert done.rows[0] == ("segment", "1 image, 1 failed, 2 classes", "masks")
    assert scores.header == ("class", "images", "Dice", "HD95")
    assert scores.rows == (
        ("heart", "2", "0.9000", ""),
        ("lung", "2", "0.5000", ""),
        ("mean of the classes", "", "0.7000", ""),
    )


def test_two_comparisons_show_the_change_with_its_sign(tmp_path):
    restoring = SimpleNamespace(names=("a", "b", "c", "d", "e"))
    stages = {"segment": stage(), "restore": stage()}
    stages |= {"compare segment": compared(0.5, 4.0), "compare restore": compared(0.75, 2.5)}
    done, scores = summary(plan(tmp_path, restoring, compare=None), stages, [])
    assert done.rows[1] == ("restore", "2 images: a, b, c and 2 more", "restored")
    assert scores.rows[0] == ("heart", "2", "0.5000", "0.7500", "+0.2500", "4.0 mm", "2.5 mm")
    assert scores.rows[2] == ("mean of the classes", "", "0.5000", "0.6250", "+0.1250", "", "")


def test_masks_to_check_are_compared_with_the_others(tmp_path):
    (tmp_path / "masks.csv").write_text("image,class,dice\na,heart,0.25\nb,heart,0.75\nb,lung,\n")
    stages = {"segment": stage(), "confidence": {"masks": 4, "to_check": 1}, "compare segment": compared(0.5, 1.0)}
    doubtful = [("a", {"class": "heart"})]
    done, _, checked = summary(plan(tmp_path, compare=None, confidence=None), stages, doubtful)
    assert done.rows[1][1].startswith("1 of 4 masks to check (confidence below 0.8")
    assert checked.rows == (("to check", "1", "0.2500"), ("all others", "1", "0.7500"))


@pytest.mark.parametrize("truth", [None])
def test_without_true_masks_the_table_says_so(tmp_path, truth):
    (done,) = summary(plan(tmp_path, compare={"truth": truth}), {"segment": stage()}, [])
    assert done.rows[-1] == ("compare", "left out: no true masks were named", "")
