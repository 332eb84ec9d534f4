"""Writes a report: one HTML page with images, their masks and their measurements.

One image is in memory at a time. The page is written while the images are read.
"""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from jaxseg import __version__
from jaxseg.anatomy.measure.features import find_all
from jaxseg.files import atomic_file, printable, safe_name
from jaxseg.masks.cohort import is_cohort_file
from jaxseg.masks.read import find_masks
from jaxseg.masks.results import read_summary
from jaxseg.report.catalogue import Catalogue, pixel_notes
from jaxseg.report.fitting import NO_PICTURE, NO_VALUES, SMALLER, fit_blocks
from jaxseg.report.page import block, frame, link
from jaxseg.report.reading import Reading, read_image, read_run, short_names
from jaxseg.text_table import Table

_log = logging.getLogger(__name__)

MAX_IMAGES = 5000
MAX_OUTLINED = 200  # images; if there are more, pictures are small and masks are painted on them
MAX_BYTES = 100_000_000
_FRAME, _BARE = 100_000, 3000  # bytes: a page without images, and the least that an image needs
_SPARE = 0.05  # share of the bytes that is kept for classes that only the last images have
_LOSSES = {
    SMALLER: "{} of {} pictures are smaller or coarser than usual",
    NO_PICTURE: "{} of {} pictures are left out",
    NO_VALUES: "both picture and measurements of {} of {} images are left out",
}


def write_report(
    images: Sequence[Path],
    masks: Path | Sequence[Path],
    path: Path,
    *,
    root: Path | None = None,
    title: str = "",
    features: str | Sequence[str] = "CTR,SCD,area",
    classes: str | Sequence[str] | None = None,
    levels: Mapping[int, str] | None = None,
    intensity: str = "clinical",
    sides: bool = True,
    tables: Sequence[Table] = (),
    confidence: Path | None = None,
    max_bytes: int = MAX_BYTES,
    on_image: Callable[[Path, str, tuple[str, ...]], None] | None = None,
) -> list[tuple[Path, str]]:
    """Writes a page with images, their masks and their measurements, completely or not at all.

    In a page of up to 200 images, the reader can switch the outlines of the masks on and off. If there are more images,
    small pictures show the masks of the classes that a preview shows.

    The page is made for sharing, so it does not identify patients: it contains no DICOM tags, except a tag that makes a
    file unreadable, in the error message. It does contain file names, and its links contain paths.

    Args:
      images: from 1 to 5,000 files.
      masks: a folder in which `jaxseg.masks.read.find_masks` looks for the masks, a .jsonl or .parquet file with the
        masks of all images, or one path per image, which `read_masks` reads.
      path: file of the page; an existing file is replaced.
      root: folder of the images. The page shows their paths relative to it, and their masks are looked up in the same
        sub-folder of `masks`, unless `masks` has a summary. None means that the page shows only file names.
      title: title of the page.
      features: what to measure, as `jaxseg.anatomy.measure.features.find_all` takes it. Masks of a jaxseg run are
        measured on the network's grid, as `jaxseg.extract` does, and upright if the run turned the image before it was
        segmented; other masks on the pixels of their image. SCD uses the vertebrae that the run used which made the
        masks.
      classes: labels or groups to show and measure; None means all. Scores always use the classes that they need.
      levels: names of the classes of label maps, as `jaxseg.masks.read.read_masks` takes them.
      intensity: how grey values are shown, as in `read_picture`.
      sides: whether to mark the patient's right and left; correct for frontal pictures that are not mirrored.
      tables: tables to show above the measurements.
      confidence: folder of another run on the same images, whose confidence the page shows, because the masks were
        changed after it; None: that of the run that made the masks.
      max_bytes: largest size of the page, in bytes. If it is not enough, pictures become smaller, and then some are
        left out; the page says so.
      on_image: function that is called after every image with its path, the reason of a failure or "", and the warnings
        of reading it.

    Returns:
      The images that could not be shown, with the reasons. The page lists them, too.

    Raises:
      ValueError: the number of images or bytes is out of range, a feature is unknown, the summary of the masks is
        damaged, or no image could be shown.
      OSError: the page cannot be written.
    """
    images, path, found = [Path(image) for image in images], Path(path), find_all(features)
    _check(images, masks, max_bytes)
    search, places, settings, note = _masks_of(images, masks, root)
    about = {"title": printable(title) or "Segmentation report", "version": __version__, "sides": sides}
    about |= {"settings": settings, "names": short_names(found), "note": note}
    about |= {"tables": [dataclasses.asdict(table) for table in tables]}
    options = {"classes": classes, "levels": levels, "groups": settings.get("groups", "original")}
    options |= {"features": found, "intensity": intensity, "confidence": confidence}
    failures: list[tuple[Path, str]] = []
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        page = _Page(file, about, len(images), max_bytes)
        for image, place in zip(images, places, strict=True):
            record = {"name": _shown_name(image, root), "image": link(image, path)}
            reading, reason = None, ""
            try:
                place = place or search(image)
                reading = read_image(image, place, **options)
                text = page.blocks(record | {"masks": link(place, path)}, reading)
            except (ValueError, MemoryError, OSError) as error:
                reason = _describe(error, image, masks)
                failures.append((image, reason))
                text = block(record | {"error": printable(reason)[:1000]}, class_="record")
            page.write(text)
            if on_image is not None:
                on_image(image, reason, reading.notes if reading else ())
        _check_any_shown(images, failures)
        page.finish()
    return failures


