"""Tables that describe a LIDC set: nodules per patient, their readers, sizes and ratings.

Source: the analysis notebook of rCampSemp/learn-vae-noisy-label, for the choice of tables.
"""

import bisect
import csv
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxseg import __version__
from jaxseg.annotators.data import SPLITS
from jaxseg.annotators.lidc.annotations import RATINGS
from jaxseg.annotators.lidc.crops import Settings
from jaxseg.annotators.lidc.records import MADE_BY, SUMMARY, read_records, write_json
from jaxseg.draw.pictures import save_picture
from jaxseg.draw.plots import count_bars
from jaxseg.files import atomic_file

METADATA = ("patient_id", "nodule_no", *RATINGS, "nod_sz_per_slice")  # columns of the published table
NODULES = (
    "split",
    "patient_id",
    "nodule_no",
    "readers",
    "diameter_mm",
    *RATINGS,
    "malignancy_by_reader",
    "slices",
    "left_out",
)
DIAMETERS_MM = (3, 5, 8, 12, 16, 20, 30)  # bounds of the classes of diameters
PIXELS = (50, 100, 200, 400, 800)  # bounds of the classes of consensus sizes, in pixels of a slice
PANELS = {  # name in the counts -> title of the plot
    "nodules_per_patient": "Nodules per patient",
    "readers_per_nodule": "Readers per nodule",
    "diameter_mm": "Diameter of the largest consensus, mm",
    "malignancy": "Malignancy, median of the readers (1 to 5)",
    "malignancy_range": "Malignancy, range over a nodule's readers",
    "slices_per_nodule": "Slices per nodule",
    "pixels_per_slice": "Consensus per slice, pixels",
    "annotators_per_slice": "Annotators per slice",
}


