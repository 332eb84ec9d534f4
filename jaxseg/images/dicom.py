"""Reads the pixels of DICOM X-rays as the original's reader does. pydicom is imported in this folder only."""

import logging
import threading
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from jaxseg.images.checks import ImageError, check_grey, check_size

_reading = threading.local()  # `remarks`: what pydicom says of the file that this thread reads


def read_dicom(path: Path) -> tuple[np.ndarray, list[str]]:
    """Returns the grey values of a single-frame greyscale DICOM file, (H, W), before min-max scaling.

    They come with pydicom's remarks, such as more pixel data than the picture needs. Rescale slope and intercept are
    applied, MONOCHROME1 is inverted (stored value -> 2^bits - 1 - value, as the original's SimpleITK does), the VOI
    window and the padding value are ignored.

    Raises:
      ImageError: no DICOM file, no pixels, several frames, colour, a constant image, or damaged.
    """
    _reading.remarks = remarks = []
    try:
        dataset = pydicom.dcmread(path)
        check_tags(dataset)
        stored = dataset.pixel_array
        if stored.shape != (dataset.Rows, dataset.Columns):  # frames or samples that the tags do not announce
            raise ImageError(f"the pixels are {stored.shape}, the tags say ({dataset.Rows}, {dataset.Columns})")
        return check_grey(_rescaled(_upright(stored, dataset), dataset)), remarks
    except (ImageError, MemoryError):
        raise
    except InvalidDicomError:
        raise ImageError("not a DICOM file (no DICM prefix)") from None
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode the pixels ({reason})") from None
    finally:
        _reading.remarks = None


def check_tags(dataset: pydicom.Dataset) -> None:
    """Raises ImageError where the tags say that this is no single greyscale picture of a bearable size."""
    if "PixelData" not in dataset:
        raise ImageError("no pixel data (a report, a plan, or a file that was cut short)")
    missing = [name for name in ("Rows", "Columns", "PhotometricInterpretation", "BitsStored") if name not in dataset]
    if missing:
        raise ImageError(f"the tags {', '.join(missing)} are missing")
    check_size(int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError(f"{frames} frames; an X-ray is one picture")
    photometric = dataset.PhotometricInterpretation
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"{photometric} is colour; an X-ray is MONOCHROME1 or MONOCHROME2")


def _upright(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    if dataset.PhotometricInterpretation == "MONOCHROME2":
        return stored
    return (2 ** int(dataset.BitsStored) - 1) - stored.astype(np.int64)


def _rescaled(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    slope, intercept = (
        float(dataset.get(name, default)) for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored * slope + intercept


def _take_remark(record: logging.LogRecord) -> bool:
    """Keeps what pydicom logs while this thread reads a file; all else is logged as usual."""
    remarks = getattr(_reading, "remarks", None)
    if remarks is None:
        return True
    remarks.append(" ".join(record.getMessage().split()))
    return False


for _name in ("pydicom", "pydicom.pixels.decoders.base"):
    logging.getLogger(_name).addFilter(_take_remark)
