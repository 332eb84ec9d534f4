"""Finds and reads the CTs and true labels of which SegAE's training data are built.

Labels are volumes of labels, or folders of masks as TotalSegmentator writes them. Volumes are (D, H, W).
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.datasets.volume_cache import PackedMask, pack
from jaxseg.files import printable
from jaxseg.images.read import kind_of
from jaxseg.segae.label_table import LabelTable, dap_table, shared_table
from jaxseg.segae.layout import MASKS, cts_in, twice_in, volumes_in
from jaxseg.vocabulary import organs
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import SUFFIXES, read_labels, read_volume, stem, suffix_of
from jaxseg.volumes.volume import Volume

_log = logging.getLogger(__name__)

OVERLAPPED = 0.01  # largest fraction of an organ's voxels that other organs may cover; an organ with more is left out


@dataclasses.dataclass(frozen=True)
class Scan:
    """A CT with its labels.

    Attributes:
      name: name of the case.
      ct: file of a volume, or folder of DICOM slices.
      label: file of a volume of labels, or folder of masks ORGAN.nii.gz.
      stages: labels that a network predicted, one file or folder per training stage; () if there are none.
    """

    name: str
    ct: Path
    label: Path
    stages: tuple[Path, ...] = ()


def find_scans(cts: Path, labels: Path, pseudo: Path | None = None) -> tuple[tuple[Scan, ...], tuple[str, ...]]:
    """Finds the CTs that have labels.

    A CT is CASE.nii.gz (or .nii, .npz, .npy; nnU-Net's ending _0000 is removed), CASE/ct.nii.gz, or DICOM slices in
    CASE or CASE/ct. Labels are CASE.nii.gz, CASE/label.nii.gz, or masks CASE/segmentations/ORGAN.nii.gz.

    Args:
      cts: folder of the CTs.
      labels: folder of the labels, which may be the same folder.
      pseudo: folder of labels that a network predicted, CASE/STAGE.nii.gz or CASE/STAGE/ORGAN.nii.gz.

    Returns:
      The scans, sorted by name, and lines for the user about CTs without labels and labels without a CT.

    Raises:
      ValueError: no CT has labels; a file is both CT and labels; two files belong to one case; or a case has no
        predicted labels in `pseudo`.
      OSError: a folder cannot be read.
    """
    found = {"CT": _entries(cts, "ct"), "labels": _entries(labels, "label")}
    both = sorted(set(found["CT"]) & set(found["labels"]))
    if not both:
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in found.items())
        raise ValueError(
            f"no CT has labels of the same name ({counts}); name them CTS/CASE.nii.gz and LABELS/CASE.nii.gz, "
            f"CASE/ct.nii.gz and CASE/label.nii.gz, or CASE/ct.nii.gz and CASE/{MASKS}/ORGAN.nii.gz"
        )
    same = [name for name in both if found["CT"][name].resolve() == found["labels"][name].resolve()]
    if same:
        raise ValueError(
            f"{len(same)} CTs would be their own labels: {_first(same)}; name the folder of the labels, or keep CT and "
            "labels of a case in a folder CASE"
        )
    unmatched = {
        "no labels": sorted(set(found["CT"]) - set(found["labels"])),
        "no CT": sorted(set(found["labels"]) - set(found["CT"])),
    }
    notes = tuple(f"{len(names)} cases have {what}: {_first(names)}" for what, names in unmatched.items() if names)
    stages = {name: _stages(pseudo / name) if pseudo else () for name in both}
    without = [name for name in both if pseudo and not stages[name]]
    if without:
        raise ValueError(
            f"{len(without)} cases have no pseudo labels CASE/STAGE.nii.gz or CASE/STAGE/ORGAN.nii.gz in {pseudo}: "
            f"{_first(without)}"
        )
    return tuple(Scan(name, found["CT"][name], found["labels"][name], stages[name]) for name in both), notes


def _entries(folder: Path, inner: str) -> dict[str, Path]:
    """Returns case -> its volume, or its folder of masks."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            name, volume = path.name, _ct_of(path) if inner == "ct" else _label_of(path)
        else:
            name, volume = stem(path).removesuffix("_0000"), path if suffix_of(path) else None
        if volume is None:
            continue
        if name in found:
            raise ValueError(f"{folder}: {found[name].name} and {volume.name} both belong to case {printable(name)}")
        found[name] = volume
    return found


def _ct_of(folder: Path) -> Path | None:
    """Returns the CT in the folder of a case; None if it has none."""
    found = [*cts_in(folder), *(folder / f"cts{suffix}" for suffix in SUFFIXES if (folder / f"cts{suffix}").is_file())]
    if len(found) > 1:
        raise ValueError(f"{folder}: there are {' and '.join(path.name for path in found)}; keep one")
    if not found and any(path.is_file() and kind_of(path) == "dicom" for path in sorted(folder.iterdir())):
        return folder
    return found[0] if found else None


def _label_of(folder: Path) -> Path | None:
    """Returns the labels in the folder of a case, a file or a folder of masks; None if it has none."""
    named = (folder / f"{name}{suffix}" for suffix in SUFFIXES for name in ("label", "labels"))
    found = [path for path in named if path.is_file()][:1] + [folder / MASKS] * bool(volumes_in(folder / MASKS))
    if len(found) > 1:
        raise ValueError(f"{folder}: there are {found[0].name} and {MASKS}; keep one of them")
    return found[0] if found else None


def _stages(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    masks = {path: path / MASKS if (path / MASKS).is_dir() else path for path in folders}
    return (*volumes_in(folder), *(inner for inner in masks.values() if volumes_in(inner)))


def stage_name(path: Path) -> str:
    """Returns the name of the stage of predicted labels: that of their file, or of their folder."""
    if path.is_dir():
        return path.parent.name if path.name == MASKS else path.name
    return stem(path)


def _first(names: list[str]) -> str:
    return ", ".join(printable(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def table_of_scans(scans: Sequence[Scan], label_names: str | Path | None = None) -> LabelTable:
    """Returns the table of all volumes of labels of scans, see `jaxseg.segae.label_table.shared_table`.

    Masks in folders need none, because their files are named after the organs.

    Raises:
      ValueError: a table is invalid, two volumes have different tables, or `label_names` is given without any volume
        of labels.
      OSError: a file cannot be opened.
    """
    volumes = [path for scan in scans for path in (scan.label, *scan.stages) if not path.is_dir()]
    if volumes:
        return shared_table(volumes, label_names)
    if label_names is not None:
        raise ValueError(f"{label_names} names the labels of volumes, but all labels are masks named after organs")
    return LabelTable(dap_table())


def read_classes(
    path: Path, ct: Volume, table: Mapping[int, Organ], *, canonical: bool = False
) -> tuple[Volume, tuple[str, ...]]:
    """Reads labels as classes of the DAP-Atlas.

    Where several masks of a folder overlap, the voxels belong to the smallest of them. An organ that loses more than
    1 % of its voxels in this way is left out, because what is left is no longer its true mask.

    Args:
      path: file of a volume of labels, or folder of masks ORGAN.nii.gz.
      ct: the CT that the labels belong to.
      table: label -> organ, for a volume of labels; other labels become 0.
      canonical: whether to turn volumes to the patient's axes.

    Returns:
      The classes, uint8, and lines for the user about masks that were left out.

    Raises:
      VolumeError: a volume is damaged, is not of its kind, or does not match the CT.
      ValueError: two masks show the same organ, or none shows an organ.
      OSError: a file cannot be read.
    """
    if path.is_dir():
        return _joined(path, ct, canonical=canonical)
    labels = read_labels(path, canonical=canonical)
    check_pair(ct, labels)
    classes = np.zeros(max(int(labels.array.max()), *table) + 1, np.uint8)
    for label, organ in table.items():
        classes[label] = organ.id
    return dataclasses.replace(labels, array=classes[labels.array]), ()


def labelled_volumes(
    scans: Iterable[Scan], table: Mapping[int, Organ], *, canonical: bool = False
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields name, CT and classes of each scan that can be read, (D, H, W) Hounsfield units and uint8.

    Args:
      scans: the scans; others are left out, which only the log of debugging mentions.
      table, canonical: as for `read_classes`.
    """
    for scan in scans:
        try:
            ct = read_volume(scan.ct, canonical=canonical)
            check_ct(ct)
            classes, _ = read_classes(scan.label, ct, table, canonical=canonical)
        except (ValueError, OSError) as error:
            _log.debug("%s cannot be read", scan.name, exc_info=error)
            continue
        yield scan.name, ct.array, classes.array


def read_predicted(
    path: Path, ct: Volume, table: Mapping[int, Organ], classes: Sequence[int], *, canonical: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each of the given classes and its predicted mask, (D, H, W) bool; it is empty if nothing was predicted.

    The masks of a folder are read one by one, so that they may overlap.

    Args:
      path: file of a volume of labels, or folder of masks ORGAN.nii.gz.
      ct, table, canonical: as for `read_classes`.
      classes: classes of the DAP-Atlas.

    Raises:
      VolumeError, ValueError, OSError: as `read_classes`; masks of other classes are not read.
    """
    if not path.is_dir():
        found = read_classes(path, ct, table, canonical=canonical)[0].array
        yield from ((organ, found == organ) for organ in classes)
        return
    known, _ = _masks_in(path)
    for organ in classes:
        mask = _mask(known[organ], ct, canonical=canonical) if organ in known else np.zeros(ct.shape, bool)
        yield organ, mask.astype(bool, copy=False)


def _mask(file: Path, ct: Volume, *, canonical: bool) -> np.ndarray:
    mask = read_volume(file, canonical=canonical)
    check_pair(ct, mask)
    return check_mask(mask).array


def _masks_in(folder: Path) -> tuple[dict[int, Path], list[str]]:
    """Returns class -> file of its mask, and the names that have no class, of a folder with a mask of an organ."""
    files = volumes_in(folder)
    if twice := twice_in(files):
        raise ValueError(f"several files are masks of {', '.join(map(printable, twice[:3]))}; keep one of each")
    known, unknown = _known(files)
    if not known:
        raise ValueError(f"{folder.name}: no mask has the name of an organ ({', '.join(unknown[:5])}, ...)")
    return known, unknown


def _joined(folder: Path, ct: Volume, *, canonical: bool) -> tuple[Volume, tuple[str, ...]]:
    """Returns the masks of a folder as one volume of classes."""
    known, unknown = _masks_in(folder)
    packed: dict[int, PackedMask] = {}
    counts: dict[int, int] = {}
    for organ, file in known.items():
        array = _mask(file, ct, canonical=canonical)
        packed[organ], counts[organ] = pack(array), int(np.count_nonzero(array))
    classes = np.zeros(ct.shape, np.uint8)
    for organ in sorted(packed, key=lambda organ: counts[organ], reverse=True):
        _paint(classes, packed[organ], organ)
    left = np.bincount(classes.ravel(), minlength=256)
    hidden = [organ for organ in packed if counts[organ] - left[organ] > OVERLAPPED * counts[organ]]
    classes[np.isin(classes, hidden)] = 0
    covered = ", ".join(organs.NAMES[organ] for organ in hidden)
    notes = {"no class of the DAP-Atlas": ", ".join(unknown), "covered by masks of smaller organs": covered}
    shown = tuple(f"left out, {why}: {names}" for why, names in notes.items() if names)
    return Volume(classes, ct.affine, f"{folder.parent.name}/{folder.name}"), shown


def _known(files: Sequence[Path]) -> tuple[dict[int, Path], list[str]]:
    """Returns class -> file of its mask, and the names that have no class."""
    known: dict[int, Path] = {}
    unknown = []
    for file in files:
        try:
            organ = organs.find(stem(file))
        except ValueError:
            unknown.append(printable(stem(file)))
            continue
        if organ.id in known:
            raise ValueError(f"{known[organ.id].name} and {file.name} both show {organ.name}; keep one")
        known[organ.id] = file
    return known, unknown


def _paint(classes: np.ndarray, mask: PackedMask, label: int) -> None:
    for z in range(mask.box[0].start, mask.box[0].stop):
        classes[z][mask.plane(z)] = label
