"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

import click

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.runs import make_denoiser, of_anatomy, run_images


@click.command()
@options.fidelity(intensity=("original", "clinical"))
@cohort.source("Image (png, jpg, DICOM) or folder of images.")
@cohort.of_cohort("images")
@cluster.of_ray("images")
@options.of_images
@of_anatomy
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
@click.option(
    "--denoise",
    "denoiser",
    type=options.ExistingPath("a training run, a model directory or a .ckpt file"),
    help="Restore masks with this Post-DAE (a training run, a model directory or a .ckpt) before they are written.",
)
@click.option(
    "--denoise-classes", help="With --denoise: the classes to restore.  [default: those that the Post-DAE names]"
)
@options.of_denoising
def segment(
    source,
    output,
    denoiser,
    denoise_classes,
    union,
    largest_component,
    output_type,
    labelmap,
    strict_projection,
    preview,
    overwrite,
    merged,
    **others,
):
    """Segment the anatomy in chest X-rays (png, jpg, DICOM).

    Masks have the size of their image. If files of a folder fail, the others are processed: each failure is shown with
    its reason, summary.json in the output folder lists all files, and the exit code is 1. A second run skips what is
    done.
    """
    if denoiser is None and (denoise_classes or union or largest_component):
        raise click.UsageError("--denoise-classes, --union and --largest-component: name a model with --denoise")
    console.stage("reading weights")
    from jaxseg.anatomy.folders import check_seg_options, segment_folder

    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    with options.usage_errors("--labelmap" if labelmap else "--strict-projection"):
        check_seg_options(seg, output_type)

    def postprocess(segmenter, gpus):
        wanted = {"union": union, "largest_component": largest_component, "gpus": gpus}
        found = make_denoiser(weights=denoiser, option="--denoise", **wanted)
        with options.usage_errors("--denoise-classes"):
            return found.postprocess_for(segmenter.names, denoise_classes)

    settings = seg | {"output_type": output_type, "preview": preview, "overwrite": overwrite, "merged": merged}
    others["postprocess"] = None if denoiser is None else postprocess
    run_images(source, output, job=segment_folder, settings=settings, **others)
