"""Batches of examples by Grain; the one place that touches it. Batches are dicts of numpy arrays.

Sources, transforms and what happens to bad records: `jaxseg.training.reader`.
"""

import collections
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from jaxseg.training.reader import Reader, RecordError, Source, Transform

ON_ERROR = ("stop", "skip")

__all__ = ["ON_ERROR", "Batches", "RecordError", "evaluation_batches", "prefetch_to_device", "training_batches"]


class Batches(grain.DatasetIterator):
    """An iterator over batches whose position can be stored and set, made by the two functions below.

    The position is a small dict for JSON. It hangs on neither threads, workers nor processes, so a run may go on with
    others. It holds what the order of the examples hangs on, and `set_state` refuses that of other data.
    Orbax stores the iterator itself too, by `grain.checkpoint.CheckpointSave`.

    Attributes:
      skipped: name of each bad record that was left out -> how often; with worker processes too.
    """

    def __init__(self, plan: grain.MapDataset, read: Reader, key: dict[str, int], workers: int, buffer: int):
        super().__init__()
        self.skipped: dict[str, int] = {}
        self._plan, self._read, self._key = plan, read, key
        self._workers, self._buffer = workers, buffer
        self._next = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed:
            raise ValueError("these batches were closed")
        if self._next >= len(self._plan):
            raise StopIteration
        if self._iterator is None:
            self._iterator = self._start()
        try:
            batch = next(self._iterator)
        except BaseException:  # so that asking again meets the same, and leaves nothing out
            self._stop()
            raise
        self._next += 1
        self._count(batch.pop("wanted"), batch["index"], batch.get("weight"))
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the batch that was returned last."""
        return {"next_batch": self._next, "skipped": dict(self.skipped), **self._key}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position.

        Raises:
          ValueError: it is that of another source, batch size or seed, or is none.
        """
        found = {name: state.get(name) for name in self._key}
        if found != self._key:
            raise ValueError(f"the stored position in the data is for {found}, this run has {self._key}")
        number = state.get("next_batch")
        if type(number) is not int or number < 0:
            raise ValueError(f"the stored position in the data has no batch number, but {number!r}")
        self._stop()
        self._next, self.skipped = number, dict(state.get("skipped", {}))

    def close(self) -> None:
        """Ends the threads and workers."""
        if not self._closed:
            self._closed = True
            self._stop()
            self._read.close()

    def _count(self, wanted: np.ndarray, read: np.ndarray, weight: np.ndarray | None) -> None:
        """Counts the bad records in whose place the reader took others; where these have a weight, it becomes 0."""
        total = len(self._read.source)
        for row in np.flatnonzero(wanted != read):
            passed = int(read[row] - wanted[row]) % total
            if weight is not None:  # of an evaluation: the row stands for one record, or for none where it fills up
                passed, weight[row] = int(weight[row]), 0
            for index in range(int(wanted[row]), int(wanted[row]) + passed):
                name = self._read.source.name(index % total)
                self.skipped[name] = self.skipped.get(name, 0) + 1

    def _start(self) -> grain.DatasetIterator:
        # Grain reads 500 batches ahead unless told otherwise.
        ahead = 1 if self._workers else self._buffer
        data = self._plan.slice(slice(self._next, None)).map(self._read)
        data = data.to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead))
        if self._workers:  # workers get whole batches, or their number would change the order
            _mark_flags_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=1)
            data = data.mp_prefetch(options, worker_init_fn=_start_worker)
        return iter(data)

    def _stop(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def training_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    workers: int = 0,
    buffer: int = 2,
    on_error: str = "stop",
) -> Batches:
    """Returns endless batches in random order.

    An epoch is `len(source) // batch_size` batches without a repeated record; each epoch has an order of its own, and
    the rest is left out. Order, and what transforms draw, hang on the seed alone. Process p gets the rows
    [p b, (p + 1) b) of each global batch, b = batch_size / process_count: the processes' batches, one after the
    other, are the batch of a single process.

    Args:
      source: the records.
      transform: makes an example of a record; its generator hangs on the seed and the place in the stream.
      batch_size: of all processes together.
      seed: in [0, 2^32).
      process_index: number of this process.
      process_count: how many there are.
      threads: that read at the same time, in this process or in each worker.
      workers: processes that read; 0: threads of this one, which is enough where decoding lets go of the interpreter.
      buffer: batches that are made ahead; with workers each makes two ahead instead.
      on_error: "stop": a bad record raises RecordError. "skip": the next good record of the source takes its place,
        and it is counted in `skipped`.

    Returns:
      Batches: dicts of what the transform makes, stacked to (b, ...), and "index", (b,) int64, the number of each
      record in the source.

    Raises:
      ValueError: an option is impossible, or there are fewer records than a batch has.
      RecordError: while iterating: a record is bad.
    """
    _check(source, batch_size, process_index, process_count, on_error, {"threads": threads, "buffer": buffer})
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be in [0, 2^32), got {seed}")
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if len(source) < batch_size:
        raise ValueError(f"a batch of {batch_size} needs as many records, there are {len(source)}")
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().batch(batch_size, drop_remainder=True).repeat()
    share = batch_size // process_count
    plan = order.map_with_index(functools.partial(_training_rows, start=process_index * share, count=share))
    read = Reader(source, transform, seed=seed, threads=threads, skip=on_error == "skip")
    key = {"records": len(source), "batch_size": batch_size, "seed": seed}
    return Batches(plan, read, key, workers, buffer)


