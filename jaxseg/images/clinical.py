"""Converts stored DICOM values to the grey values that a viewer shows: rescaled, windowed, inverted, padding black.

Overlays, annotations and presentation states are ignored. pydicom's own functions do the arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

from jaxseg.images.picture import ImageError, luminance

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_PALETTES = [f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue")]

Limits = tuple[float, float] | None
T = TypeVar("T")


def clinical_grey(stored: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, Limits, list[str]]:
    """Returns the grey values of a picture, the limits that are shown as black and white, and notes.

    Args:
      stored: (H, W) stored values, signed or unsigned, or (H, W, 3) RGB.
      dataset: its tags; the photometric interpretation is MONOCHROME1, MONOCHROME2 or one of `COLOURS`. The function
        may fill in incomplete tags.

    Returns:
      (H, W) integers or float32; limits as in `jaxseg.images.picture.Picture`; notes for the user.

    Raises:
      ImageError: a table cannot be applied, the pixels have an unsupported type, or the window makes all pixels equal.
    """
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return *_brightness(stored, dataset), []
    stored = wide(stored)
    padded, notes = _padding(stored, dataset)
    values = _rescaled(stored, dataset)
    values, limits, more = _windowed(values, dataset)
    darkest, brightest = _extent(values if padded is None else values[~padded])
    if limits and darkest == brightest:
        raise ImageError("the window or VOI LUT makes every pixel alike; --intensity original ignores it")
    low, high = limits or (darkest, brightest)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = low + high - values
    if padded is not None:
        values = np.where(padded, low, values)
    return values.astype(np.float32) if values.dtype.kind == "f" else values, limits, [*notes, *more]


def wide(stored: np.ndarray) -> np.ndarray:
    """Returns stored values in an integer type that is large enough for all tables; pydicom computes in it.

    Raises:
      ImageError: the values have more than 32 bits.
    """
    if stored.dtype.itemsize > 4:
        raise ImageError(f"the pixels are {stored.dtype}; up to 32 bits can be shown")
    return stored.astype(np.int64 if stored.dtype.itemsize == 4 else np.int32)


def widen_entries(item: pydicom.Dataset) -> bool:
    """Declares 16 bits for the entries of a VOI LUT that declares 8, and returns whether its picture depends on that.

    pydicom stores the index of an entry in the type of the entries, so that 8 bits overflow above 256 entries.
    """
    if item.LUTDescriptor[2] != 8:
        return False
    item["LUTDescriptor"].value[2] = 16
    return (item.LUTDescriptor[0] or 2**16) > 256


def _brightness(stored: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, Limits]:
    """Returns the brightness of colours and its limits, which are those of the colours' type, as for PNG and JPEG."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = applied("palette", _through_palette, stored, dataset)
        white, declared = np.iinfo(colours.dtype).max, 2 ** int(dataset.RedPaletteColorLookupTableDescriptor[2]) - 1
        white = (
            min(white, declared) if colours.max() <= declared else white
        )  # some writers declare fewer bits than the values need
    else:
        colours, white = stored, 2 ** int(dataset.BitsStored) - 1
    if colours.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the colours are {colours.dtype}; 8 or 16 bits can be converted to grey")
    return luminance(colours), (0.0, float(white))


