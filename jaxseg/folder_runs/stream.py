"""Reading, device work and writing at the same time, in bounded memory: reader threads, batches, writer threads."""

import collections
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator

_log = logging.getLogger(__name__)  # tracebacks of failures, which `--debug` shows


@dataclasses.dataclass
class Outcome:
    """What became of one item: the `result` of writing, or the `error` of the stage that failed; `notes` of reading."""

    item: object
    result: object = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def stream(
    items: Iterable,
    read: Callable,
    compute: Callable[[list], list],
    write: Callable,
    *,
    batch_size: int,
    readers: int = 2,
    writers: int = 2,
) -> Iterator[Outcome]:
    """Yields an Outcome for every item as soon as it is done, in no fixed order.

    At most `2 * batch_size + readers` items are read ahead of or in `compute`, and `2 * batch_size + writers` wait
    for or are in `write`. An error in `read` or `write` belongs to its item; one in `compute` belongs to every item of
    the batch.

    Args:
      items: the items to process.
      read: item -> value, in a reader thread.
      compute: list of up to `batch_size` values -> list of results, in the calling thread.
      write: (item, value, result) -> anything, in a writer thread.
      batch_size: items in one call of `compute`; only the last call gets fewer.
    """
    waiting = collections.deque(items)
    reading: collections.deque = collections.deque()
    writing: set[concurrent.futures.Future] = set()
    read_pool = concurrent.futures.ThreadPoolExecutor(readers, "read")
    write_pool = concurrent.futures.ThreadPoolExecutor(writers, "write")
    try:
        batch: list[tuple[Outcome, object]] = []
        while waiting or reading or batch:
            while waiting and len(reading) < batch_size + readers:
                reading.append(read_pool.submit(_read, read, waiting.popleft()))
            if reading and len(batch) < batch_size:
                outcome, value = reading.popleft().result()
                if outcome.error is None:
                    batch.append((outcome, value))
                else:
                    yield outcome
                continue
            for outcome, value, result in _compute(compute, batch):
                if outcome.error is not None:
                    yield outcome
                    continue
                writing.add(write_pool.submit(_write, write, outcome, value, result))
            batch = []
            pending = batch_size + writers if waiting or reading else 0
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


def _compute(compute: Callable, batch: list[tuple[Outcome, object]]) -> list[tuple[Outcome, object, object]]:
    start = time.perf_counter()
    try:
        results = compute([value for _, value in batch])
    except Exception as error:
        _log.debug("computing failed", exc_info=error)
        for outcome, _ in batch:
            outcome.error = error
        results = [None] * len(batch)
    seconds = (time.perf_counter() - start) / max(len(batch), 1)
    for outcome, _ in batch:
        outcome.seconds["compute"] = seconds
    return [(outcome, value, result) for (outcome, value), result in zip(batch, results, strict=True)]


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
