"""The one temporary folder of the service, in which every request has a folder; it is emptied in any case.

A lock on the folder shows that its process lives. The operating system releases it if the process is killed, so that
the next start finds and removes what killed processes left. Folders of other users are left untouched, and so are
folders without the file that this module writes into its own.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import weakref
from pathlib import Path

from jaxseg import files
from jaxseg.files import Locked, only_writer

PREFIX = "jaxseg-serve-"
MARKER = ".made-by-jaxseg-serve"


class Workspace:
    """A temporary folder that only this process uses.

    Args:
      parent: where to make it; None: the folder for temporary files of the system.

    Raises:
      OSError: the folder cannot be made.
    """

    def __init__(self, parent: Path | None = None):
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_abandoned(parent)
        self.path, self._lock = _made(parent)
        self.close = weakref.finalize(self, _close, self.path, self._lock)  # also at the end of the process

    def new(self) -> Path:
        """Returns a new empty folder with a random name."""
        path = self.path / secrets.token_hex(16)
        path.mkdir(mode=0o700)
        return path

    def remove(self, path: Path) -> None:
        """Removes a folder that `new` returned, if it still exists.

        Raises:
          ValueError: the folder is not one of this workspace.
        """
        if path.parent != self.path:
            raise ValueError(f"{path} is not a folder of this workspace; only those are removed")
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes the folders that killed processes of this user left, and returns them.

    An operating system without locks cannot tell them from folders in use, so that nothing is removed there.

    Args:
      parent: the folder that holds them.
    """
    removed: list[Path] = []
    if files.fcntl is None:
        return removed
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Locked):  # it has just been removed, or its process lives
            found = path.lstat()
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if not (stat.S_ISDIR(found.st_mode) and mine and (path / MARKER).is_file()):
                continue
            with only_writer(path):
                _remove(path)
                removed.append(path)
    return removed


def _made(parent: Path) -> tuple[Path, contextlib.ExitStack]:
    """Returns a new folder, and what holds its lock. The lock is older than the marker, so that no start removes it."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    with contextlib.ExitStack() as lock:
        lock.enter_context(only_writer(path))
        (path / MARKER).touch()
        return path, lock.pop_all()


def _close(path: Path, lock: contextlib.ExitStack) -> None:
    _remove(path)
    lock.close()


def _remove(path: Path) -> None:
    """Removes a folder; its marker goes last, so that the next start finds what a killed process has not removed."""
    with contextlib.suppress(OSError):
        for one in path.iterdir():
            if one.name != MARKER:
                shutil.rmtree(one, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
