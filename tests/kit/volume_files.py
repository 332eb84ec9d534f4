"""Writes volumes for tests."""

from pathlib import Path

import nibabel
import numpy as np
from dicom_files import write_dicom

AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.9, 0, -20], [0, 0, 3, 7], [0, 0, 0, 1]], float)


def save_nifti(path: Path, array: np.ndarray, affine=AFFINE, *, slope=None, inter=None, kind=nibabel.Nifti1Image):
    """Writes a (D, H, W) volume with nibabel; `array` holds the stored values, the header slope and intercept."""
    image = kind(array.transpose(), affine, dtype=array.dtype)
    if slope is not None:
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()  # x is the fastest axis
        header = image.header.copy()
        header["vox_offset"] = 352
        header["scl_slope"], header["scl_inter"] = slope, inter
        path.write_bytes(header.binaryblock + b"\0" * 4 + content)
        return path
    nibabel.save(image, path)
    return path


TABLE = "<CaretExtension><VolumeInformation><LabelTable>{labels}</LabelTable></VolumeInformation></CaretExtension>"


def save_labels(path: Path, array: np.ndarray, names: dict[int, str], *, code: int = 0, xml: str = "") -> Path:
    """Writes a (D, H, W) volume of labels with a table of names as TotalSegmentator does, or with another text."""
    image = nibabel.Nifti1Image(array.transpose(), AFFINE, dtype=array.dtype)
    labels = "".join(f'<Label Key="{label}" Red="1">{name}</Label>' for label, name in names.items())
    content = (xml or TABLE.format(labels=labels)).encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(image, path)
    return path


def save_series(folder: Path, array: np.ndarray, *, step=2.5, series="1.2.9", slope=1, intercept=-1024, **tags) -> Path:
    """Writes stored values (D, H, W) as axial slices with names in reverse order and pixels of 0.7 by 0.6 mm."""
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(array):
        given = {
            "SeriesInstanceUID": series,
            "SOPInstanceUID": f"{series}.{z + 1}",
            "Modality": "CT",
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-10, -20, z * step],
            "PixelSpacing": [0.7, 0.6],
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
        }
        write_dicom(folder / f"{len(array) - z:03}.dcm", plane, **given | tags)
    return folder
