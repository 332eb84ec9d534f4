"""Finds the masks of images in files and folders of every format, and opens them, one mask decoded at a time.

In a folder, the masks of an image are one file, or a folder with one PNG, JPEG or NIfTI file per class. The name of the
image is the path of that file or folder relative to the folder that was given, without suffix.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxseg.files import printable, walk
from jaxseg.images.picture import ImageError
from jaxseg.images.read import kind_of
from jaxseg.masks.cohort import TYPES, image_names, is_cohort_file, open_cohort
from jaxseg.masks.formats import SEG, Stack, coco_by_image, read_coco, stack_of_coco
from jaxseg.masks.pictures import PICTURES, check_levels
from jaxseg.masks.read import LoadedMasks, open_masks
from jaxseg.masks.results import SUMMARY_FILE, Summary, read_summary
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.write import NOT_MASKS
from jaxseg.vocabulary import labels
from jaxseg.volumes import nifti
from jaxseg.volumes.label_names import read_label_names
from jaxseg.volumes.pair import check_mask
from jaxseg.volumes.read import read_labels, read_volume
from jaxseg.volumes.read import stem as volume_stem
from jaxseg.volumes.volume import Volume

UNNAMED = ""  # name of a mask that is the only one of its file, and has no name there
SUFFIXES = (*PICTURES, ".npy", ".npz", ".json", SEG, ".dcm", *nifti.SUFFIXES, *TYPES.values())
_IN_RUNS = (".npy", ".npz", "", SEG, ".json")  # of several results of one image, the first is used; "" is a folder
_OF_ONE_CLASS = "segmentations"  # folder of a case's files in data sets of TotalSegmentator

Levels = Mapping[int, str] | None


@dataclasses.dataclass(frozen=True)
class MaskSet:
    """The masks of one image, decoded when they are read.

    Attributes:
      names: (K,) names of the masks; `UNNAMED` for the only mask of a file without names.
      shape: (H, W), or (D, H, W) for volumes.
      read: takes indices in ascending order and yields bool masks in the same order.
      spacing_mm: distance between pixels along each axis in millimetres; None if it is unknown.
      affine: (4, 4) position of a volume in space, as `jaxseg.volumes.volume.Volume` defines it; None if it is unknown.
      notes: remarks for the user; those on a mask are added when it is read.
      folder: name of the folder that was given, which may name the only mask of a file.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    folder: str = ""

    def in_order(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields masks in any order of indices; unless it is ascending, all of them are held in memory as bits."""
        ascending = sorted(indices)
        if ascending == list(indices):
            yield from self.read(indices)
            return
        packed = {k: np.packbits(mask) for k, mask in zip(ascending, self.read(ascending), strict=True)}
        for k in indices:
            yield np.unpackbits(packed[k], count=int(np.prod(self.shape))).view(bool).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the masks of one image are.

    Attributes:
      path: a file, or a folder with one file per class.
      files: the NIfTI files of a folder, one per class; () for other masks.
      content: the part of a COCO file that belongs to the image; None for other files.
      key: key of the image in a file with the masks of all images of a run; None for other files.
      is_label_map: whether the file is a label map whose levels have names.
      image: file of the image, which may state the spacing of its pixels; None if it is unknown.
      folder: as in `MaskSet`.
    """

    path: Path
    files: tuple[Path, ...] = ()
    content: Any = None
    key: str | None = None
    is_label_map: bool = False
    image: Path | None = None
    folder: str = ""


def list_places(root: str | Path, *, levels: Levels = None) -> dict[str, Place]:
    """Returns where the masks of every image in a folder or a file are, by the name of the image.

    In a folder of results of jaxseg, the masks are those that its `summary.json` lists, without those of images that
    failed since, or of earlier settings. Other folders are searched with their sub-folders. A picture or NIfTI file in
    a sub-folder is a class of the image that the sub-folder names, unless it is a label map; a folder `segmentations`
    in it is left out of the name. A COCO, COCO lines or Parquet file with several images holds the masks of each.

    Args:
      root: a folder, or one file.
      levels: names of the classes of label maps: level -> name.

    Raises:
      ValueError: there are no masks, two files hold masks of the same image, the summary is damaged, or nibabel, which
        reads NIfTI files, is not installed.
      OSError: the path does not exist or cannot be read.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    if root.is_file():
        return dict(_of_file(root, root.parent, levels, several=True))
    summary = read_summary(root)
    images: dict[Path, Path] = {}
    if summary is None:
        places = _grouped(root, [folder / name for folder, _, names in _walk(root) for name in names], levels)
    else:
        images = _results(root, summary)
        places = itertools.chain(_grouped(root, images, levels), _joint_results(root, summary, set(images.values())))
    found: dict[str, Place] = {}
    for name, place in places:
        if name in found:
            both = " and ".join(printable(other.path.name) for other in (found[name], place))
            raise ValueError(f"{root}: {both} both hold masks of {printable(name)}; move one of them away")
        image = images.get(place.path, place.image)
        found[name] = dataclasses.replace(place, image=image, folder=root.resolve().name)
    if any(_suffix(place.files[0] if place.files else place.path) in nifti.SUFFIXES for place in found.values()):
        nifti.need_nibabel()  # now, and not once for every image
    if not found and summary is not None and summary.by_masks:
        raise ValueError(f"{root}: the masks that its summary lists are missing or out of date; make them again")
    if not found:
        raise ValueError(f"{root}: holds no masks; looked for {', '.join(SUFFIXES)} files")
    return found


def open_place(place: Place, *, levels: Levels = None) -> MaskSet:
    """Opens the masks of one image.

    Args:
      place: where they are.
      levels: as in `list_places`.

    Raises:
      ValueError: a file is damaged, is too large or holds no masks. Reading a mask may raise it too.
      OSError: a file cannot be opened.
    """
    if place.files:
        return dataclasses.replace(_of_volumes(place.files), folder=place.folder)
    if _suffix(place.path) in nifti.SUFFIXES:
        return dataclasses.replace(_of_labels(place.path, levels), folder=place.folder)
    if place.key is not None:
        stack = open_cohort(place.path, None, place.key)
    elif place.content is not None:
        stack = stack_of_coco(place.content, place.path.name, None)
    else:
        stack = open_masks(place.path, levels=levels if place.is_label_map else None)
        if levels and stack.flat:
            stack = open_masks(place.path, levels=levels)
    spacing_mm = _spacing(place)
    return dataclasses.replace(of_stack(stack, place.path), spacing_mm=spacing_mm, folder=place.folder)


def of_stack(stack: Stack, path: Path) -> MaskSet:
    """Returns opened masks of a file or folder as a set; the mask of a file with only one may be without a name."""
    names = stack.names or labels.numbered(stack.count)
    is_picture = not path.is_dir() and _suffix(path) in PICTURES
    if stack.label_map is None and (is_picture or names == labels.numbered(1)):
        names = (UNNAMED,)
    return MaskSet(names, stack.size, stack.read, notes=stack.notes)


def of_memory(masks: np.ndarray | Segmentation | LoadedMasks | str | Path) -> MaskSet:
    """Returns masks in memory, or those of one image in a file or folder, as a set.

    Args:
      masks: one mask, (H, W) or (D, H, W) bool; or the result of `jaxseg.segment` or `jaxseg.masks.read.read_masks`; or
        a path.

    Raises:
      ValueError, OSError: as `open_place`; or the path holds masks of several images, or the array is not a mask.
    """
    if isinstance(masks, str | Path):
        path = Path(masks)
        places = {"": place} if (place := _of_classes(path)) else list_places(path)
        if len(places) != 1:
            raise ValueError(f"{path}: holds masks of {len(places)} images; give those of one, or use compare_folders")
        return open_place(next(iter(places.values())))
    if isinstance(masks, Segmentation | LoadedMasks):
        spacing_mm = masks.spacing_mm if isinstance(masks, Segmentation) else None
        return MaskSet(masks.names, masks.size, functools.partial(map, masks.mask), spacing_mm)
    array = np.asarray(masks)
    if array.dtype != bool or array.ndim not in (2, 3):
        raise ValueError(f"a mask must be (H, W) or (D, H, W) bool, got {array.shape} {array.dtype}")
    return MaskSet((UNNAMED,), array.shape, lambda indices: iter([array] * len(indices)))


def _of_classes(path: Path) -> Place | None:
    """Returns the place of a folder with one picture or NIfTI file per class; None if it is another one."""
    files = sorted(path.iterdir()) if path.is_dir() else []
    volumes = tuple(file for file in files if _suffix(file) in nifti.SUFFIXES)
    if not volumes and not any(_suffix(file) in PICTURES for file in files):
        return None
    return Place(path, volumes)


def _results(root: Path, summary: Summary) -> dict[Path, Path]:
    """Returns the masks that a run lists as valid and that exist, one file or folder per image, with the image."""
    best: dict[str, Path] = {}
    for relative, (entry, stamp) in summary.by_masks.items():
        path = root / relative
        if not stamp or not path.exists() or not path.resolve().is_relative_to(root.resolve()):
            continue
        source = entry["source"]
        if source not in best or _rank(path) < _rank(best[source]):
            best[source] = path
    return {path: Path(source) for source, path in best.items()}


def _joint_results(root: Path, summary: Summary, found: Set[Path]) -> Iterator[tuple[str, Place]]:
    """Yields the images whose masks a run lists in files with those of many images, except the images in `found`."""
    places: dict[str, Place] = {}
    for relative, entries in summary.by_joint.items():
        path = root / relative
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            continue
        held = image_names(path)  # not those of images that are still to be done
        for key in entries.keys() & held:
            image = Path(entries[key]["source"])
            if image not in found:
                places[key] = Place(path, key=key, image=image)
    yield from sorted(places.items())


def _rank(path: Path) -> int:
    suffix = "" if path.is_dir() else _suffix(path)
    return _IN_RUNS.index(suffix) if suffix in _IN_RUNS else len(_IN_RUNS)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields the folders of a tree with the names of their files that may be masks."""
    for folder, folders, names in walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        other = (*NOT_MASKS, SUMMARY_FILE)
        kept = [name for name in names if not name.startswith(".") and not name.lower().endswith(other)]
        yield folder, folders, [name for name in sorted(kept) if _suffix(Path(name))]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def _grouped(root: Path, paths: Iterable[Path], levels: Levels) -> Iterator[tuple[str, Place]]:
    """Yields the images of files and folders, with their names."""
    per_class: dict[tuple[Path, bool], list[Path]] = collections.defaultdict(list)
    for path in sorted(paths):
        is_volume = _suffix(path) in nifti.SUFFIXES
        if path.is_dir():
            yield path.relative_to(root).as_posix(), Place(path)
        elif path.parent != root and (is_volume or _suffix(path) in PICTURES):
            per_class[path.parent, is_volume].append(path)
        else:
            yield from _of_file(path, root, levels)
    for (folder, is_volume), files in per_class.items():
        if (folder / _OF_ONE_CLASS, True) in per_class and is_volume:
            continue  # the image of a case, beside its masks
        if _are_label_maps(files, is_volume=is_volume, levels=levels):
            for file in files:
                yield from _of_file(file, root, levels)
            continue
        named = folder.parent if is_volume and folder.name == _OF_ONE_CLASS and folder.parent != root else folder
        yield named.relative_to(root).as_posix(), Place(folder, tuple(files) if is_volume else ())


def _are_label_maps(files: Sequence[Path], *, is_volume: bool, levels: Levels) -> bool:
    """Returns whether the files of a sub-folder are label maps of an image each, and not the classes of one image."""
    if is_volume and any(read_label_names(file) for file in files):
        return True
    return bool(levels) and not {_stem(file) for file in files} <= set((levels or {}).values())


def _of_file(path: Path, root: Path, levels: Levels, *, several: bool = False) -> Iterator[tuple[str, Place]]:
    """Yields the images of one file; `several`: a COCO file names its images, also if it has only one."""
    name = path.relative_to(root).with_name(_stem(path)).as_posix()
    if is_cohort_file(path):
        folder = PurePosixPath(path.parent.relative_to(root).as_posix())
        yield from (((folder / key).as_posix(), Place(path, key=key)) for key in image_names(path))
        return
    if _suffix(path) != ".json":
        yield name, Place(path, is_label_map=bool(levels) and _suffix(path) in PICTURES)
        return
    try:
        content = read_coco(path)
        if not several and not (isinstance(content, dict) and {"images", "annotations"} <= set(content)):
            return  # a JSON file about something else
        parts = coco_by_image(content)
    except ImageError as error:
        raise ImageError(f"{printable(path.name)}: {error}") from None
    if len(parts) == 1 and not several:
        yield name, Place(path)
        return
    folder = PurePosixPath(path.parent.relative_to(root).as_posix())
    for file_name, part in parts.items():
        image = PurePosixPath(file_name.replace("\\", "/").lstrip("/"))
        image = image.with_suffix("") if image.suffix[1:].isalpha() else image  # the end of a UID is not a suffix
        yield (folder / image).as_posix(), Place(path, content=part)


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_suffix(path))]


