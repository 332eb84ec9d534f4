"""`jaxseg segment`: masks of X-rays, from a file or a folder."""

import click

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.runs import make_denoiser, of_anatomy, run_images, starting

of_confidence = options.combined(
    click.option(
        "--confidence",
        is_flag=True,
        help="Also write confidence.csv: how sure the network is of each mask. The next two options turn it on, too.",
    ),
    click.option(
        "--tta",
        type=click.IntRange(1, 64),
        metavar="N",
        help="Compare each mask with those of N changed copies of the image: every second one mirrored, all moved, "
        "scaled and with other grey values. It takes N more calls of the network.",
    ),
    click.option(
        "--shape-check",
        type=options.ExistingPath("a training run, a model directory or a .ckpt file"),
        help="Compare each mask with what this Post-DAE (a training run, a model directory or a .ckpt) makes of it. "
        "--denoise-classes, --union and --largest-component apply.",
    ),
    click.option(
        "--probabilities",
        is_flag=True,
        help="Also write <image>.probabilities.npz, float16 at the network's size.",
    ),
    click.option(
        "--edges",
        type=click.Choice(["original", "smooth"]),
        default="original",
        show_default=True,
        help="How masks get the size of the image. original: by nearest neighbour. smooth: the probabilities are "
        "enlarged bilinearly, and then cut.",
    ),
)


@click.command()
@options.fidelity(intensity=("original", "clinical"))
@cohort.source("Image (png, jpg, DICOM) or folder of images.")
@cohort.of_cohort("images")
@cluster.of_ray("images")
@options.of_images_and_models
@of_anatomy
@click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".')
@click.option(
    "--denoise",
    "denoiser",
    type=options.ExistingPath(options.trained_kinds(".ckpt"), hub=True),
    help=f"Restore masks with this Post-DAE before they are written: {options.trained_kinds('.ckpt')}.",
)
@click.option(
    "--denoise-classes",
    help="With --denoise or --shape-check: the classes to restore.  [default: those that the Post-DAE names]",
)
@options.of_denoising
@of_confidence
def segment(
    source,
    output,
    denoiser,
    denoise_classes,
    union,
    largest_component,
    confidence,
    tta,
    shape_check,
    probabilities,
    edges,
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
    sure = {"confidence": confidence, "tta": tta or 0, "probabilities": probabilities, "edges": edges}
    _check(denoiser, shape_check, [denoise_classes, union, largest_component], sure, others["weights"])
    console.stage("reading weights")
    with starting(others["weights"]):
        from jaxseg.anatomy.folders import check_seg_options, segment_folder

    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    with options.usage_errors("--labelmap" if labelmap else "--strict-projection"):
        check_seg_options(seg, output_type)

    def restoring(names, gpus):
        option = "--denoise" if denoiser else "--shape-check"
        wanted = {"union": union, "largest_component": largest_component, "gpus": gpus}
        found = make_denoiser(weights=denoiser or shape_check, option=option, **wanted)
        with options.usage_errors("--denoise-classes"):
            return found.postprocess_for(names, denoise_classes)

    settings = seg | {"output_type": output_type, "preview": preview, "overwrite": overwrite, "merged": merged}
    others["postprocess" if denoiser else "shape_check"] = restoring if denoiser or shape_check else None
    others["mean_probabilities"] = output_type in options.JOINT_TYPES
    run_images(source, output, job=segment_folder, settings=settings, **sure, **others)


def _check(denoiser, shape_check, of_denoising, sure, weights) -> None:
    """Raises a usage error for options that exclude or need each other."""
    if denoiser is None and shape_check is None and any(of_denoising):
        raise click.UsageError(
            "--denoise-classes, --union and --largest-component: name a model with --denoise or --shape-check"
        )
    asked = {f"--{name}": value for name, value in (sure | {"shape-check": shape_check}).items()}
    asked |= {"--edges smooth": asked.pop("--edges") == "smooth"}
    asked |= {"several --weights": isinstance(weights, tuple) and len(weights) > 1}
    if denoiser is not None and any(asked.values()):
        name = next(name for name, value in asked.items() if value)
        raise click.UsageError(f"{name}: this concerns the network's own masks; leave it out, or --denoise")
