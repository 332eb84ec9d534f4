"""`jaxseg cxas`: the original's one command for segmenting and measuring."""

import click

from jaxseg.cli import cohort, options
from jaxseg.cli.extract import extract
from jaxseg.cli.runs import of_anatomy
from jaxseg.cli.segment import segment


@click.command()
@click.option(
    "--mode", type=click.Choice(["segment", "extract"]), default="segment", show_default=True, help="What to do."
)
@options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
@options.of_extraction(required=False)
@cohort.source("Image (png, jpg, DICOM) or folder of images.")
@cohort.of_cohort("images")
@options.of_images
@of_anatomy
@click.pass_context
def cxas(context, mode, features, store_seg, draw, original_values, **settings):
    """Segment or measure X-rays with the command line of CXAS.

    `jaxseg segment` and `jaxseg extract` do the same, and have a help text each.
    """
    if mode == "extract":
        if not features:
            raise click.UsageError("--mode extract needs -f/--feature; CTR, for example")
        own = {"features": features, "store_seg": store_seg, "draw": draw, "original_values": original_values}
        context.invoke(extract, **own, **settings)
        return
    given = [name for name, value in (("-f/--feature", features), ("--draw", draw)) if value]
    if context.get_parameter_source("original_values").name != "DEFAULT":
        given.append("--original-values")
    if given:  # -s is accepted: masks are written anyway
        raise click.UsageError(f"{', '.join(given)}: for --mode extract; --mode is segment")
    context.invoke(segment, classes=None, **settings)
