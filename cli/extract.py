"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

import functools

import click

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.runs import of_anatomy, run_images


@click.command()
@options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
@options.of_extraction(required=True)
@cohort.source("Image (png, jpg, DICOM) or folder of images.")
@cohort.of_cohort("images")
@cluster.of_ray("images")
@options.of_images
@of_anatomy
def extract(
    source,
    output,
    features,
    store_seg,
    draw,
    original_values,
    output_type,
    labelmap,
    strict_projection,
    preview,
    overwrite,
    merged,
    **others,
):
    """Measure the anatomy in chest X-rays: a table with one row per image.

    The table is <folder>.csv, or <image>.csv for a single image. Areas and lengths are in pixels of the network's grid
    (512 x 512 for the published weights), not of the image, as in the original. Columns whose names end in _mm and
    _mm2 are added if a DICOM file states its pixel spacing. If something cannot be measured, its cell is empty and
    the last column states the reason.
    """
    console.stage("reading weights")
    from jaxseg.anatomy.extract import needed_classes
    from jaxseg.anatomy.folders import check_seg_options, extract_folder
    from jaxseg.anatomy.measure.features import find_all

    with options.usage_errors("--feature"):
        found = find_all(",".join(features), groups=others["groups"])
    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    with options.usage_errors("--labelmap" if labelmap else "--strict-projection"):
        check_seg_options(seg, output_type, masks=store_seg)

    def classes(class_names) -> list[str] | None:
        with options.usage_errors("--feature"):
            needed = needed_classes(found, class_names)
        return None if store_seg or preview else needed

    job = functools.partial(extract_folder, features=[feature.name for feature in found])
    settings = {"store_masks": store_seg, "draw": draw, "original_values": original_values, "preview": preview}
    settings |= seg | {"output_type": output_type, "overwrite": overwrite, "merged": merged}
    run_images(source, output, job=job, settings=settings, classes=classes, **others)
