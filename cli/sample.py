"""`jaxseg sample`: masks that disagreeing annotators might draw (confusion-matrix VAE, probabilistic U-Net)."""

import functools

import click

from jaxseg.cli import cohort, console, options
from jaxseg.cli.runs import fetched, finish, show_note, shown

FORMATS = ("npz", "npy", "png")


@click.command()
@cohort.source("Image or folder of images: .tif, .npy, .npz with an array called image, .png.")
@cohort.of_cohort("images")
@options.output("Folder of the samples; not that of the images.")
@options.trained_weights(".pt")
@click.option(
    "-n",
    "--samples",
    "count",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Number of masks per image.",
)
@options.seed(". The same seed gives the same masks, regardless of the other images in the folder.")
@options.output_type(
    FORMATS,
    "Format of the results. npz: clean, masks, agreement (share of the most frequent class), entropy (bits) and "
    "confusion in one file. npy: one file per array. png: images, with a folder of samples.",
    default="npz",
    earlier=("--format",),
)
@click.option(
    "--source",
    "latent",
    type=click.Choice(["prior", "image"]),
    default="prior",
    show_default=True,
    help="For a cmvae trained with model.source: latent: what its confusion matrices depend on. prior: only on chance, "
    "as in the original. image: also on the image. Models trained with model.source: image depend on the image anyway: "
    "leave the option out.",
)
@click.option(
    "--normalise",
    type=click.Choice(["none", "zscore"]),
    default="none",
    show_default=True,
    help="none: images are as in training (LIDC's are z-scored already). zscore: subtract the mean and divide by the "
    "standard deviation.",
)
@click.option("--resize", is_flag=True, help="Resize images to the network's size, and the results back.")
@options.preview("image", "the masks and maps on one sheet")
@options.gpus
@options.recursive
@options.overwrite("images")
def sample(source, output, listed, part, count, seed, output_type, preview, recursive, overwrite, **settings):
    """Sample masks as different annotators might draw them, with a trained cmvae or prob_unet.

    Images are used as they are stored; only png is divided by 255. If files of a folder fail, the others are processed:
    each failure is shown with its reason. A second run skips what is done.
    """
    console.stage("reading weights")
    from jaxseg.annotators.image_files import sample_folder
    from jaxseg.annotators.images import find_image_files

    find = functools.partial(find_image_files, recursive=recursive, output=output)
    source, files = cohort.find_files(source, listed, find)
    part = cohort.part_of(part, many=source.is_dir())
    sampler = _make_sampler(**settings)
    wanted = {"n": count, "seed": seed, "output_type": output_type, "preview": preview}
    wanted |= {"files": files, "part": part, "overwrite": overwrite}
    with shown("images") as callbacks:
        result = sample_folder(source, output, sampler, **wanted, **callbacks)
    finish(result)


def _make_sampler(*, weights, gpus, latent, normalise, resize):
    """Returns the Sampler of the command's options."""
    from jaxseg.annotators.sample import Sampler
    from jaxseg.devices import select_devices
    from jaxseg.weights.load import load

    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    weights = fetched(weights)
    with options.usage_errors("--weights"):
        found = Sampler(load(weights), source=latent, normalise=normalise, resize=resize, devices=devices)
    show_note(found.card)
    return found
