"""The summaries of the runs in a folder: `summary.json`, and one of each part of a run until `jaxseg merge` joins them.

Part 3 of 8 writes `summary.3-of-8.json`. Every document of a part has a number `run`, which is larger than those of all
runs before it; so do its entries. If several documents list a file, the entry of the latest run is the valid one.
"""

import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxseg import journal

SUMMARY_FILE = "summary.json"
NUMBER, NAME = "run", "name"  # fields of the entries in the summary of a part
_PART = re.compile(r"summary\.([1-9][0-9]*)-of-([1-9][0-9]*)\.json", re.IGNORECASE)
_RECENT_NS = 2_000_000_000  # a folder that changed this recently may change again without a new time


def is_summary(name: str) -> bool:
    """Returns whether a file name is that of a summary.

    >>> is_summary("summary.json"), is_summary("summary.3-of-8.json"), is_summary("summary.3-of-8.png")
    (True, True, False)
    """
    return name.lower() == SUMMARY_FILE or _PART.fullmatch(name) is not None


def part_numbers(path: Path) -> tuple[int, int]:
    """Returns the index and the count of the part that a summary belongs to; (0, 0) for `summary.json`.

    >>> part_numbers(Path("out/summary.3-of-8.json"))
    (3, 8)
    """
    found = _PART.fullmatch(path.name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def part_summaries(folder: Path) -> list[Path]:
    """Returns the summaries of parts in a folder, sorted by count and index; [] if the folder cannot be read."""
    try:
        changed = folder.stat().st_mtime_ns
        names = _listed(folder) if time.time_ns() - changed < _RECENT_NS else _known(folder, changed)
    except OSError:
        return []
    return [folder / name for name in names]


def summary_files(folder: Path) -> list[Path]:
    """Returns all summaries in a folder: `summary.json` first, if it or its journal exists, then those of parts."""
    whole = folder / SUMMARY_FILE
    exists = whole.is_file() or journal.journal_of(whole).is_file()
    return [whole] * exists + part_summaries(folder)


def read(paths: Iterable[Path]) -> Iterator[Any]:
    """Yields the content of each summary, with the entries of its journal; a summary that was removed is left out.

    Raises:
      ValueError, KeyError, TypeError or AttributeError: a file is damaged or of another origin.
      OSError: a file cannot be read.
    """
    for path in paths:
        try:
            yield journal.read_document(path)
        except FileNotFoundError:  # the run that joins the parts removes them
            continue


def number_of(document: Mapping[str, Any]) -> int:
    """Returns the number of the run that wrote a document; 0 if there were no parts."""
    number = document.get(NUMBER, 0)
    return number if type(number) is int and number >= 0 else 0


def add_entries(
    found: dict[str, dict], document: Mapping[str, Any], *, wanted: Callable[[str, dict], bool] | None = None
) -> None:
    """Adds the entries of a document to those of others; of two entries of one file, that of the later run stays.

    Args:
      found: key -> entry, changed in place; the entries have the field `run`.
      document: the content of a summary.
      wanted: (key, entry) -> whether to add an entry; None: all are added.

    Raises:
      KeyError, TypeError or AttributeError: the document is of another origin.
    """
    number = number_of(document)
    for key, entry in document["files"].items():
        if wanted is None or wanted(key, entry):
            entry = entry | {NUMBER: number_of(entry) or number}
            if key not in found or found[key][NUMBER] <= entry[NUMBER]:
                found[key] = entry


def joined(paths: Iterable[Path]) -> Any:
    """Returns one document with the settings and entries of several summaries.

    The other fields are those of the latest run.

    Raises:
      FileNotFoundError: none of the summaries exists any more.
      ValueError, KeyError, TypeError or AttributeError: a file is damaged or of another origin.
      OSError: a file cannot be read.
    """
    documents = list(read(paths))
    if not documents:
        raise FileNotFoundError("the summaries were removed")
    if len(documents) == 1:
        return documents[0]
    settings: dict = {}
    entries: dict[str, dict] = {}
    for document in sorted(documents, key=number_of):
        settings |= document["settings"]
        add_entries(entries, document)
    return {**max(documents, key=number_of), "settings": settings, "files": entries}


def _listed(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if _PART.fullmatch(entry.name)]
    return sorted(names, key=lambda name: part_numbers(Path(name))[::-1])


@functools.lru_cache(maxsize=64)
def _known(folder: Path, _changed: int) -> list[str]:
    """Remembers the parts in a folder, which may have a million files, until it changes."""
    return _listed(folder)