def conclude(out: Path, settings: Settings, failed: Mapping[str, str], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Writes meta/metadata.csv, meta/nodules.csv and meta/summary.json of a set.

    metadata.csv has the published columns and one row for each nodule that enough readers outlined. Patient IDs keep
    their leading zeros, and the sizes are those of the slices in the set. nodules.csv has one row for every nodule.

    Args:
      out: folder of the set.
      settings: the settings of the set.
      failed: patient -> reason of the failure.
      notes: lines on files that were left out.

    Returns:
      The content of summary.json.

    Raises:
      ValueError: a record is damaged.
      OSError: a file cannot be written.
    """
    records = read_records(out)
    pairs = [(record, nodule) for record in records for nodule in record["nodules"]]
    enough = [(record, nodule) for record, nodule in pairs if len(nodule["readers"]) >= settings.least_readers]
    _write_csv(out / "meta/metadata.csv", METADATA, [_metadata(*pair) for pair in enough])
    _write_csv(out / "meta/nodules.csv", NODULES, [_nodule(*pair) for pair in pairs])
    counts = count(records)
    content = {"made_by": MADE_BY, "jaxseg": __version__, "settings": dataclasses.asdict(settings), **counts}
    content |= {"failed": dict(failed), "notes": list(notes)}
    write_json(out / SUMMARY, content)
    return content


def draw_summary(counts: Mapping[str, Any], out: Path) -> None:
    """Draws the counts that `conclude` returned to meta/summary.png of a set; without matplotlib nothing is drawn."""
    tables = {title: counts[name] for name, title in PANELS.items()}
    picture = count_bars(tables, caption=caption(counts))
    if picture is not None:
        save_picture(picture, out / "meta" / "summary.png")


def count(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the counts of a set.

    Args:
      records: the patients' records, as `read_records` returns them.

    Returns:
      "patients", "nodules" and "slices" by split; "marks", the numbers of nodules below 3 mm, of non-nodules, and of
      outlines that enclose no pixel; and tables of a class and its count: "nodules_per_patient", "readers_per_nodule",
      "diameter_mm", "malignancy" (median of the readers), "malignancy_range" (largest minus smallest rating of a
      nodule), "slices_per_nodule", "pixels_per_slice", "annotators_per_slice" and "left_out".
    """
    nodules = [nodule for record in records for nodule in record["nodules"]]
    written = [nodule for nodule in nodules if nodule["slices"]]
    rated = [[value for value in nodule["malignancy_by_reader"] if value is not None] for nodule in nodules]
    splits = [split for split in SPLITS if any(record["split"] == split for record in records)]
    of_split = {split: [record for record in records if record["split"] == split] for split in splits}
    pixels = [number for nodule in written for number in nodule["pixels"]]
    return {
        "patients": {split: len(found) for split, found in of_split.items()},
        "nodules": {split: sum(len(r["nodules"]) for r in found) for split, found in of_split.items()},
        "slices": {
            split: sum(len(nodule["slices"]) for record in found for nodule in record["nodules"])
            for split, found in of_split.items()
        },
        "marks": {name: sum(record.get(name, 0) for record in records) for name in ("small", "no_nodules", "empty")},
        "nodules_per_patient": _table(len(record["nodules"]) for record in records),
        "readers_per_nodule": _table(len(nodule["readers"]) for nodule in nodules),
        "diameter_mm": _classes((nodule["diameter_mm"] for nodule in nodules), DIAMETERS_MM),
        "malignancy": _table(n["ratings"]["malignancy"] for n in nodules if n["ratings"]["malignancy"] is not None),
        "malignancy_range": _table(max(values) - min(values) for values in rated if len(values) > 1),
        "slices_per_nodule": _table(len(nodule["slices"]) for nodule in written),
        "pixels_per_slice": _classes(pixels, PIXELS),
        "annotators_per_slice": _table(len(nodule["readers"]) for nodule in written for _ in nodule["slices"]),
        "left_out": dict(Counter(nodule["left_out"] for nodule in nodules if nodule["left_out"]).most_common()),
    }


def caption(counts: Mapping[str, Any]) -> str:
    """Returns one sentence about the whole set, from the result of `count`."""
    splits = ", ".join(f"{name} {number}" for name, number in counts["slices"].items())
    patients, nodules = (sum(counts[name].values()) for name in ("patients", "nodules"))
    return f"{patients} patients, {nodules} nodules of 3 mm or more; slices: {splits or 'none'}."


def _metadata(record: Mapping[str, Any], nodule: Mapping[str, Any]) -> list[Any]:
    ratings = [nodule["ratings"][name] for name in RATINGS]
    return [record["patient"], nodule["nodule_no"], *_shown(ratings), json.dumps(nodule["pixels"])]


def _nodule(record: Mapping[str, Any], nodule: Mapping[str, Any]) -> list[Any]:
    known = [record["split"], record["patient"], nodule["nodule_no"], len(nodule["readers"]), nodule["diameter_mm"]]
    ratings = _shown([nodule["ratings"][name] for name in RATINGS])
    malignancy = " ".join("-" if value is None else str(value) for value in nodule["malignancy_by_reader"])
    return [*known, *ratings, malignancy, len(nodule["slices"]), nodule["left_out"]]


def _shown(ratings: Sequence[int | None]) -> list[int | str]:
    return ["" if rating is None else rating for rating in ratings]


def _table(values: Iterable[int]) -> dict[str, int]:
    """Returns the count of each value from the smallest to the largest, including values that do not occur."""
    found = Counter(values)
    return {str(value): found[value] for value in range(min(found), max(found) + 1)} if found else {}


def _classes(values: Iterable[float], bounds: Sequence[int]) -> dict[str, int]:
    """Returns the counts of values below the first bound, between neighbouring bounds, and from the last bound on."""
    names = [f"< {bounds[0]}", *(f"{low} to < {high}" for low, high in itertools.pairwise(bounds)), f">= {bounds[-1]}"]
    found = Counter(bisect.bisect_right(bounds, value) for value in values)
    return {name: found[place] for place, name in enumerate(names)}


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