def _spacing(place: Place) -> tuple[float, ...] | None:
    """Returns the spacing that a DICOM SEG states, else the one of the image; None if neither is known."""
    try:
        if place.path.is_file() and _suffix(place.path) in (SEG, ".dcm"):
            from jaxseg.masks.read_seg import seg_spacing

            if spacing_mm := seg_spacing(place.path):
                return spacing_mm
        if place.image is not None and kind_of(place.image) == "dicom":
            from jaxseg.images.dicom import stated_spacing

            return stated_spacing(place.image)
    except (ImageError, OSError):  # the image may have been moved or changed since
        pass
    return None


def _of_labels(path: Path, levels: Levels) -> MaskSet:
    """Opens a NIfTI file of labels, which its header or `levels` may name; one with a single label is one mask."""
    found = _as_image(read_labels(path))
    notes = list(found.notes)
    values = np.flatnonzero(np.bincount(found.array.ravel()))
    names = dict(levels) if levels else read_label_names(path)
    if levels:
        notes += [f"{found.name}: {remark}" for remark in _remarks(found, levels)]
    elif not names:
        whole = {int(value): f"label_{value}" for value in values if value}
        names = {next(iter(whole), 1): UNNAMED} if set(whole) <= {1} or set(whole) == {255} else whole
    numbers = list(names)

    def read(indices: Sequence[int]) -> Iterator[np.ndarray]:
        return (found.array == numbers[k] for k in indices)

    return MaskSet(tuple(names.values()), found.array.shape, read, _spacing_of(found), found.affine, notes)


