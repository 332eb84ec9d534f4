"""SegAE's training data: slices of CTs with good and bad masks of organs, and the true Dice of each.

The masks are those of a network, or degraded ones; `jaxseg.segae.layout` describes the folders. An example is {"image":
(S, S, 2) float32, CT and mask as in `jaxseg.segae.crop`; "dice": float32, the Dice of the mask and the true mask within
the crop; "label": int32, the class of the organ; "slice": int32}.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.volume_cache import Cache, PackedMask, pack
from jaxseg.files import printable
from jaxseg.nn.metrics import dice
from jaxseg.segae.crop import bounds, crop_window, normalise, to_bytes
from jaxseg.segae.layout import TrainingCase, read_layout
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import read_labels, read_volume
from jaxseg.volumes.volume import Volume, VolumeError

OVERLAP = 20  # pixels that mask and true mask must share in a usable slice, as in the original
MEMORY = 4 * 2**30  # bytes of volumes in memory


@dataclasses.dataclass(frozen=True)
class Item:
    """A mask and its usable slices.

    Attributes:
      case: case of the mask.
      organ: name of its organ.
      label: class of its organ.
      path: its file.
      slices: indices of the usable slices, ascending.
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


@dataclasses.dataclass(frozen=True)
class SegaeSplit:
    """A source of records, with one record per mask that has usable slices.

    A record is {"ct", "labels": (D, H, W) arrays, "mask": PackedMask, "slices": (n,) int64, "label": int}. Its arrays
    are those of the cache, not copies; `Example` and `Augmentation` turn a record into an example.

    Attributes:
      items: the masks.
      volumes: reads the volumes of the masks.
      root: folder to which names of records are relative.
    """

    items: tuple[Item, ...]
    volumes: Volumes
    root: Path

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        return {
            "ct": self.volumes.ct(item.case.ct),
            "labels": self.volumes.labels(item.case.label),
            "mask": self.volumes.mask(item.path),
            "slices": np.array(item.slices),
            "label": item.label,
        }

    def name(self, index: int) -> str:
        """Returns the path of a mask relative to the root."""
        return printable(self.items[index].path.relative_to(self.root).as_posix())

    def of_slices(self, count: int | None = None) -> "SegaeSplit":
        """Returns a source with one record per slice.

        Args:
          count: number of slices per mask, spread evenly over the usable slices (a single one is in the middle); None:
            all usable slices.
        """
        items = []
        for item in self.items:
            total = len(item.slices)
            most = total if count is None else min(count, total)
            places = [int((k + 0.5) * total / most) for k in range(most)]
            items += [dataclasses.replace(item, slices=(item.slices[k],)) for k in places]
        return dataclasses.replace(self, items=tuple(items))


@dataclasses.dataclass(frozen=True)
class SegaeData:
    """A data set.

    Attributes:
      splits: "train" and "val", as far as they exist -> the source of records.
      unusable: split -> names of the masks without a usable slice, which are left out.
      notes: lines for the user about masks that are left out.
    """

    splits: dict[str, SegaeSplit]
    unusable: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def read_segae(
    root: str | Path, *, memory: int = MEMORY, canonical: bool = False, overlap: int = OVERLAP, threads: int = 4
) -> SegaeData:
    """Reads a data set: opens every volume once and finds the usable slices.

    A slice is usable if the mask and the voxels of its class share at least `overlap` pixels. The original samples
    slices until it finds such a slice, and samples another mask if it has fewer than two.

    Args:
      root: folder of the data set, see `jaxseg.segae.layout`.
      memory: size in bytes of the volumes that are kept in memory; masks take one bit per voxel of their bounding box.
      canonical: whether to reorient volumes to the patient's axes; the original does not.
      overlap: number of shared pixels, at least 1.
      threads: number of threads that open volumes.

    Raises:
      ValueError: the layout is wrong; volumes are damaged, do not match their CT, or are not a CT, classes or masks; or
        a split has no usable slice.
      OSError: a file cannot be read.
    """
    if overlap < 1:
        raise ValueError(f"the overlap must be at least 1 pixel, got {overlap}")
    root = Path(root)
    layout, volumes = read_layout(root), Volumes(Cache(memory), canonical=canonical)
    cases = [(split, case) for split, found in layout.items() for case in found]
    with ThreadPoolExecutor(threads, thread_name_prefix="jaxseg-index") as pool:
        indexed = list(pool.map(lambda pair: index_case(pair[1], volumes, overlap), cases))
    problems = [problem for _, found in indexed for problem in found]
    if problems:
        rest = f"\nand {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{root}: {len(problems)} volumes cannot be used:\n" + "\n".join(problems[:8]) + rest)
    items = {name: [] for name in layout}
    for (split, _), (found, _) in zip(cases, indexed, strict=True):
        items[split] += found
    return _split_up(root, items, volumes, overlap)


def _split_up(root: Path, items: dict[str, list[Item]], volumes: Volumes, overlap: int) -> SegaeData:
    splits, unusable, notes = {}, {}, []
    for split, found in items.items():
        usable = tuple(item for item in found if item.slices)
        empty = [item.path.relative_to(root).as_posix() for item in found if not item.slices]
        if not usable:
            raise ValueError(f"{root}: none of the {len(found)} masks of {split} has a usable slice")
        splits[split], unusable[split] = SegaeSplit(usable, volumes, root), tuple(map(printable, empty))
        if empty:
            shown = ", ".join(unusable[split][:5]) + (", ..." if len(empty) > 5 else "")
            shares = f"shares {overlap} pixels with the truth in any slice"
            notes.append(f"{len(empty)} of {len(found)} masks of {split} are left out: none {shares} ({shown})")
    return SegaeData(splits, unusable, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Example:
    """The transform for evaluation: the middle one of the slices of a record, cropped with the fixed margins.

    Attributes:
      size: side S of the examples in pixels.
    """

    size: int = 256

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        z = int(record["slices"][len(record["slices"]) // 2])
        ct, truth, mask = planes(record, z)
        part = crop_window(bounds(mask), mask.shape).part
        return example(ct[part], truth[part], mask[part], record["label"], z, size=self.size)


def planes(record: dict[str, Any], z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns slice z of a record: CT, true mask and mask, each (H, W)."""
    return record["ct"][z], record["labels"][z] == record["label"], record["mask"].plane(z)


def example(
    ct: np.ndarray, truth: np.ndarray, mask: np.ndarray, label: int, z: int, *, size: int, **options
) -> dict[str, np.ndarray]:
    """Returns an example from a crop.

    Args:
      ct: (h, w) Hounsfield units.
      truth, mask: (h, w) bool.
      label: class of the organ.
      z: index of the slice.
      size: side S of the example in pixels.
      **options: options of `jaxseg.segae.crop.to_bytes`.
    """
    return {
        "image": normalise(to_bytes(ct, mask, size, **options)),
        "dice": np.float32(true_dice(truth, mask)),
        "label": np.int32(label),
        "slice": np.int32(z),
    }


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
