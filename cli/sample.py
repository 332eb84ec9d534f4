"""`jaxseg sample`: what annotators who disagree might draw on images (confusion-matrix VAE, probabilistic U-Net)."""

import sys
from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.progress import progress
from jaxseg.cli.runs import conclusion, tell


@click.command()
@click.option(
    "-i",
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    help="Image or folder: .tif, .npy, .npz with an array called image, .png.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the samples; not that of the images.",
)
@click.option(
    "--weights", required=True, type=click.Path(path_type=Path), help="A training run, a model directory or a .pt."
)
@click.option(
    "-n", "--samples", "count", type=click.IntRange(1), default=16, show_default=True, help="Masks of each image."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the draws: the same seed gives the same masks, whatever else is in the folder.",
)
@click.option(
    "--format",
    "output_type",
    type=click.Choice(["npz", "npy", "png"]),
    default="npz",
    show_default=True,
    help="npz: clean, masks, agreement (share of the most frequent class), entropy (bits) and confusion in one file. "
    "npy: a file each. png: pictures, with a folder of samples.",
)
@click.option(
    "--source",
    "latent",
    type=click.Choice(["prior", "image"]),
    default="prior",
    show_default=True,
    help="Of a cmvae, what its confusion matrices hang on. prior: on chance alone, as in the original, so that they do "
    "not know the image. image: on the image too.",
)
@click.option(
    "--normalise",
    type=click.Choice(["none", "zscore"]),
    default="none",
    show_default=True,
    help="none: images are as in training (LIDC's are z-scored already). zscore: less the mean, by the deviation.",
)
@click.option("--resize", is_flag=True, help="Bring images of other sizes to the network's, and the results back.")
@click.option("--preview", is_flag=True, help="Also write <image>.preview.jpg: the masks and maps on one sheet.")
@options.gpus
@click.option("--recursive", is_flag=True, help="Sub-folders too; the output mirrors them.")
@click.option("--overwrite", is_flag=True, help="Redo images whose results are there.")
def sample(source, output, count, seed, output_type, preview, recursive, overwrite, **settings):
    """Sample masks as different annotators might draw them, with a trained cmvae or prob_unet.

    Images are taken as they are stored; png is divided by 255. A folder goes on past bad files, which are listed, and a
    second run skips what is done.
    """
    from jaxseg import files
    from jaxseg.annotators import image_files as sample_files
    from jaxseg.annotators.images import find_image_files
    from jaxseg.folder_runs import folder

    with options.usage_errors("--input, --output"):
        sources = find_image_files(source, recursive=recursive, output=output)
    sampler, identity = _make_sampler(**settings)
    jobs = folder.plan(sources, source, output, name_of=lambda path: path.stem)
    products = sample_files.files(output_type, confusion=sampler.confusing)
    products += [sample_files.previews()] if preview else []
    run = folder.Run(output, tuple(products), {"sample": identity | {"n": count, "seed": seed}})
    output.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output):
        todo = folder.begin(jobs, run, overwrite=overwrite)
        with progress(len(todo), "images") as step:
            for outcome in sample_files.sample_files(todo, sampler, run, n=count, seed=seed):
                tell(outcome, step)
        folder.conclude(run)
    options.say(conclusion(run))
    if run.count("failed"):
        sys.exit(1)


def _make_sampler(*, weights, gpus, latent, normalise, resize):
    """The Sampler of the command's options, and all that its samples depend on."""
    from jaxseg.annotators.sample import Sampler
    from jaxseg.devices import select_devices
    from jaxseg.weights.load import load

    with options.usage_errors("--gpus"):
        devices = select_devices(gpus)
    with options.usage_errors("--weights, --source, --resize"):
        sampler = Sampler(load(weights), source=latent, normalise=normalise, resize=resize, devices=devices)
    card = sampler.card
    identity = {"model": card.model, "weights_sha256": card.params_sha256 or card.source_sha256}
    identity |= {"source": latent, "normalise": normalise, "resize": resize}
    return sampler, identity | {"cm_normalisation": dict(card.config).get("cm_normalisation")}