def _remarks(volume: Volume, levels: Mapping[int, str]) -> tuple[str, ...]:
    try:
        return check_levels(volume.array, levels)
    except ImageError as error:
        raise ImageError(f"{volume.name}: {error}") from None


def _of_volumes(files: Sequence[Path]) -> MaskSet:
    """Opens one NIfTI file per class; only the first is read now."""
    first = _read_mask(files[0])
    notes = list(first.notes)

    def read(indices: Sequence[int]) -> Iterator[np.ndarray]:
        for k in indices:
            volume = first if k == 0 else _read_mask(files[k])
            if volume.array.shape != first.array.shape:
                raise ImageError(f"{volume.name} has another size than {first.name}; masks of an image have one size")
            yield volume.array

    names = tuple(volume_stem(file) for file in files)
    return MaskSet(names, first.array.shape, read, _spacing_of(first), first.affine, notes)


def _read_mask(path: Path) -> Volume:
    return _as_image(check_mask(read_volume(path)))


def _as_image(volume: Volume) -> Volume:
    """Returns a volume of one slice as an image, (H, W), so that its two faces are not part of its surface."""
    return dataclasses.replace(volume, array=volume.array[0]) if volume.array.shape[0] == 1 else volume


def _spacing_of(volume: Volume) -> tuple[float, ...] | None:
    return None if volume.spacing_mm is None else volume.spacing_mm[-volume.array.ndim :]
