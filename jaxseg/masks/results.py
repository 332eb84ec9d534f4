"""Finds the masks of an image in a folder of results, by the summaries of `jaxseg segment`, or by their names."""

import dataclasses
import functools
from pathlib import Path

from jaxseg import journal, summaries
from jaxseg.files import printable, resolved, safe_name, sha256
from jaxseg.images.read import stem
from jaxseg.masks.cohort import TYPES, file_name
from jaxseg.masks.formats import SEG
from jaxseg.masks.pictures import PICTURES
from jaxseg.masks.segmentation import Orientation
from jaxseg.summaries import SUMMARY_FILE

_MAX_SUMMARY = 2**30  # bytes
_KINDS = ("npy", "npz", "png", "dicom-seg", "json", "parquet", "coco-lines", "jpg")  # best first; jpg is lossy


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of a run's `summary.json`.

    Attributes:
      classes: names of the masks, in their order.
      grid: height and width of the network's masks, before they were resized to the images; None if it is not recorded.
      by_source: maps the path of an image to its entry, which also has its `key`.
      by_hash: maps the hexadecimal SHA-256 of an image to its entry.
      by_masks: maps the path of masks, relative to the folder, to the entry and the stamp of their image.
      by_joint: maps the path of a file with the masks of many images, relative to the folder, to the keys and entries
        of the images whose masks in it are valid. Masks of failed images or of earlier settings are not.
      paths: paths of all results, relative to the folder.
      turned: whether the run turned images as their EXIF orientation says; None if it did not read images.
      smooth: whether the masks have smooth edges, so that those on the network's grid cannot be recovered.
    """

    classes: tuple[str, ...]
    grid: tuple[int, int] | None
    by_source: dict[str, dict]
    by_hash: dict[str, dict]
    by_masks: dict[str, tuple[dict, list]]
    by_joint: dict[str, dict[str, dict]]
    paths: frozenset[str]
    turned: bool | None = None
    smooth: bool = False


def find_masks(folder: str | Path, image: str | Path) -> Path:
    """Returns the path of an image's masks in a folder of results or of reference masks.

    If the folder has a `summary.json` of `jaxseg segment`, the image is looked up there by its path, else by its
    content. Otherwise the masks are found by their name: `<name>` (a folder), or `<name>` with .npy, .npz, .json,
    .seg.dcm, .png or .jpg; or in `masks.jsonl` or `masks.parquet`, which hold the masks of all images.

    Args:
      folder: the folder of results.
      image: file of the image.

    Raises:
      ValueError: the folder does not exist, or has no masks of the image, several, or only outdated ones.
    """
    folder, image = Path(folder), Path(image)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    summary = read_summary(folder)
    if summary is not None:
        return _find_listed(folder, image, summary)
    joint = [folder / file_name(kind) for kind in TYPES]
    found = named_masks(folder, image) or [path for path in joint if path.is_file()][:1]
    if len(found) != 1:
        what = f"several: {', '.join(path.name for path in found)}" if found else "none"
        raise ValueError(
            f"{folder}: looked for the masks of {image.name} as {safe_name(stem(image))} (a folder), or with .npy, "
            f".npz, .json, {SEG}, .png or .jpg, and found {what}; name the masks themselves"
        )
    return found[0]


def named_masks(folder: Path, image: Path) -> list[Path]:
    """Returns the files and folders in `folder` that have the image's name, without the image itself."""
    base = folder / safe_name(stem(image))
    files = [base.with_name(base.name + suffix) for suffix in (".npy", ".npz", ".json", SEG, *PICTURES)]
    own = image.resolve()
    found = [path for path in files if path.is_file() and path.resolve() != own]
    return [base, *found] if base.is_dir() else found


def classes_of(path: Path) -> tuple[str, ...] | None:
    """Returns the classes of the run that wrote the masks at `path`.

    They are None unless the nearest `summary.json` in a folder above lists `path`.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    summary = _summary_of(path)
    return summary.classes or None if summary else None


def turned_in_run(path: Path) -> bool | None:
    """Returns whether the run that wrote the masks at `path` turned images as their EXIF orientation says.

    It is None unless the nearest `summary.json` in a folder above lists `path`.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    summary = _summary_of(path)
    return summary.turned if summary else None


def smooth_in_run(path: Path) -> bool:
    """Returns whether the run that wrote the masks at `path` gave them smooth edges.

    It is False unless the nearest `summary.json` in a folder above lists `path`.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    summary = _summary_of(path)
    return summary is not None and summary.smooth


def grid_of(path: Path) -> tuple[int, int] | None:
    """Returns the height and width of the network's masks in the run that wrote the masks at `path`.

    They are None unless the nearest `summary.json` in a folder above lists `path` and records them, and if the masks
    have smooth edges, which are made at the image's size.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    summary = _summary_of(path)
    return summary.grid if summary and not summary.smooth else None


