"""Reads volumes from NumPy files: .npy, and .npz with one array. They do not say how they lie in space."""

import zipfile
from pathlib import Path

import numpy as np

from jaxseg.volumes.volume import Header, Volume, VolumeError, check_dtype, check_shape

SUFFIXES = (".npy", ".npz")


def read_array(path: Path) -> Volume:
    """Reads an array (D, H, W) of bool, integers or floats; nothing is unpickled.

    Raises:
      VolumeError: another shape or type, several arrays, damaged, or too large.
      OSError: the file cannot be opened.
    """
    array = _load(path, voxels=True)
    return Volume(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def array_header(path: Path) -> Header:
    """Reads the header alone; raises as `read_array`."""
    return _load(path, voxels=False)


def _load(path: Path, *, voxels: bool) -> np.ndarray | Header:
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
                if len(members) != 1:
                    raise VolumeError(f"holds {len(members)} arrays; a volume is one")
                with archive.open(members[0]) as file:
                    found = _header(file)
                if not voxels:
                    return found
                with archive.open(members[0]) as file:  # reads as much as the header says
                    array = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # at the end zipfile compares its checksum
                return array
        with path.open("rb") as file:
            found = _header(file)
        return np.array(np.lib.format.open_memmap(path, mode="r")) if voxels else found
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # numpy and zipfile raise almost anything on damage
        if isinstance(error, OSError) and error.errno:
            raise
        raise VolumeError(f"not a {path.suffix} file, or damaged ({' '.join(str(error).split())[:120]})") from None


def _header(file) -> Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise VolumeError(f"is of version {version[0]}.{version[1]} of the format; 1.0 and 2.0 can be read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    check_shape(shape)
    check_dtype(dtype)
    return Header(shape, dtype)
