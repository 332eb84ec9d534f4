"""Adapts Orbax, which stores the checkpoints of training: its errors, its threads, and what it writes of a place.

Only this file and training/checkpoint.py import orbax, and store.py for model directories of earlier versions.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from jaxseg.files import atomic_file, can_sync

_COMMIT_FILE, _COMMITTED = "commit_success.txt", "complete\n"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turns the errors with which Orbax and TensorStore report that a file cannot be written into an OSError.

    Its number is that of the operating system, where they state it.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # TensorStore reports a full disk as a ValueError or RuntimeError of several lines
        reason = " ".join(str(error).split())
        number = re.search(r"os_error_code='(\d+)'", reason)
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(reason[:300])) from error


@functools.cache
def silence_orbax_threads() -> None:
    """Drops errors that Orbax's coroutines and TensorStore's threads cannot raise; all others are reported as before.

    After one array could not be written or read, the operations of all other arrays fail too, at any later time.
    """
    hook, root = sys.unraisablehook, str(Path(ocp.__file__).parent)

    def within_orbax(trace: TracebackType | None) -> bool:
        return any(frame.f_code.co_filename.startswith(root) for frame, _ in traceback.walk_tb(trace))

    def is_of_another(record: logging.LogRecord) -> bool:  # what asyncio logs of futures that nobody waits for
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not (within_orbax(error.__traceback__) or "OCDBT" in str(error))

    def report(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None) or getattr(unraisable.object, "__code__", None)
        of_orbax = within_orbax(unraisable.exc_traceback) or (code and code.co_filename.startswith(root))
        of_tensorstore = (  # its threads are not Python's, and only they call a loop that Orbax has closed
            unraisable.object is None
            and threading.current_thread().name.startswith("Dummy-")
            and str(unraisable.exc_value) == "Event loop is closed"
        )
        if not of_orbax and not of_tensorstore:
            hook(unraisable)

    sys.unraisablehook = report
    logging.getLogger("asyncio").addFilter(is_of_another)


def adapt_to_file_system(folder: Path) -> None:
    """Lets TensorStore, with which Orbax writes, leave out synchronisation if the file system of a folder lacks it.

    It otherwise refuses to write there. Orbax has no option for this setting of TensorStore.
    """
    if not can_sync(folder):
        for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
            context["file_io_sync"] = False


def remove_places(folder: Path) -> None:
    """Rewrites the files that mark complete folders of Orbax, which name the absolute path of the folder.

    Args:
      folder: a folder that Orbax has completed; sub-folders count too.
    """
    for path in folder.rglob(_COMMIT_FILE):
        if path.read_bytes() != _COMMITTED.encode():
            with atomic_file(path) as temporary:
                temporary.write_text(_COMMITTED, encoding="utf-8")
