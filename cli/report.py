"""`jaxseg report`: one HTML page with a folder's images, masks and measurements."""

import sys
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import Notes, label


@click.command(short_help="Write a page with images, masks and measurements.")
@options.source("Image or folder of images.")
@click.option(
    "--masks",
    required=True,
    type=click.Path(path_type=Path),
    help="Results folder of `jaxseg segment` or `extract`, a .jsonl or .parquet file with the masks of all images, or "
    "a folder of other masks named after the images; for a single image also the file or folder of its masks.",
)
@options.output("The page, an .html file.", file=True)
@click.option(
    "--features",
    default="CTR,SCD,area",
    show_default=True,
    help="What to measure, separated by commas: CTR, SCD, area, perimeter, compactness, centroid, box, convexity.",
)
@label
@click.option("--classes", help="Labels or groups to show and measure.  [default: all]")
@click.option("--title", default="", help="Page title.  [default: the name of the input]")
@options.shown_intensity
@options.sides
@click.option("--recursive", is_flag=True, help="Also search sub-folders.")
@options.replace("the output file even if it is not a jaxseg report")
def report(source, masks, output, features, levels, classes, title, intensity, sides, recursive, overwrite):
    """Write one HTML page about images and their masks, which a browser opens without a network.

    The page shows up to 200 images whose classes can be switched on and off, or up to 5,000 images as small pictures,
    and the measurements in a table and in histograms. Masks of a jaxseg run have the numbers that `jaxseg extract`
    gives; other masks are measured in pixels of their image. The page stays below 100 MB. Images that cannot be shown
    are listed with the reason, and the exit code is 1. The page contains file names, but no names or numbers of
    patients.
    """
    console.stage("reading images and masks")
    from jaxseg.anatomy.measure.features import find_all
    from jaxseg.cli.progress import progress
    from jaxseg.files import printable
    from jaxseg.folder_runs.inputs import find_images
    from jaxseg.report.build import write_report
    from jaxseg.report.reading import check_classes, locate_masks

    with options.usage_errors("--features"):
        find_all(features)
    with options.usage_errors("--input"):
        images = find_images(source, recursive=recursive, output=masks)
    with options.usage_errors("--output"):
        _check_output(output, images, overwrite)
    with options.usage_errors("--masks"):
        places = locate_masks(masks, source)
    with options.usage_errors("--classes"):
        check_classes(masks, classes)
    root, shown = source if source.is_dir() else None, Notes("images")
    with progress(len(images), "images") as step:

        def notify(image: Path, reason: str, notes: tuple[str, ...]) -> None:
            shown.show(image, notes)
            if reason:
                console.say(f"Failed: {printable(str(image))}: {printable(reason)}")
            step(image.name)

        failures = write_report(
            images,
            places,
            output,
            root=root,
            title=title or source.resolve().name,
            features=features,
            classes=classes,
            levels=levels,
            intensity=intensity,
            sides=sides,
            on_image=notify,
        )
    shown.finish()
    console.say(f"{len(images) - len(failures)} shown, {len(failures)} failed; the page is {output}")
    if failures:
        sys.exit(1)


def _check_output(output: Path, images: list[Path], overwrite: bool) -> None:
    """Raises ValueError if the page cannot be written, or would replace a file that is not a jaxseg report."""
    from jaxseg.report.page import is_report

    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{output} must end in .html or .htm")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder; create it, or name another")
    if output.resolve() in {image.resolve() for image in images}:
        raise ValueError(f"{output} is one of the images; name another file")
    if output.exists() and not overwrite and not is_report(output):
        raise ValueError(f"{output} is not a jaxseg report; name another file, or replace it with --overwrite")
