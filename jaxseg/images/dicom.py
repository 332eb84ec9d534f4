"""Reads DICOM X-rays, either as a published version of the original does or as a viewer shows them."""

import math
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from jaxseg.files import printable
from jaxseg.images.clinical import COLOURS, Limits, clinical_grey
from jaxseg.images.decode import open_dicom, stored_pixels
from jaxseg.images.picture import ImageError, Picture, check_grey, check_size
from jaxseg.images.published import cxas20_grey, original_grey
from jaxseg.images.remarks import without_remarks

SEGMENTATIONS = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
)  # SOP classes; the second one is that of label maps
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
SPACING_PLACES = {  # where a spacing applies that does not apply in the patient
    "ImagerPixelSpacing": "on the detector",
    "NominalScannedPixelSpacing": "on the scanned film",
}
SPACING_RANGE_MM = (1e-3, 100.0)

# Defined terms of Modality for projection X-rays (PS3.3, C.7.3.1.1.1), retired ones included; then OT, which may be any
# kind, and two that are no defined terms but common: DR, and SC for secondary captures.
PROJECTIONS = ("CR", "DX", "RG", "MG", "RF", "XA", "PX", "IO", "RTIMAGE", "CF", "DF", "DS", "OT", "DR", "SC")

# What a viewer shows of a file besides its picture; `shown_tags` reads these.
SHOWN_TAGS = (
    *("PatientName", "PatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "StudyDescription"),
    *("SeriesDescription", "Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation", "Laterality"),
    *("ImageLaterality", "InstitutionName", "Manufacturer", "ManufacturerModelName", "KVP", "Rows", "Columns"),
    *(*SPACINGS, "PhotometricInterpretation", "BitsStored", "WindowCenter", "WindowWidth", "LossyImageCompression"),
)
_MAX_SHOWN = 200  # characters of a value

# Words in the names of SOP classes that are not projection X-rays; the Modality of such files may be missing or OT.
_OTHER_CLASSES = ("CT Image", "MR Image", "Ultrasound", "Nuclear Medicine", "Positron", "VL ", "Ophthalmic", "RT Dose")
_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "BitsStored")


def read_dicom(path: Path, intensity: str = "original", *, any_modality: bool = False) -> Picture:
    """Reads a DICOM file of one frame.

    `jaxseg.images.published` describes the intensities "original" and "cxas-0.0.20", `jaxseg.images.clinical` describes
    "clinical".

    Args:
      path: the file.
      intensity: one of `jaxseg.images.read.INTENSITIES`.
      any_modality: whether to leave out the note on files that are not projection X-rays.

    Returns:
      The picture; its notes begin with pydicom's remarks, for example that the file has more data than pixels.

    Raises:
      ImageError: the file is not DICOM, is damaged, has no pixels, several frames or colours that the intensity does
        not accept, or its image is constant, which only "cxas-0.0.20" accepts.
      OSError: the file cannot be read.
    """
    try:
        with without_remarks() as remarks:
            pixels, limits, spacing_mm, notes = _read(path, intensity, any_modality=any_modality)
        return Picture(pixels, (*remarks, *notes), spacing_mm, limits)
    except (ImageError, MemoryError):
        raise
    except InvalidDicomError:
        raise ImageError("not a DICOM file (no DICM prefix)") from None
    except Exception as error:  # on damaged files pydicom and its decoders raise errors of almost any type
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode the pixels ({reason})") from None


def _read(
    path: Path, intensity: str, *, any_modality: bool
) -> tuple[np.ndarray, Limits, tuple[float, float] | None, list[str]]:
    """Returns the pixels, their limits, the spacing, and notes."""
    dataset = open_dicom(path)
    check_tags(dataset, intensity)
    stored = stored_pixels(dataset)
    pixels: np.ndarray
    limits: Limits = None
    if intensity == "original":
        pixels, notes = original_grey(stored, dataset)
    elif intensity == "cxas-0.0.20":
        pixels, limits, notes = cxas20_grey(stored, dataset)
    else:
        pixels, limits, notes = clinical_grey(stored, dataset)
        pixels = check_grey(pixels)
    spacing_mm, unclear = read_spacing(dataset)
    kind = [] if any_modality else _other_kind(dataset)
    return pixels, limits, spacing_mm, [*kind, *notes, *unclear]


def _other_kind(dataset: pydicom.Dataset) -> list[str]:
    """Returns a note if a file states that it is not a projection X-ray, by its Modality or its SOP class."""
    sop_class = pydicom.uid.UID(str(dataset.get("SOPClassUID") or ""))
    if sop_class in SEGMENTATIONS:
        return ["this is a DICOM segmentation (a mask), not an X-ray"]
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality and modality not in PROJECTIONS:
        found = f"its Modality is {modality[:40]}"
    elif any(word in sop_class.name for word in _OTHER_CLASSES):
        found = f"its SOP class is {sop_class.name}"
    else:
        return []
    return [
        f"NOT A PROJECTION X-RAY: {found}. Its masks and measurements mean nothing (expected is CR, DX or a similar "
        "Modality; --any-modality of segment, extract and register hides this warning)"
    ]


