"""The products that runs make from every image, in one folder: masks, previews, measurements and drawings of them."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.anatomy.measure import table
from jaxseg.anatomy.measure.features import Measurements, measure
from jaxseg.anatomy.segment import Prepared, Segmenter
from jaxseg.draw.pictures import save_picture
from jaxseg.files import atomic_file
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import process, writer
from jaxseg.folder_runs.inputs import Job
from jaxseg.folder_runs.parts import Part
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.preprocess import display
from jaxseg.images.read import read_picture
from jaxseg.masks import cohort
from jaxseg.masks.confidence import PROBABILITIES, write_confidence, write_probabilities
from jaxseg.masks.confidence import SUFFIX as CONFIDENCE
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.write import DRAWING, MEASUREMENTS, PREVIEW, WRITERS, output_path


def masks(output_type: str, class_names: tuple[str, ...], model: str, **seg: bool) -> Product:
    """Returns the product of masks in the format `output_type`, a key of `jaxseg.masks.write.WRITERS`.

    Args:
      output_type: the format.
      class_names: all labels of the model.
      model: name of the model.
      **seg: labelmap and strict_projection, for DICOM SEG.
    """

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        notes: list[str] = []
        options = {"source": str(job.source), "categories": class_names, "algorithm": model}
        WRITERS[output_type](segmentation, job.base, notes=notes, **options, **seg)
        return [f"{job.source.name}: {note}" for note in notes]

    check = None
    if output_type == "dicom-seg":
        from jaxseg.masks.dicom_seg import check_source as check
        from jaxseg.masks.dicom_seg import require_highdicom

        require_highdicom()  # checked now, so that an error is raised before the first image
    return Product(output_type, functools.partial(output_path, output_type=output_type), write, check)


def joint_masks(output_type: str, classes: Mapping[int, str], output: Path, part: Part | None) -> Product:
    """Returns the product of masks in a format of which one file holds those of all images.

    Args:
      output_type: key of `jaxseg.masks.cohort.TYPES`.
      classes: index of a class in the model's label set -> its name, of all classes that are segmented.
      output: folder of the results.
      part: the part of the run, which has a separate file; None: the run is not divided.
    """
    found = cohort.mask_file(output_type, output, classes, None if part is None else part.tag)

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        found.add(job.base.relative_to(output).as_posix(), job.name, segmentation)
        return []

    return Product(output_type, lambda base: found.path, write, joint=found)


def previews(intensity: str) -> Product:
    """Returns the product `<base>.preview.jpg`: the masks over the image."""

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        from jaxseg.draw.visualize import preview

        image = display(read_picture(job.source, intensity=intensity))
        save_picture(preview(image, segmentation), _beside(job.base, PREVIEW))
        return []

    return Product("preview", functools.partial(_beside, suffix=PREVIEW), write)


def measurements(features: tuple[str, ...], *, original_values: bool = False, groups: str = "original") -> Product:
    """Returns the product `<base>.measurements.json`: the features of an image, from which tables are made.

    It is written from the masks of an image, or from the features if they were measured already.
    """

    def write(job: Job, segmentation: Segmentation | Measurements) -> list[str]:
        if isinstance(segmentation, Measurements):
            found = segmentation
        else:
            found = measure_segmentation(segmentation, features, original_values=original_values, groups=groups)
        with atomic_file(_beside(job.base, MEASUREMENTS)) as temporary:
            temporary.write_text(json.dumps(table.to_json(found)), encoding="utf-8")
        return []

    return Product("measurements", functools.partial(_beside, suffix=MEASUREMENTS), write)


def confidences() -> Product:
    """Returns the product `<base>.confidence.json`: how sure the network is of the masks, from which the table is made.

    The table names an image by its path relative to the folder of the images.
    """

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        write_confidence(segmentation.confidence, job.name, _beside(job.base, CONFIDENCE))
        return []

    return Product("confidence", functools.partial(_beside, suffix=CONFIDENCE), write)


def probabilities() -> Product:
    """Returns the product `<base>.probabilities.npz`, at the network's size."""

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        path = _beside(job.base, PROBABILITIES)
        write_probabilities(segmentation.scores, segmentation.names, segmentation.size, path)
        return []

    return Product("probabilities", functools.partial(_beside, suffix=PROBABILITIES), write)


def drawings(features: tuple[str, ...], intensity: str, *, groups: str = "original") -> Product:
    """Returns the product `<base>.lines.jpg`: the lines that the features measure, over the image, which is upright."""

    def write(job: Job, segmentation: Segmentation) -> list[str]:
        from jaxseg.anatomy.measure.drawing import draw_lines

        image = display(read_picture(job.source, intensity=intensity))
        if segmentation.orientation is not None:
            image = np.ascontiguousarray(np.rot90(image, -segmentation.orientation.quarters))
        drawn = draw_lines(image, measure_segmentation(segmentation, features, groups=groups))
        save_picture(Image.fromarray(drawn), _beside(job.base, DRAWING))
        return []

    return Product("drawing", functools.partial(_beside, suffix=DRAWING), write)


def segment_files(
    todo: list[Job], segmenter: Segmenter, run: Run, *, readers: int = 2, writers: int = 2
) -> Iterator[Outcome]:
    """Segments the jobs that `begin` returned, writes the run's products, and yields Outcomes."""
    read, write_products = _reader(run, segmenter), writer(run)
    compute, fetch = segmenter.stages

    def write(job: Job, image: Prepared, segmentation: Segmentation) -> list[str | dict]:
        return [*write_products(job, segmentation), *_remarks(job, image, segmentation)]

    return process(
        todo,
        run,
        read,
        compute,
        write,
        fetch=fetch,
        batch_size=segmenter.batch_size,
        readers=readers,
        writers=writers,
    )


def _remarks(job: Job, image: Prepared, segmentation: Segmentation) -> list[str | dict]:
    """Returns the notes of segmenting and denoising an image, and what the summary holds about its orientation."""
    notes = [f"{job.source.name}: {note}" for note in segmentation.notes if note not in image.notes]
    found = segmentation.orientation
    return [*notes, {"orientation": dataclasses.asdict(found)}] if found is not None and found.note else notes


def _reader(run: Run, segmenter: Segmenter) -> Callable:
    def read(job: Job):
        for product in run.products:
            if product.check is not None:
                product.check(job.source)
        return segmenter.prepare(job.source)

    return read


def measure_segmentation(
    segmentation: Segmentation,
    features: str | Sequence[str],
    *,
    original_values: bool = False,
    groups: str = "original",
) -> Measurements:
    """Measures masks as the original does: at the network's size, before they are resized to the image's.

    An image that was turned before it was segmented is measured upright.

    Args:
      segmentation: the masks.
      features, original_values, groups: as in `jaxseg.anatomy.measure.features.measure`.
    """
    found, segmentation = segmentation.orientation, segmentation.upright
    notes = (found.note,) if found is not None and found.note else ()
    coarse = np.unpackbits(segmentation.bits, axis=2).view(bool)  # (K, h, w)
    pixel_mm = None
    if segmentation.spacing_mm is not None:
        extents = np.multiply(segmentation.spacing_mm, segmentation.size)
        pixel_mm = tuple(float(extent) / side for extent, side in zip(extents, coarse.shape[1:], strict=True))
    options: dict[str, Any] = {"pixel_mm": pixel_mm, "original_values": original_values, "groups": groups}
    return dataclasses.replace(measure(coarse, segmentation.names, features, **options), notes=notes)


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)
