"""The tables of the summary: numbers that are unknown, one side or two, and masks to check."""

from types import SimpleNamespace

import pytest

from jaxseg.pipeline.config import make_config
from jaxseg.pipeline.tables import number, summary

COMPARED = {"images": 2, "failed": {}, "images_without": 0}


def write(folder, name, *rows):
    """Writes the table of a comparison from rows of image, class, Dice, HD95 and unit."""
    (folder / f"{name}.csv").write_text("image,class,dice,hd95,unit\n" + "".join(f"{row}\n" for row in rows))


def stage(images=2, failed=0):
    return {"images": images, "done": images - failed, "skipped": 0, "failed": failed}


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
    write(tmp_path, "masks", "a,heart,0.8,inf,mm", "a,lung,0.5,2,mm", "b,heart,1,inf,mm", "b,lung,,,mm")
    stages = {"segment": stage(2, 1), "compare segment": COMPARED}
    done, scores = summary(plan(tmp_path, compare=None), stages, [])
    assert done.rows[0] == ("segment", "1 image, 1 failed, 2 classes", "masks")
    assert scores.header == ("class", "images", "Dice", "images with HD95", "HD95")
    assert scores.rows == (
        ("heart", "2", "0.9000", "0", ""),
        ("lung", "1", "0.5000", "1", "2.0 mm"),
        ("mean of the classes", "", "0.7000", "", ""),
    )


def both(tmp_path, before, after):
    """Returns the tables of a pipeline whose masks have these scores before and after they were restored."""
    write(tmp_path, "masks", *before)
    write(tmp_path, "restored", *after)
    restoring = SimpleNamespace(names=("a", "b", "c", "d", "e"))
    stages = {"segment": stage(), "restore": stage(), "compare segment": COMPARED, "compare restore": COMPARED}
    return summary(plan(tmp_path, restoring, compare=None), stages, [])


def test_two_comparisons_show_the_change_with_its_sign(tmp_path):
    done, scores = both(tmp_path, ["x,heart,0.5,4,mm", "x,lung,0.5,1,px"], ["x,heart,0.75,2.5,mm", "x,lung,0.5,1,px"])
    assert done.rows[1] == ("restore", "2 images: a, b, c and 2 more", "restored")
    assert scores.rows[0] == ("heart", "1", "0.5000", "0.7500", "+0.2500", "1", "4.0 mm", "2.5 mm")
    assert scores.rows[2] == ("mean of the classes", "", "0.5000", "0.6250", "+0.1250", "", "", "")


def test_the_change_is_that_of_images_with_scores_on_both_sides(tmp_path):
    """One image was not restored, one mask is empty only before, and one has no score after."""
    before = ["a,heart,0.5,4,mm", "b,heart,1,0,mm", "c,heart,0,inf,mm", "d,heart,0.9,8,mm"]
    _, scores = both(tmp_path, before, ["a,heart,0.75,2,mm", "c,heart,0.25,90,mm", "d,heart,,,mm"])
    assert scores.rows[0] == ("heart", "2", "0.2500", "0.5000", "+0.2500", "1", "4.0 mm", "2.0 mm")


def test_a_class_without_a_pair_has_no_means(tmp_path):
    _, scores = both(tmp_path, ["a,heart,0.5,4,mm"], ["b,heart,0.75,2,mm"])
    assert scores.rows == (
        ("heart", "0", "", "", "", "0", "", ""),
        ("mean of the classes", "", "", "", "", "", "", ""),
    )


def test_distances_in_mm_and_in_px_have_means_of_their_own_and_dice_has_one(tmp_path):
    before = [*(f"d{i},heart,0.5,3,mm" for i in range(8)), "p0,heart,0,20,px", "p1,heart,1,40,px"]
    after = [row.replace(",3,", ",2,") for row in before]
    _, scores = both(tmp_path, before, after)
    assert scores.rows[0] == (
        *("heart", "10", "0.5000", "0.5000", "+0.0000"),
        *("8; 2", "3.0 mm; 30.0 px", "2.0 mm; 30.0 px"),
    )


def test_masks_to_check_are_compared_with_the_others(tmp_path):
    write(tmp_path, "masks", "a,heart,0.25,1,px", "b,heart,0.75,1,px", "b,lung,,,px")
    stages = {"segment": stage(), "confidence": {"masks": 4, "to_check": 1}, "compare segment": COMPARED}
    doubtful = [("a", {"class": "heart"})]
    done, _, checked = summary(plan(tmp_path, compare=None, confidence=None), stages, doubtful)
    assert done.rows[1][1].startswith("1 of 4 masks to check (confidence below 0.8")
    assert checked.rows == (("to check", "1", "0.2500"), ("all others", "1", "0.7500"))


@pytest.mark.parametrize("truth", [None])
def test_without_true_masks_the_table_says_so(tmp_path, truth):
    (done,) = summary(plan(tmp_path, compare={"truth": truth}), {"segment": stage()}, [])
    assert done.rows[-1] == ("compare", "left out: no true masks were named", "")
