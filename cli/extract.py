"""`jaxseg extract`: measurements of the anatomy in X-rays, from a file or a folder."""

import functools
from pathlib import Path

import click
from click.core import ParameterSource

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.runs import finish, of_anatomy, run_images, shown, starting

# Options that have a meaning with --masks; all others concern the network and the files of masks.
_OF_MASKS = {"source", "output", "masks", "features", "original_values", "groups", "table"}
_OF_MASKS |= {"recursive", "overwrite", "fidelity", "listed", "part", "merged"}


@click.command()
@options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
@options.of_extraction(required=True)
@cohort.source("Image (png, jpg, DICOM) or folder of images.")
@cohort.of_cohort("images")
@cluster.of_ray("images")
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
    merged,
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
        common |= {"groups": others["groups"], "recursive": others["recursive"], "merged": merged}
        return _measure_masks(source, output, names, masks, listed=others["listed"], part=others["part"], **common)
    console.stage("reading weights")
    with starting(others["weights"]):
        from jaxseg.anatomy.extract import needed_classes
        from jaxseg.anatomy.folders import check_seg_options, extract_folder

    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    with options.usage_errors("--labelmap" if labelmap else "--strict-projection"):
        check_seg_options(seg, output_type, masks=store_seg)

    def classes(class_names) -> list[str] | None:
        with options.usage_errors("--feature"):
            needed = needed_classes(found, class_names)
        return None if store_seg or preview else needed

    job = functools.partial(extract_folder, features=names)
    settings = common | seg | {"store_masks": store_seg, "draw": draw, "preview": preview}
    settings |= {"output_type": output_type, "merged": merged}
    others["mean_probabilities"] = store_seg and output_type in options.JOINT_TYPES
    return run_images(source, output, job=job, settings=settings, classes=classes, **others)


def _measure_masks(
    source: Path | None, output: Path, features: list[str], masks: Path, *, listed, part, recursive, **settings
) -> None:
    """Measures masks that exist already, and shows what was done."""
    from jaxseg.anatomy.from_masks import measure_folder
    from jaxseg.folder_runs.inputs import find_images

    context = click.get_current_context()
    unused = context.params.keys() - _OF_MASKS
    given = {name for name in unused if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if others := sorted(max(option.opts, key=len) for option in context.command.params if option.name in given):
        raise click.UsageError(f"--masks: it cannot be combined with {', '.join(others)}; leave them out")
    find = functools.partial(find_images, recursive=recursive, output=output)
    source, files = cohort.find_files(source, listed, find)
    settings |= {"files": files, "part": cohort.part_of(part, many=source.is_dir())}
    with shown("images", first="") as callbacks:
        result = measure_folder(source, output, features, masks, **settings, **callbacks)
    finish(result)
