"""Opens the formats of masks: PNG and JPEG files, numpy's files and COCO. Files are untrusted: sizes are checked first.

Every function `open_...` returns a `Stack`, which holds the number and size of the masks and decodes the requested
ones, one at a time.
"""

import contextlib
import dataclasses
import functools
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxseg import npy
from jaxseg.images.picture import ImageError, check_size
from jaxseg.images.raster import check_upright, open_raster
from jaxseg.masks.coco import decode_rle

MAX_CLASSES = 1000
PICTURES = (".png", ".jpg", ".jpeg")
SEG = ".seg.dcm"  # end of the name of a DICOM SEG file
_MAX_JSON = 2**30  # bytes
_DARK, _BRIGHT = 32, 223  # values of a lossy mask lie between these only at its edges


@dataclasses.dataclass(frozen=True)
class Stack:
    """The masks of one image in a file or a folder, not decoded yet.

    Attributes:
      count: number of masks.
      size: height and width of the masks.
      read: takes indices in ascending order and yields (H, W) arrays in the same order; they are bool, except those of
        numpy files.
      names: names of the masks in the file; None if it has none.
      flat: whether the file holds one (H, W) array, which may be a label map.
    """

    count: int
    size: tuple[int, int]
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]
    names: tuple[str, ...] | None = None
    flat: bool = False