def _through_palette(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    count, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    count = count or 2**16
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        for name in _PALETTES:  # pydicom assumes that these bytes are little-endian
            if f"{name}Data" in dataset:
                words = np.frombuffer(dataset[f"{name}Data"].value, ">u2")
                dataset[f"{name}Data"].value = words.astype("<u2").tobytes()
    indices = np.clip(stored.astype(np.int64), first, first + count - 1)
    colours = apply_color_lut(indices, dataset)
    if colours.dtype == np.uint8 and count > 256:  # pydicom stores the index in the type of the colours
        raise ImageError(f"a palette of {count} entries of 8 bits cannot be read; up to 256 can")
    return colours[..., :3]  # without opacity


def _rescaled(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Returns the values after the modality LUT, or after rescale slope and intercept."""
    defaults = {"RescaleSlope": 1, "RescaleIntercept": 0}
    empty = [name for name in defaults if dataset.get(name) is None]
    for name in empty:  # pydicom applies slope and intercept only together
        dataset.pop(name, None)
        if len(empty) == 1:
            setattr(dataset, name, defaults[name])
    values = applied("modality LUT", apply_modality_lut, stored, dataset)
    if not np.isfinite(values).all():
        raise ImageError("rescale slope and intercept give values that are not finite")
    return (
        values.astype(np.int32) if values.dtype.kind == "u" else values
    )  # the type of a table is too small for inverted values


def _windowed(values: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, Limits, list[str]]:
    """Returns the values after the first VOI LUT or window, the limits of its output, and notes."""
    notes: list[str] = []
    if tables := dataset.get("VOILUTSequence"):
        if "LUTDescriptor" in tables[0] and "LUTData" in tables[0]:
            notes += [f"the file has {len(tables)} VOI LUTs; the first was used"] * (len(tables) > 1)
            return *applied("VOI LUT", _through_table, values, dataset), notes
        notes.append("the VOI LUT is incomplete and was ignored")
    view, more = _first_window(dataset)
    notes += more
    if view is None:
        return values, None, notes
    with np.errstate(over="ignore"):  # of the exponential in SIGMOID, far outside the window
        limits = apply_windowing(np.array([-np.inf, np.inf]), view)
        return apply_windowing(values, view), (float(limits[0]), float(limits[1])), notes


def _through_table(values: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, Limits]:
    item = dataset.VOILUTSequence[0]
    count, first, _ = item.LUTDescriptor
    widen_entries(item)
    last = first + (count or 2**16) - 1
    table = apply_voi(np.arange(first, last + 1), dataset)
    indices = np.clip(values if values.dtype.kind in "iu" else np.rint(values), first, last).astype(np.int64)
    return apply_voi(indices, dataset).astype(np.int32), _extent(table)


def _first_window(dataset: pydicom.Dataset) -> tuple[pydicom.Dataset | None, list[str]]:
    """Returns tags that hold only the first window, or None if no window can be used; and notes."""
    centres, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    if centres == widths == []:
        return None, []
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in _FUNCTIONS:
        return None, [f"the VOI LUT function {function} is unknown; the window was ignored"]
    if not centres or not widths or len(centres) != len(widths):
        return None, ["window centre and width are incomplete; the window was ignored"]
    name = f"centre {centres[0]:g}, width {widths[0]:g}"
    possible = widths[0] >= 1 if function == "LINEAR" else widths[0] > 0
    if not (possible and math.isfinite(centres[0]) and math.isfinite(widths[0])):
        return None, [f"a window of {name} is not possible and was ignored"]
    # The tags say 16 unsigned bits without rescaling: only the range of the output depends on them, and a negative
    # slope would reverse it.
    view = pydicom.Dataset()
    view.PhotometricInterpretation, view.VOILUTFunction = "MONOCHROME2", function
    view.BitsStored, view.PixelRepresentation = 16, 0
    view["WindowCenter"], view["WindowWidth"] = dataset["WindowCenter"], dataset["WindowWidth"]
    return view, [f"the file has {len(centres)} windows; the first was used ({name})"] * (len(centres) > 1)


def _numbers(dataset: pydicom.Dataset, name: str) -> list[float] | None:
    """Returns the numbers of a tag, [] if it is missing or empty, None if its values are not numbers."""
    try:
        value = dataset.get(name)
        if value in (None, ""):
            return []
        return [float(number) for number in (value if isinstance(value, pydicom.multival.MultiValue) else [value])]
    except (ValueError, TypeError):
        return None


def _padding(stored: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray | None, list[str]]:
    """Returns which pixels are padding, (H, W) bool, or None if none is; and notes."""
    try:
        value = dataset.get("PixelPaddingValue")
        if value is None:
            return None, []
        limit = dataset.get("PixelPaddingRangeLimit")
        ends = sorted(_as_stored(number, dataset) for number in (value, value if limit is None else limit))
    except (ValueError, TypeError):
        return None, ["the padding value is not a number and was ignored"]
    padded = (stored >= ends[0]) & (stored <= ends[1])
    if not padded.any():
        return None, []
    if padded.all():
        return None, ["every pixel has the padding value, which was ignored"]
    low, high = _extent(stored[~padded])
    if low < ends[1] and ends[0] < high:
        return None, [f"the padding value {value} lies among the values of the picture and was ignored"]
    return padded, []


def _as_stored(number: Any, dataset: pydicom.Dataset) -> int:
    """Returns a padding value as the pixels store it; some writers confuse signed and unsigned numbers."""
    bits = int(dataset.BitsAllocated)
    value = int(number) % 2**bits
    return value - 2**bits if dataset.PixelRepresentation == 1 and value >= 2 ** (bits - 1) else value


def _extent(values: np.ndarray) -> tuple[float, float]:
    return values.min().item(), values.max().item()


def applied(
    name: str, function: Callable[[np.ndarray, pydicom.Dataset], T], values: np.ndarray, dataset: pydicom.Dataset
) -> T:
    """Returns the result of one of pydicom's functions on values and tags; its errors become ImageError.

    Args:
      name: of the table that the function applies, for the error.
      function: (values, dataset) -> result.
      values: its first argument.
      dataset: its second argument.

    Raises:
      ImageError: the function fails.
    """
    try:
        return function(values, dataset)
    except MemoryError:
        raise
    except Exception as error:  # pydicom does not check the tables
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the {name} cannot be applied ({reason})") from None
