"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

import click

from jaxseg.cli import options
from jaxseg.cli.runs import Design, mask_merges, mask_products, run_images


@click.command()
@options.of_images
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
def segment(source, output, output_type, labelmap, preview, **others):
    """Segment the anatomy in chest X-rays (png, jpg, DICOM).

    A folder goes on past bad files: each is named with its reason, summary.json in the output folder lists all, and
    the exit code is 1. A second run skips what is done. Masks have the size of their image.
    """

    def design(segmenter, settings) -> Design:
        made = mask_products(segmenter, settings, output_type, labelmap=labelmap, preview=preview)
        return Design(made, settings, mask_merges(segmenter, made, source))

    run_images(source, output, design=design, **others)
