"""Reads volumes from NIfTI files, NumPy files, and folders of DICOM slices.

NumPy files (.npy, and .npz with one array) contain no position in space.
"""

import dataclasses
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxseg import npy
from jaxseg.files import printable
from jaxseg.volumes import nifti, volume
from jaxseg.volumes.volume import Volume, VolumeError, check_dtype, check_shape

ARRAY_SUFFIXES = (".npy", ".npz")
SUFFIXES = (*nifti.SUFFIXES, *ARRAY_SUFFIXES)


def suffix_of(path: Path) -> str:
    """Returns the suffix of a volume file; "" if it is not in `SUFFIXES`.

    Example:
      >>> suffix_of(Path("ct.nii.gz")), suffix_of(Path("ct.mha"))
      ('.nii.gz', '')
    """
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def stem(path: Path) -> str:
    """Returns the name of a volume file without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def read_volume(path: str | Path, *, canonical: bool = False) -> Volume:
    """Reads a volume.

    Args:
      path: a .nii, .nii.gz, .npy or .npz file, or a folder with the DICOM slices of one series.
      canonical: turn the volume to the patient's axes, see `jaxseg.volumes.volume.canonical`. By default slices keep
        the orientation in which the file stores them, as in the original.

    Returns:
      A volume whose array is (D, H, W) integers or floats as stored, rescaled if the file says so: a CT is in
      Hounsfield units.

    Raises:
      VolumeError: the file has another format, is damaged, is too large or is not a volume; or `canonical` is True and
        it contains no orientation.
      ValueError: nibabel, which reads NIfTI, is not installed.
      OSError: the file cannot be opened.

    Example:
      >>> import os, tempfile
      >>> path = os.path.join(tempfile.mkdtemp(), "ct.npy")
      >>> np.save(path, np.zeros((2, 3, 4), np.int16))
      >>> read_volume(path).shape
      (2, 3, 4)
    """
    path = Path(path)
    found = _read(path)
    name = printable(path.name)
    found = dataclasses.replace(found, name=name, notes=tuple(f"{name}: {note}" for note in found.notes))
    return volume.canonical(found) if canonical else found


def from_array(array: np.ndarray, name: str = "the volume") -> Volume:
    """Returns a volume of an array in memory.

    Args:
      array: (D, H, W) bool, integers or floats.
      name: name of the volume in messages.

    Raises:
      VolumeError: the array has another shape or type.
    """
    array = np.asarray(array)
    try:
        check_shape(array.shape)
        check_dtype(array.dtype)
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from None
    return Volume(array.astype(array.dtype.newbyteorder("="), copy=False), name=name)


def read_labels(path: str | Path, *, canonical: bool = False) -> Volume:
    """Reads a volume of labels to the smallest unsigned integer type that holds them.

    Args:
      path, canonical: as in `read_volume`.

    Returns:
      A volume whose array is (D, H, W) uint8 or uint16.

    Raises:
      VolumeError: a value is negative, not a whole number or above 65535; or as in `read_volume`.
    """
    return as_labels(read_volume(path, canonical=canonical))


def as_labels(found: Volume) -> Volume:
    """Returns a volume of labels as uint8 or uint16; raises VolumeError unless they are whole numbers in 0..65535."""
    array = found.array
    if array.dtype == bool:
        return dataclasses.replace(found, array=array.astype(np.uint8))
    low, high = array.min(), array.max()
    if not (low >= 0 and high < 2**16):  # also refuses NaN
        raise VolumeError(f"{found.name}: labels are whole numbers from 0 to 65535, these are {low:g} to {high:g}")
    wanted = np.uint8 if high < 2**8 else np.uint16
    labels = array.astype(wanted, copy=False)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise VolumeError(f"{found.name}: labels are whole numbers, these have fractions (a CT?)")
    return dataclasses.replace(found, array=labels)


def _read(path: Path) -> Volume:
    """Reads a file with the reader of its kind; its errors name the file."""
    suffix = suffix_of(path)
    try:
        if path.is_dir():
            from jaxseg.volumes.series import read_series  # pydicom is slow to import

            return read_series(path)
        if suffix in ARRAY_SUFFIXES:
            return _read_array(path)
        if suffix:
            return nifti.read_nifti(path)
        raise VolumeError(
            f"cannot read {path.suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}, or a folder of "
            "DICOM slices"
        )
    except VolumeError as error:
        raise VolumeError(f"{printable(path.name)}: {error}") from None


def _read_array(path: Path) -> Volume:
    """Reads .npy, or .npz with one array (D, H, W) of bool, integers or floats; nothing is unpickled."""
    try:
        if path.suffix.lower() == ".npz":
            with npy.archive(path) as archive:
                members = archive.namelist()
                if len(members) != 1:
                    raise VolumeError(f"holds {len(members)} arrays; a volume is a file with one array")
                with archive.open(members[0]) as file:
                    return _checked_array(file)
        with path.open("rb") as file:
            return _checked_array(file)
    except npy.NpyError as error:
        raise VolumeError(str(error)) from None


def _checked_array(file: BinaryIO) -> Volume:
    """Reads an array whose shape and type are checked before memory is taken for its values."""
    header = npy.read_header(file)
    check_shape(header.shape)
    check_dtype(header.dtype)
    return Volume(np.ascontiguousarray(npy.read_values(file, header)))
