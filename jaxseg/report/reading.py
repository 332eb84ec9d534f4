"""Reads the content of a report: images with their masks and measurements, and the settings of the run."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg import summaries
from jaxseg.anatomy.measure.features import Feature, Measurements, find_all, measure
from jaxseg.files import printable
from jaxseg.images.picture import ImageError
from jaxseg.images.preprocess import display
from jaxseg.images.read import read_under_masks
from jaxseg.masks.cohort import is_cohort_file
from jaxseg.masks.confidence import read_confidence
from jaxseg.masks.read import LoadedMasks, is_of_one_image, on_network_grid, read_masks, select
from jaxseg.masks.results import orientation_of, read_summary, result_of, turned_in_run
from jaxseg.masks.segmentation import Segmentation

CONFIDENCE = "confidence"  # ending of its columns, and name of their feature
EMPTY = "the mask is empty"  # why it has no confidence; the script of the page knows this text
IMAGE = "image"  # name of the pixels of masks that were measured as they are stored
MAX_NAME = 200  # characters in the name of a class
_SETTINGS = ("model", "weights_sha256", "threshold", "preprocessing", "intensity", "orientation", "groups", "dtype")


@dataclasses.dataclass(frozen=True)
class Column:
    """The meaning of one measured number.

    Attributes:
      ending: name of a score, or of the measured quantity of a class, such as "area_mm2".
      class_name: name of the class; "" for a score of the image.
      feature: name of the feature that yields the number.
      grid: the pixels on which it was measured, such as "512 × 512 grid", if the number depends on them; otherwise "".
    """

    ending: str
    class_name: str
    feature: str
    grid: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """An image with its masks and measurements.

    Attributes:
      pixels: (H, W) uint8, the grey values as shown.
      names: names of the K chosen classes.
      masks: the K masks at the size of the image.
      values: the measurements; NaN if something could not be measured.
      reasons: why a value is NaN.
      notes: warnings of reading the image. They may quote tags of a DICOM file, so the page does not contain them.
      has_spacing: whether the file gives the size of a pixel.
      grid: the pixels on which the masks were measured: `IMAGE`, or those of the network, such as "512 × 512 grid".
      warning: what the run that made the masks found about the orientation of the image; "" if nothing.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    masks: LoadedMasks | Segmentation
    values: dict[Column, float]
    reasons: dict[Column, str]
    notes: tuple[str, ...]
    has_spacing: bool
    grid: str
    warning: str = ""


