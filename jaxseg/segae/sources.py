"""CT volumes with labels of any origin: which file belongs to which, and which organ a label is."""

import csv
import dataclasses
import io
import json
from pathlib import Path

from jaxseg.files import printable
from jaxseg.images.read import kind_of
from jaxseg.vocabulary import organs
from jaxseg.volumes.read import SUFFIXES, stem, suffix_of

MAX_TABLE_BYTES = 2**20
_NOT_ORGANS = (0, 1)  # classes of the DAP-Atlas: background, left to annotate


@dataclasses.dataclass(frozen=True)
class Scan:
    """A CT and what belongs to it.

    Attributes:
      name: of the case.
      ct: a volume's file, or a folder of DICOM slices.
      label: a volume of labels.
      stages: such volumes by a network, one for each of its stages; none: the labels are to be degraded.
    """

    name: str
    ct: Path
    label: Path
    stages: tuple[Path, ...] = ()


def find_scans(cts: Path, labels: Path, pseudo: Path | None = None) -> tuple[tuple[Scan, ...], tuple[str, ...]]:
    """Returns the scans of folders, by name, and lines on what has no partner.

    A case is a file CASE.nii.gz (or .nii, .npz, .npy; nnU-Net's ending _0000 does not count), a folder CASE with
    ct.nii.gz or label.nii.gz, or for CTs a folder CASE of DICOM slices. The two folders may be one. Pseudo labels are
    CASE/STAGE.nii.gz.

    Raises:
      ValueError: no CT has labels; two files are of one case; a case has no pseudo labels where these are given.
      OSError: a folder cannot be read.
    """
    found = {"CT": _entries(cts, "ct"), "labels": _entries(labels, "label")}
    both = sorted(set(found["CT"]) & set(found["labels"]))
    if not both:
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in found.items())
        raise ValueError(
            f"no CT has labels of the same name ({counts}); name them CTS/CASE.nii.gz and LABELS/CASE.nii.gz, or "
            "CASE/ct.nii.gz and CASE/label.nii.gz"
        )
    alone = {
        "no labels": sorted(set(found["CT"]) - set(found["labels"])),
        "no CT": sorted(set(found["labels"]) - set(found["CT"])),
    }
    notes = tuple(f"{len(names)} cases have {what}: {_first(names)}" for what, names in alone.items() if names)
    stages = {name: _stages(pseudo / name) if pseudo else () for name in both}
    without = [name for name in both if pseudo and not stages[name]]
    if without:
        raise ValueError(f"{len(without)} cases have no pseudo labels CASE/STAGE.nii.gz in {pseudo}: {_first(without)}")
    return tuple(Scan(name, found["CT"][name], found["labels"][name], stages[name]) for name in both), notes


def dap_table() -> dict[int, organs.Organ]:
    """Returns the table of labels that are classes of the DAP-Atlas: label -> organ."""
    return {organ.id: organ for organ in organs.ORGANS if organ.id not in _NOT_ORGANS}


def read_table(path: Path) -> dict[int, organs.Organ]:
    """Reads a table of labels, label -> organ.

    Args:
      path: JSON, an object of names under labels, or of labels under names (as "labels" of nnU-Net's dataset.json); or
        CSV, a label and a name a line, where a first line of titles does not count. Label 0 is the background.

    Raises:
      ValueError: it is neither, names an organ that is not known, or one twice.
      OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise ValueError(f"{path.name}: more than {MAX_TABLE_BYTES:,} bytes; this is no table of labels")
    try:
        text = content.decode("utf-8-sig")
        pairs = _from_json(text) if path.suffix.lower() == ".json" else _from_csv(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path.name}: not a table of labels and names ({printable(str(error))[:150]})") from None
    table: dict[int, organs.Organ] = {}
    problems = []
    for label, name in pairs:
        if label == 0:
            continue
        try:
            organ = organs.find(name)
        except ValueError as error:
            problems.append(f"label {label}: {error}")
            continue
        if label in table or organ in table.values():
            problems.append(f"label {label}: {printable(name)!r} or its label is there twice")
        table[label] = organ
    if problems or not table:
        raise ValueError(f"{path.name}: {'; '.join(problems[:5]) or 'names no organ'}")
    return table


def _entries(folder: Path, inner: str) -> dict[str, Path]:
    """Case -> its volume."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            name, volume = path.name, _in_folder(path, inner)
        else:
            name, volume = stem(path).removesuffix("_0000"), path if suffix_of(path) else None
        if volume is None:
            continue
        if name in found:
            raise ValueError(f"{folder}: {found[name].name} and {volume.name} are both of case {printable(name)}")
        found[name] = volume
    return found


def _in_folder(folder: Path, inner: str) -> Path | None:
    """The volume of a case that has a folder of its own."""
    for suffix in SUFFIXES:
        for name in (inner, f"{inner}s"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    if inner == "ct" and any(path.is_file() and kind_of(path) == "dicom" for path in sorted(folder.iterdir())):
        return folder
    return None


def _stages(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(path for path in sorted(folder.iterdir()) if suffix_of(path) and not path.name.startswith("."))


def _from_json(text: str) -> list[tuple[int, str]]:
    table = json.loads(text)
    if isinstance(table, dict) and isinstance(table.get("labels"), dict):
        table = table["labels"]
    if not isinstance(table, dict):
        raise ValueError("it must be an object")
    pairs = []
    for key, value in table.items():
        label, name = (value, key) if isinstance(value, int) else (key, value)
        if not isinstance(name, str) or isinstance(label, bool):
            raise ValueError(f"{key!r}: {value!r} is not a label and a name")
        pairs.append((_label(label), name))
    return pairs


def _from_csv(text: str) -> list[tuple[int, str]]:
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)
    ]
    if rows and not rows[0][0].isdecimal():
        rows = rows[1:]
    short = [row for row in rows if len(row) < 2]
    if short:
        raise ValueError(f"the line {','.join(short[0])!r} has no name")
    return [(_label(row[0]), row[1]) for row in rows]


def _label(value: int | str) -> int:
    label = int(value)
    if not 0 <= label < 2**16:
        raise ValueError(f"label {label} is out of range; labels are 0 to 65535")
    return label


def _first(names: list[str]) -> str:
    return ", ".join(printable(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
