"""`jaxseg show`: masks over their image, as a picture with a legend."""

from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.files import printable


@click.command()
@click.option(
    "-i",
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Image: png, jpg or dcm.",
)
@click.option(
    "--masks",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A results folder of `jaxseg segment`, in which the masks of the image are found; or the masks themselves: a "
    "folder with a picture a class, a picture, npy, npz, COCO json or DICOM SEG.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="png or jpg file.")
@click.option(
    "--classes",
    help='Labels or groups, such as "heart, lung lobes", or all.  [default: all; of more than 30 classes of CXAS, '
    "which hide each other, 17]",
)
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file with the names of the masks, where they do not say.",
)
@click.option(
    "--intensity",
    type=click.Choice(options.INTENSITIES),
    default="clinical",
    show_default=True,
    help="How grey values are shown. clinical: as a viewer does. original: as the network saw them.",
)
@click.option(
    "--alpha", type=click.FloatRange(0, 1), default=0.35, show_default=True, help="Opacity; 0: contours only."
)
@click.option("--title", default="", help="A line above the picture.")
@click.option(
    "--sides/--no-sides",
    default=True,
    show_default=True,
    help="Mark the patient's right and left, as they are in frontal pictures that are not mirrored.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file.")
def show(source, masks, output, classes, labels_file, intensity, overwrite, **look):
    """Show masks over an X-ray, with a legend: truth or prediction, of any model."""
    from jaxseg.draw.save import save_picture
    from jaxseg.draw.visualize import visualize
    from jaxseg.images.read import read_picture
    from jaxseg.masks.read import open_masks, select
    from jaxseg.vocabulary import labels

    _refuse_output(output, source, overwrite=overwrite)
    with options.usage_errors("--labels"):
        names = labels.read_names(labels_file) if labels_file else None
    with options.usage_errors("--masks"):
        opened = open_masks(_of_image(masks, source), names=names, image=source)
    with options.usage_errors("--classes"):
        select(opened.names, None if classes == "all" else classes)
    picture = read_picture(source, intensity=intensity)
    for note in picture.notes:
        options.say(f"Warning: {printable(note)}")
    shown = visualize(picture, opened, classes=classes, **look)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_picture(shown, output)


def _of_image(masks: Path, image: Path) -> Path:
    """Returns what `masks` holds of the image: a folder may be that of one image, or of the results of many."""
    from jaxseg.masks.read import class_pictures, find_masks
    from jaxseg.masks.results import named_masks, read_summary

    if not masks.is_dir():
        return masks
    if read_summary(masks) or named_masks(masks, image) or not class_pictures(masks):
        return find_masks(masks, image)
    return masks


def _refuse_output(output: Path, source: Path, *, overwrite: bool) -> None:
    from jaxseg.draw.save import FORMATS

    with options.usage_errors("--output"):
        if output.suffix.lower() not in FORMATS:
            raise ValueError(f"{output} must end in {', '.join(FORMATS)}")
        if output.resolve() == source.resolve():
            raise ValueError(f"{output} is the image itself; name another file")
        if output.exists() and not overwrite:
            raise ValueError(f"{output} exists; name another file, or replace it with --overwrite")
