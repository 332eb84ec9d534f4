"""Reads the part of an image's DICOM header that derived objects take over: patient, study, identity and geometry.

An X-ray has no plane in the patient, but most readers of derived objects need one. It gets a nominal plane, the one
that readers assume for such an image: its first pixel is at (0, 0, 0) mm, rows run along x, columns along y, and the
slice is 1 mm thick. Only the distances within the plane have a meaning; positions and directions in the patient have
none.

All values in the result are valid. A value that breaks its value representation is repaired if that loses nothing, and
otherwise left out. The notes name the tag and never the value, which may identify the patient.
"""

import dataclasses
import datetime
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from jaxseg.images.decode import open_dicom
from jaxseg.images.dicom import SPACING_PLACES, SPACINGS, spacing_of
from jaxseg.images.picture import ImageError, check_size
from jaxseg.images.remarks import without_remarks

_TEXT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "EthnicGroup", "AccessionNumber", "StudyID"),
    *("StudyDescription", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
_OTHER = (
    *("PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "StudyDate", "StudyTime"),
    "FrameOfReferenceUID",
)
_REQUIRED = (  # may be empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "SliceThickness": 1}
_NOMINAL = {
    "ImagePositionPatient": ["0", "0", "0"],
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "SliceThickness": "1",
}
_SLICES = (CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)  # classes that always have a plane
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_DEIDENTIFIED = ("PatientIdentityRemoved", "DeidentificationMethod")
_UNREADABLE = "\\"  # a value that is invalid in every representation
_TERMS = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_READ = (
    *(*_TEXT, *_OTHER, *_UIDS, *_PLANE, *_LOSSY, *_DEIDENTIFIED, *SPACINGS, "SOPClassUID", "Rows"),
    *("Columns", "NumberOfFrames", "PatientOrientation", "SpecificCharacterSet"),
)


@dataclasses.dataclass(frozen=True)
class SourceHeader:
    """What a derived object takes over from its image.

    Attributes:
      tags: the tags, without pixels.
      notes: one note for every value that was repaired, left out or generated.
      spacing_known: whether the pixel spacing in `tags` comes from the image; False for the nominal 1 mm.
    """

    tags: Dataset
    notes: list[str]
    spacing_known: bool = True


def read_header(path: Path, *, strict_projection: bool = False) -> SourceHeader:
    """Returns the tags of a single-frame DICOM image that derived objects take over, all of them valid.

    Tags that such objects must have are always present: if the file has no value, they are empty or get a new
    identifier. The geometry is that of the image if it is complete and valid, and otherwise the nominal plane with the
    image's pixel spacing (1 mm if that is unknown).

    Args:
      path: the image.
      strict_projection: whether an image without a plane in the patient gets no geometry at all.

    Raises:
      ImageError: the file is not DICOM, its size is not allowed, it has several frames, or its header cannot be read.
      OSError: the file cannot be opened.
    """
    with without_remarks():  # what matters becomes a note
        try:
            dataset = open_dicom(path, tags=_READ)
            rows, columns = int(dataset.Rows), int(dataset.Columns)
            frames = int(dataset.get("NumberOfFrames") or 1)
        except Exception as error:  # on damaged files pydicom raises errors of almost any type
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{path.name}: cannot read the header ({reason})") from None
        check_size(rows, columns)
        if frames != 1:
            raise ImageError(f"{path.name}: the file has {frames} frames; an X-ray is one picture")
        header, notes = _valid(dataset, rows, columns)
        if _take_plane(dataset, header, notes):
            return SourceHeader(header, notes)
        if strict_projection:
            for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):  # meaningless without coordinates
                header.pop(keyword, None)
            return SourceHeader(header, notes)
        return SourceHeader(header, notes, _set_nominal_plane(dataset, header, notes))


def _valid(dataset: Dataset, rows: int, columns: int) -> tuple[Dataset, list[str]]:
    """Returns all tags except those of the plane, and notes."""
    header = Dataset()
    notes: list[str] = []
    header.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, which holds the text of every other character set
    header.Rows, header.Columns = rows, columns
    for keyword in (*_TEXT, *_OTHER):
        value = _checked(dataset, keyword, notes)
        if value is not None or keyword in _REQUIRED:
            setattr(header, keyword, value if value is not None else "")
    for keyword in _UIDS:
        setattr(header, keyword, _identifier(dataset, keyword, notes))
    header.SOPClassUID = _sop_class(dataset, notes)
    _take_together(dataset, header, _DEIDENTIFIED, notes)
    _take_orientation(dataset, header)
    _take_lossy(dataset, header)
    return header, notes


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    """Returns the values of a tag as pydicom reads them; [] if it is absent or empty."""
    try:
        value = dataset.get(keyword)
    except Exception:  # a value may break its representation in any way
        return [_UNREADABLE]
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue) else [value]


def _checked(dataset: Dataset, keyword: str, notes: list[str]) -> str | None:
    """Returns a tag's valid or repaired value; None if it has no value or the value cannot be repaired."""
    vr = dictionary_VR(keyword)
    values = _values(dataset, keyword)
    given = " ".join(str(value) for value in values).strip()
    if not given:
        return None
    kept = _REPAIR[vr](given) if len(values) == 1 or vr in ("LO", "SH", "PN") else None
    if kept not in _TERMS.get(keyword, (kept,)):
        kept = None
    if kept is None:
        notes.append(f"{keyword} is left out: it is not a valid {vr}")
    elif kept != given:
        notes.append(f"{keyword} is repaired to a valid {vr}")
    return kept


def _identifier(dataset: Dataset, keyword: str, notes: list[str]) -> str:
    """Returns a valid UID: the tag's value, or a new one that is generated from it."""
    values = _values(dataset, keyword)
    if keyword == "SOPInstanceUID" and not values:
        values = _values(dataset.file_meta, "MediaStorageSOPInstanceUID")  # the same identifier
    given = str(values[0]) if len(values) == 1 else ""
    if valid_uid(given):
        return given
    notes.append(f"{keyword} is new: the image has {'no valid one' if values else 'none'}")
    # Equal invalid identifiers become equal valid ones, so that the images of a study stay together. A missing one is
    # generated from that of the image, so that every run gives the same.
    origin = given or str(dataset.get("SOPInstanceUID") or "")
    return str(generate_uid(entropy_srcs=[keyword, origin] if origin else None))


def _sop_class(dataset: Dataset, notes: list[str]) -> str:
    found = [*_values(dataset, "SOPClassUID"), *_values(dataset.file_meta, "MediaStorageSOPClassUID")]
    for value in found:
        if valid_uid(str(value)):
            return str(value)
    notes.append("SOPClassUID is missing or invalid: the image is referred to as Secondary Capture")
    return str(SecondaryCaptureImageStorage)


def _take_together(dataset: Dataset, header: Dataset, keywords: tuple[str, ...], notes: list[str]) -> None:
    """Copies tags that are valid only together."""
    present = any(_values(dataset, keyword) for keyword in keywords)
    values = [_checked(dataset, keyword, []) for keyword in keywords]
    if all(values):
        for keyword, value in zip(keywords, values, strict=True):
            setattr(header, keyword, value)
    elif present:
        notes.append(f"{' and '.join(keywords)} are left out: they are valid only together")


def _take_orientation(dataset: Dataset, header: Dataset) -> None:
    """Copies the patient orientation of rows and columns, which the masks share; if it is invalid, sets it empty."""
    values = [str(value) for value in _values(dataset, "PatientOrientation")]
    valid = len(values) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", value) for value in values)
    header.PatientOrientation = values if valid else ""


def _take_lossy(dataset: Dataset, header: Dataset) -> None:
    """Copies the tags which state that the image was once compressed with loss."""
    if _values(dataset, "LossyImageCompression") != ["01"]:
        return
    header.LossyImageCompression = "01"
    methods = [str(value) for value in _values(dataset, "LossyImageCompressionMethod")]
    ratios = [_decimal(str(value)) for value in _values(dataset, "LossyImageCompressionRatio")]
    if methods and all(_code_string(value) for value in methods):
        header.LossyImageCompressionMethod = methods
    if ratios and all(ratios):
        header.LossyImageCompressionRatio = ratios


def _take_plane(dataset: Dataset, header: Dataset, notes: list[str]) -> bool:
    """Copies the plane in the patient if it is complete and valid; returns whether it is."""
    plane = {keyword: _numbers(dataset, keyword, count) for keyword, count in _PLANE.items()}
    whole = all(plane.values()) and min(float(value) for value in plane["PixelSpacing"]) > 0
    if whole and _orthonormal(plane["ImageOrientationPatient"]):
        for keyword, values in plane.items():
            setattr(header, keyword, values if len(values) > 1 else values[0])
        if "FrameOfReferenceUID" not in header:
            notes.append("FrameOfReferenceUID is new: the image has none")
            header.FrameOfReferenceUID = _frame_of_reference(header.SeriesInstanceUID)
        return True
    if any(keyword in dataset for keyword in ("ImagePositionPatient", "ImageOrientationPatient")):
        notes.append("position and orientation are left out: they are incomplete or invalid in the image")
    elif header.SOPClassUID in _SLICES:
        notes.append("the image has no position and orientation, although its class requires them")
    return False


def _set_nominal_plane(dataset: Dataset, header: Dataset, notes: list[str]) -> bool:
    """Sets the nominal plane and the pixel spacing; returns whether the image states a spacing."""
    for keyword, value in _NOMINAL.items():
        setattr(header, keyword, value)
    if "FrameOfReferenceUID" not in header:  # one per image: positions in two X-rays cannot be compared
        header.FrameOfReferenceUID = _frame_of_reference(header.SOPInstanceUID)
    for name in SPACINGS:
        spacing_mm, problem = spacing_of(dataset, name)
        if problem:
            notes.append(problem)
        if spacing_mm:
            header.PixelSpacing = [format_number_as_ds(length) for length in spacing_mm]
            if name in SPACING_PLACES:
                notes.append(f"PixelSpacing is {name}, the distance {SPACING_PLACES[name]} and not in the patient")
            return True
    header.PixelSpacing = ["1", "1"]
    notes.append("the pixel spacing is unknown: the DICOM SEG states 1 mm, which is nominal")
    return False


def _frame_of_reference(origin: str) -> str:
    """Returns a new identifier of a frame of reference, the same for the same origin."""
    return str(generate_uid(entropy_srcs=["FrameOfReferenceUID", origin]))


def _numbers(dataset: Dataset, keyword: str, count: int) -> list[str]:
    """Returns the valid decimal strings of a tag; [] unless there are exactly `count`."""
    values = [_decimal(str(value)) for value in _values(dataset, keyword)]
    valid = [value for value in values if value is not None]
    return valid if len(values) == len(valid) == count else []


def _orthonormal(orientation: list[str]) -> bool:
    numbers = [float(value) for value in orientation]
    row, column = numbers[:3], numbers[3:]
    length = [math.sqrt(sum(x * x for x in vector)) for vector in (row, column)]
    dot = sum(x * y for x, y in zip(row, column, strict=True))
    return abs(length[0] - 1) < 1e-3 and abs(length[1] - 1) < 1e-3 and abs(dot) < 1e-3


def _line(most: int) -> Callable[[str], str | None]:
    """Returns a repair of one-line text: unprintable characters become blanks; text over `most` characters is None."""

    def repair(text: str) -> str | None:
        shown = "".join(c if c.isprintable() and c not in "\\\ufffd" else " " for c in text)
        shown = " ".join(shown.split()) if shown != text else text.strip()
        return shown if 0 < len(shown) <= most else None

    return repair


def _person(text: str) -> str | None:
    groups = text.split("=")
    lines = [_line(64)(group) if group.strip() else "" for group in groups]
    valid = [line for line in lines if line is not None and line.count("^") <= 4]
    return "=".join(valid) if len(valid) == len(groups) <= 3 else None


def _date(text: str) -> str | None:
    digits = re.sub(r"(\d{4})([.-])(\d\d)\2(\d\d)", r"\1\3\4", text.strip())  # 1993.08.22 is the form before DICOM
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", digits, re.ASCII)
    if parts is None:
        return None
    try:
        datetime.date(int(parts[1]), int(parts[2]), int(parts[3]))
    except ValueError:
        return None
    return digits


def _time(text: str) -> str | None:
    digits = text.strip().replace(":", "")  # 10:20:30 is the form before DICOM
    valid = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", digits, re.ASCII)
    return digits if valid else None


def _decimal(text: str) -> str | None:
    text = text.strip()
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) or not math.isfinite(float(text)):
        return None
    return text if len(text) <= 16 else format_number_as_ds(float(text))


def _code_string(text: str) -> str | None:
    text = text.strip().upper()
    return text if re.fullmatch(r"[A-Z0-9 _]{1,16}", text) else None


def _age(text: str) -> str | None:
    age = text.strip().upper()
    return age.zfill(4) if re.fullmatch(r"\d{1,3}[DWMY]", age, re.ASCII) else None


def valid_uid(text: str) -> str | None:
    """Returns a unique identifier (UID) unchanged; None if it is not valid: digits and single dots, at most 64."""
    valid = re.fullmatch(r"[0-2]\.(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text, re.ASCII) and len(text) <= 64
    return text if valid else None


_REPAIR = {
    "LO": _line(64),
    "SH": _line(16),
    "PN": _person,
    "DA": _date,
    "TM": _time,
    "DS": _decimal,
    "CS": _code_string,
    "AS": _age,
    "UI": valid_uid,
}
