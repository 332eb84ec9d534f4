"""Writes the masks of an image as one DICOM Segmentation object, with highdicom.

The object has one segment per non-empty class. Patient, study and the reference to the image come from the image's
header, and so does the plane in the patient if the image has one (CT, MR). An X-ray is a projection and has none, but
OHIF, dcmqi and pydicom-seg do not open an object without a plane. So the object gets the nominal plane that
`jaxseg.masks.source_header` describes, and refers to the image with "spatial locations preserved": a pixel of a mask
belongs to the same pixel of the image, and its position in the patient is unknown. With `strict_projection`, the object
of an X-ray has no geometry, as the X-ray itself.

Masks are stored as single bits (type BINARY), or for some image sizes, which OHIF misreads in that form, as bytes with
run lengths (type FRACTIONAL with the values 0 and 1).

Memory: one byte per pixel and non-empty class, and an eighth of that for the file; a label map needs only one class at
a time.
"""

import copy
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.uid import RLELossless

from jaxseg import __version__
from jaxseg.files import atomic_file
from jaxseg.images.picture import ImageError
from jaxseg.images.read import kind_of
from jaxseg.masks.formats import SEG
from jaxseg.masks.segmentation import Masks
from jaxseg.masks.source_header import SourceHeader, read_header
from jaxseg.palette import class_colours
from jaxseg.vocabulary import codes

