"""Reads the masks of a DICOM Segmentation object of one image. Files are untrusted: sizes are checked first."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import pixel_array

from jaxseg.images.decode import open_dicom
from jaxseg.images.dicom import spacing_of
from jaxseg.images.picture import ImageError, check_size
from jaxseg.images.remarks import without_remarks
from jaxseg.masks.dicom_seg import NOMINAL_SPACING
from jaxseg.masks.formats import MAX_CLASSES, Stack

_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": ("BINARY", "FRACTIONAL"), "1.2.840.10008.5.1.4.1.1.66.7": ("LABELMAP",)}
_SPACING_TAGS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContentDescription")


def open_dicom_seg(path: Path) -> Stack:
    """Opens the segments of a DICOM SEG of one source frame: binary, a label map, or fractional with only 0 and 100 %.

    Returns:
      A `Stack` named by the labels of the segments, in the order of their numbers. A segment without a frame is empty;
      the background of a label map is left out. The content of the file is kept in memory, and its frames are decoded
      when they are read.

    Raises:
      ImageError: the file is not a DICOM SEG, is damaged, belongs to several source frames, or has more than 1000
        segments. Reading a mask may raise it too, for example if it has fractions.
      OSError: the file cannot be opened.
    """
    with _errors():
        dataset = open_dicom(path)
        kinds = _CLASSES.get(dataset.get("SOPClassUID"))
        if kinds is None:
            raise ImageError("not a DICOM SEG (an image, or an object of another kind)")
        kind = dataset.SegmentationType
        if kind not in kinds or (kind == "FRACTIONAL" and dataset.BitsAllocated != 8):
            raise ImageError(
                f"the segmentation type is {kind} of {dataset.BitsAllocated} bits in an object of another type"
            )
        labels = _labels(dataset)
        numbers = sorted(labels)
        size = _size(dataset)
        _check_sizes(len(numbers), size, dataset)
        find = _in_label_map(dataset, numbers) if kind == "LABELMAP" else _in_frames(dataset, numbers)
    names = tuple(labels[number] for number in numbers)
    return Stack(len(numbers), size, lambda indices: _read(find, [numbers[k] for k in indices]), names)


def seg_spacing(path: Path) -> tuple[float, float] | None:
    """Returns the distance between rows and between columns in millimetres that a DICOM SEG states.

    It is None if the object states none, or one that is impossible or only nominal.

    Raises:
      ImageError: the file is not DICOM, or is damaged.
      OSError: the file cannot be opened.
    """
    with _errors():
        dataset = open_dicom(path, tags=_SPACING_TAGS)
        if str(dataset.get("ContentDescription", "")).endswith(NOMINAL_SPACING):
            return None
        for name in _SPACING_TAGS[:2]:
            for group in dataset.get(name) or []:
                for measures in group.get("PixelMeasuresSequence") or []:
                    return spacing_of(measures, "PixelSpacing")[0]
    return None


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turns what pydicom and its decoders raise on damaged files, almost any type, into ImageError."""
    try:
        with without_remarks():
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot read it as DICOM SEG ({reason})") from None


def _labels(dataset: Dataset) -> dict[int, str]:
    """Returns a mapping from segment number to label, without the background of a label map."""
    labels = {}
    for segment in dataset.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number in labels:
            raise ImageError(f"two segments have the number {number}: the file is damaged")
        labels[number] = str(segment.SegmentLabel)
    if dataset.SegmentationType == "LABELMAP":
        labels.pop(int(dataset.get("PixelPaddingValue", 0)), None)
    return labels


def _check_sizes(count: int, size: tuple[int, int], dataset: Dataset) -> None:
    check_size(*size)
    if not 1 <= count <= MAX_CLASSES:
        raise ImageError(f"the file has {count} segments; from 1 to {MAX_CLASSES} can be read")
    frames, groups = _count(dataset), len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if frames != groups:
        raise ImageError(f"the file has {frames} frames, but {groups} descriptions of frames: it is damaged")
    if len(_planes(dataset)) > 1:
        raise ImageError("the file belongs to several source frames; an X-ray is one picture")


