"""`jaxseg register`: X-rays moved so that two vertebrae lie where a reference has them."""

from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import finish, load_network, shown


@click.command(short_help="Register X-rays to each other by the vertebrae T4 and T10.")
@options.source("Image (png, jpg, DICOM) or folder of images.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the results; not that of the images. Required without --build-reference.",
)
@click.option(
    "-r",
    "--reference",
    type=options.ExistingPath("a reference (.npz), an image, or a folder of images"),
    help="What the images are registered to: a reference (.npz), or an image or a folder from which one is built.  "
    "[default: reference.npz in the folder of --weights; for the published weights that of CXAS 0.0.20]",
)
@click.option("--no-correction", is_flag=True, help="Do not correct images that look inverted or turned.")
@click.option(
    "--save-mask", is_flag=True, help="Also write <image>_registered_mask.npy: the moved masks of all classes."
)
@click.option(
    "--preview", is_flag=True, help="Also write <image>_registered.preview.jpg: the moved masks over the moved image."
)
@click.option(
    "--build-reference",
    is_flag=True,
    help="Build a reference from the input, which must be upright and frontal, instead of registering it.",
)
@click.option(
    "--reference-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --build-reference: the .npz file to write. If it is reference.npz in a training run or a model "
    "directory, every command that uses these weights finds it.",
)
@options.of_network
@options.recursive
@click.option(
    "--overwrite",
    is_flag=True,
    help="Process images again whose results exist, and replace results of other settings. With --build-reference: "
    "replace the reference.",
)
def register(
    source, output, reference, no_correction, save_mask, preview, build_reference, reference_out, recursive, **others
):
    """Register X-rays: turn, scale and shift them so that T4 and T10 lie where a reference has them.

    Images that look inverted or turned are corrected first. Each image gets <image>_registered.png,
    <image>_metadata.json and <image>_affine.txt. An image in which T4 or T10 is not found is not moved, with a note. If
    files fail, the others are processed, as by `jaxseg segment`. A second run skips what is done.
    """
    overwrite = others.pop("overwrite")
    if build_reference:
        given = {"--output": output, "--reference": reference, "--no-correction": no_correction}
        given |= {"--save-mask": save_mask, "--preview": preview}
        if wrong := [name for name, value in given.items() if value]:
            raise click.UsageError(f"{', '.join(wrong)}: not with --build-reference; leave it out")
        _check_place(reference_out, overwrite)
        _build(source, reference_out, recursive, others)
        return
    if reference_out is not None:
        raise click.UsageError("--reference-out: only with --build-reference; leave it out")
    if output is None:
        raise click.UsageError("--output: name the folder of the results")
    console.stage("reading weights")
    from jaxseg.anatomy.register import Registrar
    from jaxseg.anatomy.register_files import register_folder
    from jaxseg.folder_runs.inputs import find_images

    with options.usage_errors("--input"):
        files = find_images(source, recursive=recursive, output=output)
    network, path, settings = load_network(**others)
    target = _target(reference, network, path, recursive, settings)
    with options.usage_errors():
        correction = {"correction": not no_correction, "masks": save_mask}
        registrar = Registrar(network, reference=target, **correction, **settings)
    run = {"files": files, "save_masks": save_mask, "preview": preview, "overwrite": overwrite}
    with shown("images") as callbacks:
        result = register_folder(source, output, registrar, **run, **callbacks)
    finish(result)


def _target(path: Path | None, network, place: Path, recursive: bool, settings: dict):
    """Returns the reference that the user named, or that belongs to the weights; None: the packaged one, if it fits."""
    from jaxseg.anatomy.orientation import find_reference, read_reference

    path = find_reference(place) if path is None else path
    if path is None:
        return None
    if path.suffix.lower() != ".npz" or path.is_dir():
        return _built(path, network, recursive, settings)
    with options.usage_errors("--reference"):
        found = read_reference(path)
    if not found.weights_sha256:
        console.say(f"Warning: {path} does not name the weights that it was built with; it is right for those only")
    return found


def _check_place(path: Path | None, overwrite: bool) -> None:
    """Checks that a reference may be written to a path; only an earlier reference is ever replaced."""
    if path is None or path.suffix.lower() != ".npz" or not path.parent.is_dir():
        raise click.UsageError("--reference-out: name an .npz file in an existing folder, such as run/reference.npz")
    if path.exists() and not overwrite:
        raise click.UsageError(f"--reference-out: {path} exists; name another file, or replace it with --overwrite")
    if path.exists():
        from jaxseg.anatomy.orientation import read_reference

        with options.usage_errors("--reference-out"):
            read_reference(path)


def _build(source: Path, path: Path, recursive: bool, others: dict) -> None:
    """Builds a reference and writes it."""
    console.stage("reading weights")
    from jaxseg.anatomy.orientation import write_reference

    network, _, settings = load_network(**others)
    found = _built(source, network, recursive, settings)
    write_reference(found, path)
    limit = ", without T4 and T10: it serves only the check of the orientation" if found.landmarks is None else ""
    console.say(f"The reference is {path} (images: {found.images}{limit})")


def _built(source: Path, network, recursive: bool, settings: dict):
    """Returns the reference built from an image or a folder, and shows the progress."""
    from jaxseg.anatomy.register_files import build_reference
    from jaxseg.folder_runs.inputs import find_images

    with options.usage_errors():
        files = find_images(source, recursive=recursive)
    with shown("reference") as callbacks, options.usage_errors():
        return build_reference(source, network, files=files, **settings, **callbacks)
