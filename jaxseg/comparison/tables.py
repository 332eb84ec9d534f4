"""The files of a comparison: a table of all scores, its summary, what is missing, and a box plot.

They are `NAME.csv` (one row per image and class), `NAME.summary.csv` (one row per class and measure),
`NAME.missing.csv` (what one side lacks; only if there is something), and `NAME.png`.
"""

import contextlib
import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from jaxseg.comparison.scores import DISTANCES, MEASURES, Scores
from jaxseg.comparison.summary import Collected, Row
from jaxseg.draw.boxes import BoxPanel, boxes
from jaxseg.draw.pictures import save_picture
from jaxseg.files import atomic_file, printable
from jaxseg.palette import class_colours

COLUMNS = ("image", "class", *(field.name for field in dataclasses.fields(Scores)))
SUMMARY_COLUMNS = ("class", "measure", "unit", "n", "left_out", "mean", "median", "low", "high")
MISSING_COLUMNS = ("missing_in", "image", "class")
_ENDS = ("summary.csv", "missing.csv", "png")  # of the files beside the table
_DRAWN = {"dice": ("Dice", 1.0), "nsd": ("NSD", 1.0), "hd95": ("HD95", None), "assd": ("ASSD", None)}


@dataclasses.dataclass(frozen=True)
class Missing:
    """Masks that one side lacks.

    Attributes:
      side: "prediction", "truth", or the name of an annotator.
      image: name of the image; "" if a class is missing for all compared images.
      name: name of the class; "" if all masks of the image are missing.
    """

    side: str
    image: str
    name: str


def check_output(output: Path, *, overwrite: bool) -> None:
    """Checks that the files of a comparison can be written.

    Args:
      output: the table.
      overwrite: whether files that were not written by a comparison may be replaced.

    Raises:
      ValueError: the table is not a .csv file, its folder does not exist, or it or a file beside it exists and was not
        written by a comparison.
    """
    if output.suffix.lower() != ".csv":
        raise ValueError(f"{output} must end in .csv")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder; create it, or name another")
    if overwrite or _is_table(output):
        return
    for path in (output, *(_beside(output, end) for end in _ENDS)):
        if path.exists():
            raise ValueError(f"{path} exists and was not written by a comparison; name another, or overwrite it")


@contextlib.contextmanager
def open_table(output: Path, *, has_annotators: bool) -> Iterator[Callable[[str, list[tuple[str, str, Scores]]], None]]:
    """Yields a function that writes the rows of an image; the table appears whole at the end.

    Args:
      output: the table.
      has_annotators: whether each row begins with the name of an annotator.

    Yields:
      (name of the image, rows of annotator, class and scores) -> None.
    """
    with atomic_file(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["annotator", *COLUMNS] if has_annotators else COLUMNS)

        def write(image: str, rows: list[tuple[str, str, Scores]]) -> None:
            for annotator, name, scores in rows:
                cells = [image, name, *dataclasses.astuple(scores)]
                writer.writerow([_cell(value) for value in ([annotator, *cells] if has_annotators else cells)])

        yield write


def write_summary(
    output: Path, summary: Sequence[Row], missing: Sequence[Missing], collected: Collected, tolerance: str
) -> dict[str, Path]:
    """Writes the files beside the table.

    Args:
      output: the table.
      summary: rows of the summary.
      missing: what one side lacks; if it is empty, the file of an earlier comparison is removed.
      collected: all scores, for the plot.
      tolerance: of NSD, for the plot.

    Returns:
      The paths of the table and of these files, by the ends of their names.
    """
    files = {"csv": output, "summary.csv": _beside(output, "summary.csv")}
    skipped = 0 if any(row.annotator for row in summary) else 1
    header = ("annotator", *SUMMARY_COLUMNS)[skipped:]
    _write_csv(files["summary.csv"], [header, *(dataclasses.astuple(row)[skipped:] for row in summary)])
    if missing:
        files["missing.csv"] = _beside(output, "missing.csv")
        _write_csv(files["missing.csv"], [MISSING_COLUMNS, *map(dataclasses.astuple, missing)])
    else:
        _beside(output, "missing.csv").unlink(missing_ok=True)
    picture = draw_scores(collected, tolerance=tolerance)
    if picture is not None:
        files["png"] = _beside(output, "png")
        save_picture(picture, files["png"])
    return files


def draw_scores(collected: Collected, *, tolerance: str) -> Image.Image | None:
    """Returns a box plot of Dice, NSD, HD95 and ASSD with one row per annotator and class; None without matplotlib.

    Args:
      collected: the scores; there must be some.
      tolerance: of NSD, for its title.
    """
    found = list(collected.values())
    several = len({name for (_, name, _), _ in found}) > 1
    units = {unit for (*_, unit), _ in found}
    rows = []
    for (annotator, name, unit), _ in found:
        row = ": ".join(part for part in (annotator, name if several or not annotator else "") if part)
        rows.append(f"{row} ({unit})" if len(units) > 1 else row)
    panels, left_out = [], 0
    for measure, (title, top) in _DRAWN.items():
        values = tuple(table[:, MEASURES.index(measure)] for _, table in found)
        if measure in DISTANCES:
            title = f"{title} ({' or '.join(sorted(units))})"
            left_out = sum(int(math.isinf(value)) for row in values for value in row)
        panels.append(BoxPanel(f"{title} at {tolerance}" if measure == "nsd" else title, values, top))
    count = max(len(table) for _, table in found)
    caption = f"{count} image{'s' * (count > 1)}; boxes: quartiles, whiskers: up to 1.5 boxes further, points: outliers"
    if left_out:
        caption += f"; {left_out} masks that are empty on one side have no distance"
    return boxes(panels, rows, colours=class_colours([name for (_, name, _), _ in found]), caption=caption)


def _write_csv(path: Path, rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> str:
    """Returns a cell: "" for NaN, numbers with up to 10 digits, and text that a spreadsheet does not evaluate."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    text = printable(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "@") else text


def _is_table(path: Path) -> bool:
    """Returns whether a file is the table of an earlier comparison."""
    try:
        with path.open("rb") as file:
            first = file.readline(1000).decode("utf-8", "replace").strip().split(",")
    except OSError:
        return False
    return first in ([*COLUMNS], ["annotator", *COLUMNS])


def _beside(output: Path, end: str) -> Path:
    return output.with_name(f"{output.stem}.{end}")
