"""Measurements of anatomy in images or masks, and the table of a run."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxseg.anatomy.measure import features as known
from jaxseg.anatomy.measure import table
from jaxseg.anatomy.measure.features import Measurements, measure
from jaxseg.anatomy.products import measure_segmentation
from jaxseg.anatomy.segment import Segmenter, segment
from jaxseg.folder_runs.account import Run
from jaxseg.folder_runs.inputs import Job
from jaxseg.masks.segmentation import Segmentation
from jaxseg.parquet import require_pyarrow
from jaxseg.vocabulary import labels

TABLES = ("csv", "parquet")


def extract(
    image: str | Path | np.ndarray | Segmentation,
    features: str | Sequence[str],
    *,
    model: str | Path | nnx.Module | Segmenter | None = None,
    names: Sequence[str] | None = None,
    pixel_mm: tuple[float, float] | None = None,
    original_values: bool = False,
    groups: str = "original",
    **options: Any,
) -> Measurements:
    """Measures the anatomy in an X-ray or in masks.

    Args:
      image: with a model, an image as for `jaxseg.segment`; otherwise the result of `jaxseg.segment`, or masks
        (K, H, W) bool.
      features: from `jaxseg.anatomy.measure.features.FEATURES`, a list or a comma-separated string: CTR, SCD, area,
        perimeter, compactness, centroid, box, convexity.
      model: segments the image first, as `jaxseg.segment` does, but only the classes that the features need; what
        `jaxseg.segment` takes.
      names: (K,) labels of masks given as an array; None: those of CXAS, if K is 159.
      pixel_mm: height and width of a pixel, in mm, of masks given as an array; adds columns in mm.
      original_values: return -1 (boxes of 0), as the original does, if something cannot be measured, instead of NaN.
      groups: "original" measures SCD as CXAS up to 0.0.16, without the vertebra C7; "cxas-0.0.20" as that version, with
        C7. A `Segmenter` as model decides itself.
      **options: of `jaxseg.segment`.

    Returns:
      Measurements: `values` by column name, `reasons` for those that are NaN, and `notes`, for example that the image
      looks upside down. Lengths are in pixels: of the network's grid if an image or a Segmentation was given, as in the
      original; of the masks if masks were given. An image that was turned before it was segmented is measured upright.

    Raises:
      ValueError: a feature is unknown, or the image, masks and names do not fit.

    Example:
      >>> import jaxseg, numpy as np
      >>> masks = np.zeros((1, 20, 20), bool)
      >>> masks[0, 5:10, 5:15] = True
      >>> jaxseg.extract(masks, "area", names=["heart"]).values
      {'heart_area': 50}
    """
    groups = model.groups if isinstance(model, Segmenter) else groups
    found = known.find_all(features, groups=groups)
    if model is not None:
        if isinstance(image, Segmentation):
            raise ValueError("a Segmentation is measured without a model")
        if not isinstance(model, Segmenter):
            options["groups"] = groups
            if options.get("classes") is None:
                options["classes"] = functools.partial(needed_classes, found)
        image = segment(image, model, **options)
    elif options:
        raise ValueError(f"options {', '.join(options)} belong to segmenting; give a model too")
    if isinstance(image, Segmentation):
        if names is not None or pixel_mm is not None:
            raise ValueError("names and pixel_mm are for masks given as an array; a Segmentation has its own")
        return measure_segmentation(image, features, original_values=original_values, groups=groups)
    if isinstance(image, (str, Path)):
        raise ValueError("an image file is measured with a model: extract(path, features, model='cxas')")
    masks = np.asarray(image)
    if names is None:
        if masks.ndim != 3 or len(masks) != len(labels.CXAS):
            raise ValueError(
                f"masks of shape {masks.shape} are not those of CXAS's classes: give names, or a model for an image"
            )
        names = labels.CXAS
    how: dict[str, Any] = {"pixel_mm": pixel_mm, "original_values": original_values, "groups": groups}
    return measure(masks, tuple(names), features, **how)


def needed_classes(features: Sequence[known.Feature], class_names: Sequence[str]) -> list[str] | None:
    """Returns the classes, as `Segmenter` takes them, that a model with these classes must segment for features.

    Args:
      features: as `jaxseg.anatomy.measure.features.find_all` returns them.
      class_names: (K,) names of the model's classes.

    Returns:
      A list of classes; None: all.

    Raises:
      ValueError: the model lacks classes that each of the features needs.
    """
    needed = known.classes_for(features, class_names)
    return None if needed is None else [f"label:{label}" for label in needed]


def table_merge(table: str, root: Path, features: tuple[str, ...]) -> tuple[str, Callable]:
    """Returns what `jaxseg.folder_runs.folder.run` takes to write the table of a run: its suffix and a function.

    Args:
      table: "csv", or "parquet", which needs pyarrow.
      root: the image, or the folder of images.
      features: names of the features.

    Raises:
      ValueError: the format is unknown, or pyarrow is not installed.
    """
    if table not in TABLES:
        raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
    if table == "parquet":
        require_pyarrow()
    return f".{table}", functools.partial(merge_tables, root=root, features=features)


def merge_tables(jobs: list[Job], run: Run, path: Path, *, root: Path, features: tuple[str, ...]) -> None:
    """Writes the table of a run, with one row per image. The row of an image that failed has only the reason."""
    place = next(product.place for product in run.products if product.kind == "measurements")
    rows = []
    for job in jobs:
        entry = run.files[run.key(job)]
        name = job.source.relative_to(root).as_posix() if root.is_dir() else job.source.name
        rows.append((name, entry["reason"] if entry["status"] == "failed" else place(job.base)))
    table.merge(rows, path, features=features)
