"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import run_images


@click.command()
@options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
@options.of_extraction(required=True)
@options.of_images
def extract(
    source,
    output,
    features,
    store_seg,
    draw,
    original_values,
    output_type,
    labelmap,
    preview,
    overwrite,
    **others,
):
    """Measure the anatomy in chest X-rays: a table with one row per image.

    The table is <folder>.csv, or <image>.csv for a single image. Lengths are in pixels of the network's 512 x 512 grid,
    as in the original; columns in mm are added if a DICOM file states its pixel spacing. If something cannot be
    measured, its cell is empty and the last column states the reason.
    """
    console.stage("reading weights")
    from jaxseg.anatomy.extract import needed_classes
    from jaxseg.anatomy.folders import check_labelmap, extract_folder
    from jaxseg.anatomy.measure.features import find_all

    with options.usage_errors("--feature"):
        found = find_all(",".join(features))
    with options.usage_errors("--labelmap"):
        check_labelmap(labelmap=labelmap, output_type=output_type, masks=store_seg)

    def classes(class_names) -> list[str] | None:
        with options.usage_errors("--feature"):
            needed = needed_classes(found, class_names)
        return None if store_seg or preview else needed

    def job(source, output, segmenter, **settings):
        return extract_folder(source, output, [feature.name for feature in found], segmenter, **settings)

    settings = {"store_masks": store_seg, "draw": draw, "original_values": original_values, "preview": preview}
    settings |= {"output_type": output_type, "labelmap": labelmap, "overwrite": overwrite}
    run_images(source, output, job=job, settings=settings, classes=classes, **others)
