"""Makes masks, images and DICOM SEG objects for the tests of DICOM SEG."""

import dataclasses
import subprocess
import warnings

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from jaxseg.masks.dicom_seg import write_dicom_seg
from jaxseg.masks.read import read_masks

NAMES = ("lung", "posterior 3rd rib right", "heart", "trachea", "class_000", "left\\lung\n\u00e4")


@dataclasses.dataclass(frozen=True)
class FakeMasks:
    data: np.ndarray
    names: tuple = NAMES

    @property
    def indices(self):
        return tuple(range(len(self.names)))

    @property
    def size(self):
        return self.data.shape[1:]

    def mask(self, k):
        return self.data[k]


def some_masks(size, *, overlapping=True, seed=0):
    """Returns one mask per name; the third one is empty."""
    rng = np.random.default_rng(seed)
    if overlapping:
        data = rng.random((len(NAMES), *size)) < 0.3
    else:
        data = rng.integers(0, len(NAMES) + 1, size) == np.arange(len(NAMES))[:, None, None]
    data[2] = False
    return FakeMasks(data)


def quietly_read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, **options)


def size_of(path):
    dataset = quietly_read(path, stop_before_pixels=True)
    return int(dataset.Rows), int(dataset.Columns)


def changed(image, path, **raw):
    """Writes the image to `path` with the given bytes as tags, valid or not; None removes a tag."""
    dataset = pydicom.dcmread(image)
    for keyword, value in raw.items():
        tag = Tag(keyword)
        dataset.pop(tag, None)
        if value is not None:
            vr = pydicom.datadict.dictionary_VR(tag)
            value = value + b" " * (len(value) % 2)
            dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path)
    return path


def resized(image, path, rows, columns):
    dataset = pydicom.dcmread(image)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelData = bytes(2 * rows * columns)
    dataset.save_as(path)
    return path


def written(source, folder, masks=None, **options):
    masks = masks or some_masks(size_of(source))
    path, notes = write_dicom_seg(masks, folder / "out", source=source, algorithm="cxas", **options)
    return path, notes, pydicom.dcmread(path)


def errors_of_dciodvfy(path):
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]


def read_dicom_seg(path):
    """Returns the labels and masks of all segments."""
    found = read_masks(path)
    return found.names, found.masks
