"""The jobs of a folder of X-rays: segment all of them, or measure all of them into one table."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from jaxseg import registry
from jaxseg.anatomy import products
from jaxseg.anatomy.extract import needed_classes, table_suffix
from jaxseg.anatomy.measure import features as known
from jaxseg.anatomy.segment import Segmenter, as_segmenter
from jaxseg.devices import environment
from jaxseg.files import atomic_file
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Product, Run, stored
from jaxseg.folder_runs.folder import FolderResult
from jaxseg.folder_runs.inputs import find_images, plan
from jaxseg.folder_runs.merged import Merged
from jaxseg.folder_runs.parts import Part, as_part
from jaxseg.folder_runs.stream import Outcome
from jaxseg.masks import cohort
from jaxseg.masks.confidence import TABLE as CONFIDENCE_TABLE
from jaxseg.summaries import SUMMARY_FILE, summary_files

Progress = Callable[[int, int, str], None]
Report = Callable[[Outcome], None]


def segment_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | nnx.Module | Sequence[str | Path | nnx.Module] | Segmenter = "cxas",
    *,
    output_type: str | None = None,
    labelmap: bool = False,
    strict_projection: bool = False,
    preview: bool = False,
    merged: bool = True,
    files: Sequence[Path] | None = None,
    names: Mapping[Path, str] | None = None,
    part: Part | str | None = None,
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
      model: a name that `jaxseg.load` knows, a model directory, a model, a list of several, or a
        `Segmenter`.
      output_type: format of the masks: "png", "jpg", "npy", "npz", "json" or "dicom-seg", see
        `jaxseg.masks.write.WRITERS`; or "coco-lines" or "parquet", which write one file for all images, see
        `jaxseg.masks.cohort`. None: that of the model. The last two hold the mean probability in each mask, but not
        if `model` is a `Segmenter` without mean_probabilities, probabilities or confidence.
      labelmap: with "dicom-seg", write one label map; classes must not overlap.
      strict_projection: with "dicom-seg", write no geometry for an X-ray; many viewers do not open such a file.
      preview: also write `<image>.preview.jpg`, the masks over the image.
      merged: write the files of all images if any of them has changed: `confidence.csv`, if it was requested, and with
        "json" one COCO file for a folder.
      files: the image files to process, as `jaxseg.folder_runs.inputs.find_images` returns them; None: all of `source`.
        A file that does not exist fails, and the others are processed.
      names: image file -> name of its results, their path in `output` without suffix, see
        `jaxseg.folder_runs.inputs.result_names`; None: those that the files get if there are no others.
      part: process only this part of the files, such as "3/8", so that 8 processes share them; `jaxseg.merge_folder`
        joins the results of the parts. None: all files.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image: `item.source`, `error` (None if it succeeded), `notes`.
      **options: of `Segmenter`, such as threshold, classes, batch_size, devices, postprocess. With confidence, tta,
        shape_check or several models, `confidence.csv` says how sure each mask is; with probabilities,
        `<image>.probabilities.npz` holds them at the network's size.

    Returns:
      A FolderResult: numbers of files `done`, `skipped` and `failed`, the path `summary`, and `files` one by one.

    Raises:
      ValueError: an option is out of range, the folder has no images, or the output folder holds results of other
        settings or files of another origin. OSError: a file or folder cannot be opened.

    Example:
      >>> import jaxseg
      >>> from pathlib import Path
      >>> from PIL import Image
      >>> from jaxseg.datasets import phantom
      >>> Path("xrays").mkdir()
      >>> Image.fromarray(phantom.draw(0, 64)[0]).save("xrays/chest.png")
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> result = jaxseg.segment_folder("xrays", "masks", model, classes="heart")
      >>> result.done, result.failed, result.summary.name
      (1, 0, 'summary.json')
      >>> sorted(path.as_posix() for path in Path("masks").rglob("*.png"))
      ['masks/chest/heart.png']
    """
    source, output = Path(source), Path(output)
    files = find_images(source, recursive=recursive, output=output) if files is None else files
    segmenter = as_segmenter(model, _with_means(model, options, output_type), later=not summary_files(output))
    settings = segmenter.settings
    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    part = as_part(part)
    made = _mask_products(segmenter, settings, output_type, seg, (output, part), preview=preview)
    merges = _mask_merges(segmenter, made, source)
    _add_confidence(segmenter, settings, made, merges)
    work = _Work(source, output, list(files), segmenter, part, overwrite, progress, report, names)
    return work(made, settings, merges if merged else [])


