"""Finds the files of cases by their names: TotalSegmentator's folders, and the layout of SegAE's training data.

The training layout is `{train,val}/CASE/` with `ct.nii.gz`, `label.nii.gz` (classes of the DAP-Atlas) and
`ORGAN_ID/*.nii.gz`. In TotalSegmentator's layout, `CASE/` has `ct.nii.gz` and `segmentations/ORGAN.nii.gz`. Any volume
that `jaxseg.volumes.read` reads can take the place of a .nii.gz file.
"""

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxseg.files import printable
from jaxseg.volumes.read import SUFFIXES, stem

MADE_BY = "prepare segae"  # command of jaxseg that builds data in the training layout
MASKS = "segmentations"  # name of the folder with the masks of a case
SPLITS = ("train", "val")
MAX_ID = 2**16 - 1  # highest class

_ORGAN = re.compile(r"(.+)_(\d{1,5})")


def cts_in(folder: Path) -> list[Path]:
    """Returns the files ct.nii.gz, ct.npy and so on in the folder of a case, and its folder ct of DICOM slices."""
    return [folder / f"ct{suffix}" for suffix in (*SUFFIXES, "") if (folder / f"ct{suffix}").exists()]


def volumes_in(folder: Path) -> list[Path]:
    """Returns the files of volumes in a folder, sorted, without hidden files; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    names = (name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    return [folder / name for name in sorted(names)]  # sorting names takes a fraction of the time of sorting paths


def twice_in(files: Sequence[Path]) -> list[str]:
    """Returns the names of organs of which several files are masks, such as liver.nii.gz beside liver.npy."""
    return [name for name, count in collections.Counter(map(stem, files)).items() if count > 1]


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """A case of the training layout.

    Attributes:
      name: name of its folder.
      ct, label: files of the CT and of the classes.
      masks: (name, class, files of the masks) of every organ with a folder.
    """

    name: str
    ct: Path
    label: Path
    masks: tuple[tuple[str, int, tuple[Path, ...]], ...]

    def fingerprint(self) -> tuple[str, int]:
        """Returns a digest of names, sizes and modification times of all files, and the latest of these times in ns."""
        named = [("", self.ct), ("", self.label)]
        named += [(f"{organ}_{label}/", path) for organ, label, files in self.masks for path in files]
        digest, newest = hashlib.sha256(), 0
        for folder, path in named:
            found = os.stat(path)
            newest = max(newest, found.st_mtime_ns)
            digest.update(
                f"{folder}{path.name}\0{found.st_size} {found.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
        return digest.hexdigest(), newest


def read_layout(root: str | Path) -> dict[str, tuple[TrainingCase, ...]]:
    """Returns split -> its cases, sorted by name; only the names of files are read.

    The folder of an organ is named `{organ}_{id}`; unlike in the original, the organ may contain underscores.

    Args:
      root: folder of the data set.

    Raises:
      ValueError: there is no case, a case lacks its CT or its label, or the name of an organ's folder has no class.
      OSError: a folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    problems: list[str] = []
    splits = {split: _cases(root / split, problems) for split in SPLITS if (root / split).is_dir()}
    if not any(splits.values()) and not problems:
        raise ValueError(f"{root}: has no case; the layout is train/CASE/ct.nii.gz, label.nii.gz, ORGAN_ID/*.nii.gz")
    if problems:
        rest = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{root}: {'; '.join(problems[:5])}{rest}")
    return {split: cases for split, cases in splits.items() if cases}


def _cases(folder: Path, problems: list[str]) -> tuple[TrainingCase, ...]:
    found = [_case(path, problems) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    return tuple(case for case in found if case is not None)


def _case(folder: Path, problems: list[str]) -> TrainingCase | None:
    shown = printable(f"{folder.parent.name}/{folder.name}")
    entries = {path.name: path for path in folder.iterdir()}
    volumes = {name: _volume(entries, name) for name in ("ct", "label")}
    missing = [name for name, path in volumes.items() if path is None]
    if missing:
        problems.append(f"{shown} has no {' and no '.join(f'{name}.nii.gz' for name in missing)}")
        return None
    masks = []
    for name, path in sorted(entries.items()):
        if name.startswith(".") or path in volumes.values() or not path.is_dir():
            continue
        named = _ORGAN.fullmatch(name)
        if not named or not 0 < int(named[2]) <= MAX_ID:
            problems.append(f"{shown}/{printable(name)}: an organ's folder is named ORGAN_ID, such as liver_13")
            continue
        masks.append((named[1], int(named[2]), tuple(volumes_in(path))))
    return TrainingCase(folder.name, volumes["ct"], volumes["label"], tuple(masks))


def _volume(entries: dict[str, Path], name: str) -> Path | None:
    named = (entries.get(f"{name}{suffix}") for suffix in SUFFIXES)
    return next((path for path in named if path is not None and path.is_file()), None)
