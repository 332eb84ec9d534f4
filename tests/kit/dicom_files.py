"""Writes and reads small DICOM files with any tags, for the tests."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from jaxseg.images.picture import Picture
from jaxseg.images.preprocess import MEAN, STD, cxas, display, paxray_folder
from jaxseg.images.read import read_picture

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300


def write_dicom(path: Path, stored: np.ndarray, *, bits: int | None = None, big_endian: bool = False, **tags) -> Path:
    """Writes a file of 8 or 16 bits per sample; `stored` is (H, W) or (H, W, 3), signed or unsigned."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    content = stored.astype(stored.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        elif isinstance(value, bytes) and name != "PixelData":  # the raw bytes of the tag, valid or not
            tag = pydicom.tag.Tag(name)
            vr = pydicom.datadict.dictionary_VR(tag)
            dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, not big_endian)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut(table, first: int, bits: int, *, vr: str = "US") -> pydicom.Sequence:
    """Returns a sequence with one look-up table."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % 2**16, first, bits])
    if vr == "OW":
        item.add_new("LUTData", "OW", np.asarray(table, "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(value) for value in table])
    return pydicom.Sequence([item])


def read_clinical(path: Path, **tags) -> Picture:
    """Returns the picture of a ramp from 0 to 3300 with the given tags, read with intensity "clinical"."""
    return read_picture(write_dicom(path / "x.dcm", tags.pop("stored", RAMP), **tags), intensity="clinical")


def shown(picture: Picture) -> np.ndarray:
    """Returns the grey values of a picture from 0, black, to 1, white; asserts that all users of a picture agree."""
    unit = cxas(picture, picture.size)[:, :, 0] * STD[0] + MEAN[0]
    np.testing.assert_allclose(display(picture), unit * 255, atol=0.51)
    np.testing.assert_allclose(paxray_folder(picture, picture.size)[:, :, 2], unit * 255, atol=1e-3)
    return unit
