"""The summary of a pipeline as tables: what was done, and with true masks what each stage changed."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxseg.files import printable
from jaxseg.pipeline.plan import REPORT, REVIEW, Plan
from jaxseg.text_table import Table

MEASURES = ("dice", "hd95")  # those that the summary shows
Stages = Mapping[str, dict[str, Any]]  # name of a stage -> what it found
_BEFORE, _AFTER = "compare segment", "compare restore"


def summary(plan: Plan, stages: Stages, doubtful: Sequence[tuple[str, dict]]) -> tuple[Table, ...]:
    """Returns the tables of a pipeline. They hold nothing that differs between two runs with equal results.

    Args:
      plan: the plan of the pipeline.
      stages: what each stage found, as the record of the pipeline holds it.
      doubtful: name of the results of an image, and the row of a mask, for each mask to check.
    """
    found = [Table("What was done", ("stage", "result", "files"), tuple(_done(plan, stages)))]
    if _BEFORE in stages:
        found.append(_scores(stages))
        path = plan.folder("compare") / "masks.csv"
        if plan.config.confidence is not None and path.is_file():
            found.append(_confidence(path, {(key, row["class"]) for key, row in doubtful}))
    return tuple(found)


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number for a table; "" if it is unknown."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _done(plan: Plan, stages: Stages) -> list[tuple[str, str, str]]:
    """Returns the rows of the stages."""
    config, names = plan.config, plan.segmenter.names
    rows = [("segment", f"{_images(stages['segment'])}, {_count(len(names), 'class', 'classes')}", "masks")]
    if plan.restoring is not None:
        rows.append(("restore", f"{_images(stages['restore'])}: {_listed(plan.restoring.names)}", "restored"))
    if config.confidence is not None:
        found = stages["confidence"]
        least = f"confidence below {config.confidence.review_below:g}, or empty"
        rows.append(("confidence", f"{found['to_check']} of {found['masks']} masks to check ({least})", REVIEW))
    if config.measure is not None:
        rows.append(("measure", f"{_images(stages['measure'])}: {config.measure.features}", "measurements"))
    if _BEFORE in stages:
        lacking = stages[_BEFORE]["images_without"]
        more = f", {lacking} with masks on one side only" if lacking else ""
        rows.append(("compare", f"{_count(stages[_BEFORE]['images'], 'image')} with true masks{more}", "comparison"))
    elif config.compare is not None:
        rows.append(("compare", "left out: no true masks were named", ""))
    if config.report is not None:
        rows.append(("report", f"up to {config.report.most} images", REPORT))
    return rows


def _scores(stages: Stages) -> Table:
    """Returns the mean Dice and HD95 of every class, before and after the masks were restored."""
    sides = [{(row["class"], row["measure"]): row for row in stages[side]["rows"]} for side in _sides(stages)]
    names = list(dict.fromkeys(name for name, _ in sides[0]))
    rows = []
    for name in names:
        dice, hd95 = ([side.get((name, measure), {}).get("mean") for side in sides] for measure in MEASURES)
        count = str(sides[0][name, "dice"]["count"])
        unit = sides[0].get((name, "hd95"), {}).get("unit") or "px"
        distances = ("" if value is None else f"{number(value, 1)} {unit}" for value in hd95)
        rows.append((name, count, *_with_change(dice), *distances))
    means = [_mean([side.get((name, "dice"), {}).get("mean") for name in names]) for side in sides]
    rows.append(("mean of the classes", "", *_with_change(means), *("" for _ in sides)))
    if len(sides) == 1:
        return Table("Agreement with the true masks", ("class", "images", "Dice", "HD95"), tuple(rows))
    header = ("class", "images", "Dice segmented", "Dice restored", "change", "HD95 segmented", "HD95 restored")
    return Table("Agreement with the true masks, before and after restoring", header, tuple(rows))


def _sides(stages: Stages) -> list[str]:
    return [side for side in (_BEFORE, _AFTER) if side in stages]


def _with_change(values: Sequence[float | None]) -> tuple[str, ...]:
    """Returns numbers as text; behind two of them, their difference."""
    cells = tuple(number(value) for value in values)
    if len(values) == 1:
        return cells
    before, after = values
    return (*cells, "" if before is None or after is None else f"{after - before:+.4f}")


def _confidence(path: Path, doubtful: set[tuple[str, str]]) -> Table:
    """Returns the mean Dice of the network's masks that shall be checked, and of the others.

    Args:
      path: table of the comparison of the network's masks.
      doubtful: name of the results of an image and class of each mask to check.
    """
    values: dict[bool, list[float]] = {True: [], False: []}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["dice"]:
                values[(row["image"], row["class"]) in doubtful].append(float(row["dice"]))
    named = ((True, "to check"), (False, "all others"))
    rows = [(name, str(len(values[kind])), number(_mean(values[kind]))) for kind, name in named]
    title = "Agreement of the masks to check, and of all others, with the true masks"
    return Table(title, ("masks", "number", "Dice segmented"), tuple(rows))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _images(stage: Mapping[str, Any]) -> str:
    failed = f", {stage['failed']} failed" if stage["failed"] else ""
    return _count(stage["images"] - stage["failed"], "image") + failed


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(", ".join(names[:3])) + more
