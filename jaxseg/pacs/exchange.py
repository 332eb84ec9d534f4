"""What a worker exchanges with a PACS: the X-rays, the names of its results, and errors that say what to do next.

An X-ray is an object of the classes Computed Radiography or Digital X-Ray For Presentation. The results of a worker
have other classes, so they are never segmented again.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation

from jaxseg.images.decode import open_dicom
from jaxseg.images.elements import check_elements
from jaxseg.images.picture import ImageError
from jaxseg.images.remarks import without_remarks
from jaxseg.masks.source_header import valid_uid

SOP_CLASSES = (str(ComputedRadiographyImageStorage), str(DigitalXRayImageStorageForPresentation))
MODALITIES = ("CR", "DX")
# One of these is within BodyPartExamined, without blanks and signs; TSPINE is within CTSPINE too.
BODY_PARTS = ("CHEST", "THORA", "LUNG", "HEART", "RIB", "STERN", "CLAVIC", "TSPINE", "TLSPINE")
_WHOLE_SPINE = ("SPINE", "WHOLESPINE")  # the only terms of the spine without a part that include the chest
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_CHECKED = (*_UIDS, "SOPClassUID", "BodyPartExamined")


class Refused(ValueError):
    """An X-ray cannot be segmented, or an object was refused: another attempt would give the same."""


class Unavailable(Exception):
    """A network or a server fails now, and may work later.

    Attributes:
      wait_s: seconds that the server asks to wait; 0 if it does not say.
      for_all: whether the server said that it takes nothing from anyone now, as when its disk is full.
    """

    def __init__(self, reason: str, wait_s: float = 0.0, *, for_all: bool = False):
        super().__init__(reason)
        self.wait_s, self.for_all = wait_s, for_all


@dataclasses.dataclass(frozen=True)
class Image:
    """The identifiers of an X-ray: those of its study, of its series and of the object itself."""

    study_uid: str
    series_uid: str
    sop_uid: str


@dataclasses.dataclass(frozen=True)
class Names:
    """The identifiers of a result: those of its series and of the object itself."""

    series_uid: str
    sop_uid: str


class Source(Protocol):
    """Where X-rays come from."""

    def find(self) -> Iterable[Image]:
        """Yields X-rays that may be new. Raises Unavailable."""

    def fetch(self, image: Image, path: Path) -> None:
        """Writes the file of an X-ray, completely or not at all. Raises Refused, Unavailable, OSError."""


class Destination(Protocol):
    """Where results are stored."""

    def holds(self, study_uid: str, names: Names) -> bool:
        """Returns whether a result is known to be stored. Raises Unavailable."""

    def store(self, path: Path) -> None:
        """Stores the file of a result; a second call with the same file changes nothing. Raises as `fetch`."""

    def check(self) -> None:
        """Raises Unavailable if the server does not answer now."""


def check_uid(text: object, what: str) -> str:
    """Returns an identifier, which is safe as the name of a file: digits and single dots, at most 64 characters.

    Args:
      text: the identifier.
      what: its name, for the error.

    Raises:
      Refused: it is not valid.

    >>> check_uid("1.2.840.10008.1", "SOPInstanceUID")
    '1.2.840.10008.1'
    """
    valid = valid_uid(str(text or ""))
    if valid is None:
        raise Refused(f"{what} is not a valid identifier (digits with dots between them, at most 64 characters)")
    return valid


def read_image(path: Path, *, any_body_part: bool = False) -> Image:
    """Returns the identifiers in a file, if it holds an X-ray that may be segmented.

    Args:
      path: a DICOM file.
      any_body_part: whether to accept X-rays of other parts of the body than the chest.

    Raises:
      Refused: the header cannot be read, an identifier is not valid, or the file is not such an X-ray.
      OSError: the file cannot be opened.
    """
    try:
        check_elements(path)
        with without_remarks():
            header = open_dicom(path, tags=_CHECKED)
            values = {keyword: str(header.get(keyword) or "").strip() for keyword in _CHECKED}
    except ImageError as error:
        raise Refused(str(error)) from None
    except Exception as error:  # on damaged files pydicom raises errors of almost any type
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            raise
        raise Refused(f"the header cannot be read ({type(error).__name__}): the file is damaged") from None
    if values["SOPClassUID"] not in SOP_CLASSES:
        raise Refused("its SOP class is not CR or DX For Presentation; only these are segmented")
    if not any_body_part and not _is_near_chest(values["BodyPartExamined"]):
        raise Refused("BodyPartExamined names another part than the chest; --any-body-part segments it too")
    return Image(*(check_uid(values[keyword], keyword) for keyword in _UIDS))


def _is_near_chest(part: str) -> bool:
    """Returns whether an X-ray may show a chest, by its BodyPartExamined, which may be empty.

    >>> [_is_near_chest(part) for part in ("", "Chest", "T-SPINE", "LSPINE")]
    [True, True, True, False]
    """
    letters = "".join(filter(str.isalpha, part.upper()))
    return not part or letters in _WHOLE_SPINE or any(word in letters for word in BODY_PARTS)
