"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.runs import denoising, run_images

SEGMENTER = (  # options of `make_segmenter`, except the classes
    "model",
    "gpus",
    "weights",
    "labels_file",
    "batch_size",
    "threshold",
    "preprocessing",
    "intensity",
    "dtype",
)


def refuse_labelmap(output_type: str | None, *, masks: bool = True) -> None:
    """Raises a usage error: `--labelmap` is only for masks in DICOM SEG."""
    if not (masks and output_type == "dicom-seg"):
        raise click.UsageError("--labelmap: for DICOM SEG; ask for it with -ot dicom-seg")


@click.command()
@options.fidelity(intensity=("original", "clinical"))
@options.of_images
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
@click.option(
    "--denoise",
    "denoiser",
    type=click.Path(path_type=Path),
    help="Restore masks with this Post-DAE (a training run, a model directory or a .ckpt) before they are written.",
)
@click.option(
    "--denoise-classes", help="With --denoise: the classes to restore.  [default: those that the Post-DAE names]"
)
@options.of_denoising
def segment(source, output, denoiser, denoise_classes, union, largest_component, classes, labelmap, **others):
    """Segment the anatomy in chest X-rays (png, jpg, DICOM).

    Masks have the size of their image. If files of a folder fail, the others are processed: each failure is shown with
    its reason, summary.json in the output folder lists all files, and the exit code is 1. A second run skips what is
    done.
    """
    from jaxseg.anatomy.folders import segment_folder

    if denoiser is None and (denoise_classes or union or largest_component):
        raise click.UsageError("--denoise-classes, --union and --largest-component: name a model with --denoise")
    if labelmap:
        refuse_labelmap(others["output_type"])
    postprocess = None
    if denoiser is not None:
        wanted = {"union": union, "largest_component": largest_component, "gpus": others["gpus"]}

        def postprocess(segmenter):
            return denoising(segmenter, denoiser, denoise_classes, **wanted)

    of_segmenter = {name: others.pop(name) for name in SEGMENTER} | {"classes": classes}
    others |= {"labelmap": labelmap, "segmenter_options": of_segmenter, "postprocess": postprocess}
    run_images(source, output, job=segment_folder, **others)
