"""How far the results of the two sides of end_to_end.py's jobs are apart, for jobs that write files."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MAX_APART = {"png": 0.01, "json": 0.01, "denoise": 1e-3}  # of all pixels: JPEG decoders differ by one grey value
MAX_VALUES_APART = 0.1  # of all features: in ragged masks of random weights one pixel changes which contour is first
NEAR = 0.01  # relative difference above which two features differ


def apart(name: str, ours: Path, theirs: Path) -> dict[str, float]:
    """Returns how far the results of a job in two folders are apart.

    Raises:
      ValueError: they are further apart than rounding explains, or results are missing.
    """
    if name == "features":
        return _compare_features(ours, theirs)
    pairs = {"png": _png_pairs, "denoise": _png_pairs, "json": _coco_pairs}[name](ours, theirs)
    differing = pixels = masks = 0
    for one, other in pairs:
        if one.shape != other.shape:
            raise ValueError(f"{name}: a mask is {one.shape} on one side and {other.shape} on the other")
        differing, pixels, masks = differing + int((one != other).sum()), pixels + one.size, masks + 1
    share = differing / pixels if pixels else 1.0
    if share > MAX_APART[name]:
        raise ValueError(f"{name}: {share:.2%} of the pixels of {masks} masks differ")
    return {"masks": masks, "pixels_apart": share}


def _png_pairs(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*.png"))
    if names != sorted(path.relative_to(ours) for path in ours.rglob("*.png")):
        raise ValueError(f"{ours} and {theirs} hold PNG files of different names")
    for name in names:
        with Image.open(ours / name) as one, Image.open(theirs / name) as other:
            yield np.asarray(one).astype(bool), np.asarray(other).astype(bool)


def _coco_pairs(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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


def _compare_features(ours: Path, theirs: Path) -> dict[str, float]:
    (path,) = ours.glob("*.csv")
    found, wanted = (list(csv.DictReader(file.read_text().splitlines())) for file in (path, theirs / "all.csv"))
    columns = [name for name in wanted[0] if name != "file"]
    missing = [name for name in columns if name not in found[0]]
    if missing or [row["filename"] for row in found] != [row["file"] for row in wanted]:
        raise ValueError(f"the tables hold different files, or jaxseg's lacks columns: {missing[:5]}")
    one, other = (np.array([[float(row[name]) for name in columns] for row in rows]) for rows in (found, wanted))
    share = float((np.abs(one - other) > NEAR * np.abs(other)).mean())
    if share > MAX_VALUES_APART:
        raise ValueError(f"features: {share:.2%} of the values differ by more than {NEAR:.0%}")
    return {"values": one.size, "values_apart": share}