def extract_folder(
    source: str | Path,
    output: str | Path,
    features: str | Sequence[str],
    model: str | Path | nnx.Module | Sequence[str | Path | nnx.Module] | Segmenter = "cxas",
    *,
    table: str = "csv",
    store_masks: bool = False,
    draw: bool = False,
    original_values: bool = False,
    output_type: str | None = None,
    labelmap: bool = False,
    strict_projection: bool = False,
    preview: bool = False,
    merged: bool = True,
    files: Sequence[Path] | None = None,
    part: Part | str | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
    **options: Any,
) -> FolderResult:
    """Measures the anatomy in an X-ray or in all X-rays of a folder, and writes one table with one row per image.

    The table is `<source's name>.csv` in the output folder, or .parquet. Everything else is as in `segment_folder`.

    Args:
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results; it gets `summary.json`, which lists all files.
      features: from `jaxseg.anatomy.measure.features.FEATURES`, a list or a comma-separated string.
      model: a name that `jaxseg.load` knows, a model directory, a model, a list of several, or a `Segmenter` with the
        classes that the features need. All but a `Segmenter` segment only the classes that are needed.
      table: format of the table: "csv", or "parquet", which needs pyarrow.
      store_masks: also write the masks.
      draw: also write `<image>.lines.jpg`, the measured lines over the image.
      original_values: write the original's -1 (and boxes of 0) if something cannot be measured, not an empty cell.
      output_type: format of the masks; see `segment_folder`.
      labelmap: with "dicom-seg", write one label map; classes must not overlap.
      strict_projection: with "dicom-seg", write no geometry for an X-ray; many viewers do not open such a file.
      preview: also write `<image>.preview.jpg`, the masks over the image.
      merged: write the files of all images if any of them has changed: the table, and the files that `segment_folder`
        writes.
      files: the image files to process; None: all of `source`.
      part: process only this part of the files, see `segment_folder`; the table is written by `jaxseg.merge_folder`.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image.
      **options: of `Segmenter`; with confidence or probabilities, their files are written as by `segment_folder`.

    Returns:
      A FolderResult, see `segment_folder`; `merged` has the path of the table.

    Raises:
      ValueError, OSError: as `segment_folder`; also if a feature is unknown, or the model lacks classes that each of
        the features needs.

    Example:
      >>> import jaxseg
      >>> from pathlib import Path
      >>> from PIL import Image
      >>> from jaxseg.datasets import phantom
      >>> Path("films").mkdir()
      >>> Image.fromarray(phantom.draw(0, 64)[0]).save("films/chest.png")
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> result = jaxseg.extract_folder("films", "table", "area", model)
      >>> [path.name for path in result.merged], Path("table/films.csv").read_text().split(",")[:2]
      (['films.csv'], ['filename', 'heart_area'])
    """
    source, output, part, suffix = Path(source), Path(output), as_part(part), table_suffix(table)
    groups = model.groups if isinstance(model, Segmenter) else options.get("groups", "original")
    found = known.find_all(features, groups=groups)
    names = tuple(feature.name for feature in found)
    files = find_images(source, recursive=recursive, output=output) if files is None else files
    if not (store_masks or preview or isinstance(model, Segmenter) or options.get("classes") is not None):
        options["classes"] = functools.partial(needed_classes, found)
    segmenter = as_segmenter(model, _with_means(model, options, output_type), later=not summary_files(output))
    settings = segmenter.settings | {"groups": groups, "features": list(names), "original_values": original_values}
    made = [products.measurements(names, original_values=original_values, groups=groups)]
    seg = {"labelmap": labelmap, "strict_projection": strict_projection}
    if store_masks or preview:
        shown = {"preview": preview, "masks": store_masks}
        made += _mask_products(segmenter, settings, output_type, seg, (output, part), **shown)
    else:
        check_seg_options(seg, output_type, masks=False)
    if draw:
        made.append(products.drawings(names, segmenter.intensity, groups=groups))
    merges = [Merged(suffix, "measurements", {"features": list(names)}), *_mask_merges(segmenter, made, source)]
    _add_confidence(segmenter, settings, made, merges)
    work = _Work(source, output, list(files), segmenter, part, overwrite, progress, report)
    return work(made, settings, merges if merged else [])


def check_seg_options(seg: dict[str, bool], output_type: str | None, *, masks: bool = True) -> None:
    """Raises ValueError if an option of DICOM SEG is set but no masks are written as DICOM SEG.

    Args:
      seg: the options labelmap and strict_projection.
      output_type: format of the masks; None: that of the model.
      masks: whether masks are written.
    """
    wanted = [name for name, value in seg.items() if value]
    if wanted and not (masks and output_type == "dicom-seg"):
        raise ValueError(f"{wanted[0]} is only for DICOM SEG; choose the output type dicom-seg")


