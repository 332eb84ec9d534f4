"""Collects what pydicom, Pillow and tifffile log or warn while a file is read, so that notes on it can say so."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_threads = threading.Lock()
_filters = contextlib.ExitStack()  # holds Python's warning filters, which all threads share
_collecting = 0  # number of threads that collect remarks
_reading = threading.local()  # `remarks`: those on the file that this thread reads


@contextlib.contextmanager
def without_remarks() -> Iterator[list[str]]:
    """Collects the log messages of pydicom and tifffile and the warnings of this thread instead of emitting them.

    Warnings of other threads are silenced meanwhile, because Python has one set of warning filters for all threads. The
    filters are restored when the last such thread leaves.

    Yields:
      The list that receives the messages, each one once.
    """
    global _collecting
    with _threads:
        if not _collecting:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # the category of Pillow's and pydicom's warnings
            warnings.showwarning = _take_warning
        _collecting += 1
    before = getattr(_reading, "remarks", None)
    _reading.remarks = []
    try:
        yield _reading.remarks
    finally:
        _reading.remarks = before
        with _threads:
            _collecting -= 1
            if not _collecting:
                _filters.close()


def _take(text: str) -> bool:
    """Adds a remark to the list of this thread, and returns whether there is such a list."""
    remarks = getattr(_reading, "remarks", None)
    if remarks is None:
        return False
    text = " ".join(text.split())
    if text not in remarks:  # pydicom logs everything that it warns of
        remarks.append(text)
    return True


def _take_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _take(str(message))


def _take_record(record: logging.LogRecord) -> bool:
    """Returns whether a log message is to be emitted: it belongs to a thread that does not collect remarks."""
    return not _take(record.getMessage())


for _name in ("pydicom", "pydicom.pixels.decoders.base", "tifffile"):
    logging.getLogger(_name).addFilter(_take_record)
