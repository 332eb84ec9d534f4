"""Measures masks that exist already, of a run or of other origin, instead of segmenting images."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxseg.anatomy import products
from jaxseg.anatomy.extract import merge_tables, needed_classes
from jaxseg.anatomy.measure.features import Feature, Measurements, find_all, measure
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Run
from jaxseg.folder_runs.folder import FolderResult
from jaxseg.folder_runs.inputs import Job, plan, stamp_of
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.read import read_under_masks
from jaxseg.masks.cohort import is_cohort_file
from jaxseg.masks.read import find_masks, is_of_one_image, open_masks, read_masks, to_measure
from jaxseg.masks.results import orientation_of, turned_in_run


def measure_image(
    image: Path,
    masks: Path,
    features: Sequence[Feature],
    *,
    original_values: bool = False,
    groups: str = "original",
) -> Measurements:
    """Measures the masks of an image as `jaxseg.extract` does.

    Masks of a jaxseg run are measured on the network's grid, if they are unchanged, and upright; other masks on the
    pixels of the image.

    Args:
      image: a png, jpg or dcm file; it states the size of a pixel.
      masks: what `jaxseg.masks.read.read_masks` reads.
      features: as `jaxseg.anatomy.measure.features.find_all` returns them.
      original_values, groups: as in `jaxseg.extract`.

    Raises:
      ValueError: image and masks do not fit, or the masks lack classes that each of the features needs.
      OSError: a file cannot be read.
    """
    names = open_masks(masks, image=image).names
    loaded = read_masks(masks, image=image, classes=needed_classes(features, names or ()))
    picture = read_under_masks(image, loaded.size, intensity="clinical", turned=turned_in_run(masks))
    if picture.size != loaded.size:
        theirs, ours = (f"{height} x {width}" for height, width in (loaded.size, picture.size))
        raise ValueError(f"the masks are {theirs}, but the image is {ours}: they do not match")
    found, _, pixel_mm = to_measure(loaded, masks, picture.spacing_mm)
    seen = orientation_of(masks, image)
    upright = -seen.quarters if seen else 0
    pixel_mm = pixel_mm and pixel_mm[:: -1 if upright % 2 else 1]
    names = [feature.name for feature in features]
    options = {"pixel_mm": pixel_mm, "original_values": original_values, "groups": groups}
    measured = measure(np.rot90(found, upright, axes=(1, 2)), loaded.names, names, **options)
    return dataclasses.replace(measured, notes=(seen.note,) if seen and seen.note else ())


def measure_folder(
    files: Sequence[Path],
    source: Path,
    output: Path,
    masks: Path,
    features: str | Sequence[str],
    *,
    original_values: bool,
    groups: str,
    table: str,
    overwrite: bool,
    progress: Callable[[int, int, str], None] | None,
    report: Callable[[Outcome], None] | None,
) -> FolderResult:
    """Measures the masks of all images of a folder, and writes one table; see `jaxseg.extract_folder`.

    An image is measured again if it or the file of its masks has changed.

    Raises:
      ValueError: there are no masks at `masks`, or they lie in the output folder.
      OSError: a file or folder cannot be opened.
    """
    found = find_all(features, groups=groups)
    if not masks.exists():
        raise FileNotFoundError(f"{masks}: no such file or folder")
    if output.resolve() in (masks.resolve(), masks.resolve().parent):
        raise ValueError(f"{output} holds the masks; name another folder for the table")
    names = tuple(feature.name for feature in found)
    options = {"original_values": original_values, "groups": groups}
    settings = {"measured": "masks", "features": list(names)} | options

    def place_of(image: Path) -> Path:
        joint = is_cohort_file(masks) or (source.is_file() and is_of_one_image(masks, image))
        return masks if joint else find_masks(masks, image)

    def read(job: Job) -> Measurements:
        return measure_image(job.source, place_of(job.source), found, **options)

    def write(todo: list[Job], run: Run) -> Iterator[Outcome]:
        made = folder.writer(run)
        return folder.process(
            todo, run, read, lambda measured: measured, lambda job, _, measured: made(job, measured), batch_size=1
        )

    return folder.run(
        [_stamped(job, place_of) for job in plan(list(files), source, output)],
        Run(output, (products.measurements(names, **options),), settings),
        write,
        merges=[(f".{table}", functools.partial(merge_tables, root=source, features=names))],
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def _stamped(job: Job, place_of: Callable[[Path], Path]) -> Job:
    """Returns a job whose stamp is that of the image and of its masks; without masks, reading them reports why."""
    try:
        return dataclasses.replace(job, stamp=(*job.stamp, *stamp_of(place_of(job.source))))
    except (ValueError, OSError):
        return dataclasses.replace(job, stamp=())
