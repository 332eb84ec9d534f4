"""Parts of a run: the share of the files that one of several processes or machines works on, and its lock."""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxseg.files import Locked, only_writer

MOST = 100_000  # parts of one run
_LOG = re.compile(r"(.*)\.([1-9][0-9]*)-of-([1-9][0-9]*)\.log")


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `index` of `count`, from 1. Parts are disjoint, together they are complete, and they never change.

    Raises:
      ValueError: `index` is not from 1 to `count`, or there are more than 100,000 parts.

    Example:
      >>> part = Part.parse("3/8")
      >>> part, str(part), part.tag
      (Part(index=3, count=8), '3/8', '3-of-8')
      >>> sum(Part(index, 8).holds("p10/s1.dcm") for index in range(1, 9))
      1
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= MOST:
            raise ValueError(f"a part is I/N with I from 1 to N and N up to {MOST:,}, got {self}")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Returns the part that a text such as "3/8" names.

        Raises:
          ValueError: the text does not have this form, or there is no such part.
        """
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise ValueError(f"a part is I/N, such as 3/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_slurm(cls, environ: Mapping[str, str]) -> "Part | None":
        """Returns the part of a task of a Slurm job array; None outside of one.

        Args:
          environ: the variables of the process, such as `os.environ`.

        Raises:
          ValueError: the ids of the array are not consecutive, so that they do not number parts.
        """
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
        given = [environ.get(name, "") for name in names]
        if not given[0]:
            return None
        if not all(value.isdecimal() for value in given):
            raise ValueError(f"{', '.join(names)} must be whole numbers, got {', '.join(map(repr, given))}")
        task, count, first = map(int, given)
        if not 1 <= task - first + 1 <= count:
            raise ValueError(
                f"the ids of the Slurm array are not consecutive: task {task} of {count} from {first}; submit "
                "--array=1-N, or name the part with --part I/N"
            )
        return cls(task - first + 1, count)

    @property
    def tag(self) -> str:
        """The part in the names of files, such as "3-of-8"."""
        return f"{self.index}-of-{self.count}"

    def holds(self, name: str) -> bool:
        """Returns whether a file belongs to this part.

        Args:
          name: its path relative to the input, with slashes.
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def as_part(part: Part | str | None) -> Part | None:
    """Returns a part that is given as text or as a `Part`; None means all files.

    Raises:
      ValueError: as `Part.parse`.
    """
    return Part.parse(part) if isinstance(part, str) else part


def log_of(path: Path, part: Part) -> Path:
    """Returns the path of a part's log, beside a summary or a table: `run.3-of-8.log`, or `scores.3-of-8.log`.

    Args:
      path: `summary.json` of the folder, or the table of scores.
      part: the part.
    """
    stem = "run" if path.suffix == ".json" else path.stem
    return path.with_name(f"{stem}.{part.tag}.log")


def logs(path: Path) -> list[tuple[Path, Part]]:
    """Returns the logs of parts beside a summary or a table, with their parts; `path` is as for `log_of`."""
    stem = "run" if path.suffix == ".json" else path.stem
    with os.scandir(path.parent) as entries:
        found = [_LOG.fullmatch(entry.name) for entry in entries]
    mine = [match for match in found if match and match[1] == stem and int(match[2]) <= int(match[3]) <= MOST]
    return [(path.with_name(match[0]), Part(int(match[2]), int(match[3]))) for match in mine]


@contextlib.contextmanager
def locked(path: Path, part: Part | None) -> Iterator[Path | None]:
    """Holds the lock of a run into a folder, or that of one of its parts, while the body runs.

    Parts of one count run at the same time. No part runs beside a part of another count, beside itself, or beside a
    run without parts.

    Args:
      path: `summary.json` of the folder, or the table of scores; the folder must exist.
      part: the part; None: a run without parts.

    Yields:
      The log of the part, whose lock is that of the part; None without a part.

    Raises:
      Locked: another run holds a lock that excludes this one.
      OSError: the folder cannot be opened.
    """
    folder = path.parent
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_writer(folder, shared=part is not None))
        log = None if part is None else log_of(path, part)
        if log is not None:
            log.touch()
            try:
                stack.enter_context(only_writer(log))
            except Locked:
                raise Locked(f"part {part} is running into {folder} already") from None
        for other, theirs in logs(path):  # after the own lock, so that of two runs that start now one notices the other
            if (part is None or theirs.count != part.count) and _is_locked(other):
                what = "a run without --part" if part is None else f"part {part}"
                raise Locked(
                    f"part {theirs} is running into {folder}, which excludes {what}; wait until it ends, or name "
                    "another folder"
                )
        yield log


def _is_locked(path: Path) -> bool:
    try:
        with only_writer(path):
            return False
    except Locked:
        return True
    except OSError:  # it was removed, or belongs to another user
        return False


def remove_parts(paths: Sequence[Path], table: Path) -> None:
    """Removes files of parts, and their logs; hold the lock of a run without parts.

    Args:
      paths: summaries or journals of parts; those that do not exist are left out.
      table: `summary.json` of the folder, or the table of scores.
    """
    for path in (*paths, *(log for log, _ in logs(table))):
        path.unlink(missing_ok=True)
