"""The summary.json of data sets: by which command they were made; of those made as a whole, what the folder holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg import __version__
from jaxseg.files import atomic_file, printable

SUMMARY = "summary.json"


def write_summary(folder: Path, made_by: str, content: Mapping[str, Any]) -> None:
    """Writes summary.json, when all else is in the folder.

    Args:
      folder: of the set.
      made_by: the command, such as "prepare mnist".
      content: what it says besides.
    """
    entries = sorted({path.name for path in folder.iterdir()} | {SUMMARY})
    content = {"made_by": made_by, "jaxseg": __version__, "entries": entries} | dict(content)
    with atomic_file(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_summary(path: Path, made_by: str) -> dict[str, Any] | None:
    """Returns what a set's summary says; None where there is none.

    Raises:
      ValueError: it is damaged, or of something else.
      OSError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes()[: 2**26])
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("made_by") != made_by:
        raise ValueError(f"{path} was not written by `jaxseg {made_by}`; name another folder")
    return found


def check_replaceable(out: Path, made_by: str) -> None:
    """Raises ValueError where a folder holds anything but a set that the same command made."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    found = read_summary(out / SUMMARY, made_by) if out.is_dir() else None
    if found is None or not isinstance(found.get("entries"), list):
        raise ValueError(f"{out}: holds files that `jaxseg {made_by}` did not write; name another folder")
    if others := sorted(path.name for path in out.iterdir() if path.name not in found["entries"]):
        names = ", ".join(map(printable, others[:5]))
        raise ValueError(f"{out}: is replaced as a whole, and `jaxseg {made_by}` did not write {names}; move it away")
