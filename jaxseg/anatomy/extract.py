"""Measurements of anatomy in images or masks, and the table of a run."""

from collections.abc import Sequence
from pathlib import Path

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
from jaxseg.vocabulary import labels


def extract(
    image: str | Path | np.ndarray | Segmentation,
    features: str | Sequence[str],
    *,
    model: nnx.Module | Segmenter | None = None,
    names: Sequence[str] | None = None,
    pixel_mm: tuple[float, float] | None = None,
    original_values: bool = False,
    **options,
) -> Measurements:
    """Measures the anatomy in an X-ray or in masks.

    Args:
      image: with a model, an image as for `jaxseg.segment`; otherwise the result of `jaxseg.segment`, or masks
        (K, H, W) bool.
      features: from `jaxseg.anatomy.measure.features.FEATURES`, a list or a comma-separated string: CTR, SCD, area,
        perimeter, compactness, centroid, box, convexity.
      model: the model that segments the image first, as `jaxseg.segment` does, but only the classes that the features
        need.
      names: (K,) labels of masks given as an array; None: those of CXAS, if K is 159.
      pixel_mm: height and width of a pixel, in mm, of masks given as an array; adds columns in mm.
      original_values: return -1 (boxes of 0), as the original does, if something cannot be measured, instead of NaN.
      **options: of `jaxseg.segment`.

    Returns:
      Measurements: `values` by column name, and `reasons` for those that are NaN. Lengths are in pixels: of the
      network's grid if an image or a Segmentation was given, as in the original; of the masks if masks were given.

    Raises:
      ValueError: a feature is unknown, or the image, masks and names do not fit.

    Example:
      >>> import jaxseg, numpy as np
      >>> masks = np.zeros((1, 20, 20), bool)
      >>> masks[0, 5:10, 5:15] = True
      >>> jaxseg.extract(masks, "area", names=["heart"]).values
      {'heart_area': 50}
    """
    found = known.find_all(features)
    if model is not None:
        if isinstance(image, Segmentation):
            raise ValueError("a Segmentation is measured without a model")
        card = None if isinstance(model, Segmenter) else getattr(model, "card", None)
        if card is not None and options.get("classes") is None:
            needed = known.classes_for(found, card.class_names)
            options["classes"] = needed and [f"label:{label}" for label in needed]
        image = segment(image, model, **options)
    elif options:
        raise ValueError(f"options {', '.join(options)} belong to segmenting; give a model too")
    if isinstance(image, Segmentation):
        if names is not None or pixel_mm is not None:
            raise ValueError("names and pixel_mm are for masks given as an array; a Segmentation has its own")
        return measure_segmentation(image, features, original_values=original_values)
    if isinstance(image, (str, Path)):
        raise ValueError("an image file is measured with a model: extract(path, features, model=jaxseg.load('cxas'))")
    masks = np.asarray(image)
    if names is None:
        if masks.ndim != 3 or len(masks) != len(labels.CXAS):
            raise ValueError(
                f"masks of shape {masks.shape} are not those of CXAS's classes: give names, or a model for an image"
            )
        names = labels.CXAS
    return measure(masks, tuple(names), features, pixel_mm=pixel_mm, original_values=original_values)


def merge_tables(jobs: list[Job], run: Run, path: Path, *, root: Path, features: tuple[str, ...]) -> None:
    """Writes the table of a run, with one row per image. The row of an image that failed has only the reason."""
    place = next(product.place for product in run.products if product.kind == "measurements")
    rows = []
    for job in jobs:
        entry = run.files[run.key(job)]
        name = job.source.relative_to(root).as_posix() if root.is_dir() else job.source.name
        rows.append((name, entry.get("reason") if entry["status"] == "failed" else place(job.base)))
    table.merge(rows, path, features=features)
