"""`jaxseg denoise`: restores the shape of masks with a denoising autoencoder (Post-DAE)."""

import functools

import click

from jaxseg.cli import cohort, console, options
from jaxseg.cli.runs import finish, label, make_denoiser, shown


@click.command()
@cohort.source("Mask file (png, jpg, npy, npz) or folder of them.")
@cohort.of_cohort("masks")
@options.output("Folder of the restored masks; not that of the masks.")
@options.trained_weights(".ckpt")
@click.option(
    "--classes",
    help='Classes to restore in files that have several, such as "right lung,left lung"; the others are kept.',
)
@options.labels
@label
@options.of_denoising
@options.threshold("restored mask if its probability")
@click.option("--soft", is_flag=True, help="Write probabilities: float32, or 0 to 255 in a png.")
@click.option(
    "--grey",
    type=click.Choice(["refuse", "threshold"]),
    default="refuse",
    show_default=True,
    help="What to do with images that have many shades of grey: refuse them, or cut them at the middle.",
)
@options.preview("mask", "before, after, and the change: added pixels in orange, removed ones in blue")
@options.batch_size("8", "masks")
@options.gpus_uncached
@options.recursive
@options.overwrite("masks")
def denoise(
    source, output, listed, part, classes, labels_file, levels, soft, grey, preview, recursive, overwrite, **others
):
    """Restore masks (png, jpg, npy, npz) with a trained Post-DAE.

    Each result has the size, shape and format of its mask (jpg becomes png); that of a label map is a label map. If
    files of a folder fail, the others are processed, as by `jaxseg segment`. A second run skips what is done.
    """
    console.stage("reading weights")
    from jaxseg.post_dae.denoise import refuse_soft
    from jaxseg.post_dae.mask_files import denoise_folder, find_mask_files

    find = functools.partial(find_mask_files, recursive=recursive, output=output)
    source, files = cohort.find_files(source, listed, find)
    part = cohort.part_of(part, many=source.is_dir())
    names = options.class_names(labels_file)
    if levels and (names or soft):
        raise click.UsageError("--label names the classes of label maps; it excludes --labels and --soft")
    denoiser = make_denoiser(**others)
    with options.usage_errors("--soft"):
        refuse_soft(denoiser, soft=soft)
    settings = {"classes": classes, "names": names, "levels": levels, "soft": soft, "grey": grey, "preview": preview}
    with shown("masks") as callbacks:
        settings |= {"files": files, "part": part, "overwrite": overwrite} | callbacks
        result = denoise_folder(source, output, denoiser, **settings)
    finish(result)
