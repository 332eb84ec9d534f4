"""`jaxseg denoise`: restores the shape of masks with a denoising autoencoder (Post-DAE)."""

import sys
from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.progress import progress
from jaxseg.cli.runs import conclusion, make_denoiser, tell


@click.command()
@click.option("-i", "--input", "source", required=True, type=click.Path(path_type=Path), help="Mask file or folder.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the restored masks; not that of the masks.",
)
@click.option(
    "--weights", required=True, type=click.Path(path_type=Path), help="A training run, a model directory or a .ckpt."
)
@click.option(
    "--classes", help='Of files with many classes, those to restore, such as "right lung,left lung"; the others stay.'
)
@options.labels
@options.of_denoising
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="A pixel belongs to the restored mask where its probability exceeds this.",
)
@click.option("--soft", is_flag=True, help="Write probabilities: float32, in a png 0 to 255.")
@click.option(
    "--grey",
    type=click.Choice(["refuse", "threshold"]),
    default="refuse",
    show_default=True,
    help="A picture with many shades of grey: refuse it, or cut it at the middle.",
)
@click.option("--preview", is_flag=True, help="Also write <mask>.preview.jpg: before, after, and the change.")
@click.option("--batch-size", type=click.IntRange(1), help="Masks at once.  [default: 8]")
@options.gpus
@click.option("--recursive", is_flag=True, help="Sub-folders too; the output mirrors them.")
@click.option("--overwrite", is_flag=True, help="Redo masks whose results are there.")
def denoise(source, output, classes, labels_file, soft, grey, preview, recursive, overwrite, **others):
    """Restore masks (png, jpg, npy, npz) with a trained Post-DAE.

    Each result has the size, shape and format of its mask (jpg becomes png). A folder goes on past bad files, as
    `jaxseg segment` does, and a second run skips what is done.
    """
    from jaxseg import files
    from jaxseg.folder_runs import folder
    from jaxseg.post_dae import mask_files as denoise_files
    from jaxseg.post_dae.denoise import refuse_soft
    from jaxseg.vocabulary import labels

    with options.usage_errors("--input, --output"):
        sources = denoise_files.find_mask_files(source, recursive=recursive, output=output)
    names = labels.read_names(labels_file) if labels_file else None
    denoiser, settings = make_denoiser(**others)
    with options.usage_errors("--soft"):
        refuse_soft(denoiser, soft=soft)
    settings |= {"classes": classes, "soft": soft, "grey": grey}
    jobs = folder.plan(sources, source, output, name_of=lambda path: path.stem)
    suffixes = {job.base: job.source.suffix for job in jobs}
    products = [denoise_files.files(suffixes, soft=soft), *([denoise_files.previews()] if preview else [])]
    run = folder.Run(output, tuple(products), {"denoise": settings})
    output.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output):
        todo = folder.begin(jobs, run, overwrite=overwrite)
        worker = denoise_files.FileDenoiser(denoiser, classes=classes, names=names, grey=grey, soft=soft)
        with progress(len(todo), "masks") as step:
            for outcome in denoise_files.denoise_files(todo, worker, run):
                tell(outcome, step)
        folder.conclude(run)
    options.say(conclusion(run))
    if run.count("failed"):
        sys.exit(1)
