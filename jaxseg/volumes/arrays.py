"""Reads volumes from NumPy files: .npy, and .npz with one array. They do not say how they lie in space."""

import zipfile
from pathlib import Path

import numpy as np

from jaxseg import npy
from jaxseg.volumes.volume import Header, Volume, VolumeError, check_dtype, check_shape

SUFFIXES = (".npy", ".npz")


def read_array(path: Path) -> Volume:
    """Reads an array (D, H, W) of bool, integers or floats; nothing is unpickled.

    Raises:
      VolumeError: another shape or type, several arrays, damaged, or too large.
      OSError: the file cannot be opened.
    """
    array = _load(path, voxels=True)
    return Volume(np.ascontiguousarray(array))


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
                    return _read(file, voxels=voxels)
        with path.open("rb") as file:
            return _read(file, voxels=voxels)
    except (VolumeError, MemoryError):
        raise
    except npy.NpyError as error:
        raise VolumeError(str(error)) from None
    except Exception as error:  # zipfile raises almost anything on damage
        if isinstance(error, OSError) and error.errno:
            raise
        raise VolumeError(f"not a {path.suffix} file, or damaged ({' '.join(str(error).split())[:120]})") from None


def _read(file, *, voxels: bool) -> np.ndarray | Header:
    header = npy.read_header(file)
    check_shape(header.shape)
    check_dtype(header.dtype)
    return npy.read_values(file, header) if voxels else Header(header.shape, header.dtype)
