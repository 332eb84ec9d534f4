"""Measures masks that exist already, of a run or of other origin, instead of segmenting images."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.anatomy import products
from jaxseg.anatomy.extract import needed_classes, table_suffix
from jaxseg.anatomy.measure.features import Feature, Measurements, find_all, measure
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Run
from jaxseg.folder_runs.folder import FolderResult
from jaxseg.folder_runs.inputs import Job, find_images, plan, stamp_of
from jaxseg.folder_runs.merged import Merged
from jaxseg.folder_runs.parts import Part, as_part
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.read import read_under_masks
from jaxseg.masks.cohort import is_cohort_file
from jaxseg.masks.read import find_masks, is_of_one_image, on_network_grid, open_masks, read_masks
from jaxseg.masks.results import orientation_of, smooth_in_run, turned_in_run

SMOOTH = "masks with smooth edges are measured in pixels of the image, not on the network's grid"


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
    pixels of the image. So are masks with smooth edges, with a note.

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
    coarse, _, pixel_mm = on_network_grid(loaded, masks, picture.spacing_mm)
    found = loaded.masks if coarse is None else coarse
    seen = orientation_of(masks, image)
    upright = -seen.quarters if seen else 0
    pixel_mm = pixel_mm and pixel_mm[:: -1 if upright % 2 else 1]
    names = [feature.name for feature in features]
    options = {"pixel_mm": pixel_mm, "original_values": original_values, "groups": groups}
    measured = measure(np.rot90(found, upright, axes=(1, 2)), loaded.names, names, **options)
    notes = (seen.note if seen else "", SMOOTH if smooth_in_run(masks) else "")
    return dataclasses.replace(measured, notes=tuple(filter(None, notes)))


def measure_folder(
    source: str | Path,
    output: str | Path,
    features: str | Sequence[str],
    masks: str | Path,
    *,
    original_values: bool = False,
    groups: str = "original",
    table: str = "csv",
    files: Sequence[Path] | None = None,
    names: Mapping[Path, str] | None = None,
    part: Part | str | None = None,
    merged: bool = True,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> FolderResult:
    """Measures masks that exist already, of an X-ray or of all X-rays of a folder, and writes one table.

    Masks of a jaxseg run have the numbers that `jaxseg.extract_folder` gives, except those with smooth edges, which the
    column `reason` notes, and those of an image with fewer rows or columns than the network's grid: these and other
    masks are measured on the pixels of the image. An image is measured again if it or the file of its masks has
    changed.

    Args:
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results, another one than that of the masks.
      features: as in `jaxseg.extract_folder`.
      masks: a folder of results, a .jsonl or .parquet file with the masks of all images, a folder of masks that are
        named after the images, or the masks of a single image.
      original_values: as in `jaxseg.extract_folder`.
      groups: version of the groups of the run that made the masks, see `jaxseg.extract`.
      table: format of the table: "csv", or "parquet", which needs pyarrow.
      files: the image files to process; None: all of `source`.
      names: image file -> name of its results, see `jaxseg.segment_folder`.
      part: process only this part of the images, see `jaxseg.segment_folder`.
      merged: whether to write the table.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: measure images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image.

    Returns:
      A FolderResult, see `jaxseg.segment_folder`; `merged` has the path of the table.

    Raises:
      ValueError: a feature is unknown, an option is out of range, or the masks lie in the output folder; or as
        `jaxseg.segment_folder`.
      OSError: a file or folder cannot be opened.

    Example:
      >>> import jaxseg, numpy as np
      >>> from pathlib import Path
      >>> from PIL import Image
      >>> for name in ("pictures", "drawn"):
      ...     Path(name).mkdir()
      >>> Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save("pictures/chest.png")
      >>> Image.fromarray(np.eye(40) > 0).save("drawn/chest.png")
      >>> found = jaxseg.measure_folder("pictures", "measured", "area", "drawn")
      >>> Path("measured/pictures.csv").read_text().split()
      ['filename,drawn_area,reason', 'chest.png,40,']
    """
    source, output, masks, part, suffix = Path(source), Path(output), Path(masks), as_part(part), table_suffix(table)
    found = find_all(features, groups=groups)
    _check_places(masks, output)
    files = find_images(source, recursive=recursive, output=output) if files is None else files
    columns, options = tuple(feature.name for feature in found), {"original_values": original_values, "groups": groups}
    settings = {"measured": "masks", "features": [*columns]} | options
    place_of = functools.partial(_place, masks, source)

    def work(todo: list[Job], run: Run) -> Iterator[Outcome]:
        def read(job: Job) -> Measurements:
            return measure_image(job.source, place_of(job.source), found, **options)

        made = folder.writer(run)
        return folder.process(todo, run, read, list, lambda job, _, measured: made(job, measured), batch_size=1)

    return folder.run(
        [_stamped(job, place_of) for job in plan(list(files), source, output, names=names, part=part)],
        Run(output, (products.measurements(columns, **options),), settings, part=part),
        work,
        merges=[Merged(suffix, "measurements", {"features": list(columns)})] if merged else [],
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def _check_places(masks: Path, output: Path) -> None:
    """Raises an error if there are no masks, or if they lie in the output folder."""
    if not masks.exists():
        raise FileNotFoundError(f"{masks}: no such file or folder")
    if output.resolve() in (masks.resolve(), masks.resolve().parent):
        raise ValueError(f"{output} holds the masks; name another folder for the table")


def _place(masks: Path, source: Path, image: Path) -> Path:
    """Returns the file or folder with the masks of an image; raises ValueError if there is none."""
    joint = is_cohort_file(masks) or (source.is_file() and is_of_one_image(masks, image))
    return masks if joint else find_masks(masks, image)


def _stamped(job: Job, place_of: Callable[[Path], Path]) -> Job:
    """Returns a job whose stamp is that of the image and of its masks; without masks, reading them reports why.

    A job of another part has no stamp, and its files are not touched.
    """
    if not job.stamp:
        return job
    try:
        return dataclasses.replace(job, stamp=(*job.stamp, *stamp_of(place_of(job.source))))
    except (ValueError, OSError):
        return dataclasses.replace(job, stamp=())
