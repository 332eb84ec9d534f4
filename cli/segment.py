"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.runs import Design, chain_denoiser, mask_merges, mask_products, run_images


@click.command()
@options.of_images
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
@click.option(
    "--denoise",
    "denoiser",
    type=click.Path(path_type=Path),
    help="Restore masks with this Post-DAE (a training run, a model directory or a .ckpt) before they are written.",
)
@click.option("--denoise-classes", help="With --denoise: which classes.  [default: the model's own, if it names them]")
@options.of_denoising
def segment(
    source, output, output_type, labelmap, preview, denoiser, denoise_classes, union, largest_component, **others
):
    """Segment the anatomy in chest X-rays (png, jpg, DICOM).

    A folder goes on past bad files: each is named with its reason, summary.json in the output folder lists all, and
    the exit code is 1. A second run skips what is done. Masks have the size of their image.
    """
    if denoiser is None and (denoise_classes or union or largest_component):
        raise click.UsageError("--denoise-classes, --union and --largest-component: name a model with --denoise")

    def design(segmenter, settings) -> Design:
        if denoiser is not None:
            wanted = {"union": union, "largest_component": largest_component, "gpus": others["gpus"]}
            chain_denoiser(segmenter, settings, denoiser, denoise_classes, **wanted)
        made = mask_products(segmenter, settings, output_type, labelmap=labelmap, preview=preview)
        return Design(made, settings, mask_merges(segmenter, made, source))

    run_images(source, output, design=design, **others)
