"""Reads the pixels of DICOM X-rays as the original's reader does. The one place, with dicom_seg.py, that touches pydicom."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from jaxseg.images.read import ImageError, check_grey, check_size


def read_dicom(path: Path) -> np.ndarray:
    """Returns the grey values of a single-frame greyscale DICOM file, (H, W), before min-max scaling.

    Rescale slope and intercept are applied, MONOCHROME1 is inverted (stored value -> 2^bits - 1 - value, as the
    original's SimpleITK does), the VOI window and the padding value are ignored.

    Raises:
      ImageError: no DICOM file, no pixels, several frames, colour, a constant image, or damaged.
    """
    try:
        dataset = pydicom.dcmread(path)
        check_tags(dataset, path)
        stored = dataset.pixel_array
    except (ImageError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except InvalidDicomError:
        raise ImageError(f"{path.name}: not a DICOM file (no DICM prefix)") from None
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        raise ImageError(f"{path.name}: cannot decode the pixels ({_first_line(error)})") from None
    if stored.ndim == 3 and stored.shape[0] == 1:
        stored = stored[0]
    return check_grey(_rescaled(_upright(stored, dataset), dataset))


def check_tags(dataset: pydicom.Dataset, path: Path) -> None:
    """Raises ImageError where the tags say that this is no single greyscale picture of a bearable size."""
    if "PixelData" not in dataset:
        raise ImageError(f"{path.name}: no pixel data (a report, a plan, or a file that was cut short)")
    missing = [name for name in ("Rows", "Columns", "PhotometricInterpretation", "BitsStored") if name not in dataset]
    if missing:
        raise ImageError(f"{path.name}: the tags {', '.join(missing)} are missing")
    check_size(int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError(f"{path.name}: {frames} frames; an X-ray is one picture")
    photometric = dataset.PhotometricInterpretation
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"{path.name}: {photometric} is colour; an X-ray is MONOCHROME1 or MONOCHROME2")


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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