def keys_in(path: Path) -> frozenset[str] | None:
    """Returns the keys of the images whose masks in a file with those of many images are valid.

    They are None unless the nearest `summary.json` in a folder above lists `path`.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    summary, place = _listing_of(path)
    return frozenset(summary.by_joint.get(place, ())) if summary else None


def _summary_of(path: Path) -> Summary | None:
    """Returns the nearest summary in a folder above `path`; None if there is none, or it does not list `path`."""
    return _listing_of(path)[0]


def _listing_of(path: Path) -> tuple[Summary | None, str]:
    """Returns what `_summary_of` does, and the path as the summary lists it."""
    path = path.resolve()
    for folder in path.parents:
        summary = read_summary(folder)
        if summary is not None:
            place = path.relative_to(folder).as_posix()
            return (summary if place in summary.paths else None), place
    return None, ""


def orientation_of(path: Path, image: Path) -> Orientation | None:
    """Returns how an image appeared to the network of the run that wrote the masks at `path`.

    It is None if the image looked upright, or was not checked, or if no `summary.json` in a folder above lists it.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    folder, entry = _entry_of(path, image)
    if entry.get("orientation") is None:
        return None
    try:
        return _orientation(entry["orientation"])
    except (TypeError, ValueError):
        raise ValueError(f"{folder / SUMMARY_FILE}: the orientation of {image.name} is damaged") from None


def result_of(path: Path, image: Path, kind: str) -> Path | None:
    """Returns the result of a kind, such as "confidence", of the run that wrote the masks at `path`.

    Args:
      path: the masks.
      image: file of the image.
      kind: name of the product in the summary.

    Returns:
      The path of the file. None if no `summary.json` in a folder above lists it, or it is missing or out of date.

    Raises:
      ValueError: the nearest summary is damaged.
    """
    folder, entry = _entry_of(path, image)
    output = entry.get("outputs", {}).get(kind)
    if output is None or not output.get("stamp") or not _is_of(image, entry, output["stamp"]):
        return None
    found = (folder / output["path"]).resolve()
    return found if found.is_relative_to(folder) and found.is_file() else None


def _entry_of(path: Path, image: Path) -> tuple[Path, dict]:
    """Returns the folder of the nearest summary above `path`, and its entry of an image; {} if there is none."""
    image = image.resolve()
    for folder in path.resolve().parents:
        summary = read_summary(folder)
        if summary is None:
            continue
        entry = summary.by_source.get(str(image))
        if entry is None and image.is_file():
            entry = summary.by_hash.get(sha256(image))
        return folder, entry or {}
    return path, {}


def _orientation(fields: dict) -> Orientation:
    """Returns the orientation that a summary holds, which is untrusted."""
    found = Orientation(**fields)
    flags = (found.inverted, found.corrected)
    if not all(isinstance(flag, bool) for flag in flags) or found.rotation not in (0, 90, 180, 270):
        raise ValueError("the fields have other types")
    return dataclasses.replace(found, rotation=int(found.rotation), problem=printable(str(found.problem))[:200])


def check_origin(path: Path, image: Path) -> None:
    """Checks that masks were not made from another image, as far as the nearest `summary.json` above knows it.

    Args:
      path: the masks: an output of a run, or a file in one.
      image: file of the image, which may have been moved since.

    Raises:
      ValueError: the summary names another image, or the image has changed since; or the summary is damaged.
    """
    path, image = path.resolve(), image.resolve()
    for folder in path.parents:
        summary = read_summary(folder)
        if summary is None:
            continue
        inside = path.relative_to(folder)
        made = (summary.by_masks.get(place.as_posix()) for place in (inside, inside.parent))
        entry, stamp = next(filter(None, made), ({}, []))
        if stamp and image.is_file() and not _is_same(image, entry, stamp):
            other = Path(entry["source"])  # reports are shared: the error names no folder
            state = f"but from {other.name if other.name != image.name else 'another file of this name'}"
            state = "it has changed since" if other == image else state
            raise ValueError(f"these masks were not made from {image.name}, {state}")
        return


def _is_same(image: Path, entry: dict, stamp: list) -> bool:
    """Returns whether an entry is that of an image: the same path and state, or the same content."""
    if entry["source"] == str(image):
        return _is_of(image, entry, stamp)
    return "sha256" in entry and entry["sha256"] == sha256(image)


def key_in(path: Path, image: Path) -> str | None:
    """Returns the key of an image in a file that holds the masks of all images of a run.

    Args:
      path: the file.
      image: file of the image, which may have been moved since.

    Returns:
      The key. None if no `summary.json` in a folder above lists the file.

    Raises:
      ValueError: the nearest summary lists the file, but the image has no masks in it, or has changed since; or the
        summary is damaged.
    """
    summary = _summary_of(path)
    if summary is None:
        return None
    entry = summary.by_source.get(str(image.resolve()))
    if entry is None and image.is_file():
        entry = summary.by_hash.get(sha256(image))
    if entry is None:
        raise ValueError(f"these masks were not made from {image.name}, but from other images")
    made = [output for kind, output in entry["outputs"].items() if kind in TYPES and output.get("stamp")]
    if not any(_is_of(image, entry, output["stamp"]) for output in made):
        raise ValueError(f"the masks of {image.name} are missing or out of date; run jaxseg segment again")
    return entry["key"]


