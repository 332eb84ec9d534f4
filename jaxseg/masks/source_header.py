"""What a DICOM object made from an image takes over from it: patient, study, identity and geometry, all valid.

A value that breaks its value representation is repaired where that loses nothing, else left out. The notes name the
tag, never the value: it may say who the patient is.
"""

import datetime
import math
import re
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from jaxseg.images.decode import open_dicom, without_remarks
from jaxseg.images.picture import ImageError, check_size

_TEXT = ("PatientName", "PatientID", "IssuerOfPatientID", "EthnicGroup", "AccessionNumber", "StudyID")
_TEXT += ("StudyDescription", "ReferringPhysicianName", "PositionReferenceIndicator")
_OTHER = ("PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "StudyDate", "StudyTime")
_OTHER += ("FrameOfReferenceUID",)
_REQUIRED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate")
_REQUIRED += ("StudyTime", "ReferringPhysicianName")  # may be empty
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "SliceThickness": 1}
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_DEIDENTIFIED = ("PatientIdentityRemoved", "DeidentificationMethod")
_UNREADABLE = "\\"  # is valid in no representation
_TERMS = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_READ = (*_TEXT, *_OTHER, *_UIDS, *_PLANE, *_LOSSY, *_DEIDENTIFIED, "SOPClassUID", "Rows", "Columns")
_READ += ("NumberOfFrames", "PatientOrientation", "SpecificCharacterSet")


def read_header(path: Path) -> tuple[pydicom.Dataset, list[str]]:
    """Returns the tags of a single-frame DICOM image that an object made from it takes over, all of them valid.

    Tags that such objects must have are there, empty or with a new identifier where the file has none. Of the
    geometry there is either all that a plane in the patient needs, or nothing.

    Returns:
      The tags, without pixels, and a note for every value that was repaired, left out or made anew.

    Raises:
      ImageError: no DICOM file, no image of a bearable size, several frames, or a header that cannot be read.
    """
    with without_remarks():  # those that matter are notes here
        try:
            dataset = open_dicom(path, tags=_READ)
            rows, columns = int(dataset.Rows), int(dataset.Columns)
            frames = int(dataset.get("NumberOfFrames") or 1)
        except Exception as error:  # pydicom raises almost anything on damaged files
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{path.name}: cannot read the header ({reason})") from None
        check_size(rows, columns)
        if frames != 1:
            raise ImageError(f"{path.name}: {frames} frames; an X-ray is one picture")
        return _valid(dataset, rows, columns)


def _valid(dataset, rows, columns) -> tuple[pydicom.Dataset, list[str]]:
    header, notes = pydicom.Dataset(), []
    header.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 holds the text of every other character set
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
    _take_plane(dataset, header, notes)
    return header, notes


def _values(dataset, keyword) -> list:
    """The values of a tag as pydicom reads them; none where it is absent or empty."""
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that breaks its representation, in whatever way
        return [_UNREADABLE]
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue) else [value]


def _checked(dataset, keyword, notes) -> str | None:
    """A tag's value in its representation; None where it has none, or none that can be repaired."""
    vr = dictionary_VR(keyword)
    values = _values(dataset, keyword)
    given = " ".join(str(value) for value in values).strip()
    if not given:
        return None
    kept = _REPAIR[vr](given) if len(values) == 1 or vr in ("LO", "SH", "PN") else None
    if kept not in _TERMS.get(keyword, (kept,)):
        kept = None
    if kept is None:
        notes.append(f"{keyword} is left out: no valid {vr}")
    elif kept != given:
        notes.append(f"{keyword} is repaired to a valid {vr}")
    return kept


def _identifier(dataset, keyword, notes) -> str:
    values = _values(dataset, keyword)
    if keyword == "SOPInstanceUID" and not values:
        values = _values(dataset.file_meta, "MediaStorageSOPInstanceUID")  # the same one
    given = str(values[0]) if len(values) == 1 else ""
    if _uid(given):
        return given
    notes.append(f"{keyword} is new: the image has {'no valid one' if values else 'none'}")
    # The same wrong identifier becomes the same right one, so that what is of one study stays of one study.
    # Where there is none, that of the image stands in, so that another run gives the same.
    origin = given or str(dataset.get("SOPInstanceUID") or "")
    return str(generate_uid(entropy_srcs=[keyword, origin] if origin else None))


