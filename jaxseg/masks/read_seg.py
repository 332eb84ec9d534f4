"""Reads the masks of a DICOM Segmentation object of one image. Files come from strangers; sizes are checked first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.pixels import pixel_array

from jaxseg.images.checks import ImageError, check_size
from jaxseg.images.decode import open_dicom, without_remarks

MAX_SEGMENTS = 1000
MAX_VALUES = 2**31  # segments x height x width
_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": "BINARY", "1.2.840.10008.5.1.4.1.1.66.7": "LABELMAP"}


def read_dicom_seg(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads the segments of a DICOM SEG of one source frame: binary ones, or a label map.

    Returns:
      The segments' labels and their masks, (K, H, W) bool, in the order of the segments' numbers; a segment without a
      frame is empty, the background of a label map is left out.

    Raises:
      ImageError: no DICOM SEG, fractional, of several source frames, larger than 1000 segments or 2**31 values, or
        damaged. OSError: the file cannot be opened.
    """
    path = Path(path)
    try:
        with without_remarks():
            return _read(open_dicom(path))
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path.name}: cannot read it as DICOM SEG ({reason})") from None


def _read(dataset) -> tuple[tuple[str, ...], np.ndarray]:
    kind = _CLASSES.get(dataset.get("SOPClassUID"))
    if kind is None:
        raise ImageError("no DICOM SEG (an image, or an object of another kind)")
    if dataset.SegmentationType != kind:
        raise ImageError(
            f"the segmentation type is {dataset.SegmentationType}; BINARY and LABELMAP can be read: a fractional one "
            "must be thresholded first"
        )
    labels = _labels(dataset)
    numbers = sorted(labels)
    size = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    _check_sizes(len(numbers), frames, size, dataset)
    masks = np.zeros((len(numbers), *size), bool)
    if kind == "LABELMAP":
        _fill_from_label_map(masks, dataset, numbers, frames)
    else:
        _fill_from_frames(masks, dataset, numbers, frames)
    return tuple(labels[number] for number in numbers), masks


def _labels(dataset) -> dict[int, str]:
    """Segment number -> label, without the background of a label map."""
    labels = {}
    for segment in dataset.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number in labels:
            raise ImageError(f"two segments have the number {number}: the file is damaged")
        labels[number] = str(segment.SegmentLabel)
    if dataset.SegmentationType == "LABELMAP":
        labels.pop(int(dataset.get("PixelPaddingValue", 0)), None)
    return labels


def _check_sizes(count, frames, size, dataset) -> None:
    check_size(*size)
    if not 1 <= count <= MAX_SEGMENTS:
        raise ImageError(f"{count} segments; from 1 to {MAX_SEGMENTS} can be read")
    if count * size[0] * size[1] > MAX_VALUES:
        raise ImageError(f"{count} segments of {size[0]} x {size[1]} pixels; at most {MAX_VALUES:,} values can be read")
    groups = len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if frames != groups:
        raise ImageError(f"{frames} frames, but {groups} descriptions of frames: the file is damaged")
    if len(_planes(dataset)) > 1:
        raise ImageError("it belongs to several source frames; an X-ray is one picture")


def _planes(dataset) -> set:
    """What tells the planes of the frames apart: their positions, and the images that they were made from."""
    positions, sources = set(), set()
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


def _fill_from_label_map(masks, dataset, numbers, frames) -> None:
    if frames != 1:
        raise ImageError(f"a label map of {frames} frames belongs to several source frames; an X-ray is one picture")
    values = next(_frames(dataset, 1))
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the label map has {values.dtype} values; 8 or 16 bits without sign can be read")
    described = np.zeros(2**16, bool)
    described[[int(dataset.get("PixelPaddingValue", 0)), *numbers]] = True
    unknown = values[~described[values]]
    if unknown.size:
        raise ImageError(f"the label map holds the value {unknown[0]}, which no segment describes")
    for mask, number in zip(masks, numbers, strict=True):
        mask[:] = values == number


def _fill_from_frames(masks, dataset, numbers, frames) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    seen = [_segment_number(group, shared) for group in dataset.PerFrameFunctionalGroupsSequence]
    if len(set(seen)) < len(seen):
        raise ImageError("a segment has several frames: it belongs to several source frames; an X-ray is one picture")
    for number, frame in zip(seen, _frames(dataset, frames), strict=True):
        if number not in numbers:
            raise ImageError(f"a frame belongs to segment {number}, which is not described: the file is damaged")
        masks[numbers.index(number)] = frame


def _segment_number(group, shared) -> int:
    """The segment of a frame: its own group says it, or the one that all frames share."""
    group = group if "SegmentIdentificationSequence" in group else shared
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _frames(dataset, frames) -> Iterator[np.ndarray]:
    """Decodes one frame at a time, each (H, W)."""
    size = int(dataset.Rows), int(dataset.Columns)
    if dataset.BitsAllocated != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        for i in range(frames):
            frame = pixel_array(dataset, index=i)
            if frame.shape != size:
                raise ImageError(f"a frame is {frame.shape}, the tags say {size}")
            yield frame
        return
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        raise ImageError("big-endian bits cannot be read: write it in a little-endian transfer syntax")
    pixels = size[0] * size[1]  # frames follow each other without a gap, also within a byte
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    if packed.size * 8 < frames * pixels:
        raise ImageError(f"{packed.size} bytes of pixels, {frames} frames need {-(-frames * pixels // 8)}: cut short")
    for first in range(0, frames * pixels, pixels):
        bits = np.unpackbits(packed[first // 8 : (first + pixels + 7) // 8], bitorder="little")
        yield bits[first % 8 : first % 8 + pixels].reshape(size).astype(bool)