def read_summary(folder: Path) -> Summary | None:
    """Returns the summary that a run keeps in a folder; None if there is none, or it is a data set's or foreign.

    While a run is working, the summary includes the entries in its journal. The summaries of parts that are not merged
    yet are read as one.

    Raises:
      ValueError: the summary is damaged.
    """
    paths = tuple(summaries.summary_files(folder))
    files = [file for path in paths for file in (path, journal.journal_of(path))]
    found = [file.stat() for file in files if file.is_file()]
    if not found:
        return None
    if sum(status.st_size for status in found) > _MAX_SUMMARY:
        raise ValueError(f"{paths[0]} has more than {_MAX_SUMMARY:,} bytes: it is not a jaxseg summary")
    return _parse(paths, tuple((status.st_size, status.st_mtime_ns) for status in found))


@functools.lru_cache(maxsize=2)  # one summary serves many images
def _parse(paths: tuple[Path, ...], _states: tuple[tuple[int, int], ...]) -> Summary | None:
    path = paths[0]
    try:
        content = summaries.joined(paths)
        if not isinstance(content, dict) or "jaxseg" not in content or "made_by" in content:
            return None  # of another program, or of a data set by `jaxseg prepare`
        classes = content["settings"].get("classes", [])  # `extract` lists none
        intensity = content["settings"].get("intensity")
        smooth = content["settings"].get("edges") == "smooth"
        grid = content["settings"].get("grid")  # earlier versions did not record it
        if grid is not None and not (len(grid) == 2 and all(type(side) is int and side > 0 for side in grid)):
            raise TypeError("the grid is not a height and width")
        entries = content["files"].values()
        texts = [*classes, *(entry["source"] for entry in entries), *(entry.get("sha256", "") for entry in entries)]
        places = [output["path"] for entry in entries for output in entry["outputs"].values()]
        if not all(isinstance(text, str) for text in texts + places):
            raise TypeError("a name or path is not a string")
    except FileNotFoundError:  # there is only the journal of a summary that was removed
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing or malformed" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is not a jaxseg summary, or is damaged ({reason}); name the masks themselves"
        ) from None
    entries = [
        entry | {"source": resolved(path.parent, entry["source"]), "key": key}
        for key, entry in content["files"].items()
    ]
    by_source = {entry["source"]: entry for entry in entries}
    by_hash = {entry["sha256"]: entry for entry in entries if "sha256" in entry}
    by_masks = {
        output["path"]: (entry, output.get("stamp") or [])
        for entry in entries
        for kind, output in entry["outputs"].items()
        if kind in _KINDS and kind not in TYPES
    }
    by_joint: dict[str, dict[str, dict]] = {}
    for entry in entries:
        for kind, output in entry["outputs"].items():
            if kind in TYPES and output.get("stamp"):
                by_joint.setdefault(output["path"], {})[entry["key"]] = entry
    turned = None if intensity is None else intensity == "clinical"
    maps = (by_source, by_hash, by_masks, by_joint)
    return Summary(tuple(classes), tuple(grid) if grid else None, *maps, frozenset(places), turned, smooth)


def _find_listed(folder: Path, image: Path, summary: Summary) -> Path:
    """Returns the path of an image's masks by the summary of its folder, which is untrusted."""
    entry = summary.by_source.get(str(image.resolve()))
    if entry is None and image.is_file():
        entry = summary.by_hash.get(sha256(image))  # the image was moved since
    if entry is None:
        raise ValueError(f"{folder / SUMMARY_FILE} lists no masks of {image}, only of other images")
    if entry.get("status") == "failed":
        reason = printable(str(entry.get("reason", "no reason is listed"))).removeprefix(f"{image.name}: ")
        raise ValueError(f"{folder}: no masks of {image.name}, because its run failed: {reason}")
    outdated = []
    for kind in _KINDS:
        output = entry["outputs"].get(kind)
        if output is None:
            continue
        path = (folder / output["path"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder / SUMMARY_FILE} names {output['path']}, which is outside of its folder: it is damaged"
            )
        if path.exists() and output.get("stamp") and _is_of(image, entry, output["stamp"]):
            return folder / output["path"]
        outdated.append(output["path"])
    state = f"{', '.join(outdated)}: missing or out of date" if outdated else "none were made"
    raise ValueError(f"{folder}: no masks of {image.name} ({state}); run jaxseg segment again")


def _is_of(image: Path, entry: dict, stamp: list) -> bool:
    """Returns whether an image is unchanged since its masks were computed: the same size and time, or content."""
    try:
        status = image.stat()
        return [status.st_size, status.st_mtime_ns] == list(stamp) or entry.get("sha256") == sha256(image)
    except OSError:  # reading the image will report this error
        return True
