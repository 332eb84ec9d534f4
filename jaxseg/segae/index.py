"""Index of SegAE's training data: the usable slices of every mask, stored so that a start need not open all volumes.

A slice is usable if the mask and the voxels of its class share enough pixels. The index of a data set is the JSON file
`index_OVERLAP.json` (`index_OVERLAP_canonical.json` for volumes that are turned to the patient's axes). It is in the
folder of the data set if `jaxseg prepare segae` made it. For other data sets, in which jaxseg writes nothing, it is in
jaxseg's folder of the user, and only if it took seconds to make. The entry of a case is used only if names, sizes and
modification times of all files of the case are those with which it was made; all other cases are opened again.
"""

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.dataset_summary import SUMMARY, read_summary
from jaxseg.datasets.volume_cache import Cache, PackedMask, pack
from jaxseg.files import atomic_file, printable, read_json, user_cache
from jaxseg.nn.metrics import dice
from jaxseg.segae.layout import MADE_BY, TrainingCase
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import read_labels, read_volume
from jaxseg.volumes.volume import Volume, VolumeError

OVERLAP = 20  # pixels that mask and true mask must share in a usable slice, as in the original
MEMORY = 4 * 2**30  # bytes of volumes in memory
FORMAT = 1
WORTH_S = 2.0  # fewest seconds of work for which an index is stored outside the data set
MOST_BYTES = 2**31  # largest size of a stored index
WRITE_S = 60.0  # seconds after which a growing index is written, so that a killed start loses little work
SETTLED_NS = 2 * 10**9  # a file that changed later than this may change again within one tick of the clock

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Item:
    """A mask and its usable slices.

    Attributes:
      case: case of the mask.
      organ: name of its organ.
      label: class of its organ.
      path: its file.
      slices: indices of the usable slices, ascending; () if there are none.
      dice: Dice of the mask and the true mask, over the whole volume.
      truth_voxels, mask_voxels: number of voxels of the two.
    """

    case: TrainingCase
    organ: str
    label: int
    path: Path
    slices: tuple[int, ...]
    dice: float
    truth_voxels: int
    mask_voxels: int


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Reads volumes, and keeps them in memory up to a limit.

    Attributes:
      cache: the volumes in memory.
      canonical: whether volumes are reoriented to the patient's axes.
    """

    cache: Cache = dataclasses.field(default_factory=lambda: Cache(MEMORY))
    canonical: bool = dataclasses.field(default=False, kw_only=True)

    def ct(self, path: Path) -> np.ndarray:
        """Returns a CT, (D, H, W) Hounsfield units: int16 if all values fit, else float32."""
        return self.cache.get(path, lambda: _compact(self.checked_ct(path)))

    def labels(self, path: Path) -> np.ndarray:
        """Returns classes, (D, H, W) uint8 or uint16."""
        return self.cache.get(path, lambda: np.ascontiguousarray(self.read_labels(path).array))

    def mask(self, path: Path) -> PackedMask:
        """Returns a mask that takes one bit per voxel."""
        return self.cache.get(path, lambda: pack(self.read_mask(path).array))

    def checked_ct(self, path: Path) -> Volume:
        """Reads a CT; raises VolumeError if its values cannot be Hounsfield units."""
        ct = read_volume(path, canonical=self.canonical)
        check_ct(ct)
        return ct

    def read_labels(self, path: Path) -> Volume:
        """Reads classes."""
        return read_labels(path, canonical=self.canonical)

    def read_mask(self, path: Path) -> Volume:
        """Reads a mask with the values 0 and 1."""
        return check_mask(read_volume(path, canonical=self.canonical))


def index_cases(
    root: Path, cases: Sequence[TrainingCase], volumes: Volumes, overlap: int = OVERLAP, *, threads: int = 4
) -> tuple[list[tuple[list[Item], list[str]]], str]:
    """Returns what `index_case` returns for each case, and updates the stored index.

    Args:
      root: folder of the data set.
      cases: all its cases.
      volumes: reads the volumes of cases that the index lacks.
      overlap: number of pixels that mask and true mask share in a usable slice.
      threads: number of threads that read.

    Returns:
      (items, problems) of each case, and a line for the user if the index could not be stored; "" otherwise.

    Raises:
      OSError: a file of the data set cannot be read.
    """
    is_ours = _is_ours(root)
    path = _path(root, f"index_{overlap}{'_canonical' if volumes.canonical else ''}.json", is_ours=is_ours)
    stored, note = _read(path), ""
    fresh: dict[str, Any] = {}
    results: list[tuple[list[Item], list[str]]] = []
    start = written = time.monotonic()
    with ThreadPoolExecutor(threads, thread_name_prefix="jaxseg-index") as pool:
        for case, found in zip(cases, pool.map(lambda case: _find(case, stored, volumes, overlap), cases), strict=True):
            results.append((found.items, found.problems))
            if found.entry is not None:
                fresh[_key(case)] = found.entry
            if path is not None and time.monotonic() - written > WRITE_S and fresh.keys() - stored.keys():
                note, written = _write(path, stored | fresh), time.monotonic()
    is_worth = is_ours or stored or time.monotonic() - start > WORTH_S
    if path is not None and is_worth and fresh != stored:
        note = _write(path, fresh)
    return results, note


@dataclasses.dataclass(frozen=True)
class _Found:
    """The masks of a case, the problems of its volumes, and what the index stores; None if it must not be stored."""

    items: list[Item]
    problems: list[str]
    entry: dict | None


def _find(case: TrainingCase, stored: Mapping[str, Any], volumes: Volumes, overlap: int) -> _Found:
    """Returns a case as the index has it, if its files are the same, or else as its volumes are."""
    digest, newest = case.fingerprint()
    entry = stored.get(_key(case))
    if isinstance(entry, dict) and entry.get("digest") == digest:
        items = _items(case, entry.get("masks"))
        if items is not None:
            return _Found(items, [], entry)
    is_settled = newest < time.time_ns() - SETTLED_NS
    items, problems = index_case(case, volumes, overlap)
    keeps = is_settled and not problems and case.fingerprint()[0] == digest
    return _Found(items, problems, {"digest": digest, "masks": list(map(_row, items))} if keeps else None)


def _is_ours(root: Path) -> bool:
    """Returns whether jaxseg made a data set; other programs write files of the same name."""
    try:
        return read_summary(root / SUMMARY, MADE_BY) is not None
    except ValueError:
        return False


def _path(root: Path, name: str, *, is_ours: bool) -> Path | None:
    """Returns the path of an index: in a data set that jaxseg made, else in the user's folder; None without one."""
    if is_ours:
        return root / name
    digest = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()
    cache = user_cache()
    return None if cache is None else cache / "segae" / "index" / f"{digest[:24]}_{name}"