def open_pictures(paths: Sequence[Path], names: Sequence[str] | None = None, *, threshold: bool = False) -> Stack:
    """Opens PNG or JPEG files, one per class.

    Args:
      paths: the files, all of one size.
      names: names of the classes; None means the names of the files.
      threshold: whether pictures with many shades of grey are accepted; every picture is thresholded at 127.

    Raises:
      ImageError: a file is damaged or is not a mask, the sizes differ, or there are too many files.
    """
    _check_count(len(paths))
    sizes = [_picture_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ImageError(
                f"{paths[0].name} is {sizes[0][0]} x {sizes[0][1]}, but {path.name} is {size[0]} x {size[1]}: masks of "
                "an image have one size; give the folder of a single image"
            )
    names = tuple(path.stem for path in paths) if names is None else tuple(names)
    return Stack(
        len(paths), sizes[0], lambda indices: (_read_picture(paths[k], threshold=threshold) for k in indices), names
    )


def open_npy(path: Path) -> Stack:
    """Opens a `.npy` file of (K, H, W) or (H, W) bools or integers.

    Raises:
      ImageError: the file is damaged or holds another array.
    """
    with path.open("rb") as file:
        _header(file)
    try:
        array = npy.mapped(path)
    except npy.NpyError as error:
        raise ImageError(str(error)) from None
    masks = array if array.ndim == 3 else array[None]
    return Stack(
        len(masks), (masks.shape[1], masks.shape[2]), lambda indices: (masks[k] for k in indices), flat=array.ndim == 2
    )


def open_npz(path: Path) -> Stack:
    """Opens the array `arr_0`, or the only array, of a `.npz` file as `open_npy` does.

    Raises:
      ImageError: the file is damaged or holds other arrays.
    """
    with _zip_errors(), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        name = "arr_0.npy" if "arr_0.npy" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ImageError(f"holds {len(names)} arrays; one is needed, or one that is called arr_0")
        with archive.open(name) as file:
            header = _header(file)
            shape, fortran, dtype = header
            if archive.getinfo(name).file_size != file.tell() + header.nbytes:
                raise ImageError(f"the array does not have the length that {shape} {dtype} needs: damaged")
    if fortran:
        raise ImageError("the array is in Fortran order; write numpy.ascontiguousarray of it")
    count, size = 1 if len(shape) == 2 else shape[0], (shape[-2], shape[-1])
    read = functools.partial(_unzip, path, name, size, dtype)
    return Stack(count, size, read, flat=len(shape) == 2)


def open_coco(path: Path, image: Path | None) -> Stack:
    """Opens the masks of one image in a COCO file. Several annotations of one category are joined.

    Args:
      path: the file; its annotations must be compressed run lengths.
      image: file of the image; it may be None if the COCO file has only one image.

    Raises:
      ImageError: the file is not COCO, is damaged, has polygons, or does not list the image exactly once.
    """
    if path.stat().st_size > _MAX_JSON:
        raise ImageError(f"the file has more than {_MAX_JSON:,} bytes; write one file per image")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ImageError(f"not a JSON file ({error})") from None
    try:
        chosen = _choose_image(content["images"], image)
        size = int(chosen["height"]), int(chosen["width"])
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        places = {category: k for k, category in enumerate(sorted(names))}
        found: list[list[dict]] = [[] for _ in places]
        for entry in content["annotations"]:
            if entry["image_id"] == chosen["id"]:
                found[places[entry["category_id"]]].append(entry["segmentation"])
    except ImageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImageError(f"not a COCO file: images, categories or annotations are malformed ({error})") from None
    if not all(isinstance(name, str) for name in names.values()):
        raise ImageError("the names of the categories must be strings")
    check_size(*size)
    _check_count(len(names))
    return Stack(
        len(names),
        size,
        lambda indices: (_join(found[k], size) for k in indices),
        tuple(names[c] for c in sorted(names)),
    )


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CLASSES:
        raise ImageError(f"{count} masks; from 1 to {MAX_CLASSES} can be read")


@contextlib.contextmanager
def _picture_errors(path: Path) -> Iterator[None]:
    """Adds the file name to errors."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def _picture_size(path: Path) -> tuple[int, int]:
    with _picture_errors(path), open_raster(path) as (image, _):
        if getattr(image, "n_frames", 1) > 1 or image.mode.startswith(("I", "F")):
            raise ImageError("a mask must be one picture of 1 or 8 bits, black and white")
        return image.height, image.width


def _read_picture(path: Path, *, threshold: bool = False) -> np.ndarray:
    """Returns the (H, W) bool mask of a picture: the pixels brighter than 127; a PNG may hold 0 and 1 instead."""
    with _picture_errors(path), open_raster(path) as (image, _):
        image.load()
        check_upright(image)
        if image.mode == "1":
            return np.asarray(image.convert("L")) > 0  # Pillow's own bool array stores True as 255
        image.info.pop("transparency", None)
        if threshold:
            return np.asarray(image.convert("L")) > 127
        return _black_and_white(np.asarray(image if image.mode == "L" else image.convert("RGB")))


def _black_and_white(pixels: np.ndarray) -> np.ndarray:
    """Returns the (H, W) bool mask of a picture's pixels; raises ImageError if they are not those of a mask."""
    if pixels.ndim == 3:
        low, pixels = pixels.min(axis=2), pixels.max(axis=2)
        if (pixels - low > _DARK).any():
            raise ImageError("the picture is coloured; masks are black and white, one picture per class")
    top = int(pixels.max())
    if top == 1:
        return pixels > 0
    if 0 < top <= 127:
        raise ImageError(f"has values up to {top}: masks have 0 and 255, or 0 and 1, one picture per class")
    if np.count_nonzero((pixels > _DARK) & (pixels < _BRIGHT)) > pixels.size / 4:
        raise ImageError("has many shades of grey: it is a picture, not a mask")
    return pixels > 127


def _header(file: IO[bytes]) -> npy.Header:
    """Returns the header of a .npy file; refuses arrays that cannot be masks."""
    try:
        header = npy.read_header(file)
    except npy.NpyError as error:
        raise ImageError(str(error)) from None
    if header.dtype.kind not in "biu":
        raise ImageError(f"masks must be bool or whole numbers, got {header.dtype}; threshold probabilities first")
    if len(header.shape) not in (2, 3):
        raise ImageError(f"masks must be (K, H, W) or (H, W), got {header.shape}")
    check_size(*header.shape[-2:])
    _check_count(header.shape[0] if len(header.shape) == 3 else 1)
    return header


@contextlib.contextmanager
def _zip_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise ImageError(f"not a .npz file, or damaged ({error})") from None


def _unzip(
    path: Path, name: str, size: tuple[int, int], dtype: np.dtype, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yields the masks of an array in a zip file; the bytes between them are read and dropped."""
    length = size[0] * size[1] * dtype.itemsize
    with _zip_errors(), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        _header(file)
        place = 0
        for k in indices:
            for _ in range(place, k):
                _exactly(file, length)
            yield np.frombuffer(_exactly(file, length), dtype).reshape(size)
            place = k + 1


def _exactly(file: IO[bytes], length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise ImageError("the array is cut off")
    return content


def _choose_image(images: list[Any], wanted: Path | None) -> dict:
    """Returns the entry of the wanted image, found by its file name."""
    if images and all(isinstance(entry, list) for entry in images):
        images = [entry for group in images for entry in group]  # the original nests the list
    if wanted is not None and len(images) > 1:
        same = [entry for entry in images if Path(entry["file_name"]).name == wanted.name]
        exact = [entry for entry in same if Path(entry["file_name"]) == wanted]
        images = exact or same
    if len(images) != 1:
        if wanted is None:
            raise ImageError(f"the file has {len(images)} images; choose one with image=")
        raise ImageError(f"the file has {len(images) or 'no'} images called {wanted.name}; it must have one")
    return images[0]


def _join(segmentations: list[dict], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for rle in segmentations:
        if not isinstance(rle, dict):
            raise ImageError("holds polygons; convert them to compressed run lengths with pycocotools (frPyObjects)")
        if list(rle.get("size", [])) != list(size):
            raise ImageError(f"an annotation's size is {rle.get('size')}, its image's is {list(size)}")
        mask |= decode_rle(rle)
    return mask
