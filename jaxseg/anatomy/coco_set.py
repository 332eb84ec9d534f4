"""Data sets in the format of COCO, in which PAX-Ray++ is published and which CVAT and Label Studio export.

A COCO file holds `images` with `id`, `file_name`, `height` and `width`; `categories` with `id` and `name`; and
`annotations` with `image_id`, `category_id`, `segmentation` and perhaps `iscrowd`. The masks of the annotations of one
image and category are joined. Masks of different categories may overlap.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.anatomy.data import SPLITS, Pair, Paxray, check_ratio, check_there, first_of, inside
from jaxseg.files import printable, read_json
from jaxseg.images.fit import Placement
from jaxseg.images.picture import ImageError, check_size
from jaxseg.masks.coco_shapes import changes_of, sampled
from jaxseg.masks.formats import coco_categories, coco_id, coco_images

MAX_BYTES = 2**31  # of one file; Python needs several times as much memory for its content
MAX_CLASSES = 65_536
HOW = ("listed", "folders", "random")
_ALSO = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


@dataclasses.dataclass(frozen=True)
class Annotated:
    """The masks of one image, as its annotations describe them.

    Attributes:
      file: name of the COCO file, for messages.
      size: height and width of the image, as the file states them.
      shapes: (class, id of the annotation, segmentation) of each annotation.
    """

    file: str
    size: tuple[int, int]
    shapes: tuple[tuple[int, str, Any], ...]

    def packed(self, classes: int, place: Placement, picture_size: tuple[int, int]) -> np.ndarray:
        """Returns the masks on the network's grid, as `jaxseg.anatomy.data.read_target` does.

        Raises:
          ValueError: a segmentation is damaged, or the image has another aspect ratio than the file states.
        """
        check_ratio(self.file, self.size, picture_size)
        rows, columns = place.sources(self.size)
        found = np.zeros((-(-classes // 8), *place.grid), np.uint8)
        for k, number, segmentation in self.shapes:
            try:
                mask = sampled(changes_of(segmentation, self.size), self.size, rows, columns)
            except ValueError as error:
                raise ValueError(f"{self.file}: annotation {printable(number)}: {error}") from None
            found[k // 8][place.inside] |= mask.view(np.uint8) << np.uint8(k % 8)
        return np.ascontiguousarray(found.transpose(1, 2, 0))


def read_coco_set(
    root: str | Path,
    files: Mapping[str, str],
    *,
    images: str = "",
    how: str = "listed",
    shares: tuple[float, float] = (0.1, 0.0),
    seed: int = 0,
    crowd: bool = True,
    background: bool = False,
) -> Paxray:
    """Reads the lists of a data set in the format of COCO, and checks that all files exist.

    Args:
      root: folder of the data set.
      files: split -> COCO file in the folder; or "" -> the one file of all splits.
      images: folder in `root` that the file names of the images are relative to.
      how: how one file is split. "listed": each entry of `images` has `split`. "folders": the first folder of the file
        name that is called train, val or test. "random": by `shares` and `seed`.
      shares: shares of the images for validation and for testing, for "random".
      seed: random seed of that choice.
      crowd: whether the pixels of annotations with `iscrowd` belong to their class; they are left out otherwise.
      background: whether the first class must be the background; it is added if the first one has another name.

    Raises:
      ValueError: a file is not COCO or is too large, files have different categories, an image belongs to no split or
        lies outside the folder, or images are missing.
      OSError: a file cannot be opened.
    """
    root = Path(root).resolve()
    names: dict[str, str] = {}
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for split, file in files.items():
        if not inside(root, file):
            raise ValueError(f"{printable(file)!r} lies outside the data set's folder")
        content = _content(root / file, file)
        try:
            found = coco_categories(content["categories"])
            if background and next(iter(found.values()), "").lower() != "background":
                found = {"": "background"} | found  # no id is an empty text
            names = _same_names(names or found, found)
            entries = coco_images(content["images"])
            targets = _targets(content["annotations"], entries, found, file, crowd=crowd)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{file}: images, categories or annotations are malformed: {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        paths = _paths(root, images, entries, file)
        for key, chosen in _split_of(split, entries, how, shares, seed, file).items():
            splits[chosen].append((paths[key], targets[key]))
    _refuse_shared(root, splits)
    check_there(root, [image for pairs in splits.values() for image, _ in pairs], ", ".join(files.values()))
    return Paxray(root, tuple(names.values()), {split: tuple(pairs) for split, pairs in splits.items()})


def _refuse_shared(root: Path, splits: Mapping[str, Sequence[Pair]]) -> None:
    """Raises ValueError if an image belongs to two splits, because its scores would then mean nothing."""
    seen: dict[Path, str] = {}
    for split, pairs in splits.items():
        for path, _ in pairs:
            other = seen.setdefault(path, split)
            if other != split:
                name = printable(path.relative_to(root).as_posix())
                raise ValueError(f"{name} belongs to {other} and to {split}; an image may belong to one of them")


def _content(path: Path, file: str) -> dict:
    try:
        content = read_json(path, most=MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); a large data set may have one file per split") from None
    missing = [key for key in ("images", "categories", "annotations") if not isinstance(_get(content, key), list)]
    if missing:
        raise ValueError(f"{file}: not a COCO file: {', '.join(missing)} must be there and must be lists")
    return content


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _targets(
    annotations: Sequence[dict], images: Mapping[str, dict], names: Mapping[str, str], file: str, *, crowd: bool
) -> dict[str, Annotated]:
    """Returns the annotations of each image by its id."""
    classes = {key: k for k, key in enumerate(names)}
    shapes: dict[str, list] = {key: [] for key in images}
    for number, entry in enumerate(annotations):
        image, category = coco_id(entry["image_id"]), coco_id(entry["category_id"])
        name = coco_id(entry.get("id", f"at place {number}"))
        if image not in images:
            raise ImageError(f"annotation {printable(name)} has the image_id {printable(image)!r}, which is not listed")
        if category not in classes:
            listed = f"category_id {printable(category)!r}, which is not listed"
            raise ImageError(f"annotation {printable(name)} has the {listed}")
        if not isinstance(entry["segmentation"], dict | list) or not entry["segmentation"]:
            raise ImageError(f"annotation {printable(name)} has no segmentation, only a box; leave it out of the file")
        if crowd or not entry.get("iscrowd"):
            shapes[image].append((classes[category], name, entry["segmentation"]))
    found = {}
    for key, entry in images.items():
        size = entry["height"], entry["width"]
        if any(type(side) is not int for side in size):
            raise ImageError(f"image {printable(key)} needs a height and a width in whole numbers")
        check_size(*size)
        found[key] = Annotated(file, size, tuple(shapes[key]))
    return found


def _same_names(wanted: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    if not 1 <= len(found) <= MAX_CLASSES or not all(name.strip() for name in found.values()):
        raise ValueError(f"categories need a name each, and there must be 1 to {MAX_CLASSES:,} of them")
    twice = [name for name in found.values() if list(found.values()).count(name) > 1]
    if twice:
        raise ValueError(f"several categories are called {printable(twice[0])!r}")
    if found != wanted:
        other = [printable(f"{key}: {name}") for key, name in found.items() ^ wanted.items()]
        raise ValueError(f"its categories differ from those of the file before it: {first_of(sorted(other))}")
    return found


def _paths(root: Path, images: str, entries: Mapping[str, dict], file: str) -> dict[str, Path]:
    found, problems = {}, []
    for key, entry in entries.items():
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            problems.append(f"image {printable(key)} needs the text file_name")
            continue
        path = inside(root, f"{images}/{_plain(name)}" if images else _plain(name))
        if path is None:
            problems.append(f"image {printable(key)}: {printable(name)!r} lies outside the data set's folder")
        else:
            found[key] = path
    if problems:
        raise ValueError(f"{file}: {first_of(problems)}")
    return found


def _split_of(
    split: str, entries: Mapping[str, dict], how: str, shares: tuple[float, float], seed: int, file: str
) -> dict[str, str]:
    """Returns the split of each image by its id."""
    if split:
        return dict.fromkeys(entries, split)
    if how == "random":
        return _random(list(entries), shares, seed)
    found, lost = {}, []
    for key, entry in entries.items():
        words = [entry.get("split")] if how == "listed" else _plain(entry["file_name"]).split("/")[:-1]
        named = [_ALSO.get(word.lower(), word.lower()) for word in words if isinstance(word, str)]
        chosen = next((word for word in named if word in SPLITS), None)
        if chosen is None:
            lost.append(printable(str(entry.get("file_name"))))
        else:
            found[key] = chosen
    if lost:
        rule = "their entries have no `split`" if how == "listed" else "none of their folders is called so"
        raise ValueError(
            f"{file}: {len(lost)} of {len(entries)} images belong to none of train, val and test, because {rule}: "
            f"{first_of(lost, ', ')}. Name a file per split in data.files, or choose another data.splits of "
            f"{', '.join(HOW)}"
        )
    return found


def _plain(name: Any) -> str:
    """Returns the name of a file as Unix writes it; Label Studio writes it as Windows does there."""
    return str(name).replace("\\", "/")


def _random(keys: list[str], shares: tuple[float, float], seed: int) -> dict[str, str]:
    """Returns random splits; they depend on the ids of the images and not on their order in the file."""
    ordered = sorted(keys)
    order = np.random.default_rng(seed).permutation(len(ordered))
    val, test = (round(share * len(ordered)) for share in shares)
    return {
        ordered[i]: "val" if place < val else "test" if place < val + test else "train" for place, i in enumerate(order)
    }
