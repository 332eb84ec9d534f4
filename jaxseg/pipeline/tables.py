"""The summary of a pipeline as tables: what was done, and with true masks what each stage changed."""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.files import printable
from jaxseg.pipeline.plan import FOLDERS, REPORT, REVIEW, SIDES, Plan
from jaxseg.text_table import Table

Stages = Mapping[str, dict[str, Any]]  # name of a stage -> what it found
_BEFORE = "compare segment"


class _Score(NamedTuple):
    """The scores of one mask that the summary shows; NaN if they are unknown."""

    dice: float
    hd95: float
    unit: str


_UNKNOWN = _Score(math.nan, math.nan, "")


def summary(plan: Plan, stages: Stages, doubtful: Sequence[tuple[str, dict]]) -> tuple[Table, ...]:
    """Returns the tables of a pipeline. They hold nothing that differs between two runs with equal results.

    Args:
      plan: the plan of the pipeline.
      stages: what each stage found, as the record of the pipeline holds it.
      doubtful: name of the results of an image, and the row of a mask, for each mask to check.
    """
    found = [Table("What was done", ("stage", "result", "files"), tuple(_done(plan, stages)))]
    if _BEFORE in stages:
        found.append(_scores(plan, stages))
        if plan.config.confidence is not None:
            found.append(_confidence(plan, {(key, row["class"]) for key, row in doubtful}))
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


def _scores(plan: Plan, stages: Stages) -> Table:
    """Returns the mean Dice and HD95 of every class, before and after the masks were restored.

    The means before and after are over the same images: those whose score is known and finite on both sides. Distances
    in mm and in px have means of their own.
    """
    sides = [_read(plan, side) for side in SIDES if f"compare {side}" in stages]
    rows, means = [], []
    for name, first in sides[0].items():
        own = [side.get(name, {}) for side in sides]
        pairs = [[side.get(image, _UNKNOWN) for side in own] for image in first]
        count, dice = _means([[score.dice for score in pair] for pair in pairs], len(sides))
        rows.append((name, str(count), *_with_change(dice), *_distances(pairs, len(sides))))
        means.append(dice)
    every = [_mean(values) for values in zip(*means, strict=True)]
    rows.append(("mean of the classes", "", *_with_change(every), "", *("" for _ in sides)))
    if len(sides) == 1:
        one = ("class", "images", "Dice", "images with HD95", "HD95")
        return Table("Agreement with the true masks", one, tuple(rows))
    dice_header = ("Dice segmented", "Dice restored", "change")
    both = ("class", "images", *dice_header, "images with HD95", "HD95 segmented", "HD95 restored")
    return Table("Agreement with the true masks, before and after restoring", both, tuple(rows))


def _read(plan: Plan, side: str) -> dict[str, dict[str, _Score]]:
    """Returns the scores of the masks of a stage in the table of their comparison: class -> image -> scores."""
    found: dict[str, dict[str, _Score]] = {}
    with (plan.folder("compare") / f"{FOLDERS[side]}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            dice, hd95 = (float(row[measure] or "nan") for measure in ("dice", "hd95"))
            found.setdefault(row["class"], {})[row["image"]] = _Score(dice, hd95, row["unit"])
    return found


def _distances(pairs: Sequence[Sequence[_Score]], sides: int) -> tuple[str, ...]:
    """Returns the number of images with a distance on every side, and its mean on each side; each unit apart."""
    counts, cells = list[str](), [list[str]() for _ in range(sides)]
    for unit in dict.fromkeys(pair[0].unit for pair in pairs):
        alike = [[score.hd95 for score in pair] for pair in pairs if all(score.unit == unit for score in pair)]
        count, means = _means(alike, sides)
        if count:
            counts.append(str(count))
            for cell, mean in zip(cells, means, strict=True):
                cell.append(f"{number(mean, 1)} {unit}")
    return "; ".join(counts) or "0", *map("; ".join, cells)


def _means(pairs: Sequence[Sequence[float]], sides: int) -> tuple[int, list[float | None]]:
    """Returns the number of images whose scores are all known and finite, and the mean of these on each side."""
    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return len(known), [_mean([pair[i] for pair in known]) for i in range(sides)]


def _with_change(values: Sequence[float | None]) -> tuple[str, ...]:
    """Returns numbers as text; behind two of them, their difference."""
    cells = tuple(number(value) for value in values)
    if len(values) == 1:
        return cells
    before, after = values
    return (*cells, "" if before is None or after is None else f"{after - before:+.4f}")


def _confidence(plan: Plan, doubtful: set[tuple[str, str]]) -> Table:
    """Returns the mean Dice of the network's masks that shall be checked, and of the others.

    Args:
      plan: the plan of the pipeline, whose comparison of the network's masks was made.
      doubtful: name of the results of an image and class of each mask to check.
    """
    values: dict[bool, list[float]] = {True: [], False: []}
    for name, scores in _read(plan, "segment").items():
        for image, score in scores.items():
            if math.isfinite(score.dice):
                values[(image, name) in doubtful].append(score.dice)
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
