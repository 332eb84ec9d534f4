"""Reads the content of a report: images with their masks and measurements, and the settings of the run."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg import journal
from jaxseg.anatomy.measure.features import Feature, Measurements, measure
from jaxseg.files import printable
from jaxseg.images.picture import ImageError
from jaxseg.images.preprocess import display
from jaxseg.images.read import read_picture
from jaxseg.masks.read import is_of_one_image, read_masks, select
from jaxseg.masks.results import SUMMARY_FILE, read_summary

MAX_NAME = 200  # characters in the name of a class
_SETTINGS = ("model", "weights_sha256", "threshold", "preprocessing", "intensity", "dtype")


@dataclasses.dataclass(frozen=True)
class Column:
    """The meaning of one measured number.

    Attributes:
      ending: name of a score, or of the measured quantity of a class, such as "area_mm2".
      class_name: name of the class; "" for a score of the image.
      feature: name of the feature that yields the number.
    """

    ending: str
    class_name: str
    feature: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """An image with its masks and measurements.

    Attributes:
      pixels: (H, W) uint8, the grey values as shown.
      names: names of the K chosen classes.
      masks: (K, H, W) bool.
      values: the measurements; NaN if something could not be measured.
      reasons: why a value is NaN.
      notes: warnings of reading the image. They may quote tags of a DICOM file, so the page does not contain them.
      has_spacing: whether the file gives the size of a pixel.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    masks: np.ndarray
    values: dict[Column, float]
    reasons: dict[Column, str]
    notes: tuple[str, ...]
    has_spacing: bool


def read_image(
    image: Path,
    masks: Path,
    *,
    features: Sequence[Feature],
    classes: str | Sequence[str] | None = None,
    levels: Mapping[int, str] | None = None,
    intensity: str = "clinical",
) -> Reading:
    """Reads an image and its masks, and measures the masks on the pixel grid of the image.

    Args:
      image: a png, jpg or DICOM file.
      masks: a file or folder that `jaxseg.masks.read.read_masks` reads.
      features: what to measure. Scores use all classes that they need; other features are measured for the chosen
        classes.
      classes: labels or groups, as `jaxseg.masks.read.select` takes them; None means all.
      levels: names of the classes of a label map, as `read_masks` takes them.
      intensity: how grey values are shown, as in `read_picture`.

    Raises:
      ImageError: a file is damaged, or image and masks do not match.
      ValueError: a class is unknown.
      OSError: a file cannot be opened.
    """
    picture = read_picture(image, intensity=intensity)
    loaded = read_masks(masks, image=image, levels=levels)
    if loaded.size != picture.size:
        theirs, ours = (f"{height} x {width}" for height, width in (loaded.size, picture.size))
        raise ImageError(f"the masks are {theirs}, but the image is {ours}: they do not match")
    long = [name for name in loaded.names if len(name) > MAX_NAME]
    if long:
        raise ImageError(f"the name of a class has {len(long[0])} characters; at most {MAX_NAME} are allowed")
    if len(set(loaded.names)) < len(loaded.names):
        raise ImageError("two classes have the same name; rename one of them")
    chosen = list(select(loaded.names, classes))
    kept = loaded.masks if len(chosen) == len(loaded.names) else loaded.masks[chosen]
    names = tuple(loaded.names[k] for k in chosen)
    values, reasons = {}, {}
    for kind, of, given in (("score", loaded.masks, loaded.names), ("per class", kept, names)):
        wanted = [feature for feature in features if feature.kind == kind]
        if wanted:
            measured = measure(of, given, [feature.name for feature in wanted], pixel_mm=picture.spacing_mm)
            _collect(measured, wanted, given, values, reasons)
    notes = (*picture.notes, *loaded.notes)
    return Reading(display(picture), names, kept, values, reasons, notes, picture.spacing_mm is not None)


def unit(ending: str) -> str:
    """Returns the unit of a column: "mm", "mm²", "px" (pixels of the image), or "" for a ratio.

    >>> unit("area_mm2"), unit("area"), unit("CTR")
    ('mm²', 'px', '')
    """
    if ending.endswith("_mm2"):
        return "mm²"
    if ending.endswith("_mm"):
        return "mm"
    return "" if ending in ("CTR", "compactness", "convexity") else "px"


def locate_masks(path: Path, source: Path) -> Path | list[Path]:
    """Returns the masks for `write_report`: a folder to search in, or the masks of a single image.

    Args:
      path: a folder of results or of masks named after the images. If the input is a single image, also its own masks:
        a file, or a folder with one picture per class.
      source: the input: a folder of images, or a single image.

    Returns:
      `path` if masks are looked up in it, or `[path]` if it holds the masks of the single image.

    Raises:
      ValueError: the input is a folder, but `path` is a file; or the summary in `path` is damaged.
      OSError: `path` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if source.is_dir():
        if not path.is_dir():
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


def read_settings(folder: Path) -> dict[str, str]:
    """Returns the settings of the run that made the masks in a folder, by name; {} if it has no jaxseg summary.

    Raises:
      ValueError: the summary is damaged.
    """
    if not folder.is_dir() or read_summary(folder) is None:
        return {}
    content = journal.read_document(folder / SUMMARY_FILE)
    found = {name: content["settings"].get(name) for name in _SETTINGS} | {"jaxseg": content["jaxseg"]}
    texts = {name: printable(str(value))[:100] for name, value in found.items() if isinstance(value, str | int | float)}
    return {name.replace("_", " "): text for name, text in texts.items()}


def _collect(measured: Measurements, features, names, values: dict, reasons: dict) -> None:
    """Adds measurements to `values` and `reasons`, by column.

    A column also has the name of its feature, because the same text may be the name of columns from two calls.
    """
    for feature in features:
        for name in [""] if feature.kind == "score" else names:
            for ending in feature.columns + feature.columns_mm:
                found = f"{name}_{ending}" if name else ending
                if found not in measured.values:
                    continue  # a column in mm, but the size of a pixel is unknown
                column = Column(ending, name, feature.name)
                values[column] = measured.values[found]
                if math.isnan(values[column]):
                    reasons[column] = measured.reasons[found]