def read_image(
    image: Path,
    masks: Path,
    *,
    features: Sequence[Feature],
    classes: str | Sequence[str] | None = None,
    levels: Mapping[int, str] | None = None,
    intensity: str = "clinical",
    groups: str = "original",
    confidence: Path | None = None,
) -> Reading:
    """Reads an image and its masks, and measures the masks.

    Masks of a jaxseg run are measured on the network's grid, as `jaxseg.extract` does, so that both give the same
    numbers. Other masks are measured on the pixels of the image. So are masks of a run that have smooth edges, were
    changed afterwards or stored with losses, or belong to an image with fewer pixels than the grid. The confidence of
    each mask, and their mean, are among the measurements if the run wrote them.

    Args:
      image: a png, jpg or DICOM file.
      masks: a file or folder that `jaxseg.masks.read.read_masks` reads.
      features: what to measure. Scores use all classes that they need; other features are measured for the chosen
        classes.
      classes: labels or groups, as `jaxseg.masks.read.select` takes them; None means all.
      levels: names of the classes of a label map, as `read_masks` takes them.
      intensity: how grey values are shown, as in `jaxseg.images.read.read_under_masks`.
      groups: which vertebrae SCD uses, as in `jaxseg.anatomy.measure.features.find_all`.
      confidence: folder of the run whose confidence is read; None: the run that made the masks.

    Raises:
      ImageError: a file is damaged, or image and masks do not match.
      ValueError: a class is unknown.
      OSError: a file cannot be opened.
    """
    loaded = read_masks(masks, image=image, levels=levels)
    picture = read_under_masks(image, loaded.size, intensity=intensity, turned=turned_in_run(masks))
    if loaded.size != picture.size:
        theirs, ours = (f"{height} x {width}" for height, width in (loaded.size, picture.size))
        raise ImageError(f"the masks are {theirs}, but the image is {ours}: they do not match")
    long = [name for name in loaded.names if len(name) > MAX_NAME]
    if long:
        raise ImageError(f"the name of a class has {len(long[0])} characters; at most {MAX_NAME} are allowed")
    if len(set(loaded.names)) < len(loaded.names):
        raise ImageError("two classes have the same name; rename one of them")
    kept = loaded.chosen(select(loaded.names, classes))
    coarse, sides, pixel_mm = on_network_grid(loaded, masks, picture.spacing_mm)
    grid = IMAGE if sides is None else f"{sides[0]} × {sides[1]} grid"
    seen = orientation_of(masks, image)
    upright = -seen.quarters if seen else 0
    how = {"pixel_mm": pixel_mm and pixel_mm[:: -1 if upright % 2 else 1], "groups": groups}
    values, reasons = {}, {}

    def measured(names: Sequence[str], wanted: list[Feature]) -> Measurements:
        places = [loaded.names.index(name) for name in names]
        parts = loaded.chosen(places).masks if coarse is None else coarse[places]
        return measure(np.rot90(parts, upright, axes=(1, 2)), names, [feature.name for feature in wanted], **how)

    if scores := [feature for feature in features if feature.kind == "score"]:  # each needs only some classes
        needed = {name for feature in scores for name in feature.classes or ()}
        given = [name for name in loaded.names if name in needed] or [loaded.names[0]]
        _collect(measured(given, scores), scores, given, values, reasons, grid)
    if rest := [feature for feature in features if feature.kind != "score"]:  # together they may need gigabytes
        _collect(_united(measured([name], rest) for name in kept.names), rest, kept.names, values, reasons, grid)
    _add_confidence(_stored_confidence(confidence or masks, image), kept.names, values, reasons)
    warning = seen.note if seen else ""
    notes = (*picture.notes, *loaded.notes, *[f"{image.name}: {warning}"] * bool(warning))
    return Reading(display(picture), kept.names, kept, values, reasons, notes, pixel_mm is not None, grid, warning)


def reading_of(segmentation: Segmentation, image: Path, measured: Measurements, *, intensity: str) -> Reading:
    """Returns what `read_image` returns, from masks in memory.

    Args:
      segmentation: the masks of the image.
      image: its file.
      measured: its measurements, as `jaxseg.extract` returns them.
      intensity: how grey values are shown, as in `jaxseg.images.read.read_under_masks`.

    Raises:
      ImageError: the file is damaged, or not that of the masks.
      OSError: the file cannot be opened.
    """
    picture = read_under_masks(image, segmentation.size, intensity=intensity, turned=segmentation.turned)
    if picture.size != segmentation.size:
        raise ImageError(f"the masks are {segmentation.size}, but the image is {picture.size}: they do not match")
    height, width = segmentation.bits.shape[1], segmentation.bits.shape[2] * 8
    grid, names = f"{height} × {width} grid", segmentation.names
    values: dict[Column, float] = {}
    reasons: dict[Column, str] = {}
    _collect(measured, find_all(measured.features), names, values, reasons, grid)
    sure = segmentation.confidence
    _add_confidence(sure.rows() if sure else (), names, values, reasons)
    seen = segmentation.orientation
    has_spacing = segmentation.spacing_mm is not None
    masks, warning = segmentation, seen.note if seen else ""
    return Reading(display(picture), names, masks, values, reasons, segmentation.notes, has_spacing, grid, warning)


def _united(parts: Iterable[Measurements]) -> Measurements:
    """Returns the measurements of several classes as one."""
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for part in parts:
        if taken := values.keys() & part.values.keys():
            raise ValueError(f"two classes lead to the column {min(taken)!r}; rename one of them")
        values |= part.values
        reasons |= part.reasons
    return Measurements(values, reasons, ())


def short_names(features: Sequence[Feature]) -> dict[str, str]:
    """Returns the name of each feature -> the name that the page shows."""
    return {feature.name: (*feature.aliases, feature.name)[0] for feature in features} | {CONFIDENCE: CONFIDENCE}


def unit(ending: str) -> str:
    """Returns the unit of a column: "mm", "mm²", "px" (pixels of the column's grid), or "" for a ratio.

    >>> unit("area_mm2"), unit("area"), unit("CTR")
    ('mm²', 'px', '')
    """
    if ending.endswith("_mm2"):
        return "mm²"
    if ending.endswith("_mm"):
        return "mm"
    return "" if ending in ("CTR", "compactness", "convexity", CONFIDENCE) else "px"


