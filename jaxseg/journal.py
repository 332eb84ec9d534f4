"""Journals: files of JSON lines that only grow, so that a process that is killed loses at most the item at hand.

The first line of a journal is its head. Each finished item appends one line, which is synced to disk before the next
item. A last line without a line break is incomplete: readers ignore it, and the next `append` removes it.

A JSON document can have a journal beside it, which holds the entries that changed since the document was written. The
head names the digest of the document, so that a journal of an earlier document is never applied to a later one.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxseg.files import atomic_file, parse_json, sync

ITEM = "file"  # field of a line that holds the key of its entry, in the journal of a document
MAX_LINE = 2**26  # characters; the rest of a longer line is not read
_BLOCK = 2**20  # bytes that are read at once from the end of a journal, which may be larger than the memory


def create(path: Path, head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]] = ()) -> None:
    """Writes a journal with a head and lines. A journal with this name is replaced as a whole, or it stays."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)), encoding="utf-8")


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Appends a line to a journal and syncs the file. If this fails, the journal is as it was before.

    Raises:
      OSError: the file cannot be written.
    """
    cut_last_line(path)
    content = (json.dumps(line) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
            sync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def cut_last_line(path: Path) -> None:
    """Removes a last line without a line break, to which the next line would otherwise be appended."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read() in (b"", b"\n"):
            return
        while end > 0:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            end = start + place + 1
            if place >= 0:
                break
    os.truncate(path, end)


def read(path: Path) -> tuple[dict, list[dict]]:
    """Returns the head and the lines of a journal. Lines that are incomplete or not JSON objects are left out.

    Raises:
      ValueError: the first line is not a JSON object.
      OSError: the file cannot be read.
    """
    first, *lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    head = _object(first)
    if head is None:
        raise ValueError(f"{path} is not a journal of jaxseg: its first line is not a JSON object")
    return head, [line for line in map(_object, lines[:-1]) if line is not None]


def journal_of(document: Path) -> Path:
    """Returns the path of a document's journal, a hidden file beside it."""
    return document.with_name(f".jaxseg-{document.stem}.jsonl")


def digest_of(document: Path) -> str:
    """Returns the hex SHA-256 of a document; "" if it does not exist."""
    return hashlib.sha256(document.read_bytes()).hexdigest() if document.is_file() else ""


def read_document(path: Path, entries: str = "files") -> Any:
    """Returns the content of a JSON document, with the entries of its journal.

    Args:
      path: the document. If it does not exist yet, its journal is read without it.
      entries: field of the document that holds its entries, key -> entry.

    Raises:
      FileNotFoundError: neither the document nor its journal exists.
      ValueError, KeyError, TypeError or AttributeError: a file is damaged or of another origin.
      OSError: a file cannot be read.
    """
    try:  # the journal first: it is removed after its entries are in the document
        head, lines = read(journal_of(path))
    except FileNotFoundError:
        head, lines = {}, []
    if not path.is_file() and head.get("document") == "":
        content, digest = {entries: {}} | head, ""
        del content["document"]
    else:
        text = path.read_bytes()
        content, digest = parse_json(text), hashlib.sha256(text).hexdigest()
    if head.get("document") == digest:
        content[entries].update((line.pop(ITEM), line) for line in lines if ITEM in line)
    return content


def _object(text: str) -> dict | None:
    try:
        found = parse_json(text[:MAX_LINE].encode())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
