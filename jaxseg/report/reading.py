"""Reads what a report shows of one image: its picture, its masks, and what was measured of them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.anatomy.measure.features import Feature, Measurements, measure
from jaxseg.images.picture import ImageError
from jaxseg.images.preprocess import display
from jaxseg.images.read import read_picture
from jaxseg.masks.read import read_masks, select

MAX_NAME = 200  # characters of a class's name


@dataclasses.dataclass(frozen=True)
class Column:
    """What one number of an image is.

    Attributes:
      ending: the name of a score, or what was measured of the class.
      class_name: the class; "" for a score of the whole image.
      feature: name of the feature.
    """

    ending: str
    class_name: str
    feature: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """An image with its masks and measurements.

    Attributes:
      pixels: (H, W) uint8.
      names: K classes, those chosen.
      masks: (K, H, W) bool.
      values: NaN where nothing could be measured; `reasons` says why.
      notes: of reading the image. They may quote tags of a DICOM file, so they are no part of the page.
      has_spacing: whether the file tells the size of a pixel.
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
    intensity: str = "clinical",
) -> Reading:
    """Reads an image and its masks, and measures these on the grid of the image.

    Args:
      image: a png, jpg or DICOM file.
      masks: what `jaxseg.masks.read.read_masks` reads.
      features: what to measure. Scores use any class they need, the others are measured of the chosen classes.
      classes: labels or groups, as `jaxseg.vocabulary.labels.select` takes them; not given: all.
      intensity: how grey values are shown, as in `read_picture`.

    Raises:
      ImageError: a file is damaged, or image and masks do not belong together.
      ValueError: a class is unknown.
      OSError: a file cannot be opened.
    """
    picture = read_picture(image, intensity=intensity)
    loaded = read_masks(masks, image=image)
    if loaded.size != picture.size:
        theirs, ours = (f"{height} x {width}" for height, width in (loaded.size, picture.size))
        raise ImageError(f"the masks are {theirs}, but the image is {ours}: they do not belong together")
    long = [name for name in loaded.names if len(name) > MAX_NAME]
    if long:
        raise ImageError(f"the name of a class has {len(long[0])} characters; at most {MAX_NAME} are shown")
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
    return Reading(display(picture), names, kept, values, reasons, picture.notes, picture.spacing_mm is not None)


def unit(ending: str) -> str:
    """Returns the unit of a column: "mm", "mm²", "px" of the image, or "" for a ratio."""
    if ending.endswith("_mm2"):
        return "mm²"
    if ending.endswith("_mm"):
        return "mm"
    return "" if ending in ("CTR", "compactness", "convexity") else "px"


def _collect(measured: Measurements, features, names, values: dict, reasons: dict) -> None:
    """Adds measurements by column; of one call no two columns have one name, of two they may."""
    for feature in features:
        for name in [""] if feature.kind == "score" else names:
            for ending in feature.columns + feature.columns_mm:
                found = f"{name}_{ending}" if name else ending
                if found not in measured.values:
                    continue  # a column in mm, where the size of a pixel is not known
                column = Column(ending, name, feature.name)
                values[column] = measured.values[found]
                if math.isnan(values[column]):
                    reasons[column] = measured.reasons[found]