def locate_masks(path: Path, source: Path) -> Path | list[Path]:
    """Returns the masks for `write_report`: a folder to search in, or the masks of a single image.

    Args:
      path: a folder of results or of masks named after the images. If the input is a single image, also its own masks:
        a file, or a folder with one picture per class. A .jsonl or .parquet file may hold the masks of all images.
      source: the input: a folder of images, or a single image.

    Returns:
      `path` if masks are looked up in it, or `[path]` if it holds the masks of the single image.

    Raises:
      ValueError: the input is a folder, but `path` is a file; or the summary in `path` is damaged.
      OSError: `path` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        read_summary(path)
    if source.is_dir():
        if not path.is_dir() and not is_cohort_file(path):
            raise ValueError(f"{path} is a file; give the folder with the masks of {source}")
        return path
    return [path] if is_of_one_image(path, source) else path


def check_classes(folder: Path, classes: str | Sequence[str] | None) -> None:
    """Checks classes before any image is read, if the summary of the results lists the available ones.

    Args:
      folder: folder of the masks, with or without a summary.
      classes: labels or groups, as `jaxseg.masks.read.select` takes them.

    Raises:
      ValueError: a class is unknown or has no masks, or the summary is damaged.
    """
    summary = read_summary(folder) if folder.is_dir() else None
    if summary is not None and summary.classes:
        select(summary.classes, classes)


def read_run(folder: Path) -> tuple[dict[str, str], str]:
    """Returns what the summary in a folder of masks says about the run that made them.

    Returns:
      The settings of the run, by name, and a sentence with the note on its model, "" if there is none; {} and "" if the
      folder has no jaxseg summary.

    Raises:
      ValueError: the summary is damaged.
    """
    if not folder.is_dir() or read_summary(folder) is None:
        return {}, ""
    content = summaries.joined(summaries.summary_files(folder))
    found = {name: content["settings"].get(name) for name in _SETTINGS} | {"jaxseg": content["jaxseg"]}
    texts = {name: printable(str(value))[:100] for name, value in found.items() if isinstance(value, str | int | float)}
    note, model = content.get("note"), texts.get("model", "")
    sentence = f"Model {model}: {printable(note)[:500]}." if isinstance(note, str) and note else ""
    return {name.replace("_", " "): text for name, text in texts.items()}, sentence


def _collect(measured: Measurements, features, names, values: dict, reasons: dict, grid: str) -> None:
    """Adds measurements to `values` and `reasons`, by column.

    A column also has the name of its feature, because the same text may be the name of columns from two calls.
    """
    for feature in features:
        for name in [""] if feature.kind == "score" else names:
            for ending in feature.columns + feature.columns_mm:
                found = f"{name}_{ending}" if name else ending
                if found not in measured.values:
                    continue  # a column in mm, but the size of a pixel is unknown
                depends = ending != "CTR" and not unit(ending).startswith("mm")
                column = Column(ending, name, feature.name, grid if depends else "")
                values[column] = measured.values[found]
                if math.isnan(values[column]):
                    reasons[column] = measured.reasons[found]


def _stored_confidence(masks: Path, image: Path) -> Sequence[Mapping]:
    """Returns the rows of the confidence that a run wrote, () if it wrote none; `masks` are its folder, or in it."""
    path = result_of(masks / image.name if masks.is_dir() else masks, image, "confidence")
    return () if path is None else read_confidence(path)[1]


def _add_confidence(rows: Sequence[Mapping], names: Sequence[str], values: dict, reasons: dict) -> None:
    """Adds the confidence of the masks to `values` and `reasons`, and the mean of those that are not empty."""
    if not rows:
        return
    known = {row["class"]: row["confidence"] for row in rows}
    for name in (name for name in names if name in known):
        column = Column(CONFIDENCE, name, CONFIDENCE)
        values[column] = math.nan if known[name] is None else known[name]
        if known[name] is None:
            reasons[column] = EMPTY
    found = [known[name] for name in names if known.get(name) is not None]
    column = Column(CONFIDENCE, "", CONFIDENCE)
    values[column] = sum(found) / len(found) if found else math.nan
    if not found:
        reasons[column] = EMPTY
