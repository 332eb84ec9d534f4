"""Reading, device work and writing at the same time, in bounded memory: reader threads, batches, writer threads."""

import collections
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_log = logging.getLogger(__name__)  # tracebacks of failures, which `--debug` shows


@dataclasses.dataclass
class Outcome:
    """What became of one item: the `result` of writing, or the `error` of the stage that failed; `notes` of reading.

    `size` is the number of bytes that were written for it; it is measured for the first items of a run only.
    """

    item: object
    result: object = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    size: int | None = None


_Read = tuple[Outcome, object]  # an item and what was read
_Started = tuple[list[_Read], Any]  # a batch and what `compute` returned


def stream(
    items: Iterable,
    read: Callable,
    compute: Callable[[list], Any],
    write: Callable,
    *,
    fetch: Callable[[Any], list] | None = None,
    batch_size: int,
    readers: int = 2,
    writers: int = 2,
) -> Iterator[Outcome]:
    """Yields an Outcome for every item as soon as it is done, in no fixed order.

    At most `2 * batch_size + readers` items are read ahead of or in `compute`, and `2 * batch_size + writers` wait
    for or are in `write`; with `fetch`, one batch more is between `compute` and `fetch`. An error in `read` or `write`
    belongs to its item; one in `compute` or `fetch` belongs to every item of the batch.

    Args:
      items: the items to process.
      read: item -> value, in a reader thread.
      compute: list of up to `batch_size` values -> list of results, in the calling thread.
      write: (item, value, result) -> anything, in a writer thread.
      fetch: what `compute` returned -> list of results, in the calling thread; None: `compute` returns the results
        itself. With it, `compute` only starts the work on a device. It is called for the next batch before the last one
        is fetched, so that the device works while the results are copied.
      batch_size: items in one call of `compute`; only the last call gets fewer.
    """
    waiting, reading, started = collections.deque(items), collections.deque[Any](), collections.deque[_Started]()
    writing: set[concurrent.futures.Future] = set()
    read_pool = concurrent.futures.ThreadPoolExecutor(readers, "read")
    write_pool = concurrent.futures.ThreadPoolExecutor(writers, "write")
    try:
        batch: list[_Read] = []
        while waiting or reading or batch or started:
            while waiting and len(reading) < batch_size + readers:
                reading.append(read_pool.submit(_read, read, waiting.popleft()))
            if reading and len(batch) < batch_size:
                outcome, value = reading.popleft().result()
                if outcome.error is None:
                    batch.append((outcome, value))
                else:
                    yield outcome
                continue
            if batch:
                started.append((batch, _of_batch(compute, [value for _, value in batch], batch)))
                batch = []
            if fetch is not None and len(started) < 2 and (waiting or reading):
                continue
            for outcome, value, result in _results(*started.popleft(), fetch):
                if outcome.error is not None:
                    yield outcome
                else:
                    writing.add(write_pool.submit(_write, write, outcome, value, result))
            pending = batch_size + writers if waiting or reading or started else 0
            while len(writing) > pending or any(future.done() for future in writing):
                done, writing = concurrent.futures.wait(writing, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in concurrent.futures.as_completed(writing))
    finally:
        read_pool.shutdown(wait=True, cancel_futures=True)
        write_pool.shutdown(wait=True, cancel_futures=True)


def _read(read: Callable, item) -> tuple[Outcome, object]:
    outcome = Outcome(item)
    value = _timed(outcome, "read", read, item)
    outcome.notes = getattr(value, "notes", ())
    return outcome, value


def _results(batch: list[_Read], answer: Any, fetch: Callable | None) -> list[tuple[Outcome, object, object]]:
    if fetch is not None and batch[0][0].error is None:
        answer = _of_batch(fetch, answer, batch)
    results = [None] * len(batch) if batch[0][0].error else answer
    return [(outcome, value, result) for (outcome, value), result in zip(batch, results, strict=True)]


def _of_batch(function: Callable, argument: Any, batch: list[_Read]) -> Any:
    """Calls a function for a batch; its seconds, or its error, are those of every item."""
    start = time.perf_counter()
    try:
        return function(argument)
    except Exception as error:
        _log.debug("computing failed", exc_info=error)
        for outcome, _ in batch:
            outcome.error = error
        return None
    finally:
        seconds = (time.perf_counter() - start) / len(batch)
        for outcome, _ in batch:
            outcome.seconds["compute"] = outcome.seconds.get("compute", 0.0) + seconds


def _write(write: Callable, outcome: Outcome, value, result) -> Outcome:
    outcome.result = _timed(outcome, "write", write, outcome.item, value, result)
    return outcome


def _timed(outcome: Outcome, stage: str, function: Callable, *args):
    start = time.perf_counter()
    try:
        return function(*args)
    except Exception as error:
        _log.debug("%s failed", stage, exc_info=error)
        outcome.error = error
        return None
    finally:
        outcome.seconds[stage] = time.perf_counter() - start
