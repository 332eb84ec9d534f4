"""Batches of examples, made by Grain; no other file uses it. Batches are dicts of numpy arrays.

`jaxseg.training.reader` describes sources, transforms and the treatment of bad records.
"""

import collections
import functools
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from jaxseg.training.reader import Reader, RecordError, Source, Transform

# If a worker dies, Python's own cleaner of shared memory removes what it left, and would report that as a warning. It
# runs in a separate process, which takes the options for warnings from here.
_LEAKED = "ignore:resource_tracker:UserWarning"
ON_ERROR = ("stop", "skip")

__all__ = ["ON_ERROR", "Batches", "RecordError", "evaluation_batches", "prefetch_to_device", "training_batches"]


class Batches(grain.DatasetIterator):
    """An iterator over batches whose position can be stored and set, made by the two functions below.

    The position is a small dict for JSON. It depends neither on threads, workers nor processes, so a run may be resumed
    with other numbers of them. It holds everything that the order of the examples depends on, and `set_state` refuses
    the position in other data. Orbax can store the iterator itself too, by `grain.checkpoint.CheckpointSave`.

    Attributes:
      skipped: name of each bad record that was skipped -> how often; this counts worker processes too.
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
        except BaseException as error:  # the next call then meets the same error and skips nothing
            self._stop()
            code = re.search(r"Worker process was terminated .*exit code (-?\d+)", str(error))
            if code:
                raise ChildProcessError(_death(int(code[1]))) from None
            raise
        self._next += 1
        self._count(batch.pop("wanted"), batch["index"], batch.get("weight"))
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the last returned batch."""
        return {"next_batch": self._next, "skipped": dict(self.skipped), **self._key}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position.

        Raises:
          ValueError: it belongs to another source, batch size or seed, or is not a position.
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
        """Counts the bad records that the reader replaced by others; in an evaluation the others get the weight 0."""
        total = len(self._read.source)
        for row in np.flatnonzero(wanted != read):
            passed = int(read[row] - wanted[row]) % total
            if weight is not None:  # in an evaluation a row means one record, or none if it fills up the batch
                passed, weight[row] = int(weight[row]), 0
            for index in range(int(wanted[row]), int(wanted[row]) + passed):
                name = self._read.source.name(index % total)
                self.skipped[name] = self.skipped.get(name, 0) + 1

    def _start(self) -> grain.DatasetIterator:
        # By default Grain reads 500 batches ahead.
        ahead = 1 if self._workers else self._buffer
        data = self._plan.slice(slice(self._next, None)).map(self._read)
        data = data.to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead))
        if self._workers:  # workers get whole batches, so that their number does not change the order
            _mark_flags_as_parsed()
            if _LEAKED not in sys.warnoptions:
                sys.warnoptions.append(_LEAKED)
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

    An epoch is `len(source) // batch_size` batches without a repeated record. Each epoch has its own order and leaves
    out the remaining records. The order and the random numbers of transforms depend only on the seed. Process p gets
    the rows [p b, (p + 1) b) of each global batch, with b = batch_size / process_count: concatenated, the batches of
    the processes are the batch of a single process.

    Args:
      source: the records.
      transform: makes an example from a record; its generator depends on the seed and the position in the stream.
      batch_size: examples of all processes together.
      seed: in [0, 2^32).
      process_index: number of this process.
      process_count: number of processes.
      threads: number of reading threads, in this process or in each worker.
      workers: number of reading processes; 0: threads of this process read, which is enough if decoding releases the
        interpreter lock.
      buffer: number of batches that are made ahead; with workers each worker makes two ahead instead.
      on_error: "stop": a bad record raises RecordError. "skip": the next good record of the source replaces it,
        and it is counted in `skipped`.

    Returns:
      Batches: dicts of the transform's arrays, stacked to (b, ...), and "index", (b,) int64, the number of each record
      in the source.

    Raises:
      ValueError: an option is impossible, or there are fewer records than a batch needs.
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
    """Returns batches with every record once, in order; every process gets the same number of batches.

    Args:
      source: the records.
      transform: makes an example from a record; its generator depends on the number of the record.
      batch_size: examples of all processes together; rows are distributed as in `training_batches`.
      process_index: number of this process.
      process_count: number of processes.
      threads: number of reading threads.
      buffer: number of batches that are made ahead.
      on_error: "stop": a bad record raises RecordError. "skip": another record replaces it with the weight 0, and
        it is counted in `skipped`.

    Returns:
      Batches as those of `training_batches`, with "weight", (b,) float32: 1, or 0 for the copies of the last record
      that fill the last batch.

    Raises:
      ValueError: an option is impossible, or there is no record.
      RecordError: while iterating: a record is bad; with "skip", all records are bad.
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
    """Puts batches on the device before they are requested.

    Args:
      batches: the source of the batches.
      put: host batch -> device batch.
      size: number of batches on the device that are not yet used, including the one that is yielded.

    Yields:
      `(device batch, position)`: setting the position continues with the batch after this one, regardless of how many
      batches were fetched ahead. An error is raised after the batches before it.
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


def _death(code: int) -> str:
    """Returns what to do about a worker that ended with a code; it is negative if a signal ended the worker."""
    shared = Path("/dev/shm")
    if code == -signal.SIGBUS and shared.is_dir():
        size = shutil.disk_usage(shared).total // 2**20
        return (
            f"a reading process (data.workers) found no room in the shared memory {shared} of {size} MB: start the "
            "container with more, such as --shm-size=2g, or read with threads: data.workers=0 and data.threads=8"
        )
    if code == -signal.SIGKILL:
        return "a reading process (data.workers) was killed, probably because memory is full: set fewer data.workers"
    return f"a reading process (data.workers) ended with code {code}; read with threads: data.workers=0, data.threads=8"


def _mark_flags_as_parsed() -> None:
    """Marks absl's flags as parsed; Grain up to 0.2.18 needs one that only absl programs parse (google/grain#1355)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(number: int, count: int) -> None:
    """Keeps a worker off the accelerators and ends it when its parent is killed, which Grain does not do."""
    import jax  # Grain imports it anyway

    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
