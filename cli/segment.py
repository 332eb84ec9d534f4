"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

import functools

import click

from jaxseg.cli import options
from jaxseg.cli.runs import Design, mask_products, run_images


@click.command()
@options.of_images
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
def segment(source, output, output_type, labelmap, preview, **settings):
    """Segment the anatomy in chest X-rays (png, jpg, DICOM).

    A folder goes on past bad files: each is named with its reason, summary.json in the output folder lists all, and
    the exit code is 1. A second run skips what is done. Masks have the size of their image.
    """

    def design(segmenter, identity) -> Design:
        from jaxseg.predict.folder import merge_masks

        products = mask_products(segmenter, output_type, labelmap=labelmap, preview=preview)
        merge = None
        if products[0].kind == "json" and source.is_dir():
            merge = ".json", functools.partial(merge_masks, segmenter=segmenter)
        return Design(products, identity, merge)

    run_images(source, output, design=design, **settings)
