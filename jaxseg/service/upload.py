"""Reads a multipart request into a folder while it arrives, within bounds.

The names that a client gives to its files never become paths: a file is stored under the name of its field and a
number. They are kept only to be shown to the same client.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from jaxseg.files import printable
from jaxseg.service.limits import ClientGone, Refused

MAX_FIELD = 4096  # bytes of a text field
MAX_NAME = 200  # characters of a file's name
_MAX_PARTS = 2048  # as many slices as a CT may have, and the fields
_MAX_HEADERS = 8  # of one part


@dataclasses.dataclass(frozen=True)
class Received:
    """A file that a client sent: the `path` where it lies, and the `name` that the client gave it, only for display."""

    path: Path
    name: str


@dataclasses.dataclass(frozen=True)
class Upload:
    """The parts of a request: text `fields` by name, and `files` by the name of their field."""

    fields: dict[str, str]
    files: dict[str, list[Received]]

    def file(self, name: str) -> Received:
        """Returns the file of a field that has exactly one, as `read_upload` has checked."""
        return self.files[name][0]


async def read_upload(
    request: Request, folder: Path, *, files: Mapping[str, int], fields: tuple[str, ...], most: int
) -> Upload:
    """Reads a multipart request.

    Args:
      request: the request; its body was not read yet.
      folder: receives the files.
      files: name of a field with files -> largest number of its files; each needs at least one.
      fields: names of the text fields, which may be left out.
      most: largest number of bytes of the body.

    Raises:
      Refused: the body is too large, damaged or incomplete, or has other parts.
      ClientGone: the client closed the connection.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        shown = printable(kind.decode("latin-1"))[:60] or "nothing"
        raise Refused(415, f"the body is {shown}; send multipart/form-data with the field {', '.join(files)}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    reader = _Reader(folder, files, fields)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks(), max_header_count=_MAX_HEADERS)
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > most:
                raise _too_large(most)
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, MultipartParseError) as error:
        raise Refused(400, f"the multipart body is damaged ({str(error)[:200]}); send it again") from None
    except ClientDisconnect:
        raise ClientGone from None
    finally:
        reader.close()
    if not reader.ended:
        raise Refused(400, "the multipart body was cut off before its last boundary; send it again")
    return reader.upload()


def _too_large(most: int) -> Refused:
    return Refused(413, f"the request has more than {most:,} bytes, which is the limit; send a smaller file")


class _Reader:
    """Receives the events of the parser."""

    def __init__(self, folder: Path, files: Mapping[str, int], fields: tuple[str, ...]):
        self.folder, self.allowed_files, self.allowed_fields = folder, files, fields
        self.fields: dict[str, str] = {}
        self.files: dict[str, list[Received]] = {}
        self.ended = False
        self._parts = 0
        self._name, self._header, self._value = "", b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._text = b""
        self._file: BinaryIO | None = None

    def callbacks(self) -> Any:
        """Returns the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._finish,
        }

    def close(self) -> None:
        """Closes the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def upload(self) -> Upload:
        """Returns all parts; raises Refused if a file is missing or empty."""
        for name in self.allowed_files:
            found = self.files.get(name, [])
            if not found:
                raise Refused(422, f"the field {name!r} is missing; send the file in it")
            if any(file.path.stat().st_size == 0 for file in found):
                raise Refused(400, f"the file in the field {name!r} is empty")
        return Upload(self.fields, self.files)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise Refused(413, f"the request has more than {_MAX_PARTS:,} parts, which is the limit")
        self._headers, self._text = {}, b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = self._name = _decoded(options.get(b"name", b""))
        if name in self.allowed_files:
            found = self.files.setdefault(name, [])
            if len(found) >= self.allowed_files[name]:
                raise Refused(422, f"the field {name!r} has more than {self.allowed_files[name]} files")
            path = self.folder / f"upload-{name}-{len(found) + 1}"
            self._file = path.open("xb")
            found.append(Received(path, _decoded(options.get(b"filename", b""))))
        elif name not in self.allowed_fields:
            known = ", ".join((*self.allowed_files, *self.allowed_fields))
            raise Refused(422, f"the field {printable(name)[:60]!r} is unknown; known: {known}")
        elif name in self.fields:
            raise Refused(422, f"the field {name!r} occurs twice")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD:
            raise Refused(413, f"the field {self._name!r} has more than {MAX_FIELD:,} bytes, which is the limit")

    def _end(self) -> None:
        if self._file is not None:
            self.close()
        else:
            self.fields[self._name] = _decoded(self._text, most=MAX_FIELD).strip()

    def _finish(self) -> None:
        self.ended = True


def _decoded(content: bytes, *, most: int = MAX_NAME) -> str:
    return content.decode("utf-8", "replace")[-most:]
