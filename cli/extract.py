"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

from pathlib import Path

import click
from click.core import ParameterSource

from jaxseg.cli import console, options
from jaxseg.cli.runs import finish, of_anatomy, run_images, shown

# Options that have a meaning with --masks; all others concern the network and the files of masks.
_OF_MASKS = {"source", "output", "masks", "features", "original_values", "groups", "table"}
_OF_MASKS |= {"recursive", "overwrite", "fidelity"}


@click.command()
@options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
@options.of_extraction(required=True)
@options.of_images
@of_anatomy
@click.option(
    "--masks",
    type=click.Path(path_type=Path, exists=True),
    help="Measure these masks instead of segmenting the images: a results folder of `jaxseg segment`, a .jsonl or "
    ".parquet file with the masks of all images, or a folder of other masks named after the images.",
)
@click.option(
    "--table",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the table.",
)
def extract(
    source,
    output,
    features,
    store_seg,
    draw,
    original_values,
    output_type,
    labelmap,
    strict_projection,
    preview,
    overwrite,
    masks,
    table,
    **others,
):
    """Measure the anatomy in chest X-rays: a table with one row per image.

    The table is <folder>.csv, or <image>.csv for a single image; with --table parquet it ends in .parquet. Areas and
    lengths are in pixels of the network's grid (512 x 512 for the published weights), not of the image, as in the
    original. Columns whose names end in _mm and _mm2 are added if a DICOM file states its pixel spacing. If something
    cannot be measured, its cell is empty and the last column states the reason.
    """
    from jaxseg.anatomy.measure.features import find_all

    with options.usage_errors("--feature"):
        found = find_all(",".join(features), groups=others["groups"])
    names = [feature.name for feature in found]
    common = {"original_values": original_values, "table": table, "overwrite": overwrite}
    if masks is not None:
        _measure_masks(source, output, names, masks, groups=others["groups"], recursive=others["recursive"], **common)
        return
    console.stage("reading weights")
    from jaxseg.anatomy.extract import needed_classes
    from jaxseg.anatomy.folders import check_seg_options, extract_folder

    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    with options.usage_errors("--labelmap" if labelmap else "--strict-projection"):
        check_seg_options(seg, output_type, masks=store_seg)

    def classes(class_names) -> list[str] | None:
        with options.usage_errors("--feature"):
            needed = needed_classes(found, class_names)
        return None if store_seg or preview else needed

    def job(source, output, segmenter, **settings):
        return extract_folder(source, output, names, segmenter, **settings)

    settings = common | seg | {"store_masks": store_seg, "draw": draw, "preview": preview, "output_type": output_type}
    others["mean_probabilities"] = store_seg and output_type in options.JOINT_TYPES
    run_images(source, output, job=job, settings=settings, classes=classes, **others)


def _measure_masks(source: Path, output: Path, features: list[str], masks: Path, **settings) -> None:
    """Measures masks that exist already, and shows what was done."""
    from jaxseg.anatomy.from_masks import measure_folder

    context = click.get_current_context()
    given = (name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    if others := sorted(name.replace("_", "-") for name in given if name not in _OF_MASKS):
        raise click.UsageError(f"--masks: it cannot be combined with --{', --'.join(others)}; leave them out")
    with shown("images", first="") as callbacks:
        result = measure_folder(source, output, features, masks, **settings, **callbacks)
    finish(result)
