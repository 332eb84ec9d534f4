"""Finds the CT series of LIDC-IDRI in a tree of DICOM files, and reads single slices."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.annotators.lidc.nodules import Stack
from jaxseg.files import printable, walk
from jaxseg.images.decode import open_dicom, stored_pixels
from jaxseg.images.dicom import check_tags
from jaxseg.images.picture import ImageError, check_size
from jaxseg.images.read import kind_of
from jaxseg.images.remarks import without_remarks

_ONE = ("SeriesInstanceUID", "PatientID", "Modality")
_SLICE = (
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TURN = 1e-3
_SAME_MM = 1e-3  # slices with positions this close are duplicates


@dataclasses.dataclass(frozen=True)
class Series:
    """A series of CT slices.

    Attributes:
      uid: Series Instance UID.
      patient: number of the patient in the archive, such as "0035" for LIDC-IDRI-0035.
      folder: folder of the DICOM files.
    """

    uid: str
    patient: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class Slices:
    """The slices of a series, sorted by position.

    Attributes:
      stack: the positions.
      paths: the file of each slice, in the order of `stack.z`.
    """

    stack: Stack
    paths: tuple[Path, ...]


def find_files(root: Path) -> tuple[dict[str, Series], list[Path], list[str]]:
    """Finds the CT series and the XML files of a folder tree.

    Only the first DICOM file of each folder is read, because in the archive a folder holds one series. If that file is
    damaged, or its patient has no ID, the folder is left out.

    Args:
      root: the folder.

    Returns:
      The series by UID, the XML files sorted by path, and one line for each folder that is left out.

    Raises:
      ValueError: two folders hold the same series.
      OSError: a folder or file cannot be read.
    """
    found: dict[str, Series] = {}
    texts, left_out = [], []
    for folder, _, names in sorted(walk(root)):
        texts += [folder / name for name in sorted(names) if name.lower().endswith(".xml") and name[0] != "."]
        first = next((path for path in _candidates(folder, names) if kind_of(path) == "dicom"), None)
        if first is None:
            continue
        try:
            series = _guarded(first, lambda path, folder=folder: _series(path, folder))
        except ValueError as error:
            left_out.append(f"{folder}: {error}")
            continue
        if series is None:  # not a CT
            continue
        if series.uid in found:
            both = f"{found[series.uid].folder} and {folder}"
            raise ValueError(f"{both} hold the same series, {series.uid}; remove one of them")
        found[series.uid] = series
    return found, texts, left_out


def patient_number(name: str) -> str:
    """Returns the number of a patient: "0035" for LIDC-IDRI-0035, else the ASCII letters and digits of the ID.

    Raises:
      ValueError: the ID has neither letters nor digits.
    """
    found = re.fullmatch(r"LIDC-IDRI-(\d{4,})", name.strip())
    number = found[1] if found else "".join(c for c in name if c.isascii() and c.isalnum())[:64]
    if not number:
        raise ValueError(f"the patient's ID {printable(name)[:40]!r} has neither letters nor digits")
    return number


def read_slices(series: Series) -> Slices:
    """Reads the tags of all files of a series; of several files at one position the first by name is used.

    Args:
      series: the series.

    Returns:
      The slices sorted by position.

    Raises:
      ValueError: a file is damaged, is not an axial slice, or differs from the others in size or spacing.
      OSError: a file cannot be read.
    """
    paths = [path for path in sorted(series.folder.iterdir()) if _is_dicom(path)]
    read = [(path, *_guarded(path, _position)) for path in paths]
    read = [each for each in read if each[1] == series.uid]
    if not read:
        raise ValueError(f"{series.folder}: holds no slice of the series {series.uid}")
    for path, _, _, _, size, spacing in read:
        if size != read[0][4] or not np.allclose(spacing, read[0][5], rtol=1e-3):
            raise ValueError(f"{path.name} has another size or pixel spacing than {read[0][0].name}")
    z, kept, places = [], [], {}
    for path, _, uid, position, *_ in sorted(read, key=lambda each: (each[3], each[0])):
        if not z or position - z[-1] > _SAME_MM:
            z.append(position)
            kept.append(path)
        places[uid] = len(z) - 1
    check_size(*read[0][4])
    return Slices(Stack(np.array(z), places, read[0][4], read[0][5], _guarded(kept[0], _thickness)), tuple(kept))


def read_pixels(path: Path) -> np.ndarray:
    """Returns a slice, (H, W) float64 in Hounsfield units.

    Raises:
      ValueError: the file is damaged, or not a slice of a CT.
      OSError: it cannot be read.
    """
    return _guarded(path, _pixels)


def _series(path: Path, folder: Path) -> Series | None:
    tags = open_dicom(path, tags=_ONE)
    if tags.get("Modality") != "CT":
        return None
    uid = printable(str(tags.get("SeriesInstanceUID") or ""))
    return Series(uid, patient_number(str(tags.get("PatientID") or "")), folder)


def _pixels(path: Path) -> np.ndarray:
    dataset = open_dicom(path)
    check_tags(dataset)
    if dataset.PhotometricInterpretation != "MONOCHROME2":
        raise ImageError(f"its pixels are {dataset.PhotometricInterpretation}; those of a CT are MONOCHROME2")
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    found = stored_pixels(dataset) * float(1 if slope is None else slope) + float(intercept or 0)
    if not np.isfinite(found).all():
        raise ImageError("its rescale slope or intercept is not a finite number")
    return found


def _position(path: Path) -> tuple[str, str, float, tuple[int, int], tuple[float, float]]:
    """Returns the series UID, SOP Instance UID, position along the axis in mm, size, and pixel spacing in mm."""
    dataset = open_dicom(path, tags=_SLICE)
    missing = [name for name in _SLICE if dataset.get(name) in (None, "")]
    if missing:
        raise ImageError(f"the tags {', '.join(missing)} are missing, so the position of the slice is unknown")
    turn, position, spacing = (
        tuple(float(number) for number in dataset[name].value)
        for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
    )
    if len(turn) != 6 or len(position) != 3 or len(spacing) != 2 or not np.isfinite([*turn, *position, *spacing]).all():
        raise ImageError("its position, orientation or pixel spacing is invalid")
    if np.abs(np.subtract(turn, _AXIAL)).max() > _TURN or min(spacing) <= 0:
        raise ImageError("is not an axial slice, so its position along the axis is not defined")
    size = int(dataset.Rows), int(dataset.Columns)
    return printable(str(dataset.SeriesInstanceUID)), printable(str(dataset.SOPInstanceUID)), position[2], size, spacing


def _thickness(path: Path) -> float | None:
    """Returns the thickness of a slice in mm; None if the tag is missing or invalid."""
    try:
        found = float(open_dicom(path, tags=("SliceThickness",)).get("SliceThickness") or 0)
    except (ValueError, TypeError):
        return None
    return found if np.isfinite(found) and found > 0 else None


def _candidates(folder: Path, names: list[str]) -> list[Path]:
    paths = [folder / name for name in sorted(names) if not name.startswith(".") and not name.lower().endswith(".xml")]
    return [path for path in paths if path.is_file()]


def _is_dicom(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and kind_of(path) == "dicom"


def _guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """Calls `read`; errors name the file."""
    try:
        with without_remarks():
            return read(path)
    except MemoryError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ImageError(f"{path.name}: {reason}") from None
