"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

import functools

import click

from jaxseg.cli import options
from jaxseg.cli.runs import Design, mask_products, run_images


@click.command()
@options.of_extraction(required=True)
@options.of_images
def extract(source, output, output_type, features, store_seg, draw, original_values, labelmap, preview, **settings):
    """Measure the anatomy in chest X-rays: a table with a row an image.

    The table is <folder>.csv, or <image>.csv for a single image. Pixels are those of the network's 512 x 512 grid, as
    the original's; columns in mm are added where a DICOM file tells its pixel spacing. What cannot be measured is an
    empty cell, and the last column says why.
    """
    from jaxseg.measure.features import find

    with options.usage_errors("--feature"):
        found = [find(feature) for feature in features]
    names = tuple(dict.fromkeys(feature.name for feature in found))
    needed = None
    if not (store_seg or preview) and all(feature.classes is not None for feature in found):
        needed = [f"label:{label}" for feature in found for label in feature.classes]

    def design(segmenter, identity) -> Design:
        from jaxseg.predict import products
        from jaxseg.predict.extract import merge_tables

        made = [products.measurements(names, original_values=original_values)]
        made += mask_products(segmenter, output_type, labelmap=labelmap, preview=preview, masks=store_seg)
        if draw:
            made.append(products.drawings(names, segmenter.intensity))
        if needed is not None:
            identity.pop("classes")
        identity |= {"features": list(names), "original_values": original_values}
        return Design(tuple(made), identity, (".csv", functools.partial(merge_tables, root=source)))

    run_images(source, output, design=design, classes=needed, **settings)
