"""Reads a folder of DICOM slices as a CT volume in Hounsfield units."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxseg.images.decode import open_dicom, stored_pixels
from jaxseg.images.dicom import check_tags
from jaxseg.images.picture import ImageError
from jaxseg.images.read import kind_of
from jaxseg.images.remarks import without_remarks
from jaxseg.volumes.volume import Volume, VolumeError, check_affine, check_shape

_TAGS = (
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
    "Modality",
)
_TURN = 1e-3  # largest difference between the direction cosines of two slices
_SAME_MM = 1e-3  # slices that are closer than this are duplicates
_UNEVEN = 0.1  # largest deviation of a slice distance, as a fraction of the median distance
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    modality: str
    size: tuple[int, int]
    position: np.ndarray  # (3,) of the first pixel in millimetres
    rows: np.ndarray  # (3,) direction along a row
    columns: np.ndarray  # (3,) direction along a column
    spacing: tuple[float, float]  # distance between rows, between columns
    thickness: float | None
    scale: tuple[float, float]

    @property
    def height(self) -> float:
        return float(np.cross(self.rows, self.columns) @ self.position)


def read_series(folder: Path) -> Volume:
    """Reads the series of DICOM slices in a folder, sorted by ascending position along the normal of the slices.

    Slope and intercept of every slice are applied. Files that are not DICOM are ignored. The order is the same as in
    SimpleITK.

    Returns:
      A volume whose array is (D, H, W) int16, int32 or float32.

    Raises:
      VolumeError: the folder holds no series, or more than one; slices are missing, duplicated or have another
        orientation than the others; or a file is damaged or is not a slice of a CT.
      OSError: a file cannot be read.
    """
    slices = _slices(folder)
    shape, affine = _checked(slices)
    whole = all(float(number).is_integer() for each in slices for number in each.scale)
    array = np.empty(shape, np.int32 if whole else np.float32)
    notes = []
    for z, each in enumerate(slices):
        pixels, remarks = _guarded(each.path, _pixels)
        slope, intercept = each.scale
        array[z] = pixels.astype(np.int64) * int(slope) + int(intercept) if whole else pixels * slope + intercept
        notes += remarks
    if whole and array.min() >= -(2**15) and array.max() < 2**15:
        array = array.astype(np.int16)
    return Volume(array, affine, notes=tuple(dict.fromkeys(notes)))


def _slices(folder: Path) -> list[_Slice]:
    """Returns the slices of a folder, sorted by position."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and kind_of(path) == "dicom"]
    if not files:
        raise VolumeError("holds no DICOM file; a volume is a folder of the DICOM slices of one series")
    slices = [_guarded(path, _tags)[0] for path in files]
    series = sorted({each.series for each in slices})
    if len(series) > 1:
        counts = ", ".join(f"{sum(each.series == uid for each in slices)} slices of {uid}" for uid in series[:4])
        raise VolumeError(f"holds {len(series)} series ({counts}); put each series into its own folder")
    return sorted(slices, key=lambda each: each.height)


def _checked(slices: list[_Slice]) -> tuple[tuple[int, int, int], np.ndarray]:
    first = slices[0]
    for each in slices:
        if each.size != first.size or not np.allclose(each.spacing, first.spacing, rtol=1e-3):
            raise VolumeError(f"{each.path.name} has another size or pixel spacing than {first.path.name}")
        turned = max(np.abs(each.rows - first.rows).max(), np.abs(each.columns - first.columns).max())
        if turned > _TURN:
            raise VolumeError(f"{each.path.name} has another orientation than {first.path.name} (a scout view?)")
    shape = (len(slices), *first.size)
    check_shape(shape)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.rows * first.spacing[1], first.columns * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = _step(slices), first.position
    return shape, check_affine(_LPS_TO_RAS @ affine)


def _step(slices: list[_Slice]) -> np.ndarray:
    """Returns the vector from one slice to the next in millimetres, (3,)."""
    first = slices[0]
    if len(slices) == 1:
        return np.cross(first.rows, first.columns) * (first.thickness or 1.0)
    heights = np.array([each.height for each in slices])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    for place, step in enumerate(steps):
        names = f"{slices[place].path.name} and {slices[place + 1].path.name}"
        if step < _SAME_MM:
            raise VolumeError(f"{names} are at the same place: slices are duplicated")
        if abs(step - usual) > _UNEVEN * usual:
            raise VolumeError(
                f"slices are missing or unevenly spaced: {names} are {step:g} mm apart, most others {usual:g} mm"
            )
    return (slices[-1].position - first.position) / (len(slices) - 1)


def _tags(path: Path) -> _Slice:
    dataset = open_dicom(path, tags=_TAGS)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise VolumeError("holds many frames (an enhanced CT), which is not supported; convert it to NIfTI")
    missing = [name for name in (*_TAGS[1:6], _TAGS[0]) if dataset.get(name) in (None, "")]
    if missing:
        raise VolumeError(f"the tags {', '.join(missing)} are missing; a slice of a CT needs them")
    turn = np.array([float(number) for number in dataset.ImageOrientationPatient])
    position = np.array([float(number) for number in dataset.ImagePositionPatient])
    spacing = tuple(float(number) for number in dataset.PixelSpacing)
    rows, columns = turn[:3], turn[3:]
    if turn.shape != (6,) or position.shape != (3,) or len(spacing) != 2:
        raise VolumeError("its position, orientation or pixel spacing has a wrong number of values")
    finite = np.isfinite([*turn, *position, *spacing]).all() and min(spacing) > 0
    if not finite or not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=1e-2):
        raise VolumeError("its position, orientation or pixel spacing is invalid")
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    thickness = float(dataset.get("SliceThickness") or 0) or None
    series, modality = str(dataset.SeriesInstanceUID), str(dataset.get("Modality") or "")
    size = (int(dataset.Rows), int(dataset.Columns))
    return _Slice(path, series, modality, size, position, rows, columns, spacing, thickness, scale)


def _pixels(path: Path) -> np.ndarray:
    dataset = open_dicom(path)
    check_tags(dataset)
    if dataset.PhotometricInterpretation != "MONOCHROME2":
        raise VolumeError(f"its pixels are {dataset.PhotometricInterpretation}; a CT must be MONOCHROME2")
    return stored_pixels(dataset)


def _guarded(path: Path, read) -> tuple:
    """Returns the result of `read` and the remarks of pydicom; its errors name the file."""
    try:
        with without_remarks() as remarks:
            return read(path), [f"{path.name}: {remark}" for remark in remarks]
    except MemoryError:
        raise
    except (VolumeError, ImageError) as error:
        raise VolumeError(f"{path.name}: {error}") from None
    except Exception as error:  # pydicom and its decoders raise almost any exception on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise VolumeError(f"{path.name}: cannot be read ({reason})") from None
