"""Reads DICOM X-rays, either as the original's reader does or as a viewer shows them."""

import math
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from jaxseg.images.clinical import COLOURS, Limits, clinical_grey
from jaxseg.images.decode import open_dicom, stored_pixels, without_remarks
from jaxseg.images.picture import ImageError, Picture, check_grey, check_size

SEGMENTATIONS = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
)  # SOP classes; the second one is that of label maps
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
SPACING_RANGE_MM = (1e-3, 100.0)

_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "BitsStored")


def read_dicom(path: Path, intensity: str = "original") -> Picture:
    """Reads a DICOM file of one frame.

    With intensity "original", rescale slope and intercept are applied and MONOCHROME1 is inverted (a stored value
    becomes 2^bits - 1 - value, as in the original's SimpleITK). The VOI window and the padding value are ignored, and
    colour is refused. `jaxseg.images.clinical` describes "clinical".

    Args:
      path: the file.
      intensity: "original" or "clinical".

    Returns:
      The picture; its notes begin with pydicom's remarks, for example that the file has more data than pixels.

    Raises:
      ImageError: the file is not DICOM, is damaged, has no pixels, several frames or colour, or its image is constant.
      OSError: the file cannot be read.
    """
    try:
        with without_remarks() as remarks:
            pixels, limits, spacing_mm, notes = _read(path, intensity)
        return Picture(pixels, (*dict.fromkeys(remarks), *notes), spacing_mm, limits)
    except (ImageError, MemoryError):
        raise
    except InvalidDicomError:
        raise ImageError("not a DICOM file (no DICM prefix)") from None
    except Exception as error:  # on damaged files pydicom and its decoders raise errors of almost any type
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode the pixels ({reason})") from None


def _read(path: Path, intensity: str) -> tuple[np.ndarray, Limits, tuple[float, float] | None, list[str]]:
    """Returns the pixels, their limits, the spacing, and notes."""
    dataset = open_dicom(path)
    check_tags(dataset, intensity)
    stored = stored_pixels(dataset)
    pixels: np.ndarray
    limits: Limits = None
    notes: list[str] = []
    if intensity == "original":
        pixels = _rescaled(_upright(stored, dataset), dataset)
    else:
        pixels, limits, notes = clinical_grey(stored, dataset)
    spacing_mm, unclear = read_spacing(dataset)
    if dataset.get("SOPClassUID") in SEGMENTATIONS:
        notes = [*notes, "this is a DICOM segmentation (a mask), not an X-ray"]
    return check_grey(pixels), limits, spacing_mm, [*notes, *unclear]


def check_tags(dataset: pydicom.Dataset, intensity: str = "original") -> None:
    """Checks the tags of a file before its pixels are decoded.

    Args:
      dataset: the file's tags.
      intensity: "original" requires grey values; "clinical" also accepts the colours of `jaxseg.images.clinical`.

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
    if intensity == "original":
        raise ImageError(
            f"{photometric} is colour; an X-ray is MONOCHROME1 or MONOCHROME2 "
            "(--intensity clinical converts it to grey)"
        )


def read_spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float] | None, list[str]]:
    """Returns the distance between rows and between columns in millimetres, or None; and notes.

    The first of the tags `SPACINGS` that has a value is used. A note is returned if that value is impossible.
    """
    for name in SPACINGS:
        spacing_mm, problem = spacing_of(dataset, name)
        if problem:
            return None, [f"{problem}; lengths in millimetres are unknown"]
        if spacing_mm:
            return spacing_mm, []
    return None, []


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


def _upright(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    if dataset.PhotometricInterpretation == "MONOCHROME2":
        return stored
    return (2 ** int(dataset.BitsStored) - 1) - stored.astype(np.int64)


def _rescaled(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    given = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    slope, intercept = (
        float(default if value is None else value) for value, default in zip(given, (1, 0), strict=True)
    )
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored * slope + intercept
