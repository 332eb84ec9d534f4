"""Opens the formats of masks: PNG and JPEG files, numpy's files and COCO. Files are untrusted: sizes are checked first.

Every function `open_...` returns a `Stack`, which holds the number and size of the masks and decodes the requested
ones, one at a time.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxseg import npy
from jaxseg.files import printable, read_json
from jaxseg.images.picture import ImageError, check_size
from jaxseg.masks.coco_shapes import mask_of
from jaxseg.masks.pictures import check_levels, picture_size, read_levels, read_mask

MAX_CLASSES = 1000
SEG = ".seg.dcm"  # end of the name of a DICOM SEG file
_MAX_JSON = 2**30  # bytes


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
      notes: remarks for the user, which name the file. Those on a mask are added when it is read.
      label_map: returns the (H, W) levels, if the masks are those of a label map with named levels.
    """

    count: int
    size: tuple[int, int]
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]
    names: tuple[str, ...] | None = None
    flat: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)
    label_map: Callable[[], np.ndarray] | None = None


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
    sizes = [picture_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ImageError(
                f"{paths[0].name} is {sizes[0][0]} x {sizes[0][1]}, but {path.name} is {size[0]} x {size[1]}: masks of "
                "an image have one size; give the folder of a single image"
            )
    names = tuple(path.stem for path in paths) if names is None else tuple(names)
    notes: list[str] = []

    def read(indices: Sequence[int]) -> Iterator[np.ndarray]:
        for k in indices:
            mask, remarks = read_mask(paths[k], threshold=threshold)
            _add(notes, paths[k], remarks)
            yield mask

    return Stack(len(paths), sizes[0], read, names, notes=notes)


def open_label_map(path: Path, levels: Mapping[int, str]) -> Stack:
    """Opens a PNG whose grey values, or indices of a palette, are the levels of classes.

    Args:
      path: the file.
      levels: level -> name of its class; levels without a name are ignored, with a note.

    Raises:
      ImageError: the file is damaged or is not a label map.
    """
    notes: list[str] = []

    def values() -> np.ndarray:
        found, remarks = read_levels(path, levels)
        _add(notes, path, remarks)
        return found

    return _by_level(picture_size(path, levels=True), levels, values, notes)


def split(path: Path, stack: Stack, levels: Mapping[int, str], *, strict: bool = False) -> Stack:
    """Returns the stack of the classes of a label map in a numpy file.

    Args:
      path: the file.
      stack: the opened file.
      levels: value of the array -> name of its class.
      strict: refuse values without a name, except 0; otherwise they are ignored, with a note.

    Raises:
      ImageError: the file does not hold one (H, W) array. Reading a mask raises it for the values.
    """
    if not stack.flat:
        raise ImageError(f"a label map is one (H, W) array, this file holds {stack.count} masks")
    notes: list[str] = []

    def values() -> np.ndarray:
        (found,) = stack.read([0])
        if strict and set(np.unique(found).tolist()) - {0, *levels}:
            low, high = found.min(), found.max()
            raise ImageError(f"the label map has values from {low} to {high}, but {len(levels)} classes")
        _add(notes, path, check_levels(found, levels))
        return found

    return _by_level(stack.size, levels, values, notes)


def _by_level(
    size: tuple[int, int], levels: Mapping[int, str], values: Callable[[], np.ndarray], notes: list[str]
) -> Stack:
    def read(indices: Sequence[int]) -> Iterator[np.ndarray]:
        found = values()
        for k in indices:
            yield found == list(levels)[k]

    _check_count(len(levels))
    return Stack(len(levels), size, read, tuple(levels.values()), notes=notes, label_map=values)


def open_npy(path: Path) -> Stack:
    """Opens a `.npy` file of (K, H, W) or (H, W) bools or integers.

    Raises:
      ImageError: the file is damaged or holds another array.
    """
    with _refused():
        with path.open("rb") as file:
            _header(file)
        array = npy.mapped(path)
    masks = array if array.ndim == 3 else array[None]
    return Stack(
        len(masks), (masks.shape[1], masks.shape[2]), lambda indices: (masks[k] for k in indices), flat=array.ndim == 2
    )


def open_npz(path: Path) -> Stack:
    """Opens the array `arr_0`, or the only array, of a `.npz` file as `open_npy` does.

    Raises:
      ImageError: the file is damaged or holds other arrays.
    """
    with _refused(), npy.archive(path) as archive:
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
      path: the file; its annotations are polygons or run lengths.
      image: file of the image; it may be None if the COCO file has only one image.

    Raises:
      ImageError: the file is not COCO, is damaged, or does not list the image exactly once.
    """
    return stack_of_coco(read_coco(path), path.name, image)


def read_coco(path: Path) -> Any:
    """Returns the content of a COCO file, not checked yet.

    Raises:
      ImageError: the file is not JSON, or is too large.
    """
    try:
        return read_json(path, most=_MAX_JSON)
    except ValueError as error:
        raise ImageError(f"not a JSON file ({printable(str(error))})") from None


def coco_by_image(content: Any) -> dict[str, dict]:
    """Returns the content of a COCO file per image, by the file name of the image.

    Annotations that belong to no image are left out.

    Raises:
      ImageError: the content is not COCO, or two images have the same file name.
    """
    try:
        images = coco_images(content["images"])
        parts = {
            key: {"images": [entry], "categories": content["categories"], "annotations": []}
            for key, entry in images.items()
        }
        for annotation in content["annotations"]:
            part = parts.get(coco_id(annotation["image_id"]))
            if part is not None:
                part["annotations"].append(annotation)
        named = {str(images[key]["file_name"]): part for key, part in parts.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"not a COCO file: images, categories or annotations are malformed ({error})") from None
    if len(named) < len(parts):
        raise ImageError("two images of the COCO file have the same file name")
    return named


def stack_of_coco(content: Any, name: str, image: Path | None) -> Stack:
    """Opens the masks of one image in the content of a COCO file, as `open_coco` does.

    Args:
      content: what `read_coco` returned.
      name: name of the file, for notes.
      image: file of the image; it may be None if the COCO file has only one image.

    Raises:
      ImageError: the content is not COCO, or does not list the image exactly once.
    """
    try:
        images = coco_images(content["images"])
        chosen = _choose_image(images, image)
        size = int(chosen["height"]), int(chosen["width"])
        names = coco_categories(content["categories"])
        found, notes = _annotations(content["annotations"], chosen, images, names)
    except ImageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImageError(f"not a COCO file: images, categories or annotations are malformed ({error})") from None
    check_size(*size)
    _check_count(len(names))
    masks = list(found.values())
    notes = [f"{name}: {note}" for note in notes]
    return Stack(
        len(names), size, lambda indices: (_join(masks[k], size) for k in indices), tuple(names.values()), notes=notes
    )


def _add(notes: list[str], path: Path, remarks: Sequence[str]) -> None:
    notes += [note for remark in remarks if (note := f"{path.name}: {remark}") not in notes]


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CLASSES:
        raise ImageError(f"{count} masks; from 1 to {MAX_CLASSES} can be read")


def _header(file: IO[bytes]) -> npy.Header:
    """Returns the header of a .npy file; refuses arrays that cannot be masks."""
    header = npy.read_header(file)
    if header.dtype.kind not in "biu":
        raise ImageError(f"masks must be bool or whole numbers, got {header.dtype}; threshold probabilities first")
    if len(header.shape) not in (2, 3):
        raise ImageError(f"masks must be (K, H, W) or (H, W), got {header.shape}")
    check_size(*header.shape[-2:])
    _check_count(header.shape[0] if len(header.shape) == 3 else 1)
    return header


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Turns the errors of damaged numpy files into ImageError."""
    try:
        yield
    except npy.NpyError as error:
        raise ImageError(str(error)) from None


def _unzip(
    path: Path, name: str, size: tuple[int, int], dtype: np.dtype, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yields the masks of an array in a zip file; the bytes between them are read and dropped."""
    length = size[0] * size[1] * dtype.itemsize
    with _refused(), npy.archive(path) as archive, archive.open(name) as file:
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


def coco_id(value: Any) -> str:
    """Returns an id of a COCO file as text: programs write the same id as 1, 1.0 or "1".

    Raises:
      ImageError: the value is not an id.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ImageError(f"an id in a COCO file is a whole number or a text, got {value!r}")
    return str(value).strip()


def coco_images(images: list[Any]) -> dict[str, dict]:
    """Returns the entries of the images of a COCO file by id.

    Raises:
      ImageError, KeyError, TypeError: an id is missing, is not an id, or belongs to two images.
    """
    if images and all(isinstance(entry, list) for entry in images):
        images = [entry for group in images for entry in group]  # the original nests the list
    return coco_entries(images, "images")


def coco_entries(entries: list[dict], what: str) -> dict[str, dict]:
    """Returns the entries of a list of a COCO file by id; `what` names the list in messages.

    Raises:
      ImageError, KeyError, TypeError: as `coco_images`.
    """
    found: dict[str, dict] = {}
    for entry in entries:
        if found.setdefault(coco_id(entry["id"]), entry) != entry:
            raise ImageError(f"two {what} have the id {printable(coco_id(entry['id']))!r}")
    return found


def coco_categories(entries: list[dict]) -> dict[str, str]:
    """Returns the names of the categories by id, in the order of the ids: as numbers if all are, else as text.

    Raises:
      ImageError, KeyError, TypeError: as `coco_images`, or a name is not text.
    """
    names = {key: entry["name"] for key, entry in coco_entries(entries, "categories").items()}
    if not all(isinstance(name, str) for name in names.values()):
        raise ImageError("the names of the categories must be strings")
    numbers = all(key.lstrip("-").isdecimal() for key in names)
    return {key: names[key] for key in sorted(names, key=int if numbers else str)}


def _annotations(
    entries: list[dict], chosen: dict, images: dict[str, dict], names: dict[str, str]
) -> tuple[dict[str, list[Any]], list[str]]:
    """Returns the run lengths of an image by category id, and remarks on annotations that belong to no image."""
    found: dict[str, list[Any]] = {category: [] for category in names}
    lost: list[str] = []
    for entry in entries:
        image, category = coco_id(entry["image_id"]), coco_id(entry["category_id"])
        if image not in images:
            lost.append(image)
        elif category not in names:
            raise ImageError(f"an annotation has the category id {printable(category)!r}, which is not listed")
        elif images[image] is chosen:
            found[category].append(entry["segmentation"])
    if not lost:
        return found, []
    ids = ", ".join(printable(repr(key)) for key in list(dict.fromkeys(lost))[:5])
    remark = f"{len(lost)} of {len(entries)} annotations belong to no image of the file (image_id {ids})"
    if not any(found.values()) and len(images) == 1:
        raise ImageError(f"{remark}, and none belongs to its only image")
    return found, [f"{remark}, and are ignored"]


def _choose_image(images: Mapping[str, dict], wanted: Path | None) -> dict:
    """Returns the entry of the wanted image, found by its file name."""
    chosen = list(images.values())
    if wanted is not None and len(chosen) > 1:
        same = [entry for entry in chosen if Path(entry["file_name"]).name == wanted.name]
        exact = [entry for entry in same if Path(entry["file_name"]) == wanted]
        chosen = exact or same
    if len(chosen) != 1:
        if wanted is None:
            raise ImageError(f"the file has {len(chosen)} images; choose one with image=")
        raise ImageError(f"the file has {len(chosen) or 'no'} images called {wanted.name}; it must have one")
    return chosen[0]


def _join(segmentations: list[Any], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for segmentation in segmentations:
        try:
            mask |= mask_of(segmentation, size)
        except ValueError as error:
            raise ImageError(str(error)) from None
    return mask
