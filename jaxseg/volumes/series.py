"""Reads a folder of DICOM slices as a CT volume in Hounsfield units."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxseg.images.checks import ImageError
from jaxseg.images.decode import open_dicom, stored_pixels, without_remarks
from jaxseg.images.dicom import check_tags
from jaxseg.images.kinds import kind_of
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
_TURN = 1e-3  # by how much the direction cosines of two slices may differ
_SAME_MM = 1e-3  # slices as near as this are one
_UNEVEN = 0.1  # by how much of their usual distance two slices may be nearer or farther
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    modality: str
    size: tuple[int, int]
    position: np.ndarray  # (3,) of the first pixel, in millimetres
    rows: np.ndarray  # (3,) direction in which the columns follow each other
    columns: np.ndarray  # (3,) direction in which the rows follow each other
    spacing: tuple[float, float]  # distance of rows, of columns
    thickness: float | None
    scale: tuple[float, float]

    @property
    def height(self) -> float:
        return float(np.cross(self.rows, self.columns) @ self.position)


def read_series(folder: Path) -> Volume:
    """Reads the one series of DICOM slices in a folder, sorted by position along their normal, ascending.

    Slope and intercept of every slice are applied; files that are no DICOM are passed over. The order is that of
    SimpleITK.

    Raises:
      VolumeError: there is no series, or more than one; slices are missing, doubled or lie otherwise than the rest;
        a file is damaged or is no slice of a CT.
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
    """The slices of a folder, sorted."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and kind_of(path) == "dicom"]
    if not files:
        raise VolumeError("holds no DICOM file; a volume is a folder of the DICOM slices of one series")
    slices = [_guarded(path, _tags)[0] for path in files]
    series = sorted({each.series for each in slices})
    if len(series) > 1:
        counts = ", ".join(f"{sum(each.series == uid for each in slices)} slices of {uid}" for uid in series[:4])
        raise VolumeError(f"holds {len(series)} series ({counts}); put each into a folder of its own")
    return sorted(slices, key=lambda each: each.height)


def _checked(slices: list[_Slice]) -> tuple[tuple[int, int, int], np.ndarray]:
    first = slices[0]
    for each in slices:
        if each.size != first.size or not np.allclose(each.spacing, first.spacing, rtol=1e-3):
            raise VolumeError(f"{each.path.name} has another size or pixel spacing than {first.path.name}")
        turned = max(np.abs(each.rows - first.rows).max(), np.abs(each.columns - first.columns).max())
        if turned > _TURN:
            raise VolumeError(f"{each.path.name} lies in another direction than {first.path.name} (a scout view?)")
    shape = (len(slices), *first.size)
    check_shape(shape)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.rows * first.spacing[1], first.columns * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = _step(slices), first.position
    return shape, check_affine(_LPS_TO_RAS @ affine)


def _step(slices: list[_Slice]) -> np.ndarray:
    """From a slice to the next in millimetres, (3,)."""
    first = slices[0]
    if len(slices) == 1:
        return np.cross(first.rows, first.columns) * (first.thickness or 1.0)
    heights = np.array([each.height for each in slices])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    for place, step in enumerate(steps):
        names = f"{slices[place].path.name} and {slices[place + 1].path.name}"
        if step < _SAME_MM:
            raise VolumeError(f"{names} lie at the same place: slices are doubled")
        if abs(step - usual) > _UNEVEN * usual:
            raise VolumeError(f"slices are missing or uneven: {names} are {step:g} mm apart, most others {usual:g} mm")
    return (slices[-1].position - first.position) / (len(slices) - 1)


def _tags(path: Path) -> _Slice:
    dataset = open_dicom(path, tags=_TAGS)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise VolumeError("holds many frames (an enhanced CT), which is not read; convert it to NIfTI")
    missing = [name for name in (*_TAGS[1:6], _TAGS[0]) if dataset.get(name) in (None, "")]
    if missing:
        raise VolumeError(f"the tags {', '.join(missing)} are missing, so it is no slice with a place in space")
    turn = np.array([float(number) for number in dataset.ImageOrientationPatient])
    position = np.array([float(number) for number in dataset.ImagePositionPatient])
    spacing = tuple(float(number) for number in dataset.PixelSpacing)
    rows, columns = turn[:3], turn[3:]
    if turn.shape != (6,) or position.shape != (3,) or len(spacing) != 2:
        raise VolumeError("its position, orientation or pixel spacing has another number of values")
    finite = np.isfinite([*turn, *position, *spacing]).all() and min(spacing) > 0
    if not finite or not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=1e-2):
        raise VolumeError("its position, orientation or pixel spacing is not possible")
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
        raise VolumeError(f"its pixels are {dataset.PhotometricInterpretation}; those of a CT are MONOCHROME2")
    return stored_pixels(dataset)


def _guarded(path: Path, read) -> tuple:
    """What `read` returns, and pydicom's remarks; its errors name the file."""
    try:
        with without_remarks() as remarks:
            return read(path), [f"{path.name}: {remark}" for remark in remarks]
    except MemoryError:
        raise
    except (VolumeError, ImageError) as error:
        raise VolumeError(f"{path.name}: {error}") from None
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise VolumeError(f"{path.name}: cannot be read ({reason})") from None
