"""Whether both sides of a job made the same: their last results, file by file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MOST_APART = {"png": 0.01, "json": 0.01, "denoise": 1e-3}  # of all pixels: decoders of JPEG differ by a grey value
MOST_VALUES = 0.1  # of all features: in the ragged masks of random weights a pixel changes which contour is the first
NEAR = 0.01  # of a value


def compare(name: str, ours: Path, theirs: Path) -> dict[str, float]:
    """Returns how far the results in two folders are apart.

    Raises:
      ValueError: further than rounding explains, or something is missing.
    """
    if name == "features":
        return _features(ours, theirs)
    pairs = {"png": _pictures, "denoise": _pictures, "json": _run_lengths}[name](ours, theirs)
    apart = pixels = masks = 0
    for one, other in pairs:
        if one.shape != other.shape:
            raise ValueError(f"{name}: a mask is {one.shape} on one side and {other.shape} on the other")
        apart, pixels, masks = apart + int((one != other).sum()), pixels + one.size, masks + 1
    share = apart / pixels if pixels else 1.0
    if share > MOST_APART[name]:
        raise ValueError(f"{name}: {share:.2%} of the pixels of {masks} masks differ")
    return {"masks": masks, "pixels_apart": share}


def _pictures(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*.png"))
    if names != sorted(path.relative_to(ours) for path in ours.rglob("*.png")):
        raise ValueError(f"{ours} and {theirs} hold pictures of other names")
    for name in names:
        with Image.open(ours / name) as one, Image.open(theirs / name) as other:
            yield np.asarray(one).astype(bool), np.asarray(other).astype(bool)


def _run_lengths(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from jaxseg.masks.coco import decode_rle

    (merged,) = (path for path in sorted(ours.glob("*.json")) if len(_read(path).get("images", [])) > 1)
    found, wanted = _annotations(_read(merged)), _annotations(_read(theirs / "all.json"))
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)  # a mask of few pixels may be empty on one side
        known = one or other
        pair = [decode_rle(rle) if rle else np.zeros(known["size"], bool) for rle in (one, other)]
        yield pair[0], pair[1]


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def _annotations(content: dict) -> dict[tuple[str, int], dict]:
    files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    return {(files[one["image_id"]], one["category_id"]): one["segmentation"] for one in content["annotations"]}


def _features(ours: Path, theirs: Path) -> dict[str, float]:
    (table,) = ours.glob("*.csv")
    found, wanted = (list(csv.DictReader(path.read_text().splitlines())) for path in (table, theirs / "all.csv"))
    columns = [name for name in wanted[0] if name != "file"]
    missing = [name for name in columns if name not in found[0]]
    if missing or [row["filename"] for row in found] != [row["file"] for row in wanted]:
        raise ValueError(f"rows of other files, or columns only of PyTorch's side: {missing[:5]}")
    one, other = (np.array([[float(row[name]) for name in columns] for row in rows]) for rows in (found, wanted))
    share = float((np.abs(one - other) > NEAR * np.abs(other)).mean())
    if share > MOST_VALUES:
        raise ValueError(f"features: {share:.2%} of the values differ by more than {NEAR:.0%}")
    return {"values": one.size, "values_apart": share}
