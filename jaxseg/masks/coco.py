"""COCO annotations, with masks as run lengths; `coco_shapes` reads polygons too.

Masks are (H, W) bool; boxes are [x, y, width, height] in pixels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

MAX_PIXELS = 2**31
_MAX_CHARS = 7  # of five bits each: enough for any run length or difference below 2**34


def encode_rle(mask: np.ndarray) -> dict:
    """Returns a mask as COCO's compressed run lengths, with the same bytes as pycocotools writes.

    The runs go down the columns and start with background. From the fourth run on, the difference from the run two
    before is written. Each number is packed into characters from "0" to "o", of five bits and a continuation bit each.

    Args:
      mask: (H, W) bool.

    Returns:
      {"size": [H, W], "counts": str}.

    Raises:
      ValueError: the mask is not (H, W) bool, or has more than 2**31 pixels.

    >>> encode_rle(np.array([[False, True], [False, True]]))
    {'size': [2, 2], 'counts': '22'}
    """
    mask = _checked(mask)
    return encode_runs(runs_of(mask), mask.shape)


def encode_runs(runs: np.ndarray, size: Sequence[int]) -> dict:
    """Returns COCO's compressed run lengths, as `encode_rle` does, of a mask of this size with these runs.

    Args:
      runs: (R,) int64, as `runs_of` returns them.
      size: height and width of the mask.
    """
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    return {"size": [int(side) for side in size], "counts": _pack(numbers)}


def runs_of(mask: np.ndarray) -> np.ndarray:
    """Returns the lengths of a mask's runs down the columns, background and foreground alternating.

    Args:
      mask: (H, W) bool.

    Returns:
      (R,) int64. The first run is background; its length is 0 if the first pixel is foreground.

    Raises:
      ValueError: the mask is not (H, W) bool, or has more than 2**31 pixels.

    >>> runs_of(np.array([[True, False], [True, True]])).tolist()
    [0, 2, 1, 1]
    """
    mask = _checked(mask)
    flat = mask.ravel(order="F")
    return _runs(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size, starts=bool(flat.size and flat[0]))


def enlarged_runs(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns `runs_of(mask[rows][:, columns])` without making that mask, which may have a hundred times the pixels.

    Args:
      mask: (h, w) bool.
      rows: (H,) ascending indices of rows, as `jaxseg.nn.indices.nearest_indices` returns them; H >= 1.
      columns: (W,) ascending indices of columns; W >= 1.

    Returns:
      (R,) int64.

    >>> enlarged_runs(np.array([[False, True]]), np.array([0, 0]), np.array([0, 1, 1])).tolist()
    [2, 4]
    """
    height, width = len(rows), len(columns)
    kept, first = np.unique(rows, return_index=True)
    places = np.unique(columns, return_inverse=True)
    lines = np.ascontiguousarray(_checked(mask)[kept][:, places[0]].T)  # (w, h): each row is a column of the mask
    line, row = np.nonzero(lines[:, 1:] != lines[:, :-1])
    counts = np.bincount(line, minlength=len(lines))  # changes inside each column of the mask
    of = places[1].reshape(-1)  # (W,) the row of `lines` that each column of the image repeats
    many = counts[of]
    start = np.cumsum(counts)[of] - many - (np.cumsum(many) - many)
    chosen = np.repeat(start, many) + np.arange(many.sum())
    inside = first[row + 1][chosen] + np.repeat(np.arange(width) * height, many)
    between = (np.flatnonzero(lines[of[1:], 0] != lines[of[:-1], -1]) + 1) * height
    return _runs(np.sort(np.concatenate([inside, between])), height * width, starts=bool(lines[0, 0]))


def decode_rle(rle: dict) -> np.ndarray:
    """Returns the mask of COCO's run lengths.

    Args:
      rle: {"size": [H, W], "counts": str, bytes or list of int}.

    Returns:
      (H, W) bool.

    Raises:
      ValueError: the size, a character or the sum of the runs is wrong. This is checked before the mask is allocated.

    >>> decode_rle({"size": [2, 2], "counts": "22"}).tolist()
    [[False, True], [False, True]]
    """
    runs = runs_of_rle(rle)
    height, width = rle["size"]
    values = np.arange(runs.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def runs_of_rle(rle: dict) -> np.ndarray:
    """Returns `runs_of(decode_rle(rle))` without making the mask; some runs may have a length of 0.

    Args:
      rle: as `decode_rle` takes it. Text and bytes are compressed run lengths, a list holds the run lengths themselves.

    Raises:
      ValueError: as `decode_rle`.

    >>> runs_of_rle({"size": [2, 2], "counts": [1, 3]}).tolist()
    [1, 3]
    """
    height, width = _size(rle)
    if isinstance(rle.get("counts"), list):
        runs = _listed(rle["counts"], height * width)
    else:
        numbers = _unpack(_characters(rle))
        runs = numbers.copy()
        runs[1::2] = np.cumsum(numbers[1::2])
        runs[2::2] = np.cumsum(numbers[2::2])
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(
            f"the run lengths cover {runs.sum()} pixels (shortest {runs.min()}), but the size is "
            f"{height} x {width}: the annotation is damaged or belongs to another image"
        )
    return runs


def bounding_box(mask: np.ndarray) -> list[float]:
    """Returns the smallest box [x, y, width, height] around an (H, W) bool mask; zeros if the mask is empty."""
    mask = _checked(mask)
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return [0.0, 0.0, 0.0, 0.0]
    rows = np.flatnonzero(mask.any(axis=1))
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def area(mask: np.ndarray) -> int:
    """Returns the number of foreground pixels of an (H, W) bool mask."""
    return int(np.count_nonzero(_checked(mask)))


def annotation(mask: np.ndarray, *, annotation_id: int, image_id: int, category_id: int) -> dict:
    """Returns one entry of a data set's `annotations`: a mask with its area and box.

    Args:
      mask: (H, W) bool.
      annotation_id: unique in the file.
      image_id: id of the mask's image in the file.
      category_id: id of the mask's class in the file.
    """
    return annotation_of_runs(
        runs_of(mask), mask.shape, annotation_id=annotation_id, image_id=image_id, category_id=category_id
    )


def annotation_of_runs(
    runs: np.ndarray, size: Sequence[int], *, annotation_id: int, image_id: int, category_id: int
) -> dict:
    """Returns what `annotation` returns, from the runs of a mask.

    Args:
      runs: (R,) int64, as `runs_of` returns them.
      size: height and width of the mask.
      annotation_id, image_id, category_id: as in `annotation`.
    """
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": encode_runs(runs, size),
        "area": int(runs[1::2].sum()),
        "bbox": _box(runs, int(size[0])),
        "iscrowd": 0,
    }