def evaluation_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    buffer: int = 2,
    on_error: str = "stop",
) -> Batches:
    """Returns every record once, in order; every process gets the same number of batches.

    Args:
      source: the records.
      transform: makes an example of a record; its generator hangs on the record's number.
      batch_size: of all processes together; rows are shared out as in `training_batches`.
      process_index: number of this process.
      process_count: how many there are.
      threads: that read at the same time.
      buffer: batches that are made ahead.
      on_error: "stop": a bad record raises RecordError. "skip": another stands in its place with the weight 0, and it
        is counted in `skipped`.

    Returns:
      Batches as those of `training_batches`, with "weight", (b,) float32: 1; 0 for the copies of the last record that
      fill the last batch.

    Raises:
      ValueError: an option is impossible, or there is no record.
      RecordError: while iterating: a record is bad, or with "skip" all of them.
    """
    _check(source, batch_size, process_index, process_count, on_error, {"threads": threads, "buffer": buffer})
    total = len(source)
    if total < 1:
        raise ValueError("there is no record to evaluate")
    share = batch_size // process_count
    rows = functools.partial(
        _evaluation_rows, batch_size=batch_size, start=process_index * share, count=share, total=total
    )
    plan = grain.MapDataset.range(-(-total // batch_size)).map(rows)
    read = Reader(source, transform, seed=0, threads=threads, skip=on_error == "skip")
    key = {"records": total, "batch_size": batch_size}
    return Batches(plan, read, key, 0, buffer)


def prefetch_to_device(batches: Batches, put: Callable[[dict], Any], size: int = 2) -> Iterator[tuple[Any, dict]]:
    """Puts batches on the device before they are asked for.

    Args:
      batches: where they come from.
      put: host batch -> device batch.
      size: how many are on the device and not yet used, the one being handed out included.

    Yields:
      `(device batch, position)`: setting the position goes on with the batch after this one, however many were
      fetched ahead. An error comes after the batches before it.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    ready, ended = collections.deque(), None
    while True:
        while ended is None and len(ready) < size:
            try:
                batch = next(batches)
                ready.append((put(batch), batches.get_state()))
            except StopIteration:
                ended = StopIteration()
            except Exception as error:
                ended = error
        if not ready:
            break
        yield ready.popleft()
    if not isinstance(ended, StopIteration):
        raise ended


def _training_rows(number: int, indices: np.ndarray, *, start: int, count: int) -> dict[str, np.ndarray]:
    rows = np.arange(start, start + count, dtype=np.int64)
    return {"position": number * len(indices) + rows, "index": np.asarray(indices)[rows]}


def _evaluation_rows(number: int, *, batch_size: int, start: int, count: int, total: int) -> dict[str, np.ndarray]:
    places = number * batch_size + np.arange(start, start + count, dtype=np.int64)
    index = np.minimum(places, total - 1)
    return {"position": index, "index": index, "weight": (places < total).astype(np.float32)}


def _check(
    source: Source, batch_size: int, process_index: int, process_count: int, on_error: str, positive: dict[str, int]
) -> None:
    for name, value in {"batch_size": batch_size, "process_count": process_count, **positive}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} cannot be shared by {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not one of {process_count} processes")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; known: {', '.join(ON_ERROR)}")


def _mark_flags_as_parsed() -> None:
    """Grain up to 0.2.18 asks absl for a flag, which only absl's own programs have parsed (google/grain#1355)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(number: int, count: int) -> None:
    """Keeps a worker off the accelerators, and ends it when its parent is killed, which Grain does not."""
    import jax  # Grain imports it anyway

    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
