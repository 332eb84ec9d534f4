"""The partial file of a download. One process at a time writes it; notes beside it name the version it belongs to."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from jaxseg.files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NOTES = {"url": str, "validator": str, "total": int}  # the validator is "" if the server names no version


class Part:
    """A partial file, and a file beside it with the version that the server stated for it."""

    def __init__(self, path: Path):
        self.path = path
        self._notes = path.with_name(path.name + ".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def notes(self) -> dict:
        try:
            notes = read_json(self._notes)
            return notes if {key: type(notes[key]) for key in NOTES} == NOTES else {}
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return {}

    def restart(self, notes: dict) -> None:
        self.remove()
        self.path.touch()
        self._notes.write_text(json.dumps(notes))

    def remove(self) -> None:
        self._notes.unlink(missing_ok=True)  # first, because bytes without notes are never resumed
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def claim(destination: Path) -> Iterator[Part | None]:
    """Locks the part for one process at a time; yields None if another process finished the file in the meantime.

    The system releases the lock whenever a process ends. If the file system has no locks, every process has its own
    part, which is not resumed later.
    """
    before = _identity(destination)
    lock = destination.with_name(destination.name + ".part.lock")
    try:
        handle = _wait_for(lock)
    except _NoLocks:
        part = Part(destination.with_name(f"{destination.name}.{secrets.token_hex(4)}.part"))
        try:
            yield part
        finally:
            part.remove()
        return
    try:
        found = _identity(destination)
        yield None if found and found != before else Part(destination.with_name(destination.name + ".part"))
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


class _NoLocks(Exception):
    """The system or the file system has no locks."""


def _wait_for(lock: Path) -> int:
    """Returns the open and locked file."""
    if fcntl is None:
        raise _NoLocks
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(lock) == _identity(handle):  # otherwise its last owner has removed it in the meantime
                return handle
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(handle)
            lock.unlink(missing_ok=True)
            raise _NoLocks from error
        os.close(handle)
        time.sleep(0.1)


def _identity(file: Path | int) -> tuple[int, ...] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
