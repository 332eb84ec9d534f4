"""Compiled programs that JAX keeps between runs, in the user's cache folder.

Programs are the same only for the same versions of JAX and the same processor, so each combination has a folder of its
own. JAX itself distinguishes the networks, shapes and settings.
"""

import contextlib
import glob
import importlib.metadata
import os
import re
from pathlib import Path

from jaxseg import cpu
from jaxseg.files import user_cache

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MOST_BYTES = 2**30  # of all kept programs
_FAILED = re.compile("Error (reading|writing) persistent compilation cache entry for '(.*?)'")


def keep() -> Path | None:
    """Makes JAX keep compiled programs in the user's cache folder, so that later processes need not compile them again.

    The `jaxseg` commands call this function. In your own program, call it before JAX is imported: it sets environment
    variables of this process and of those that it starts. If the kept programs exceed 1 GiB, those that were not used
    for the longest time are removed.

    Returns:
      The folder. None if nothing was changed, because JAX_COMPILATION_CACHE_DIR is set, or because there is no folder
      into which this user, and nobody else, can write.
    """
    folder = None if VARIABLE in os.environ else _folder()
    if folder is None:
        return None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
    except OSError:
        return None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or not all(map(_is_ours, (folder, folder.parent))):
        return None
    _limit(folder.parent, MOST_BYTES)
    os.environ[VARIABLE] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    return folder


def keep_none() -> None:
    """Makes JAX compile everything and keep no programs; on CPUs they then use oneDNN. Call it before importing JAX."""
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"


def is_about_kept(warning: str) -> bool:
    """Returns whether a warning of JAX says that a program could not be kept or read.

    JAX then compiles it. If a program in jaxseg's own folder could not be read, it is removed, so that JAX keeps it
    again.
    """
    failed = _FAILED.match(warning)
    folder = _folder()
    if failed and failed[1] == "reading" and folder is not None and os.environ.get(VARIABLE) == str(folder):
        for path in folder.glob(glob.escape(failed[2]) + "-*"):
            with contextlib.suppress(OSError):
                path.unlink()
    return failed is not None


def _folder() -> Path | None:
    """Returns the folder for these versions of JAX and this processor; None if the user has no cache folder."""
    cache = user_cache()
    versions = "-".join(importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    return None if cache is None else cache / "programs" / f"{versions}-{cpu.signature()}"


def _is_ours(folder: Path) -> bool:
    """Returns whether only this user can write into a folder: whoever can write there can run code as this user."""
    state = folder.stat()
    return not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)


def _limit(folder: Path, most: int) -> None:
    """Removes the files of a tree that were not used for the longest time until at most `most` bytes remain."""
    found = []
    for path in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((max(state.st_atime, state.st_mtime), state.st_size, path))
    kept = 0
    for _, size, path in sorted(found, reverse=True):
        kept += size
        if kept > most:
            with contextlib.suppress(OSError):
                path.unlink()