def _key(case: TrainingCase) -> str:
    return f"{case.ct.parent.parent.name}/{case.name}"


def _read(path: Path | None) -> dict[str, Any]:
    """Returns key -> entry of the cases of a stored index; {} if there is none, or if it cannot be used."""
    if path is None:
        return {}
    try:
        found = read_json(path, most=MOST_BYTES)
        if isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("cases"), dict):
            return found["cases"]
        _log.debug("%s is not an index of format %d", path, FORMAT)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        _log.debug("%s cannot be used", path, exc_info=error)
    return {}


def _write(path: Path, cases: dict[str, Any]) -> str:
    """Writes an index as a whole; returns a line for the user if that is impossible, else ""."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "cases": cases}, separators=(",", ":")), "utf-8")
    except OSError as error:
        reason = error.strerror or "it cannot be written"
        return f"{printable(path.name)} is not stored ({reason}), so that every start opens all volumes"
    return ""


def _row(item: Item) -> list:
    """Returns the stored form of a mask: its slices as the first and last + 1 of each run, Dice and voxel counts."""
    places = np.array(item.slices, np.int64)
    breaks = np.flatnonzero(np.diff(places) > 1) + 1
    runs = [[int(run[0]), int(run[-1]) + 1] for run in np.split(places, breaks) if run.size]
    return [[end for run in runs for end in run], item.dice, item.truth_voxels, item.mask_voxels]


def _items(case: TrainingCase, rows: Any) -> list[Item] | None:
    """Returns the masks of a case as the index stores them; None if the entry is damaged."""
    files = [(organ, label, path) for organ, label, found in case.masks for path in found]
    if not isinstance(rows, list) or len(rows) != len(files):
        return None
    items = []
    for (organ, label, path), row in zip(files, rows, strict=True):
        if not _is_row(row):
            return None
        ends, *counts = row
        slices = tuple(z for k in range(0, len(ends), 2) for z in range(ends[k], ends[k + 1]))
        items.append(Item(case, organ, label, path, slices, *counts))
    return items


def _is_row(row: Any) -> bool:
    if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], list) and len(row[0]) % 2 == 0):
        return False
    ends, share, *counts = row
    if not all(type(number) is int and 0 <= number < 2**62 for number in (*ends, *counts)):
        return False
    ascending = all(a < b for a, b in zip(ends, ends[1:], strict=False))
    return ascending and (not ends or ends[-1] < 2**20) and type(share) is float and math.isfinite(share)


def index_case(case: TrainingCase, volumes: Volumes, overlap: int = OVERLAP) -> tuple[list[Item], list[str]]:
    """Returns the masks of a case, and one sentence for each of its volumes that cannot be used.

    Args:
      case: the case.
      volumes: reads its volumes and keeps them.
      overlap: number of pixels that mask and true mask share in a usable slice.

    Raises:
      OSError: a file cannot be read.
    """
    shown = printable(f"{case.ct.parent.parent.name}/{case.name}")
    try:
        ct, labels = volumes.checked_ct(case.ct), volumes.read_labels(case.label)
        check_pair(ct, labels)
    except VolumeError as error:
        return [], [f"{shown}/{error}"]
    volumes.cache.get(case.ct, lambda: _compact(ct))
    volumes.cache.get(case.label, lambda: np.ascontiguousarray(labels.array))
    items, problems = [], []
    for organ, label, files in case.masks:
        truth = labels.array == label
        for path in files:
            try:
                mask = volumes.read_mask(path)
                check_pair(ct, mask)
            except VolumeError as error:
                problems.append(f"{shown}/{printable(path.parent.name)}/{error}")
                continue
            packed = volumes.cache.get(path, lambda array=mask.array: pack(array))
            slices = usable_slices(truth, mask.array, overlap, box=packed.box)
            counts = np.count_nonzero(truth), np.count_nonzero(mask.array)
            items.append(Item(case, organ, label, path, slices, true_dice(truth, mask.array), *map(int, counts)))
    return items, problems


def usable_slices(
    truth: np.ndarray, mask: np.ndarray, overlap: int = OVERLAP, *, box: tuple[slice, ...] | None = None
) -> tuple[int, ...]:
    """Returns the indices of the slices in which a mask and the true mask share enough pixels, ascending.

    Args:
      truth, mask: (D, H, W) bool.
      overlap: smallest number of shared pixels.
      box: bounding box of one of the two; None: it is computed.

    Example:
      >>> truth = np.zeros((3, 10, 10), bool)
      >>> truth[1:, 2:8, 2:8] = True
      >>> usable_slices(truth, truth)
      (1, 2)
    """
    box = pack(mask).box if box is None else box
    shared = np.count_nonzero(truth[box] & mask[box], axis=(1, 2))
    return tuple(int(z) + box[0].start for z in np.flatnonzero(shared >= overlap))


def usable_organs(classes: np.ndarray, least_slices: int) -> list[int]:
    """Returns the classes that have enough pixels in enough slices, without 0, ascending.

    Args:
      classes: (D, H, W) uint8.
      least_slices: smallest number of slices with `OVERLAP` pixels of a class.
    """
    pixels = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in classes])
    slices = (pixels >= OVERLAP).sum(0)
    return [int(label) for label in np.flatnonzero(slices >= least_slices) if label]


def _compact(ct: Volume) -> np.ndarray:
    array = ct.array
    if array.dtype.kind in "iu":
        limits = np.iinfo(np.int16)
        fits = array.min() >= limits.min and array.max() <= limits.max
        return np.ascontiguousarray(array, np.int16 if fits else np.float32)
    return np.ascontiguousarray(array, np.float32)


def true_dice(truth: np.ndarray, mask: np.ndarray) -> float:
    """Returns the Dice coefficient of two masks of equal shape as in the original, in [0, 1); 0 if both are empty.

    Example:
      >>> round(true_dice(np.array([1, 1, 0]), np.array([0, 1, 1])), 3)
      0.5
    """
    return float(dice(truth.astype(bool, copy=False), mask.astype(bool, copy=False), axes=None, epsilon=1e-6))