def check_report(path: Path) -> None:
    """Makes the folder of a report, and raises if `write_report` could not write it.

    Args:
      path: of the report.

    Raises:
      ValueError: the report would replace a file that is not a report. OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == SUMMARY_FILE:
        raise ValueError(f"{path}: this is the name of the summary of the output folder; use another name")
    if path.exists() and b'"environment"' not in path.read_bytes()[:100]:
        raise ValueError(f"{path} is not a jaxseg report; name another file")


def write_report(path: str | Path, result: FolderResult, segmenter: Segmenter, *, start_seconds: float = 0.0) -> None:
    """Writes a JSON file with versions, settings, weights, times and results of a call of `segment_folder`.

    Args:
      path: of the file; an earlier report is replaced.
      result: what `segment_folder` or `extract_folder` returned.
      segmenter: the Segmenter that the call used.
      start_seconds: time before the first image, except that of compilation.

    Raises:
      ValueError, OSError: as `check_report`.
    """
    path = Path(path)
    check_report(path)
    seconds = {"start": start_seconds, "compile": segmenter.compile_seconds}
    seconds["images"] = result.seconds
    entries = {key: stored(path.parent, entry) for key, entry in result.entries.items()}
    content: dict[str, Any] = {
        "environment": environment(),
        "settings": result.settings,
        "products": list(result.products),
    }
    content |= {"devices": [str(device) for device in segmenter.devices], "batch_size": segmenter.batch_size}
    content |= {"seconds": {stage: round(value, 3) for stage, value in seconds.items()}, "files": entries}
    content["weights"] = {name: getattr(segmenter.card, name) for name in ("source", "source_sha256", "params_sha256")}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _mask_products(
    segmenter: Segmenter,
    settings: dict,
    output_type: str | None,
    seg: dict[str, bool],
    places: tuple[Path, Part | None],
    *,
    preview: bool,
    masks: bool = True,
) -> list[Product]:
    """Returns the requested ones of the products `masks` and `preview`; adds the settings that only they depend on.

    `places` are the output folder and the part of the run.
    """
    card = segmenter.card
    found = []
    settings["classes"] = list(segmenter.names)
    check_seg_options(seg, output_type, masks=masks)
    if masks:
        output_type = output_type or registry.find(card.model).output_type
        if output_type == "dicom-seg":
            settings |= seg
        if output_type in cohort.TYPES:
            classes = dict(zip(segmenter.indices, segmenter.names, strict=True))
            found.append(products.joint_masks(output_type, classes, *places))
        else:
            found.append(products.masks(output_type, card.class_names, card.title, **seg))
    if preview:
        found.append(products.previews(segmenter.intensity))
    return found


def _add_confidence(segmenter: Segmenter, settings: dict, made: list[Product], merges: list[Merged]) -> None:
    """Adds how sure the network is, and its probabilities, if the Segmenter computes them; and what they depend on."""
    if segmenter.confidence:
        settings |= {"tta": segmenter.tta, "shape_check": segmenter.shape_check and segmenter.shape_check.settings}
        made.append(products.confidences())
        merges.append(Merged(CONFIDENCE_TABLE, "confidence"))
    if segmenter.probabilities:
        made.append(products.probabilities())
    if segmenter.confidence or segmenter.probabilities:
        settings["classes"] = list(segmenter.names)


def _with_means(model: Any, options: dict[str, Any], output_type: str | None) -> dict[str, Any]:
    """Returns the options of the `Segmenter` to make, with the mean probabilities that some formats hold."""
    needed = output_type in cohort.TYPES and not isinstance(model, Segmenter)
    return {"mean_probabilities": True} | options if needed else options


def _mask_merges(segmenter: Segmenter, made: list[Product], source: Path) -> list[Merged]:
    """Returns what merges a folder's COCO files, if there are any."""
    if not (source.is_dir() and any(product.kind == "json" for product in made)):
        return []
    return [Merged(".json", "json", {"categories": list(segmenter.card.class_names)})]


@dataclasses.dataclass(frozen=True)
class _Work:
    """The images of a call, and how they are processed."""

    source: Path
    output: Path
    files: list[Path]
    segmenter: Segmenter
    part: Part | None
    overwrite: bool
    progress: Progress | None
    report: Report | None
    names: Mapping[Path, str] | None = None

    def __call__(self, made: list[Product], settings: dict, merges: list[Merged]) -> FolderResult:
        segmenter = self.segmenter
        return folder.run(
            plan(self.files, self.source, self.output, names=self.names, part=self.part),
            Run(self.output, tuple(made), settings, segmenter.card.note, part=self.part),
            lambda todo, run: products.segment_files(todo, segmenter, run),
            prepare=segmenter.compile,
            merges=merges,
            source=self.source,
            overwrite=self.overwrite,
            progress=self.progress,
            report=self.report,
        )
