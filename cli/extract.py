"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

import functools

import click

from jaxseg.cli import options
from jaxseg.cli.runs import Design, mask_merges, mask_products, run_images


@click.command()
@options.of_extraction(required=True)
@options.of_images
def extract(source, output, output_type, features, store_seg, draw, original_values, labelmap, preview, **others):
    """Measure the anatomy in chest X-rays: a table with a row an image.

    The table is <folder>.csv, or <image>.csv for a single image. Pixels are those of the network's 512 x 512 grid, as
    the original's; columns in mm are added where a DICOM file tells its pixel spacing. What cannot be measured is an
    empty cell, and the last column says why.
    """
    from jaxseg.anatomy.measure.features import classes_for, find_all

    with options.usage_errors("--feature"):
        found = find_all(",".join(features))
    names = tuple(feature.name for feature in found)

    def needed(class_names) -> list[str] | None:
        with options.usage_errors("--feature"):
            labels = classes_for(found, class_names)
        return None if store_seg or preview or labels is None else [f"label:{label}" for label in labels]

    def design(segmenter, settings) -> Design:
        from jaxseg.anatomy import products
        from jaxseg.anatomy.extract import merge_tables

        merges = [(".csv", functools.partial(merge_tables, root=source, features=names))]
        made = [products.measurements(names, original_values=original_values)]
        kinds = {"labelmap": labelmap, "preview": preview, "masks": store_seg}
        made += mask_products(segmenter, settings, output_type, **kinds)
        if draw:
            made.append(products.drawings(names, segmenter.intensity))
        settings |= {"features": list(names), "original_values": original_values}
        return Design(made, settings, merges + mask_merges(segmenter, made, source))

    run_images(source, output, design=design, classes=needed, **others)