def _count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _planes(dataset: Dataset) -> set[Any]:
    """Returns the positions of the frames, or if these do not differ, the images that they were computed from."""
    positions: set[Any] = set()
    sources: set[Any] = set()
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for plane in group.get("PlanePositionSequence") or []:
            positions.add(str(plane.get("ImagePositionPatient")))
        found = tuple(
            (str(image.ReferencedSOPInstanceUID), str(image.get("ReferencedFrameNumber", "")))
            for derivation in group.get("DerivationImageSequence") or []
            for image in derivation.get("SourceImageSequence") or []
        )
        if found:
            sources.add(found)
    return positions if len(positions) > 1 else sources


def _in_label_map(dataset: Dataset, numbers: list[int]) -> Callable[[int], np.ndarray]:
    """Returns a function from the number of a segment to its mask in a label map, which is decoded once."""
    if (frames := _count(dataset)) != 1:
        raise ImageError(f"a label map of {frames} frames belongs to several source frames; an X-ray is one picture")
    values = _frame(dataset, 0)
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the label map has {values.dtype} values; unsigned 8 or 16 bits can be read")
    described = np.zeros(2**16, bool)
    described[[int(dataset.get("PixelPaddingValue", 0)), *numbers]] = True
    unknown = values[~described[values]]
    if unknown.size:
        raise ImageError(f"the label map holds the value {unknown[0]}, which no segment describes")
    return lambda number: values == number


def _in_frames(dataset: Dataset, numbers: list[int]) -> Callable[[int], np.ndarray]:
    """Returns a function from the number of a segment to its mask, whose frame is decoded at each call."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    seen = [_segment_number(group, shared) for group in dataset.PerFrameFunctionalGroupsSequence]
    if len(set(seen)) < len(seen):
        raise ImageError("a segment has several frames: it belongs to several source frames; an X-ray is one picture")
    for number in seen:
        if number not in numbers:
            raise ImageError(f"a frame belongs to segment {number}, which is not described: the file is damaged")
    places = {number: place for place, number in enumerate(seen)}
    frame: Callable[[Dataset, int], np.ndarray] = _frame
    if dataset.BitsAllocated == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_bits(dataset)
        frame = _bits
    empty = np.zeros(_size(dataset), bool)
    most = int(dataset.MaximumFractionalValue) if dataset.SegmentationType == "FRACTIONAL" else 1
    return lambda number: _whole(frame(dataset, places[number]), most) if number in places else empty


def _whole(values: np.ndarray, most: int) -> np.ndarray:
    """Returns the mask of values that are 0 or `most`; refuses fractions."""
    mask = values == most
    if not (mask | (values == 0)).all():
        raise ImageError(f"a segment is fractional, with values between 0 and {most}: threshold it first")
    return mask


def _segment_number(group: Dataset, shared: Dataset) -> int:
    """Returns the number of a frame's segment, from its own group or from the group that all frames share."""
    group = group if "SegmentIdentificationSequence" in group else shared
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _size(dataset: Dataset) -> tuple[int, int]:
    return int(dataset.Rows), int(dataset.Columns)


def _frame(dataset: Dataset, place: int) -> np.ndarray:
    frame = pixel_array(dataset, index=place)
    if frame.shape != _size(dataset):
        raise ImageError(f"a frame is {frame.shape}, the tags say {_size(dataset)}")
    return frame


def _check_bits(dataset: Dataset) -> None:
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        raise ImageError("big-endian bits cannot be read: write the file in a little-endian transfer syntax")
    frames, (rows, columns), given = _count(dataset), _size(dataset), len(dataset.PixelData)
    if given * 8 < frames * rows * columns:
        raise ImageError(
            f"{given} bytes of pixels, but {frames} frames need {-(-frames * rows * columns // 8)}: cut short"
        )


def _bits(dataset: Dataset, place: int) -> np.ndarray:
    """Returns a frame of bits; frames follow each other without a gap, also within a byte."""
    rows, columns = _size(dataset)
    first = place * rows * columns
    last = first + rows * columns
    packed = np.frombuffer(dataset.PixelData, np.uint8, -(-last // 8) - first // 8, first // 8)
    return np.unpackbits(packed, bitorder="little")[first % 8 :][: last - first].reshape(rows, columns)


def _read(find: Callable[[int], np.ndarray], numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for number in numbers:
        with _errors():
            mask = find(number)
        yield mask