def _sop_class(dataset, notes) -> str:
    found = [*_values(dataset, "SOPClassUID"), *_values(dataset.file_meta, "MediaStorageSOPClassUID")]
    for value in found:
        if _uid(str(value)):
            return str(value)
    notes.append("SOPClassUID is missing or invalid: the image is referred to as Secondary Capture")
    return str(SecondaryCaptureImageStorage)


def _take_together(dataset, header, keywords, notes) -> None:
    """Takes over tags that are valid only together."""
    present = any(_values(dataset, keyword) for keyword in keywords)
    values = [_checked(dataset, keyword, []) for keyword in keywords]
    if all(values):
        for keyword, value in zip(keywords, values, strict=True):
            setattr(header, keyword, value)
    elif present:
        notes.append(f"{' and '.join(keywords)} are left out: valid only together")


def _take_orientation(dataset, header) -> None:
    """Takes over the patient's orientation to rows and columns, which the masks share; else leaves it empty."""
    values = [str(value) for value in _values(dataset, "PatientOrientation")]
    valid = len(values) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", value) for value in values)
    header.PatientOrientation = values if valid else ""


def _take_lossy(dataset, header) -> None:
    """Takes over that the image was once compressed with loss, and what is known of it."""
    if _values(dataset, "LossyImageCompression") != ["01"]:
        return
    header.LossyImageCompression = "01"
    methods = [str(value) for value in _values(dataset, "LossyImageCompressionMethod")]
    ratios = [_decimal(str(value)) for value in _values(dataset, "LossyImageCompressionRatio")]
    if methods and all(_code_string(value) for value in methods):
        header.LossyImageCompressionMethod = methods
    if ratios and all(ratios):
        header.LossyImageCompressionRatio = ratios


def _take_plane(dataset, header, notes) -> None:
    """Takes over the plane in the patient where it is whole, and else no geometry at all."""
    plane = {keyword: _numbers(dataset, keyword, count) for keyword, count in _PLANE.items()}
    whole = all(plane.values()) and min(float(value) for value in plane["PixelSpacing"]) > 0
    if whole and _orthonormal(plane["ImageOrientationPatient"]):
        for keyword, values in plane.items():
            setattr(header, keyword, values if len(values) > 1 else values[0])
        if "FrameOfReferenceUID" not in header:
            notes.append("FrameOfReferenceUID is new: the image has none")
            header.FrameOfReferenceUID = str(
                generate_uid(entropy_srcs=["FrameOfReferenceUID", header.SeriesInstanceUID])
            )
        return
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):  # a place without coordinates is none
        header.pop(keyword, None)
    if "ImagePositionPatient" in dataset or "ImageOrientationPatient" in dataset:
        notes.append("position and orientation are left out: the image has them only in part, or invalid ones")


def _numbers(dataset, keyword, count) -> list[str] | None:
    values = [_decimal(str(value)) for value in _values(dataset, keyword)]
    return values if len(values) == count and None not in values else None


def _orthonormal(orientation) -> bool:
    numbers = [float(value) for value in orientation]
    row, column = numbers[:3], numbers[3:]
    length = [math.sqrt(sum(x * x for x in vector)) for vector in (row, column)]
    dot = sum(x * y for x, y in zip(row, column, strict=True))
    return abs(length[0] - 1) < 1e-3 and abs(length[1] - 1) < 1e-3 and abs(dot) < 1e-3


def _line(most: int) -> Callable[[str], str | None]:
    """Repairs text of one line: what no screen shows becomes a blank; a text that is too long is none."""

    def repair(text: str) -> str | None:
        shown = "".join(c if c.isprintable() and c not in "\\\ufffd" else " " for c in text)
        shown = " ".join(shown.split()) if shown != text else text.strip()
        return shown if 0 < len(shown) <= most else None

    return repair


def _person(text: str) -> str | None:
    groups = text.split("=")
    lines = [_line(64)(group) if group.strip() else "" for group in groups]
    if len(groups) > 3 or None in lines or any(line.count("^") > 4 for line in lines):
        return None
    return "=".join(lines)


def _date(text: str) -> str | None:
    digits = re.sub(r"(\d{4})([.-])(\d\d)\2(\d\d)", r"\1\3\4", text.strip())  # 1993.08.22: as before DICOM
    try:
        datetime.date(*(int(part) for part in re.fullmatch(r"(\d{4})(\d\d)(\d\d)", digits, re.ASCII).groups()))
    except (AttributeError, ValueError):
        return None
    return digits


def _time(text: str) -> str | None:
    digits = text.strip().replace(":", "")  # 10:20:30: as before DICOM
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


def _uid(text: str) -> str | None:
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
    "UI": _uid,
}
