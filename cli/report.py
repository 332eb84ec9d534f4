"""`jaxseg report`: one HTML page with a folder's images, masks and measurements."""

import sys
from pathlib import Path

import click

from jaxseg.cli import options


@click.command(short_help="A page with images, masks and measurements.")
@click.option("-i", "--input", "source", required=True, type=click.Path(path_type=Path), help="Image or folder.")
@click.option(
    "--masks",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of results of `jaxseg segment` or `extract`, or of other masks named after the images; of a single "
    "image also the file or folder of its masks.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The page, an .html file."
)
@click.option(
    "--features",
    default="CTR,SCD,area",
    show_default=True,
    help="What to measure, separated by commas: CTR, SCD, area, perimeter, compactness, centroid, box, convexity.",
)
@click.option("--classes", help="Show and measure only these labels or groups.  [default: all]")
@click.option("--title", default="", help="Of the page.  [default: the name of the input]")
@click.option(
    "--intensity",
    type=click.Choice(options.INTENSITIES),
    default="clinical",
    show_default=True,
    help="How grey values are shown. clinical: as a viewer does. original: as the network saw them.",
)
@click.option(
    "--sides/--no-sides",
    default=True,
    show_default=True,
    help="Mark the patient's right and left, as they are in frontal pictures that are not mirrored.",
)
@click.option("--recursive", is_flag=True, help="Sub-folders too.")
@click.option("--overwrite", is_flag=True, help="Replace a file even if it is no report.")
def report(source, masks, output, features, classes, title, intensity, sides, recursive, overwrite):
    """Write one HTML page about images and their masks, to be opened in a browser without a network.

    It shows up to 200 images with classes to switch on and off, up to 5,000 as small pictures, and their measurements
    in a table and as histograms. It stays under 100 MB. An image that cannot be shown is listed with its reason, and
    the exit code is 1. Patients' names and numbers are not in the page, but names of files are.
    """
    from jaxseg.anatomy.measure.features import find_all
    from jaxseg.cli.progress import progress
    from jaxseg.files import printable
    from jaxseg.folder_runs.inputs import find_images
    from jaxseg.report.build import write_report

    with options.usage_errors("--features"):
        find_all(features)
    with options.usage_errors("--input"):
        images = find_images(source, recursive=recursive, output=masks)
    with options.usage_errors("--output"):
        _check_output(output, images, overwrite)
    with options.usage_errors("--masks"):
        places = _places(masks, source)
    with options.usage_errors("--classes"):
        _check_classes(masks, classes)
    root = source if source.is_dir() else None
    with progress(len(images), "images") as step:

        def tell(image: Path, reason: str, notes: tuple[str, ...]) -> None:
            for note in notes:
                options.say(f"Warning: {printable(note)}")
            if reason:
                options.say(f"Failed: {printable(str(image))}: {printable(reason)}")
            step(image.name)

        failures = write_report(
            images,
            places,
            output,
            root=root,
            title=title or source.resolve().name,
            features=features,
            classes=classes,
            intensity=intensity,
            sides=sides,
            on_image=tell,
        )
    options.say(f"{len(images) - len(failures)} shown, {len(failures)} failed: {output}")
    if failures:
        sys.exit(1)


def _check_classes(masks: Path, classes: str | None) -> None:
    """Raises ValueError at once, not for every image, where the results' own list of classes lacks one."""
    from jaxseg.masks.read import select
    from jaxseg.masks.results import read_summary

    summary = read_summary(masks) if masks.is_dir() else None
    if summary is not None and summary.classes:
        select(summary.classes, classes)


def _places(masks: Path, source: Path) -> Path | list[Path]:
    """The folder that masks are looked up in, or those of the single image."""
    if not masks.exists():
        raise FileNotFoundError(f"{masks}: no such file or folder")
    if source.is_dir():
        if not masks.is_dir():
            raise ValueError(f"{masks} is a file; give the folder with the masks of {source}")
        return masks
    from jaxseg.masks.read import class_pictures
    from jaxseg.masks.results import named_masks, read_summary

    if masks.is_file():
        return [masks]
    results = read_summary(masks) is not None or named_masks(masks, source)
    return masks if results or not class_pictures(masks) else [masks]


def _check_output(output: Path, images: list[Path], overwrite: bool) -> None:
    """Raises where the page cannot be written, or would replace what is no report."""
    from jaxseg.report.page import is_report

    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{output}: the page is a file that ends with .html")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder")
    if output.resolve() in {image.resolve() for image in images}:
        raise ValueError(f"{output} is one of the images; name another file")
    if output.exists() and not overwrite and not is_report(output):
        raise ValueError(f"{output} is no report of jaxseg; name another file, or replace it with --overwrite")