def check_tags(dataset: pydicom.Dataset, intensity: str = "original") -> None:
    """Checks the tags of a file before its pixels are decoded.

    Args:
      dataset: the file's tags.
      intensity: "original" requires grey values; "cxas-0.0.20" also accepts palettes, whose indices it reads;
        "clinical" accepts all colours of `jaxseg.images.clinical`.

    Raises:
      ImageError: the file is not a single picture of integers, its size is not allowed, a tag is missing, or it has
        colours that are not accepted.
    """
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise ImageError("the pixels are floating-point numbers, as in parametric maps; an X-ray holds integers")
    if "PixelData" not in dataset:
        raise ImageError("the file has no pixel data (it is a report, a plan, or was cut short)")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise ImageError("the transfer syntax, which defines how the pixels are stored, is missing")
    missing = [name for name in _NEEDED if dataset.get(name) in (None, "")]
    if missing:
        raise ImageError(f"the tags {', '.join(missing)} are missing")
    check_size(int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError(f"the file has {frames} frames; an X-ray is one picture")
    photometric = dataset.PhotometricInterpretation
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        return
    if photometric not in COLOURS:
        raise ImageError(f"{photometric} is colour that cannot be converted; an X-ray is MONOCHROME1 or MONOCHROME2")
    if intensity != "clinical" and (intensity, photometric) != ("cxas-0.0.20", "PALETTE COLOR"):
        raise ImageError(
            f"{photometric} is colour; an X-ray is MONOCHROME1 or MONOCHROME2 "
            "(--intensity clinical converts it to grey)"
        )


def stated_size(path: Path) -> tuple[int, int]:
    """Returns the height and width that the tags of a file state, without reading its pixels.

    Raises:
      ImageError: the file is not DICOM, is damaged, or states no size that can be read.
      OSError: the file cannot be read.
    """
    try:
        with without_remarks():
            dataset = open_dicom(path, tags=("Rows", "Columns"))
            if missing := [name for name in ("Rows", "Columns") if dataset.get(name) in (None, "")]:
                raise ImageError(f"the tags {', '.join(missing)} are missing (a report, a plan, or a damaged file)")
            height, width = int(dataset.Rows), int(dataset.Columns)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged files pydicom raises errors of almost any type
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"cannot read its size ({' '.join(str(error).split()) or type(error).__name__})") from None
    check_size(height, width)
    return height, width


def read_spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float] | None, list[str]]:
    """Returns the distance between rows and between columns in millimetres, or None; and notes.

    The first of the tags `SPACINGS` that has a value is used. A note is returned if that value is impossible, or if the
    distances are not those in the patient.
    """
    for name in SPACINGS:
        spacing_mm, problem = spacing_of(dataset, name)
        if problem:
            return None, [f"{problem}; lengths in millimetres are unknown"]
        if spacing_mm:
            place = SPACING_PLACES.get(name)
            return spacing_mm, [f"lengths in millimetres are those {place} ({name}), not in the patient"] * bool(place)
    return None, []


def stated_spacing(path: Path) -> tuple[float, float] | None:
    """Returns the spacing that `read_spacing` finds in a file, without reading its pixels.

    Raises:
      ImageError: the file is not DICOM, or is damaged.
      OSError: the file cannot be read.
    """
    try:
        with without_remarks():
            return read_spacing(open_dicom(path, tags=SPACINGS))[0]
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"cannot read its tags ({' '.join(str(error).split())})") from None


def shown_tags(path: Path) -> dict[str, str]:
    """Returns the tags of a file that a viewer shows: their keywords and values. They identify the patient.

    Tags without a value are left out; a value that cannot be read is "(damaged)".

    Raises:
      ImageError: the file is not DICOM, or is damaged.
      OSError: the file cannot be read.
    """
    found = {}
    with without_remarks():
        try:
            dataset = open_dicom(path, tags=SHOWN_TAGS)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # on damaged files pydicom raises errors of almost any type
            if isinstance(error, OSError) and error.errno:
                raise
            raise ImageError(f"cannot read its tags ({' '.join(str(error).split())})") from None
        for name in SHOWN_TAGS:
            try:
                value = dataset.get(name)
                parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
                text = ", ".join(str(part) for part in parts if part is not None).strip()
            except Exception:
                text = "(damaged)"
            if text:
                found[name] = printable(text)[:_MAX_SHOWN]
    return found


def spacing_of(dataset: pydicom.Dataset, name: str) -> tuple[tuple[float, float] | None, str]:
    """Returns the spacing that one tag states.

    Args:
      dataset: the tags of a file.
      name: keyword of the tag, one of `SPACINGS`.

    Returns:
      The distance between rows and between columns in millimetres, None if the tag has no value or an impossible one;
      and the reason why its value cannot be used, "" if there is none.
    """
    try:
        value = dataset.get(name)
        if value in (None, ""):
            return None, ""
        row, column = (float(number) for number in value)
    except (ValueError, TypeError):  # text instead of numbers, or not two numbers
        return None, f"{name} is not two numbers and was ignored"
    low, high = SPACING_RANGE_MM
    if all(math.isfinite(number) and low <= number <= high for number in (row, column)):
        return (row, column), ""
    return None, f"{name} ({row:g}, {column:g}) mm is not possible"
