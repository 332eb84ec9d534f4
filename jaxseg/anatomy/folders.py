"""The jobs of a folder of X-rays: segment all of them, or measure all of them into one table."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from jaxseg import registry
from jaxseg.anatomy import products
from jaxseg.anatomy.extract import merge_tables, needed_classes
from jaxseg.anatomy.measure import features as known
from jaxseg.anatomy.segment import Segmenter
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.folder import FolderResult, Outcome, Product
from jaxseg.weights.load import as_predictor

Progress = Callable[[int, int, str], None]
Report = Callable[[Outcome], None]


def segment_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | nnx.Module | Segmenter = "cxas",
    *,
    output_type: str | None = None,
    labelmap: bool = False,
    preview: bool = False,
    files: Sequence[Path] | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
    **options: Any,
) -> FolderResult:
    """Segments an X-ray or all X-rays of a folder, and writes their masks.

    Files that fail are recorded with their reason, and the others are processed. A second call skips what is done, and
    a call that was interrupted is resumed by the next one. Results made with other settings are not mixed.

    Args:
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results; it gets `summary.json`, which lists all files.
      model: a name that `jaxseg.load` knows, a model directory, a model, or a `Segmenter`.
      output_type: format of the masks, see `jaxseg.masks.write.WRITERS`: "png", "jpg", "npy", "npz", "json" or
        "dicom-seg". None: that of the model.
      labelmap: with "dicom-seg", write one label map; classes must not overlap.
      preview: also write `<image>.preview.jpg`, the masks over the image.
      files: the image files to process, as `jaxseg.folder_runs.folder.find_images` returns them; None: all of `source`.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image: `item.source`, `error` (None if it succeeded), `notes`.
      **options: of `Segmenter`, such as threshold, classes, batch_size, devices, postprocess.

    Returns:
      A FolderResult: numbers of files `done`, `skipped` and `failed`, the path `summary`, and `files` one by one.

    Raises:
      ValueError: an option is out of range, the folder has no images, or the output folder holds results of other
        settings or files of another origin. OSError: a file or folder cannot be opened.

    Example:
      >>> import jaxseg
      >>> result = jaxseg.segment_folder("xrays", "masks", "cxas", classes="heart, lung")  # doctest: +SKIP
      >>> print(result.done, result.failed, result.summary)  # doctest: +SKIP
    """
    source, output = Path(source), Path(output)
    files = folder.find_images(source, recursive=recursive, output=output) if files is None else files
    segmenter = as_predictor(model, Segmenter, options)
    settings = segmenter.settings
    made = _mask_products(segmenter, settings, output_type, labelmap=labelmap, preview=preview)
    merges = _mask_merges(segmenter, made, source)
    return _run(source, output, files, segmenter, made, settings, merges, overwrite, progress, report)


def extract_folder(
    source: str | Path,
    output: str | Path,
    features: str | Sequence[str],
    model: str | Path | nnx.Module | Segmenter = "cxas",
    *,
    store_masks: bool = False,
    draw: bool = False,
    original_values: bool = False,
    output_type: str | None = None,
    labelmap: bool = False,
    preview: bool = False,
    files: Sequence[Path] | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
    **options: Any,
) -> FolderResult:
    """Measures the anatomy in an X-ray or in all X-rays of a folder, and writes one table with one row per image.

    The table is `<source's name>.csv` in the output folder. Everything else is as in `segment_folder`.

    Args:
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results; it gets `summary.json`, which lists all files.
      features: from `jaxseg.anatomy.measure.features.FEATURES`, a list or a comma-separated string.
      model: a name that `jaxseg.load` knows, a model directory, a model, or a `Segmenter` with the classes that the
        features need. The first three segment only the classes that are needed.
      store_masks: also write the masks.
      draw: also write `<image>.lines.jpg`, the measured lines over the image.
      original_values: write the original's -1 (and boxes of 0) if something cannot be measured, not an empty cell.
      output_type: format of the masks; see `segment_folder`.
      labelmap: with "dicom-seg", write one label map; classes must not overlap.
      preview: also write `<image>.preview.jpg`, the masks over the image.
      files: the image files to process; None: all of `source`.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image.
      **options: of `Segmenter`.

    Returns:
      A FolderResult, see `segment_folder`; `merged` has the path of the table.

    Raises:
      ValueError, OSError: as `segment_folder`; also if a feature is unknown, or the model lacks classes that each of
        the features needs.
    """
    source, output = Path(source), Path(output)
    found = known.find_all(features)
    names = tuple(feature.name for feature in found)
    files = folder.find_images(source, recursive=recursive, output=output) if files is None else files
    whole = store_masks or preview
    if not (whole or isinstance(model, Segmenter) or options.get("classes") is not None):
        options["classes"] = functools.partial(needed_classes, found)
    segmenter = as_predictor(model, Segmenter, options)
    settings = segmenter.settings
    made = [products.measurements(names, original_values=original_values)]
    if whole:
        kinds = {"labelmap": labelmap, "preview": preview, "masks": store_masks}
        made += _mask_products(segmenter, settings, output_type, **kinds)
    elif labelmap:
        _refuse_labelmap()
    if draw:
        made.append(products.drawings(names, segmenter.intensity))
    settings |= {"features": list(names), "original_values": original_values}
    merges: list[tuple[str, Callable]] = [(".csv", functools.partial(merge_tables, root=source, features=names))]
    merges += _mask_merges(segmenter, made, source)
    return _run(source, output, files, segmenter, made, settings, merges, overwrite, progress, report)


def _mask_products(
    segmenter: Segmenter,
    settings: dict,
    output_type: str | None,
    *,
    labelmap: bool,
    preview: bool,
    masks: bool = True,
) -> list[Product]:
    """The products `masks` and `preview`, as far as they are wanted. Settings that only they depend on are added."""
    card = segmenter.card
    found = []
    settings["classes"] = list(segmenter.names)
    if labelmap and not (masks and output_type == "dicom-seg"):
        _refuse_labelmap()
    if masks:
        output_type = output_type or registry.find(card.model).output_type
        if output_type == "dicom-seg":
            settings["labelmap"] = labelmap
        found.append(products.masks(output_type, card.class_names, card.model, labelmap=labelmap))
    if preview:
        found.append(products.previews(segmenter.intensity))
    return found


def _refuse_labelmap() -> None:
    raise ValueError("labelmap is only for DICOM SEG; choose the output type dicom-seg")


def _mask_merges(segmenter: Segmenter, made: list[Product], source: Path) -> list[tuple[str, Callable]]:
    """The merge of a folder's COCO files, if there are any."""
    if not (source.is_dir() and any(product.kind == "json" for product in made)):
        return []
    return [(".json", functools.partial(products.merge_masks, segmenter=segmenter))]


def _run(
    source: Path,
    output: Path,
    files: Sequence[Path],
    segmenter: Segmenter,
    made: list[Product],
    settings: dict,
    merges: list[tuple[str, Callable]],
    overwrite: bool,
    progress: Progress | None,
    report: Report | None,
) -> FolderResult:
    return folder.run(
        folder.plan(list(files), source, output),
        folder.Run(output, tuple(made), settings),
        lambda todo, run: products.segment_files(todo, segmenter, run),
        prepare=segmenter.compile,
        merges=merges,
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )
