"""Converts stored DICOM values to grey values as two published versions of CXAS do: up to 0.0.16, and 0.0.20."""

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from jaxseg.images.clinical import Limits, applied, wide, widen_entries
from jaxseg.images.picture import ImageError, check_grey

_TABLES = ("WindowCenter", "VOILUTSequence", "ModalityLUTSequence")
_SAMPLE = 4096  # pixels with which the effect of a window is estimated
_VISIBLE = 1 / 255  # smallest difference in [0, 1] that is reported


def original_grey(stored: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns the grey values of CXAS up to 0.0.16, which reads DICOM by SimpleITK, and notes.

    Rescale slope and intercept are applied. Values of MONOCHROME1 are inverted before: a stored value becomes
    2^bits - 1 - value. Windows and look-up tables are ignored; a note is returned if one of them would change the
    picture.

    Args:
      stored: (H, W) stored values, signed or unsigned.
      dataset: its tags; the photometric interpretation is MONOCHROME1 or MONOCHROME2.

    Returns:
      (H, W) integers or float64; notes for the user.

    Raises:
      ImageError: the picture is constant, or its values are not finite.
    """
    grey = check_grey(_rescaled(_upright(stored, dataset), dataset))
    return grey, _ignored_tables(stored, dataset)


def cxas20_grey(stored: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, Limits, list[str]]:
    """Returns the grey values of CXAS 0.0.20, their limits, and notes.

    The modality LUT and the first VOI LUT or window are applied as pydicom's `apply_voi_lut` with index 0 does.
    MONOCHROME1 is inverted, and the values are scaled by their minimum and maximum. The padding value is ignored.

    Args:
      stored: (H, W) stored values, signed or unsigned, or indices of a palette.
      dataset: its tags.

    Returns:
      (H, W) float32 in [0, 1], zeros if the picture is constant; the limits (0, 1); notes for the user.

    Raises:
      ImageError: the picture has other than two axes, a table cannot be applied, or a value is not finite.

    Source: CXAS 0.0.20 of ConstantinSeibold/ChestXRayAnatomySegmentation.
    """
    if stored.ndim != 2:
        raise ImageError(f"the pixels are {stored.shape}; CXAS 0.0.20 reads pictures of two axes")
    values = applied("modality LUT", apply_modality_lut, wide(stored), dataset)
    with np.errstate(over="ignore", invalid="ignore"):
        values, notes = applied("window or VOI LUT", _shown, values, dataset)
    low, high = values.min(), values.max()
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values, low, high = high - values, high - high, high - low
    with np.errstate(over="ignore", invalid="ignore"):
        extent = high - low
    if not np.isfinite(extent):
        raise ImageError("the image has values that are not finite in float32 (NaN, infinite or too large)")
    if extent == 0:
        return np.zeros_like(values), (0.0, 1.0), ["the picture is constant: it became zeros, as in CXAS 0.0.20"]
    return (values - low) / extent, (0.0, 1.0), [*notes, *_oddities(dataset)]


def _shown(values: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns values after the first VOI LUT or window, float32, and notes."""
    tables = dataset.get("VOILUTSequence")
    if tables and "LUTDescriptor" in tables[0] and widen_entries(tables[0]):
        notes = ["the VOI LUT was applied right; its 8 bits overflow in CXAS 0.0.20, which then shows another picture"]
    else:
        notes = []
    return apply_voi_lut(values, dataset).astype(np.float32), notes


def _oddities(dataset: pydicom.Dataset) -> list[str]:
    """Returns notes on what CXAS 0.0.20 reads otherwise than a viewer shows it."""
    notes = []
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        notes.append("the indices of the palette were read as grey values, as in CXAS 0.0.20")
    slope, intercept, window = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter"))
    if None not in (slope, intercept, window) and float(slope) < 0 and not dataset.get("VOILUTSequence"):
        notes.append(
            "the window of a file with a negative rescale slope inverts its grey values, as in CXAS 0.0.20; "
            "--intensity clinical does not"
        )
    return notes


def _ignored_tables(stored: np.ndarray, dataset: pydicom.Dataset) -> list[str]:
    """Returns a note if a window or look-up table of a file would change its picture, judged by a sample of pixels."""
    flat = stored.ravel()
    sample = np.append(flat[:: max(1, flat.size // _SAMPLE)], [flat.min(), flat.max()]).astype(stored.dtype)[None]
    try:
        if not applied("window", lambda _, tags: any(tags.get(name) for name in _TABLES), sample, dataset):
            return []
        ignored = _rescaled(_upright(sample, dataset), dataset).astype(np.float32)
        shown, _, _ = cxas20_grey(sample, dataset)
    except ImageError:  # the tables cannot be applied
        return []
    ignored = (ignored - ignored.min()) / np.ptp(ignored)
    if np.abs(shown - ignored).max() <= _VISIBLE:
        return []
    return [
        "its window or look-up table was not applied, as in CXAS up to 0.0.16; --intensity cxas-0.0.20 or clinical "
        "applies it"
    ]


def _upright(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    if dataset.PhotometricInterpretation == "MONOCHROME2":
        return stored
    return (2 ** int(dataset.BitsStored) - 1) - stored.astype(np.int64)


def _rescaled(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    given = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    slope, intercept = (
        float(default if value is None else value) for value, default in zip(given, (1, 0), strict=True)
    )
    return values if (slope, intercept) == (1.0, 0.0) else values * slope + intercept
