"""SegAE's training data: slices of CTs with good and bad masks of organs, and the true Dice of each.

The masks are those of a network, or degraded ones; `jaxseg.segae.layout` describes the folders. An example is {"image":
(S, S, 2) float32, CT and mask as in `jaxseg.segae.crop`; "dice": float32, the Dice of the mask and the true mask within
the crop; "label": int32, the class of the organ; "slice": int32}, and for models with a second head "truth": (S, S)
uint8, the true mask from 0 to 255.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.volume_cache import Cache
from jaxseg.files import printable
from jaxseg.segae.crop import bounds, crop_window, mask_bytes, normalise, to_bytes
from jaxseg.segae.index import OVERLAP, Item, Volumes, index_cases, true_dice
from jaxseg.segae.layout import read_layout

MEMORY = 4 * 2**30  # bytes of volumes in memory


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
        volumes = {
            "ct": self.volumes.ct(item.case.ct),
            "labels": self.volumes.labels(item.case.label),
            "mask": self.volumes.mask(item.path),
        }
        shapes = {volume.shape for volume in volumes.values()}
        if len(shapes) > 1 or item.slices[-1] >= volumes["mask"].shape[0]:
            raise ValueError(f"{self.name(index)}: the volumes of this case changed after the start; start again")
        return volumes | {"slices": np.array(item.slices), "label": item.label}

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
    """Finds the usable slices of a data set, in a stored index or by opening every volume.

    The index is a file that `jaxseg.segae.index` describes. A slice is usable if the mask and
    the voxels of its class share at least `overlap` pixels. The original samples slices until it finds such a slice,
    and samples another mask if it has fewer than two.

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
    cases = [case for found in layout.values() for case in found]
    indexed, note = index_cases(root, cases, volumes, overlap, threads=threads)
    problems = [problem for _, found in indexed for problem in found]
    if problems:
        rest = f"\nand {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{root}: {len(problems)} volumes cannot be used:\n" + "\n".join(problems[:8]) + rest)
    by_case = dict(zip([case.ct for case in cases], (found for found, _ in indexed), strict=True))
    items = {name: [item for case in found for item in by_case[case.ct]] for name, found in layout.items()}
    data = _split_up(root, items, volumes, overlap)
    return dataclasses.replace(data, notes=(*data.notes, *[note] * bool(note)))


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
      with_truth: whether the examples contain the true mask.
    """

    size: int = 256
    with_truth: bool = False

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        z = int(record["slices"][len(record["slices"]) // 2])
        ct, truth, mask = planes(record, z)
        part = crop_window(bounds(mask), mask.shape).part
        more = {"size": self.size, "with_truth": self.with_truth}
        return example(ct[part], truth[part], mask[part], record["label"], z, **more)


def planes(record: dict[str, Any], z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns slice z of a record: CT, true mask and mask, each (H, W)."""
    return record["ct"][z], record["labels"][z] == record["label"], record["mask"].plane(z)


def example(
    ct: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    label: int,
    z: int,
    *,
    size: int,
    with_truth: bool = False,
    **options,
) -> dict[str, np.ndarray]:
    """Returns an example from a crop.

    Args:
      ct: (h, w) Hounsfield units.
      truth, mask: (h, w) bool.
      label: class of the organ.
      z: index of the slice.
      size: side S of the example in pixels.
      with_truth: whether the example contains the true mask.
      **options: options of `jaxseg.segae.crop.to_bytes`.
    """
    found = {
        "image": normalise(to_bytes(ct, mask, size, **options)),
        "dice": np.float32(true_dice(truth, mask)),
        "label": np.int32(label),
        "slice": np.int32(z),
    }
    return found | ({"truth": mask_bytes(truth, size)} if with_truth else {})