def dataset(images: list[dict], names: Sequence[str], annotations: Iterable[dict]) -> dict:
    """Returns the content of a COCO file, ready for `json.dump`.

    Args:
      images: one {"id", "file_name", ...} per image.
      names: names of the classes; the id of a category is its index, from 0.
      annotations: results of `annotation`.
    """
    return {
        "info": {"description": "masks written by jaxseg"},
        "licenses": [],
        "images": list(images),
        "categories": categories(dict(enumerate(names))),
        "annotations": list(annotations),
    }


def categories(names: Mapping[int, str]) -> list[dict]:
    """Returns the `categories` of a COCO file from the names of the classes by id."""
    return [{"supercategory": name, "id": i, "name": name} for i, name in names.items()]


def _checked(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(
            f"a mask must be (H, W) bool, got {mask.shape} {mask.dtype}: pass one class, for example `mask > 0`"
        )
    if mask.size > MAX_PIXELS:
        raise ValueError(f"a mask may have up to {MAX_PIXELS} pixels, got {mask.shape}: split it into parts")
    return mask


def _runs(changes: np.ndarray, pixels: int, *, starts: bool) -> np.ndarray:
    """Returns the runs between ascending positions of changes; `starts`: the first pixel is foreground."""
    return np.diff(np.concatenate([[0, 0] if starts else [0], changes, [pixels]])).astype(np.int64)


def _box(runs: np.ndarray, height: int) -> list[float]:
    """Returns the box of `bounding_box` from the runs of a mask."""
    edges = np.cumsum(runs)
    first, last = edges[: len(runs) // 2 * 2 : 2], edges[1::2] - 1  # the first and last pixel of each run of foreground
    if not len(first):
        return [0.0, 0.0, 0.0, 0.0]
    x, right = first[0] // height, last[-1] // height
    y, bottom = (first % height).min(), (last % height).max()
    if (first // height != last // height).any():  # a run that enters the next column reaches the last and first row
        y, bottom = 0, height - 1
    return [float(x), float(y), float(right - x + 1), float(bottom - y + 1)]


def _pack(numbers: np.ndarray) -> str:
    lengths = np.ones(numbers.shape, np.int8)
    for chars in range(1, _MAX_CHARS):
        limit = 1 << (5 * chars - 1)
        lengths += (numbers < -limit) | (numbers >= limit)
    place = np.arange(lengths.max(), dtype=np.int64)
    codes = (numbers[:, None] >> (5 * place)) & 31  # (runs, longest), lowest bits first
    codes |= (place < lengths[:, None] - 1).astype(np.int64) << 5
    used = place < lengths[:, None]
    return (codes[used] + 48).astype(np.uint8).tobytes().decode("ascii")


def _size(rle: dict) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, dict) else None
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or any(type(side) is not int or side < 0 for side in sides):
        raise ValueError(f"run lengths need a size [height, width] of whole numbers, got {size!r}")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise ValueError(f"size {sides} has more than {MAX_PIXELS} pixels: the annotation is damaged")
    return sides[0], sides[1]


def _listed(counts: list, pixels: int) -> np.ndarray:
    if not counts or any(type(run) is not int or not 0 <= run <= pixels for run in counts):
        raise ValueError(f"a list of counts must hold whole numbers from 0 to {pixels}, the number of pixels")
    return np.asarray(counts, np.int64)


def _characters(rle: dict) -> np.ndarray:
    counts = rle.get("counts")
    if not isinstance(counts, str | bytes):
        kind = type(counts).__name__
        raise ValueError(f"counts must be COCO's compressed string, or a list of whole numbers, got {kind}")
    # latin-1 keeps one byte per character; characters outside it become "!", which is refused below.
    content = counts if isinstance(counts, bytes) else re.sub(r"[^\x00-\xff]", "!", counts).encode("latin-1")
    raw = np.frombuffer(content, np.uint8)
    junk = np.flatnonzero((raw < 48) | (raw > 111))
    if junk.size:
        raise ValueError(f"counts may hold the characters '0' to 'o', got {counts[junk[0]]!r} at position {junk[0]}")
    codes = raw - 48
    if codes.size == 0 or codes[-1] & 32:
        raise ValueError("counts end in the middle of a number: the annotation was cut off")
    return codes


def _unpack(codes: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(codes < 32)  # without the continuation bit
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS:
        raise ValueError(
            f"counts hold a number of {lengths.max()} characters, {_MAX_CHARS} are allowed: they are damaged"
        )
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31).astype(np.int64) << (5 * place), starts)
    negative = codes[ends] & 16 > 0
    return numbers - (negative.astype(np.int64) << (5 * lengths))
