"""What `Segmentation.save` and `Segmentation.to_pandas` do: files and tables of the masks of one image."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxseg import journal
from jaxseg.images.read import stem
from jaxseg.masks import coco, cohort, lines, parquet
from jaxseg.masks.formats import SEG
from jaxseg.masks.segmentation import Masks, Segmentation, runs_of
from jaxseg.masks.write import WRITERS, file_names

FOLDERS = ("png", "jpg")  # formats that write one file per class
FORMATS = (*WRITERS, *cohort.TYPES)
_SUFFIXES = {kind: f".{kind}" for kind in ("npy", "npz", "json")} | {"dicom-seg": SEG} | cohort.TYPES
_NO_FILE = "image"  # name of an image that was given as an array


def save(masks: Segmentation, path: Path, format: str | None = None) -> Path:
    """Writes the masks of one image; see `Segmentation.save`."""
    kind = _format_of(path) if format is None else format
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}; known: {', '.join(FORMATS)}")
    suffix = "" if kind in FOLDERS else _SUFFIXES[kind]
    base = path.with_name(path.name[: -len(suffix)]) if suffix and path.name.lower().endswith(suffix) else path
    name = _NO_FILE if masks.source is None else masks.source.name
    if kind in FOLDERS:
        _refuse_foreign(base, {f"{label}.{kind}" for label in file_names(masks.names)})
    if kind == "dicom-seg" and masks.source is None:
        raise ValueError("a DICOM SEG refers to a DICOM file, but the image was given as an array")
    if kind in cohort.TYPES:
        return _save_lines(masks, base.with_name(base.name + suffix), name)
    own = dataclasses.replace(masks, indices=tuple(range(len(masks.names))))  # the file lists only these classes
    source = masks.source if kind == "dicom-seg" else name
    return WRITERS[kind](own, base, source=source, categories=masks.names, algorithm="jaxseg", notes=[])


def to_pandas(masks: Segmentation) -> Any:
    """Returns a DataFrame with one row per mask; see `Segmentation.to_pandas`."""
    try:
        import pandas
    except ImportError:
        raise ValueError("a DataFrame needs pandas: pip install pandas") from None
    means = masks.mean_probabilities
    rows = []
    for k, name in enumerate(masks.names):
        runs = runs_of(masks, k)
        ids = {"annotation_id": k, "image_id": 1, "category_id": k}
        found = coco.annotation_of_runs(runs, masks.size, **ids)
        box = dict(zip(parquet.BOX, map(int, found["bbox"]), strict=True))
        row: dict[str, Any] = {"image": None if masks.source is None else masks.source.name, "class": name}
        row |= {"height": masks.size[0], "width": masks.size[1], "rle": found["segmentation"]["counts"]}
        mean = float("nan") if means is None else float(means[k])
        rows.append(row | {"area": found["area"]} | box | {"mean_probability": mean})
    return pandas.DataFrame(rows, columns=[name for name in parquet.COLUMNS if name != "key"])


def _save_lines(masks: Masks, path: Path, name: str) -> Path:
    """Writes a file of COCO lines or a Parquet table with one image."""
    key = stem(Path(name))
    if path.suffix == ".parquet":
        parquet.write_masks(path, key, name, masks)
    else:
        classes = dict(zip(masks.indices, masks.names, strict=True))
        journal.create(path, lines.head_of(classes), [lines.line_of(key, name, masks, width=lines.width_of(classes))])
    return path


def _format_of(path: Path) -> str:
    """Returns the format that the suffix of a path means."""
    for kind, suffix in _SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return kind
    if path.suffix:
        known = ", ".join(_SUFFIXES.values())
        raise ValueError(f"{path.name}: the suffix must be one of {known}; or name a folder, or the format")
    return "png"


def _refuse_foreign(folder: Path, names: set[str]) -> None:
    """Raises ValueError if a folder that would be replaced holds other files."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in names) if folder.is_dir() else []
    if others:
        raise ValueError(f"{folder} holds other files, such as {others[0]}; name another folder")
