"""Reads the annotations of LIDC-IDRI as the archive distributes them: one XML file per CT study.

A file holds one reading session for each of up to four readers. Nodules of at least 3 mm have outlines and ratings.
Smaller nodules have a single point and no ratings; they are counted but not returned, as are the marks of non-nodules.

Source: Armato et al. 2011, doi 10.1118/1.3528204; the archive's LidcReadMessage, namespace http://www.nih.gov.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from jaxseg.files import printable

RATINGS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)
MAX_BYTES = 2**26  # the largest file in the archive has 4 MB
MAX_SIDE = 4096  # coordinates of points are below this number of pixels
MAX_DEPTH, MAX_ELEMENTS = 64, 2_000_000

_ENCODINGS = ("ascii", "utf-16-le", "utf-16-be")
_ROOTS = {"LidcReadMessage": "ct", "IdriReadMessage": "x-ray"}


@dataclasses.dataclass(frozen=True)
class Outline:
    """An outline in one slice.

    Attributes:
      uid: SOP Instance UID of the slice.
      z: position of the slice in millimetres, according to the file.
      inclusion: True: the outline encloses nodule. False: it encloses a part that is cut out of the nodule.
      points: (n, 2) int32, row and column, from 0: the first pixels outside the nodule.
    """

    uid: str
    z: float
    inclusion: bool
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One reader's annotation of one nodule of at least 3 mm.

    Attributes:
      reader: number of the reading session in the file, from 0. In another file the same number is another person.
      nodule: the reader's own name of the nodule.
      ratings: the ratings in the order of `RATINGS`, 1 to 6; None if the reader gave none.
      outlines: the outlines, at least one.
    """

    reader: int
    nodule: str
    ratings: tuple[int | None, ...]
    outlines: tuple[Outline, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The content of one annotation file.

    Attributes:
      series: Series Instance UID of the CT; "" if the file does not say.
      readers: number of readers.
      annotations: annotations of nodules of at least 3 mm.
      small: number of marks of nodules below 3 mm.
      no_nodules: number of marks of non-nodules.
    """

    series: str
    readers: int
    annotations: tuple[Annotation, ...]
    small: int
    no_nodules: int


def read_lidc_xml(path: Path) -> Reading | None:
    """Reads an annotation file.

    Files with a document type are refused before any entity is expanded. Very large and very deep files are refused
    too.

    Args:
      path: the file.

    Returns:
      The content; None if the file belongs to a chest X-ray of the archive, which has no outlines.

    Raises:
      ValueError: the file is not XML, is damaged, is not from this archive, or holds an impossible value.
      OSError: it cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file() or size > MAX_BYTES:
        raise ValueError(f"{path.name}: a file of annotations has at most {MAX_BYTES:,} bytes, got {size:,}")
    try:
        root = _parse(path.read_bytes())
        kind = _ROOTS.get(_local(root.tag))
        if kind is None:
            raise ValueError(f"begins with {printable(_local(root.tag))[:40]!r}; known: {', '.join(_ROOTS)}")
        return _reading(root) if kind == "ct" else None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


class _Refusing(ElementTree.TreeBuilder):
    """Builds the tree of a file without a document type; the depth and the number of elements are limited."""

    def __init__(self):
        super().__init__()
        self._depth = self._count = 0

    def doctype(self, name, pubid, system):
        raise ValueError("has a document type (DOCTYPE), which no file of the archive has; it is not read")

    def start(self, tag, attributes):
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise ValueError(f"has more than {MAX_DEPTH} levels or {MAX_ELEMENTS:,} elements; it is not read")
        return super().start(tag, attributes)

    def end(self, tag):
        self._depth -= 1
        return super().end(tag)


def _parse(content: bytes) -> ElementTree.Element:
    # Entities can only be declared in a document type, so its start is searched in every encoding that expat knows.
    for encoding in _ENCODINGS:
        if "<!DOCTYPE".encode(encoding) in content or "<!ENTITY".encode(encoding) in content:
            raise ValueError("has a document type (DOCTYPE), which no file of the archive has; it is not read")
    parser = ElementTree.XMLParser(target=_Refusing())  # noqa: S314
    try:
        parser.feed(content)
        return parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"not an XML file, or damaged ({error})") from None
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"its encoding cannot be read ({error})") from None


def _reading(root: ElementTree.Element) -> Reading:
    sessions = list(_children(root, "readingSession"))
    series = next((_text(element) for element in root.iter() if _local(element.tag).lower() == "seriesinstanceuid"), "")
    annotations, small, none = [], 0, 0
    for reader, session in enumerate(sessions):
        none += sum(1 for _ in _children(session, "nonNodule"))
        for nodule in _children(session, "unblindedReadNodule"):
            found = _annotation(reader, nodule)
            if found is None:
                small += 1
            else:
                annotations.append(found)
    return Reading(series, len(sessions), tuple(annotations), small, none)


def _annotation(reader: int, nodule: ElementTree.Element) -> Annotation | None:
    """Returns an annotation; None for a nodule below 3 mm, which has one point at its centre and no ratings."""
    name = printable(_of(nodule, "noduleID"))[:64]
    where = f"nodule {name or '?'} of reading session {reader + 1}"
    outlines = tuple(_outline(roi, where) for roi in _children(nodule, "roi"))
    rated = next(_children(nodule, "characteristics"), None)
    traced = tuple(outline for outline in outlines if len(outline.points) > 1)
    if not any(outline.inclusion for outline in traced):
        return None
    values = {} if rated is None else {_local(element.tag): _text(element) for element in rated}
    return Annotation(reader, name, tuple(_rating(values.get(rating, ""), rating, where) for rating in RATINGS), traced)


def _outline(roi: ElementTree.Element, where: str) -> Outline:
    inclusion = _of(roi, "inclusion").upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise ValueError(f"{where}: inclusion is {printable(inclusion)[:20]!r}, neither TRUE nor FALSE")
    z = _number(_of(roi, "imageZposition"), f"{where}: imageZposition")
    uid = printable(_of(roi, "imageSOP_UID"))[:128]
    points = [
        [_whole(_of(edge, axis), f"{where}: {axis}") for axis in ("yCoord", "xCoord")]
        for edge in _children(roi, "edgeMap")
    ]
    if not points:
        raise ValueError(f"{where}: an outline has no point")
    return Outline(uid, z, inclusion == "TRUE", np.array(points, np.int32))


def _rating(text: str, rating: str, where: str) -> int | None:
    if not text or text == "0":  # files have 0 if the reader left out the rating
        return None
    value = _whole(text, f"{where}: {rating}")
    if not 1 <= value <= 6:
        raise ValueError(f"{where}: {rating} is {value}; ratings are from 1 to 6")
    return value


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not text:
        raise ValueError(f"{what} is missing")
    if not math.isfinite(value):
        raise ValueError(f"{what} is {printable(text)[:40]!r}, which is not a number")
    return value


def _whole(text: str, what: str) -> int:
    value = _number(text, what)
    if not value.is_integer() or not 0 <= value < MAX_SIDE:
        raise ValueError(f"{what} is {printable(text)[:40]!r}, which is not an integer from 0 to {MAX_SIDE - 1}")
    return int(value)


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _local(child.tag) == name)


def _of(element: ElementTree.Element, name: str) -> str:
    """Returns the text of a child; "" if there is no such child."""
    child = next(_children(element, name), None)
    return "" if child is None else _text(child)


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()


def _local(tag: str) -> str:
    """Returns a name without its namespace."""
    return tag.rpartition("}")[2]
