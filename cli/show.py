"""`jaxseg show`: masks over their image, as a picture with a legend."""

from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import label
from jaxseg.files import printable


@click.command()
@options.source("Image: png, jpg or dcm.", existing_file=True)
@click.option(
    "--masks",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Results folder of `jaxseg segment`, in which the masks of the image are found; or the masks themselves: a "
    "folder with one image file per class, an image file, npy, npz, COCO json, DICOM SEG, or a .jsonl or .parquet file "
    "with the masks of many images.",
)
@options.output("The picture, a png or jpg file.", file=True)
@click.option(
    "--classes",
    help='Labels or groups to show, such as "heart, lung lobes", or all.  [default: all; 17 if there are more than 30 '
    "classes of CXAS, which hide each other]",
)
@options.labels
@label
@options.shown_intensity
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.35,
    show_default=True,
    help="Opacity of the masks; 0 shows only their contours.",
)
@click.option("--title", default="", help="Text above the picture.")
@options.sides
@options.replace("the output file if it exists")
def show(source, masks, output, classes, labels_file, levels, intensity, overwrite, **look):
    """Show masks over an X-ray, with a legend: reference masks, or those of any model."""
    from jaxseg.draw.pictures import save_picture
    from jaxseg.draw.visualize import visualize
    from jaxseg.images.read import read_under_masks
    from jaxseg.masks.read import find_masks, is_of_one_image, open_masks, select
    from jaxseg.masks.results import turned_in_run

    with options.usage_errors("--output"):
        _check_output(output, source, overwrite)
    names = options.class_names(labels_file)
    with options.usage_errors("--masks"):
        place = masks if is_of_one_image(masks, source) else find_masks(masks, source)
        opened = open_masks(place, names=names, image=source, levels=levels)
    with options.usage_errors("--classes"):
        select(opened.names, None if classes == "all" else classes)
    picture = read_under_masks(source, opened.size, intensity=intensity, turned=turned_in_run(place))
    for note in picture.notes:
        console.say(f"Warning: {printable(note)}")
    shown = visualize(picture, opened, classes=classes, **look)
    for note in opened.notes:
        console.say(f"Warning: {printable(note)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_picture(shown, output)
    console.say(f"The picture is {printable(str(output))}")


def _check_output(output: Path, source: Path, overwrite: bool) -> None:
    """Raises ValueError if the picture cannot be written, or would replace an existing file without `--overwrite`."""
    from jaxseg.draw.pictures import FORMATS

    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"{output} must end in {', '.join(FORMATS)}")
    if output.resolve() == source.resolve():
        raise ValueError(f"{output} is the image itself; name another file")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; name another file, or replace it with --overwrite")
