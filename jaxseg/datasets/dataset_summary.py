"""The summary.json of a data set that jaxseg made: the command, its settings, and the files that it wrote.

A later run reads it to decide whether the folder is a data set of the same command, which it may continue or replace.
A folder with other files is never changed. It is not a `jaxseg.folder_runs.ledger.Ledger`, because no run resumes from
it: sets of digits and phantoms appear as a whole, and the cases of SegAE's data are found by their folders.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxseg import __version__
from jaxseg.files import atomic_file, printable, read_json

SUMMARY = "summary.json"
Progress = Callable[[int, int, str], None]  # (number of items that are built, their total, text about the last)


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """What a call that builds a data set did.

    Attributes:
      summary: path of the summary.json of the set.
      made: number of items that were built: cases, patients, digits or phantoms.
      existing: number of items that an earlier call had built.
      failed: item -> the reason why it could not be built.
      notes: one line about each file or group of files that was left out.
    """

    summary: Path
    made: int
    existing: int = 0
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def watched(items: Iterable, total: int, progress: Progress | None, text: Callable[[Any], str] = str) -> Iterator:
    """Yields items and calls `progress`: first with (0, total, ""), then after each item with its number and text."""
    if progress is not None:
        progress(0, total, "")
    for number, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(number, total, text(item))


def write_summary(folder: Path, made_by: str, content: Mapping[str, Any]) -> None:
    """Writes summary.json; to be called after all other files of the data set are written.

    Args:
      folder: folder of the data set.
      made_by: the command, such as "prepare mnist".
      content: further fields, as values that JSON can hold.
    """
    entries = sorted({path.name for path in folder.iterdir()} | {SUMMARY})
    content = {"made_by": made_by, "jaxseg": __version__, "entries": entries} | dict(content)
    with atomic_file(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_summary(path: Path, made_by: str) -> dict[str, Any] | None:
    """Returns the summary of a data set; None if the file does not exist.

    Args:
      path: the summary.json.
      made_by: the command that must have written it.

    Raises:
      ValueError: the file is damaged, or was written by another command or program.
      OSError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("made_by") != made_by:
        raise ValueError(f"{path} was not written by `jaxseg {made_by}`; name another folder")
    return found


def check_replaceable(out: Path, made_by: str) -> None:
    """Raises ValueError unless a folder is missing, is empty, or holds only a data set of the same command."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    found = read_summary(out / SUMMARY, made_by) if out.is_dir() else None
    if found is None or not isinstance(found.get("entries"), list):
        raise ValueError(f"{out}: holds files that `jaxseg {made_by}` did not write; name another folder")
    if others := sorted(path.name for path in out.iterdir() if path.name not in found["entries"]):
        names = ", ".join(map(printable, others[:5]))
        raise ValueError(f"{out}: is replaced as a whole, and `jaxseg {made_by}` did not write {names}; move it away")
