"""Reads the names of labels that a NIfTI file holds in an extension of its header, as TotalSegmentator writes them.

The table is XML of the Connectome Workbench (`CaretExtension`) with one `LabelTable`. The file is untrusted: sizes are
bounded, and documents that declare a type or entities are refused, because entities can expand without limit.
"""

import struct
from pathlib import Path
from xml.parsers import expat

from jaxseg.files import printable
from jaxseg.volumes import nifti
from jaxseg.volumes.volume import VolumeError

MAX_BYTES = 2**22  # of a table; that of TotalSegmentator with 117 names has 12,000
_MAX_NAME = 200  # characters
_MARK = b"<LabelTable"


class LabelNamesError(VolumeError):
    """The table of labels in a file's header cannot be used; the message names the file and the reason."""


def read_label_names(path: Path) -> dict[int, str]:
    """Returns label -> name from the header of a NIfTI file; {} if it has no table, or the file has another format.

    Label 0, the background, is left out.

    Raises:
      LabelNamesError: its table of labels is damaged, too large or ambiguous.
      VolumeError: the file is damaged in another way.
      ValueError: nibabel is not installed.
      OSError: the file cannot be opened.
    """
    if not path.is_file() or not path.name.lower().endswith(nifti.SUFFIXES):
        return {}
    try:
        content, little = nifti.read_extensions(path)
    except VolumeError as error:
        raise VolumeError(f"{printable(path.name)}: {error}") from None
    try:
        tables = [table for block in _blocks(content, little) if _MARK in block for table in _tables(block)]
        if len(tables) > 1:
            raise VolumeError(f"its header holds {len(tables)} tables of labels; one is possible")
    except VolumeError as error:
        raise LabelNamesError(f"{printable(path.name)}: {error}") from None
    return {label: name for label, name in tables[0].items() if label} if tables else {}


def _blocks(content: bytes, little: bool) -> list[bytes]:
    """Returns the data of the extensions, which follow four bytes whose first one says whether there are any."""
    if len(content) < 4 or not content[0]:
        return []
    blocks, place = [], 4
    while place + 8 <= len(content):
        size, _code = struct.unpack_from("<ii" if little else ">ii", content, place)
        if size < 8 or place + size > len(content):
            raise VolumeError(f"an extension of its header has {size} bytes: the header is damaged")
        blocks.append(content[place + 8 : place + size])
        place += size
    return blocks


def _tables(content: bytes) -> list[dict[int, str]]:
    """Returns the tables of labels in an XML document."""
    if len(content) > MAX_BYTES:
        raise VolumeError(f"the table of labels in its header has more than {MAX_BYTES:,} bytes")
    reader = _Reader()
    try:
        reader.parser.Parse(content.rstrip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        kind = error if isinstance(error, VolumeError) else printable(str(error))[:150]
        raise VolumeError(f"the table of labels in its header is damaged ({kind})") from None
    return reader.tables


class _Reader:
    """Collects the tables of labels while a document is parsed."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.tables: list[dict[int, str]] = []
        self._label: int | None = None
        self._parts: list[str] = []

    def _refuse(self, *_declaration) -> None:
        raise VolumeError("it declares a document type or entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "LabelTable":
            self.tables.append({})
        elif name == "Label" and self.tables:
            key = attributes.get("Key", "").strip()
            if not key.isascii() or not key.isdecimal() or len(key) > 5 or int(key) >= 2**16:
                raise VolumeError(f"the label {key[:20]!r} is not a whole number from 0 to 65535")
            self._label, self._parts = int(key), []

    def _text(self, text: str) -> None:
        if self._label is not None:
            self._parts.append(text)

    def _end(self, name: str) -> None:
        if name != "Label" or self._label is None:
            return
        text, table = printable("".join(self._parts).strip()), self.tables[-1]
        if self._label in table:
            raise VolumeError(f"the label {self._label} appears twice")
        if not text or len(text) > _MAX_NAME:
            raise VolumeError(f"the label {self._label} has no name, or one of more than {_MAX_NAME} characters")
        table[self._label], self._label = text, None