_SERIES_NUMBER = 1000  # after the images of the study
_MAX_SEGMENTS = 1000
NOMINAL_SPACING = " (spacing unknown, 1 mm is nominal)"
_LONGEST_RUN = 128
_SRGB_TO_XYZ = np.array(  # adapted to D50
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def check_source(path: str | Path) -> None:
    """Checks that a DICOM SEG can refer to a file.

    Raises:
      ImageError: it is not a DICOM file.
      OSError: it cannot be read.
    """
    path = Path(path)
    if kind_of(path) != "dicom":
        raise ImageError(f"a DICOM SEG refers to a DICOM image; {path.name} is not one (choose another -ot)")


def write_dicom_seg(
    masks: Masks,
    base: Path,
    *,
    source: str | Path,
    algorithm: str,
    labelmap: bool = False,
    strict_projection: bool = False,
    identifiers: tuple[str, str] | None = None,
    **_: Any,
) -> tuple[Path, list[str]]:
    """Writes `<base>.seg.dcm` with one segment per non-empty class, in the order of the masks.

    Args:
      masks: the masks, of the size of the image.
      base: path of the file without its suffixes.
      source: the DICOM image that the masks belong to.
      algorithm: name of the model.
      labelmap: whether to write one frame that holds the numbers of the segments, instead of one binary frame per
        segment.
      strict_projection: whether the object of an image without a plane in the patient, such as an X-ray, gets no
        geometry. Many readers refuse such an object.
      identifiers: UIDs of the object's series and of the object; None: new ones.

    Returns:
      The path of the file, and notes on values of the image's header that were repaired, left out or generated.

    Raises:
      ValueError: all classes are empty, the masks do not have the image's size, classes of a label map overlap, or
        highdicom is not installed or cannot refer to such an image.
      ImageError: the source cannot be read as a DICOM image.
      OSError: a file cannot be read or written.
    """
    check_source(source)
    found = read_header(Path(source), strict_projection=strict_projection)
    header = found.tags
    size = (header.Rows, header.Columns)
    if masks.size != size:
        raise ValueError(
            f"the masks are {masks.size}, {Path(source).name} is {size}: give the image they were computed from"
        )
    if size[0] * size[1] < 8:
        raise ValueError(f"{Path(source).name} is {size}: highdicom packs frames of fewer than 8 pixels wrongly")
    kept, pixels = _label_map(masks) if labelmap else _stack(masks)
    dataset = _segmentation(found, pixels, masks, kept, algorithm, identifiers=identifiers, labelmap=labelmap)
    if not labelmap and "ImagePositionPatient" in header and _bits_are_misread(len(kept), masks.size):
        _use_bytes(dataset, pixels[0])
    path = base.with_name(base.name + SEG)
    with atomic_file(path) as temporary:
        dataset.save_as(temporary)
    return path, found.notes


def _stack(masks: Masks) -> tuple[list[int], np.ndarray]:
    """Returns the non-empty classes and their masks, (1, H, W, segments) bool, as highdicom takes them."""
    kept = _check_count([k for k in range(len(masks.names)) if masks.mask(k).any()])
    stack = np.empty((len(kept), *masks.size), bool)
    for i, k in enumerate(kept):
        stack[i] = masks.mask(k)
    return kept, np.moveaxis(stack, 0, -1)[None]


def _label_map(masks: Masks) -> tuple[list[int], np.ndarray]:
    """Returns the non-empty classes and a (1, H, W) map of their positions in this list, from 1; 0 means no class."""
    labels = np.zeros(masks.size, np.uint16)
    kept: list[int] = []
    for k in range(len(masks.names)):
        mask = masks.mask(k)
        if not mask.any():
            continue
        if (taken := labels[mask].max()) > 0:
            raise ValueError(
                f"a label map holds one class per pixel, but {masks.names[kept[taken - 1]]!r} and {masks.names[k]!r} "
                "overlap: write binary segments, or choose classes that do not overlap"
            )
        kept.append(k)
        labels[mask] = len(kept)
    return _check_count(kept), labels[None]


def _check_count(kept: list[int]) -> list[int]:
    if not kept:
        raise ValueError("all classes are empty: there is nothing to store as DICOM SEG")
    if len(kept) > _MAX_SEGMENTS:
        raise ValueError(
            f"{len(kept)} classes have pixels; a DICOM SEG holds up to {_MAX_SEGMENTS}: choose fewer classes"
        )
    return kept


def _segmentation(
    found: SourceHeader,
    pixels: np.ndarray,
    masks: Masks,
    kept: list[int],
    algorithm: str,
    *,
    identifiers: tuple[str, str] | None,
    labelmap: bool,
) -> pydicom.Dataset:
    highdicom, header = require_highdicom(), found.tags
    series_uid, sop_uid = identifiers or (highdicom.UID(), highdicom.UID())
    description = _describe(algorithm, spacing_known=found.spacing_known)
    try:
        dataset = highdicom.seg.Segmentation(
            source_images=[_for_highdicom(header)],
            pixel_array=pixels,
            segmentation_type="LABELMAP" if labelmap else "BINARY",
            segment_descriptions=_descriptions(highdicom, masks, kept, algorithm),
            series_instance_uid=series_uid,
            series_number=_SERIES_NUMBER,
            sop_instance_uid=sop_uid,
            instance_number=1,
            manufacturer="jaxseg",
            manufacturer_model_name=codes.long_string(algorithm),
            software_versions=__version__,
            device_serial_number="none",
            content_label="JAXSEG",
            content_description=description,
            series_description=description,
        )
    except (KeyError, ValueError) as error:  # the class of the image is the only thing not checked before
        reason = "it does not know this class" if isinstance(error, KeyError) else error
        raise ValueError(f"highdicom cannot refer to an image of class {header.SOPClassUID}: {reason}") from None
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if "PixelMeasuresSequence" in shared and not shared.PixelMeasuresSequence[0]:
        del shared.PixelMeasuresSequence
    dataset.SpecificCharacterSet, dataset.PatientName = header.SpecificCharacterSet, header.PatientName
    dataset.PatientOrientation = header.PatientOrientation
    dataset.CodingSchemeIdentificationSequence = [private_scheme()]
    if labelmap:  # the background goes last: OHIF gives segment i the colour of item i
        dataset.SegmentSequence = sorted(dataset.SegmentSequence, key=lambda item: item.SegmentNumber == 0)
    return dataset


def _bits_are_misread(frames: int, size: tuple[int, int]) -> bool:
    """Returns whether OHIF 3.13 misreads this number of frames of single bits, or does not open them.

    Frames of bits follow each other without a gap. OHIF takes the bits of a byte in the wrong order if a frame begins
    within a byte, and opens no object of several frames to which a byte was added to make the length even.
    """
    pixels = size[0] * size[1]
    return frames > 1 and (pixels % 8 != 0 or frames * pixels // 8 % 2 != 0)


def _use_bytes(dataset: pydicom.Dataset, stack: np.ndarray) -> None:
    """Changes an object of single bits into one of bytes, which are 0 or 1, with run lengths.

    All readers that were tried read it as the same masks. The standard has no such form for the type BINARY: it is a
    FRACTIONAL object, in which every pixel is occupied wholly or not at all.

    Args:
      dataset: the object.
      stack: (H, W, segments) bool, the masks.
    """
    dataset.SegmentationType, dataset.SegmentationFractionalType = "FRACTIONAL", "OCCUPANCY"
    dataset.MaximumFractionalValue = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([_run_lengths(stack[:, :, k]) for k in range(stack.shape[2])])
    dataset["PixelData"].is_undefined_length = True


def _run_lengths(mask: np.ndarray) -> bytes:
    """Returns a mask in DICOM's RLE form (PS3.5 Annex G): pairs of a number and a value. No run passes a row's end.

    pydicom's own encoder is written in Python and slow.
    """
    starts = np.ones(mask.shape, bool)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    places = np.flatnonzero(starts)
    lengths = np.diff(places, append=mask.size)
    parts = -(-lengths // _LONGEST_RUN)
    runs = np.full(parts.sum(), _LONGEST_RUN)
    runs[np.cumsum(parts) - 1] = lengths - (parts - 1) * _LONGEST_RUN  # the last part of each run
    pairs = np.empty((len(runs), 2), np.uint8)
    pairs[:, 0] = np.where(runs == 1, 0, 257 - runs)  # a single value, or a value that is repeated
    pairs[:, 1] = np.repeat(mask.ravel()[places], parts)
    return struct.pack("<16I", 1, 64, *[0] * 14) + pairs.tobytes()  # one segment, which begins at byte 64


def _describe(algorithm: str, *, spacing_known: bool) -> str:
    """Returns the description of the object, at most 64 characters; a long name of the algorithm is cut."""
    note = "" if spacing_known else NOMINAL_SPACING
    return codes.long_string(f"Segments of {algorithm}"[: 64 - len(note)] + note)


def _for_highdicom(header: pydicom.Dataset) -> pydicom.Dataset:
    """Returns a copy of the header in the form that highdicom takes as a source.

    highdicom warns of names that are one word, so the name is set later. For classes that may have frames it looks for
    the geometry in functional groups.
    """
    source, shared, frame = copy.deepcopy(header), pydicom.Dataset(), pydicom.Dataset()
    source.PatientName = None
    shared.PixelMeasuresSequence = [_part(header, "PixelSpacing", "SliceThickness")]
    if "ImagePositionPatient" in header:
        shared.PlaneOrientationSequence = [_part(header, "ImageOrientationPatient")]
        frame.PlanePositionSequence = [_part(header, "ImagePositionPatient")]
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], [frame]
    source.NumberOfFrames = 1
    return source


def _part(header: pydicom.Dataset, *keywords: str) -> pydicom.Dataset:
    part = pydicom.Dataset()
    for keyword in keywords:
        if keyword in header:
            setattr(part, keyword, header[keyword].value)
    return part


def _descriptions(highdicom: ModuleType, masks: Masks, kept: list[int], algorithm: str) -> list[Any]:
    identification = highdicom.AlgorithmIdentificationSequence(
        name=codes.long_string(algorithm),
        family=dicom_codes.DCM.ArtificialIntelligence,
        version=codes.long_string(__version__),
    )
    colours = class_colours(masks.names)
    return [
        _description(highdicom, number, masks.names[k], colours[k], identification) for number, k in enumerate(kept, 1)
    ]


def _description(highdicom: ModuleType, number: int, name: str, colour: np.ndarray, identification: Any) -> Any:
    code = codes.code_for(name)
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=codes.long_string(name),
        segmented_property_category=_concept(highdicom, code.category),
        segmented_property_type=_concept(highdicom, code.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
    )
    description.RecommendedDisplayCIELabValue = _cielab(colour)
    if code.modifiers:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(highdicom, m) for m in code.modifiers]
    return description


def _cielab(colour: np.ndarray) -> list[int]:
    """Returns an sRGB colour as DICOM's three 16-bit numbers for L*, a* and b* under D50 (PS3.3 C.10.7.1.1)."""
    srgb = np.asarray(colour) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ratios = _SRGB_TO_XYZ @ linear / _SRGB_TO_XYZ.sum(axis=1)  # relative to white
    x, y, z = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    scaled = [(116 * y - 16) * 655.35, (500 * (x - y) + 128) * 257, (200 * (y - z) + 128) * 257]
    return [int(value) for value in np.clip(np.rint(scaled), 0, 65535)]


def _concept(highdicom: ModuleType, code: codes.Code) -> Any:
    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def private_scheme() -> pydicom.Dataset:
    """Returns what an object that has private codes says about their scheme."""
    scheme = pydicom.Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = codes.PRIVATE, "Private codes of jaxseg"
    return scheme


def require_highdicom() -> ModuleType:
    """Returns the module highdicom.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise ValueError("DICOM SEG needs highdicom: pip install 'jaxseg[dicom-seg]'") from None
    return highdicom
