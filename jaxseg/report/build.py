"""Writes the report of a folder: one HTML page with every image, its masks and its measurements.

One image is in memory at a time, and the page is written while they are read.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from jaxseg import __version__
from jaxseg.anatomy.measure.features import find_all
from jaxseg.files import atomic_file, printable, safe_name
from jaxseg.masks.read import find_masks
from jaxseg.masks.results import read_summary
from jaxseg.report.catalogue import Catalogue
from jaxseg.report.fitting import NO_PICTURE, NO_VALUES, SMALLER, fitting
from jaxseg.report.page import block, frame, link
from jaxseg.report.reading import Reading, read_image
from jaxseg.report.settings import read_settings

MAX_IMAGES = 5000
MAX_OUTLINED = 200  # images; of more, pictures are small and their masks painted
MAX_BYTES = 100_000_000
_FRAME, _BARE = 100_000, 3000  # bytes of a page without images, and that an image needs at least
_SPARE = 0.05  # of all bytes, for classes that only the last images have
_LOSSES = {
    SMALLER: "{} of {} pictures are smaller or coarser than usual",
    NO_PICTURE: "{} of {} pictures are left out",
    NO_VALUES: "of {} of {} images both picture and measurements are left out",
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
    intensity: str = "clinical",
    sides: bool = True,
    max_bytes: int = MAX_BYTES,
    on_image: Callable[[Path, str, tuple[str, ...]], None] | None = None,
) -> list[tuple[Path, str]]:
    """Writes a page with images, their masks and measurements, whole or not at all.

    Up to 200 images have outlines that the reader switches on and off; of more, small pictures show the masks of the
    classes that a preview shows. The page is made to be passed on, so it names no patient: of a DICOM file it shows
    no tag but one for which it cannot be read. It does show the names of files, and its links tell their place.

    Args:
      images: from 1 to 5,000 files.
      masks: a folder that `jaxseg.masks.read.find_masks` looks them up in, or a path for every image, as
        `read_masks` takes it.
      path: the page; what stands there is replaced.
      root: folder of the images. They are shown by their path in it, and looked up in the same sub-folder of masks,
        unless these have a summary. Not given: images are shown by their names.
      title: of the page.
      features: what to measure, as `jaxseg.anatomy.measure.features.find_all` takes it. Masks are measured as they are
        stored, on the grid of their image.
      classes: labels or groups to show and measure; scores use those they need in any case. Not given: all.
      intensity: how grey values are shown, as in `read_picture`.
      sides: whether to mark the patient's right and left, as they are in frontal pictures that are not mirrored.
      max_bytes: of the page. To keep it, pictures become smaller, and then fewer; the page says so.
      on_image: called after every image with its path, the reason why it failed or "", and the notes of reading it.

    Returns:
      The images that could not be shown, with reasons; they are listed in the page.

    Raises:
      ValueError: the number of images or bytes is out of range, a feature is unknown, the summary of the masks is
        damaged, or no image could be shown.
      OSError: the page cannot be written.
    """
    images, path, found = [Path(image) for image in images], Path(path), find_all(features)
    _check(images, masks, max_bytes)
    if isinstance(masks, str | Path):
        search, settings = _searcher(images, Path(masks), root), read_settings(Path(masks))
        places = [None] * len(images)
    else:
        search, settings, places = None, {}, list(map(Path, masks))
    about = {"title": printable(title) or "Segmentation report", "version": __version__}
    about |= {"settings": settings, "sides": sides}
    about["names"] = {feature.name: (*feature.aliases, feature.name)[0] for feature in found}
    failures: list[tuple[Path, str]] = []
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        page = _Page(file, about, len(images), max_bytes)
        for image, place in zip(images, places, strict=True):
            record = {"name": _shown_name(image, root), "image": link(image, path)}
            reading, reason = None, ""
            try:
                place = place or search(image)
                reading = read_image(image, place, features=found, classes=classes, intensity=intensity)
                text = page.blocks(record | {"masks": link(place, path)}, reading)
            except (ValueError, MemoryError, OSError) as error:
                reason = _describe(error, image, masks)
                failures.append((image, reason))
                text = block(record | {"error": printable(reason)[:1000]}, class_="record")
            page.write(text)
            if on_image is not None:
                on_image(image, reason, reading.notes if reading else ())
        if len(failures) == len(images):
            raise ValueError(f"no image can be shown, of {len(images)}; the first, {images[0]}: {failures[0][1]}")
        page.finish()
    return failures


class _Page:
    """A page while it is written, and how much room it has left."""

    def __init__(self, file: BinaryIO, about: dict, count: int, max_bytes: int):
        before, after = frame(about["title"])
        self.file, self.count, self.left = file, count, count
        self.about, self.after = about | {"outlined": count <= MAX_OUTLINED}, after.encode("utf-8")
        self.max_bytes = max_bytes
        self.catalogue, self.losses = Catalogue(), Counter()
        self.known, self.end_bytes = (0, 0), 0
        self.file.write(before.encode("utf-8"))

    def blocks(self, record: dict, reading: Reading) -> str:
        """Returns an image as there is room for it; ValueError where it has too many classes."""
        self.catalogue.add(reading.names, reading.values)
        record |= {"size": reading.pixels.shape, "spacing": reading.has_spacing}
        known = len(self.catalogue.classes), len(self.catalogue.columns)
        if known != self.known:
            self.known, self.end_bytes = known, len(self._end())
        room = (self.max_bytes * (1 - _SPARE) - self.file.tell() - self.end_bytes) / self.left
        number, outlined = self.count - self.left, self.about["outlined"]
        text, loss = fitting(record, reading, self.catalogue, number=number, outlined=outlined, room=room)
        self.losses[loss] += 1
        return text

    def write(self, text: str) -> None:
        """Writes the blocks of the next image."""
        self.file.write(text.encode("ascii"))
        self.left -= 1

    def finish(self) -> None:
        """Writes what all images have in common."""
        self.file.write(self._end())

    def _end(self) -> bytes:
        notes = [text.format(self.losses[kind], self.count) for kind, text in _LOSSES.items() if self.losses[kind]]
        content = self.about | {"notes": notes} | self.catalogue.content()
        return block(content, id="about").encode("ascii") + self.after


def _check(images: list[Path], masks: Path | Sequence[Path], max_bytes: int) -> None:
    count = len(images)
    if not 1 <= count <= MAX_IMAGES:
        raise ValueError(f"a report shows from 1 to {MAX_IMAGES:,} images, got {count:,}; make one a sub-folder")
    if not isinstance(masks, str | Path) and len(masks) != count:
        raise ValueError(f"masks must be a folder, or as many as the {count:,} images; got {len(masks):,}")
    least = _FRAME + _BARE * count
    if max_bytes < least:
        raise ValueError(f"max_bytes must be at least {least:,} for {count:,} images, got {max_bytes:,}")


def _searcher(images: list[Path], folder: Path, root: Path | None) -> Callable[[Path], Path]:
    """Returns what finds the masks of an image in a folder, where no two images may share them by their names alone."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give that of the masks")
    if read_summary(folder) is not None:
        return lambda image: find_masks(folder, image)
    mirrored = {image: folder / image.parent.relative_to(root) if root else folder for image in images}
    places = {image: place if place.is_dir() else folder for image, place in mirrored.items()}
    counts = Counter((places[image], safe_name(image.stem)) for image in images)

    def find(image: Path) -> Path:
        count = counts[places[image], safe_name(image.stem)]
        if count > 1:
            raise ValueError(f"{count} images are called {image.stem}; whose masks those of that name are is unknown")
        return find_masks(places[image], image)

    return find


def _shown_name(image: Path, root: Path | None) -> str:
    name = image.relative_to(root).as_posix() if root else image.name
    return printable(name)[-500:]


def _describe(error: Exception, image: Path, masks: Path | Sequence[Path]) -> str:
    """An error as one line, which stands beside the image's name and may be passed on: without folders."""
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    text = " ".join(str(error).split()).removeprefix(f"{image.name}: ")
    return text.removeprefix(f"{masks}: ").replace(f"{image.parent}/", "")
