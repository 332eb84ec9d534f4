"""SegAE's training layout: `{train,val}/{case}/ct.nii.gz`, `label.nii.gz` and `{organ}_{id}/` with masks of a network.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import dataclasses
import re
from pathlib import Path

from jaxseg.files import printable
from jaxseg.volumes.read import SUFFIXES, suffix_of

SPLITS = ("train", "val")
MAX_ID = 2**16 - 1  # of a class

_ORGAN = re.compile(r"(.+)_(\d{1,5})")


@dataclasses.dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
      name: of its folder.
      ct, label: the volumes; the label holds the classes.
      masks: of every organ with masks, (its name, its class, the files of its masks).
    """

    name: str
    ct: Path
    label: Path
    masks: tuple[tuple[str, int, tuple[Path, ...]], ...]


def read_layout(root: str | Path) -> dict[str, tuple[Case, ...]]:
    """Returns the cases of the splits that are there, by name; looks at names alone.

    An organ's folder is named `{organ}_{id}`, where the organ may hold further underscores (the original's may not).
    Volumes may be of any kind that `jaxseg.volumes.read` reads.

    Raises:
      ValueError: there is no split or no case, a case lacks its CT or its label, or an organ's folder has no class.
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


def _cases(folder: Path, problems: list[str]) -> tuple[Case, ...]:
    found = [_case(path, problems) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    return tuple(case for case in found if case is not None)


def _case(folder: Path, problems: list[str]) -> Case | None:
    shown = printable(f"{folder.parent.name}/{folder.name}")
    volumes = {name: _volume(folder, name) for name in ("ct", "label")}
    missing = [name for name, path in volumes.items() if path is None]
    if missing:
        problems.append(f"{shown} has no {' and no '.join(f'{name}.nii.gz' for name in missing)}")
        return None
    masks = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        named = _ORGAN.fullmatch(path.name)
        if not named or not 0 < int(named[2]) <= MAX_ID:
            problems.append(f"{shown}/{printable(path.name)}: an organ's folder is named ORGAN_ID, such as liver_13")
            continue
        files = tuple(file for file in sorted(path.iterdir()) if suffix_of(file) and not file.name.startswith("."))
        masks.append((named[1], int(named[2]), files))
    return Case(folder.name, volumes["ct"], volumes["label"], tuple(masks))


def _volume(folder: Path, name: str) -> Path | None:
    return next((folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()), None)
