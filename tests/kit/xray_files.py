"""Writes X-rays of phantoms as the DICOM files of radiography devices, with their masks, for the tests with viewers."""

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)
from seg_kit import FakeMasks

from jaxseg.datasets import phantom
from jaxseg.vocabulary.labels import CXAS

CLASSES = {"CR": ComputedRadiographyImageStorage, "DX": DigitalXRayImageStorageForPresentation}
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@dataclasses.dataclass(frozen=True)
class XRay:
    """What distinguishes the X-rays of the tests.

    Attributes:
      modality: "CR" or "DX".
      size: height and width.
      bits: bits stored; 8, or up to 16.
      inverted: whether it is MONOCHROME1.
      num_classes: number of masks: up to 6 of the phantom's anatomy, otherwise tiles with the names of CXAS's classes.
      tags: further tags.
    """

    modality: str = "CR"
    size: tuple[int, int] = (301, 227)
    bits: int = 8
    inverted: bool = False
    num_classes: int = len(phantom.CLASSES)
    tags: dict = dataclasses.field(default_factory=dict)


def write_xray(path: Path, kind: XRay, seed: int = 0) -> FakeMasks:
    """Writes the X-ray of a phantom, and returns its masks."""
    grey, shapes = phantom.draw(seed, kind.size)
    stored = grey.astype(np.uint32) * (2**kind.bits - 1) // 255
    stored = (2**kind.bits - 1 - stored if kind.inverted else stored).astype("<u1" if kind.bits == 8 else "<u2")
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.Modality = CLASSES[kind.modality], kind.modality
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, str(path)]))
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Phantom", "phantom", "O"
    dataset.PatientBirthDate = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20240101", "120000"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SeriesDescription = f"{kind.modality} of a phantom"
    dataset.BodyPartExamined, dataset.PatientOrientation = "CHEST", ["L", "F"]
    dataset.Rows, dataset.Columns = kind.size
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if kind.inverted else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, kind.bits, kind.bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (kind.bits - 1), 2**kind.bits
    dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    for keyword, value in kind.tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    if kind.num_classes <= len(shapes):
        return FakeMasks(shapes[: kind.num_classes], phantom.CLASSES[: kind.num_classes])
    return FakeMasks(_tiles(kind.num_classes, kind.size), CXAS[: kind.num_classes])


def _tiles(count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns masks of tiles in rows of twelve, with a gap between neighbours."""
    rows, columns = -(-count // 12), 12
    height, width = size[0] // rows, size[1] // columns
    masks = np.zeros((count, *size), bool)
    for k in range(count):
        top, left = k // columns * height, k % columns * width
        masks[k, top + 2 : top + height - 2, left + 2 : left + width - 2] = True
    return masks


def disjoint(masks: FakeMasks) -> FakeMasks:
    """Returns masks for a label map: a pixel keeps only the first of its classes."""
    first = masks.data.cumsum(axis=0) == 1
    return FakeMasks(masks.data & first, masks.names)
