"""Writes the masks of one image, one class at a time, in the layouts and under the file names of the originals."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from jaxseg.files import atomic_file, atomic_folder, read_json, safe_name
from jaxseg.masks import coco, confidence
from jaxseg.masks.formats import SEG
from jaxseg.masks.segmentation import Masks, runs_of

PREVIEW, DRAWING, MEASUREMENTS = ".preview.jpg", ".lines.jpg", ".measurements.json"
RESULTS = (PREVIEW, DRAWING, SEG)  # ends of the names of results that may lie among the images
NOT_MASKS = (PREVIEW, DRAWING, MEASUREMENTS, confidence.SUFFIX, confidence.PROBABILITIES)  # ends of other results
_PNG = b"\x89PNG\r\n\x1a\n"
_UP = 2  # PNG's filter "up", each byte minus the one above: equal rows of an enlarged mask become zeros


def write_npy(masks: Masks, base: Path, **_: Any) -> Path:
    """Writes `<base>.npy`: (K, H, W) bool."""
    path = base.with_name(base.name + ".npy")
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        _write_array(masks, file)
    return path


def write_npz(masks: Masks, base: Path, **_: Any) -> Path:
    """Writes `<base>.npz` with the key `arr_0`: (K, H, W) bool, compressed."""
    path = base.with_name(base.name + ".npz")
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        _write_array(masks, file)
    return path


def write_png(masks: Masks, base: Path, **_: Any) -> Path:
    """Writes the folder `<base>/` with one 1-bit `<label>.png` per class, also for empty classes."""
    with atomic_folder(base) as folder:
        for k, name in enumerate(file_names(masks.names)):
            (folder / f"{name}.png").write_bytes(encode_bits(masks.packed_mask(k), masks.size[1]))
    return base


def write_jpg(masks: Masks, base: Path, **_: Any) -> Path:
    """Writes the folder `<base>/` with one grey `<label>.jpg` per class: 0 and 255, inexact at the edges."""
    with atomic_folder(base) as folder:
        for k, name in enumerate(file_names(masks.names)):
            picture = io.BytesIO()  # Pillow ignores short writes to a file: a full disk would truncate the picture
            Image.fromarray(masks.mask(k)).convert("L").save(picture, "JPEG", quality=95)
            (folder / f"{name}.jpg").write_bytes(picture.getvalue())
    return base


def write_json(masks: Masks, base: Path, *, source: str, categories: Sequence[str], **_: Any) -> Path:
    """Writes `<base>.json`: COCO with compressed run lengths, without empty classes.

    The id of an annotation is 1 + the index of its class, as in the original. The original nests the list of images in
    a second list, which COCO's readers refuse; here it is flat.

    Args:
      masks: the masks of one image.
      base: path of the file without its suffix.
      source: file name of the image, as the user gave it.
      categories: all labels of the model.
    """
    path = base.with_name(base.name + ".json")
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(coco_content(masks, source=source, categories=categories), file)
    return path


def coco_content(masks: Masks, *, source: str, categories: Sequence[str]) -> dict[str, Any]:
    """Returns the content of the file that `write_json` writes; its arguments are the same."""
    image = {"id": 1, "file_name": source, "height": masks.size[0], "width": masks.size[1]}
    annotations = []
    for k, index in enumerate(masks.indices):
        runs = runs_of(masks, k)
        if len(runs) > 1:
            ids: dict[str, Any] = {"annotation_id": 1 + index, "image_id": 1, "category_id": index}
            annotations.append(coco.annotation_of_runs(runs, masks.size, **ids))
    return coco.dataset([image], list(categories), annotations)


def write_seg(masks: Masks, base: Path, *, notes: list[str], **options: Any) -> Path:
    """Writes `<base>.seg.dcm`, one DICOM SEG object.

    Args:
      masks: the masks of one image.
      base: path of the file without its suffixes.
      notes: receives the notes on repaired or dropped values of the image's header.
      options: options of `jaxseg.masks.dicom_seg.write_dicom_seg`.
    """
    from jaxseg.masks.dicom_seg import write_dicom_seg

    path, found = write_dicom_seg(masks, base, **options)
    notes.extend(found)
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "dicom-seg": write_seg,
    "json": write_json,
    "npy": write_npy,
    "npz": write_npz,
    "jpg": write_jpg,
    "png": write_png,
}


def output_path(base: Path, output_type: str) -> Path:
    """Returns the path that a writer creates: the folder `base` for "png" and "jpg", else a file with a suffix."""
    if output_type in ("png", "jpg"):
        return base
    return base.with_name(base.name + (SEG if output_type == "dicom-seg" else f".{output_type}"))


def file_names(labels: Sequence[str]) -> list[str]:
    """Returns a safe and unique file name, without suffix, for every label.

    >>> file_names(["heart", "Heart", "left/right"])
    ['heart', 'Heart_2', 'left_right']
    """
    names: dict[str, str] = {}
    for label in labels:
        name = first = safe_name(label)
        number = 1
        while name.lower() in names:
            number += 1
            name = f"{first}_{number}"
        names[name.lower()] = name
    return list(names.values())


def merge_coco(parts: Sequence[Path], path: Path, categories: Sequence[str]) -> Path:
    """Joins the COCO files of single images into one file for a folder, with unique ids.

    The original advances the ids by too little, so that they collide between images (its oddity C6). Only one part is
    in memory at a time; each is read twice, because the images come before the annotations.

    Args:
      parts: the COCO files, one per image.
      path: the file to write.
      categories: all labels of the model.

    Returns:
      `path`.
    """
    frame = {name: json.dumps(value) for name, value in coco.dataset([], list(categories), []).items()}
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {frame["info"]}, "licenses": {frame["licenses"]}, "images": [')
        for i, part in enumerate(parts, 1):
            file.write(", " * (i > 1) + json.dumps(read_json(part)["images"][0] | {"id": i}))
        file.write(f'], "categories": {frame["categories"]}, "annotations": [')
        separator = ""
        for i, part in enumerate(parts, 1):
            for annotation in read_json(part)["annotations"]:
                annotation |= {"id": (i - 1) * len(categories) + annotation["category_id"] + 1, "image_id": i}
                file.write(separator + json.dumps(annotation))
                separator = ", "
        file.write("]}")
    return path


def merge_rows(rows: Sequence[tuple[str, Path | str]], path: Path, *, categories: Sequence[str]) -> None:
    """Writes one COCO file for the images of a run that are done, see `merge_coco`.

    Args:
      rows: for each image, its name and the path of its COCO file, or a sentence that says why there is none.
      path: the file to write.
      categories: all labels of the model.

    Raises:
      ValueError: a file of an image is damaged.
      OSError: a file cannot be read or written.
    """
    merge_coco([part for _, part in rows if isinstance(part, Path)], path, categories)


def _write_array(masks: Masks, file: IO[bytes]) -> None:
    shape = (len(masks.names), *masks.size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": shape})
    for k in range(len(masks.names)):
        file.write(masks.mask(k).tobytes())


def encode_bits(packed: np.ndarray, width: int) -> bytes:
    """Returns the content of a 1-bit grey PNG file, made from packed rows.

    For a 2373 x 2373 mask Pillow takes 12 ms and this function 2 ms; an image has up to 159 masks.

    Args:
      packed: (H, ceil(width / 8)) uint8, eight pixels per byte, the first one in the highest bit.
      width: width of the picture in pixels.

    Raises:
      ValueError: the rows do not have the length that the width needs.
    """
    height, row_bytes = packed.shape
    if row_bytes != (width + 7) // 8:
        raise ValueError(f"{row_bytes} bytes per row do not hold {width} pixels; {(width + 7) // 8} do")
    rows = np.empty((height, 1 + row_bytes), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = packed[0]  # PNG assumes zeros above the first row
    np.subtract(packed[1:], packed[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit, grey, no interlace
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
