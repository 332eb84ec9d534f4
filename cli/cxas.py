"""`jaxseg cxas`: the original's one command for segmenting and measuring."""

import click

from jaxseg.cli import options
from jaxseg.cli.extract import extract
from jaxseg.cli.segment import segment


@click.command()
@click.option(
    "--mode", type=click.Choice(["segment", "extract"]), default="segment", show_default=True, help="What to do."
)
@options.of_extraction(required=False)
@options.of_images
@click.pass_context
def cxas(context, mode, features, store_seg, draw, original_values, **settings):
    """CXAS's one command: segment or measure.

    `jaxseg segment` and `jaxseg extract` are the same, with help of their own.
    """
    if mode == "extract":
        if not features:
            raise click.UsageError("--mode extract needs -f/--feature; CTR, for example")
        own = {"features": features, "store_seg": store_seg, "draw": draw, "original_values": original_values}
        context.invoke(extract, **own, **settings)
        return
    measuring = {"-f/--feature": features, "--draw": draw, "--original-values": original_values}
    given = [name for name, value in measuring.items() if value]  # -s asks for nothing: masks are stored in any case
    if given:
        raise click.UsageError(f"{', '.join(given)}: for --mode extract; --mode is segment")
    context.invoke(segment, classes=None, **settings)
