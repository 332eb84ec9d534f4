"""`jaxseg compare`: scores masks against the true ones, for folders of any size."""

import math
import sys
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.progress import item_progress
from jaxseg.cli.runs import Notes, label

_MOST = 20  # lines about what is missing
_SHOWN = {"dice": 4, "nsd": 4, "hd95": 2, "assd": 2}  # measures on the terminal -> decimal places
_FORMATS = "png, jpg, npy, npz, COCO json or jsonl, parquet, DICOM SEG, NIfTI"
_MASKS = f"a folder of masks (results of jaxseg, or {_FORMATS}), or one file"


@click.command(short_help="Measure how well masks agree with the true ones.")
@click.option(
    "--prediction",
    type=options.ExistingPath(_MASKS),
    help=f"Masks to compare: {_MASKS}.  [default with --consensus: the annotators themselves]",
)
@click.option(
    "--truth",
    "truths",
    required=True,
    multiple=True,
    type=options.ExistingPath(_MASKS),
    help="True masks, with the same names and in any of these formats. With --consensus: the masks of an annotator; "
    "repeat it for each of them.",
)
@options.output("The table, a .csv file. Files beside it hold the summary, what is missing, and a plot.", file=True)
@click.option(
    "--tolerance",
    default="2px",
    show_default=True,
    help="Largest distance at which two surfaces count as equal for NSD, in mm or px.",
)
@click.option(
    "--spacing",
    metavar="MM[,MM...]",
    help="Distance between pixels in mm: one number, or one for each of (slices,) rows and columns.  [default: that of "
    "NIfTI and DICOM SEG files, or of the DICOM images of a jaxseg run; otherwise lengths are in px]",
)
@click.option("--classes", help="Labels or groups to compare.  [default: all that both sides have]")
@label
@click.option(
    "--consensus",
    type=click.Choice(["staple", "majority"]),
    help="How the masks of several annotators become the true one. staple: weights annotators by their estimated "
    "errors (Warfield 2004). majority: the pixels that at least half of them mark.",
)
@options.replace("files that were not written by `jaxseg compare`")
def compare(prediction, truths, output, tolerance, spacing, classes, levels, consensus, overwrite):
    """Compare masks with the true ones: Dice, IoU, NSD, HD95, HD, ASSD and sizes, per image and class.

    Masks are paired by the path of their image in the folder, without suffix, and by the names of their classes. What
    one side lacks is named. The summary has the mean, the median and a 95 % bootstrap interval of every class. The
    distances are in mm if the spacing is known.

    Two folders:           jaxseg compare --prediction A --truth B -o table.csv --tolerance 2mm

    Several annotators:    jaxseg compare --truth A --truth B --truth C --consensus staple -o table.csv
    """
    console.stage("looking for masks")
    from jaxseg.comparison.compare import as_spacing
    from jaxseg.comparison.folders import compare_folders
    from jaxseg.comparison.scores import parse_tolerance
    from jaxseg.files import printable

    with options.usage_errors("--tolerance"):
        parse_tolerance(tolerance)
    with options.usage_errors("--spacing"):
        spacing_mm = None if spacing is None else as_spacing([_number(part) for part in spacing.split(",")])
    notes = Notes("images")

    def report(name: str, reason: str, remarks: tuple[str, ...]) -> None:
        notes.show(Path(name), remarks)
        if reason:
            console.say(f"Failed: {printable(name)}: {reason}")

    settings = {"tolerance": tolerance, "spacing_mm": spacing_mm, "classes": classes, "levels": levels}
    settings |= {"consensus": consensus, "overwrite": overwrite}
    every = {"every": lambda total: max(1, total // 20)}
    with options.usage_errors(), item_progress("images", **every) as progress:
        found = compare_folders(prediction, truths, output, **settings, progress=progress, report=report)
    notes.finish()
    _show_missing(found.missing)
    _show_summary(found.summary)
    names = ", ".join(path.name for path in found.files.values())
    console.say(f"{found.images} compared, {len(found.failed)} failed; the results are in {output.parent} ({names})")
    if found.failed:
        sys.exit(1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not a number of mm, such as 0.143 or 3,0.7,0.7") from None


def _show_missing(missing: tuple) -> None:
    """Prints what one side lacks, one line each; the file beside the table lists all."""
    from jaxseg.files import printable

    for what in missing[:_MOST]:
        masks = f"class {printable(what.name)}" if what.name else "all masks"
        where = f" of {printable(what.image)}" if what.image else " of every image"
        console.say(f"Missing in {what.side}: {masks}{where}")
    if len(missing) > _MOST:
        console.say(f"... and {len(missing) - _MOST} more are missing")


def _show_summary(summary: tuple) -> None:
    """Prints the means of every class, with the interval of Dice."""
    from jaxseg.comparison.scores import MEASURES

    cells = [("class", "n", "dice", "95 %", *(name for name in _SHOWN if name != "dice"))]
    for start in range(0, len(summary), len(MEASURES)):
        found = {row.measure: row for row in summary[start : start + len(MEASURES)]}
        dice = found["dice"]
        interval = "" if math.isnan(dice.low) else f"{dice.low:.4f} to {dice.high:.4f}"
        means = [_cell(found[measure], digits) for measure, digits in _SHOWN.items()]
        name = ": ".join(part for part in (dice.annotator, dice.name) if part)
        cells.append((name, str(dice.count), means[0], interval, *means[1:]))
    console.show_rows(cells)


def _cell(row, digits: int) -> str:
    if math.isnan(row.mean):
        return "n/a"
    return f"{row.mean:.{digits}f}" + (f" {row.unit}" if row.unit else "")