def _masks_of(images: list[Path], masks: Path | Sequence[Path], root: Path | None) -> tuple:
    """Returns what finds the masks of an image, the masks of each that are known, and what `read_run` returns."""
    if isinstance(masks, str | Path):
        folder = Path(masks)
        run = read_run(folder.parent if is_cohort_file(folder) else folder)
        return _searcher(images, folder, root), [None] * len(images), *run
    return None, list(map(Path, masks)), {}, ""


def _check_any_shown(images: list[Path], failures: list[tuple[Path, str]]) -> None:
    if len(failures) == len(images):
        raise ValueError(f"none of the {len(images)} images can be shown; the first, {images[0]}: {failures[0][1]}")


class _Page:
    """A page that is being written.

    Attributes:
      about: the data that all images have in common.
      left: number of images that are still to be written.
      losses: how many images were shown with which loss.
    """

    def __init__(self, file: BinaryIO, about: dict, count: int, max_bytes: int):
        before, after = frame(about["title"])
        self.file, self.count, self.left = file, count, count
        self.about, self.after = about | {"outlined": count <= MAX_OUTLINED}, after.encode("utf-8")
        self.max_bytes = max_bytes
        self.catalogue, self.losses, self.grids = Catalogue(), Counter(), Counter()
        self.known, self.end_bytes = (0, 0), 0
        self.file.write(before.encode("utf-8"))

    def blocks(self, record: dict, reading: Reading) -> str:
        """Returns the blocks of the next image, made to fit the remaining room.

        Raises:
          ValueError: the page would have too many classes.
        """
        self.catalogue.add(reading.names, reading.values)
        record |= {"size": reading.pixels.shape, "spacing": reading.has_spacing}
        record |= {"warning": reading.warning} if reading.warning else {}
        known = len(self.catalogue.classes), len(self.catalogue.columns)
        if known != self.known:
            self.known, self.end_bytes = known, len(self._end())
        room = (self.max_bytes * (1 - _SPARE) - self.file.tell() - self.end_bytes) / self.left
        number, outlined = self.count - self.left, self.about["outlined"]
        text, loss = fit_blocks(record, reading, self.catalogue, number=number, outlined=outlined, room=room)
        self.losses[loss] += 1
        self.grids[reading.grid] += 1
        return text

    def write(self, text: str) -> None:
        """Writes the blocks of the next image."""
        self.file.write(text.encode("ascii"))
        self.left -= 1

    def finish(self) -> None:
        """Writes the data that all images have in common, and the end of the page."""
        self.file.write(self._end())

    def _end(self) -> bytes:
        notes = [text.format(self.losses[kind], self.count) for kind, text in _LOSSES.items() if self.losses[kind]]
        content = self.about | {"notes": notes, "pixels": pixel_notes(self.grids)} | self.catalogue.content()
        return block(content, id="about").encode("ascii") + self.after


def _check(images: list[Path], masks: Path | Sequence[Path], max_bytes: int) -> None:
    count = len(images)
    if not 1 <= count <= MAX_IMAGES:
        raise ValueError(f"a report shows from 1 to {MAX_IMAGES:,} images, got {count:,}; write several reports")
    if not isinstance(masks, str | Path) and len(masks) != count:
        raise ValueError(f"masks must be a folder or one path per image: {count:,} images, got {len(masks):,} paths")
    least = _FRAME + _BARE * count
    if max_bytes < least:
        raise ValueError(f"max_bytes must be at least {least:,} for {count:,} images, got {max_bytes:,}")


def _searcher(images: list[Path], folder: Path, root: Path | None) -> Callable[[Path], Path]:
    """Returns the function that finds the masks of an image in a folder.

    Without a summary, masks are found by the name of the image. Two images with the same name are refused.
    """
    if is_cohort_file(folder):
        return lambda image: folder
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder of the masks")
    if read_summary(folder) is not None:
        return lambda image: find_masks(folder, image)
    mirrored = {image: folder / image.parent.relative_to(root) if root else folder for image in images}
    places = {image: place if place.is_dir() else folder for image, place in mirrored.items()}
    counts = Counter((places[image], safe_name(image.stem)) for image in images)

    def find(image: Path) -> Path:
        count = counts[places[image], safe_name(image.stem)]
        if count > 1:
            raise ValueError(f"{count} images are called {image.stem}: it is unknown to which of them the masks belong")
        return find_masks(places[image], image)

    return find


def _shown_name(image: Path, root: Path | None) -> str:
    name = image.relative_to(root).as_posix() if root else image.name
    return printable(name)[-500:]


def _describe(error: Exception, image: Path, masks: Path | Sequence[Path]) -> str:
    """Returns an error as one line without paths of folders, for a page that may be shared."""
    _log.debug("%s failed", image, exc_info=error)
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    text = " ".join(str(error).split()).removeprefix(f"{image.name}: ")
    folder = rf"(?<![\w./-]){re.escape(str(image.parent))}/"  # not the end of a longer path
    return re.sub(folder, "", text.removeprefix(f"{masks}: "))
