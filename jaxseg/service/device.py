"""The one thread that computes on the device: items that wait are computed together, in batches.

A batch has items of one kind, such as X-rays to segment. It begins with the oldest item, which waits up to 20 ms for
more of its kind, unless the batch is full before. An item that waited for the device longer is computed at once.
"""

import asyncio
import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from jaxseg.service.metrics import Metrics

WAIT_SECONDS = 0.02

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the device computes for one kind of items.

    Attributes:
      compute: takes a list of 1 to `size` items, and returns their results in the same order.
      size: largest number of items in a batch.
      warm: prepares the device before the first item, so that the first client does not wait for compilation.
    """

    compute: Callable[[list], list]
    size: int
    warm: Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    kind: str
    item: Any
    result: Future
    since: float


class Device:
    """Computes items in one thread.

    Args:
      kinds: name -> Kind.
      wait_s: seconds that an item waits for others of its kind.

    Attributes:
      ready: a Future that is done as soon as all kinds are warm; its exception says why they are not.
      seconds_per_item: name of a kind -> a moving average; 0 before the first item.
    """

    def __init__(self, kinds: dict[str, Kind], *, wait_s: float = WAIT_SECONDS):
        self.kinds, self.wait_s = kinds, wait_s
        self.ready: Future[None] = Future()
        self.metrics: Metrics | None = None
        self.seconds_per_item = dict.fromkeys(kinds, 0.0)
        self._jobs: collections.deque[_Job] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="jaxseg-device", daemon=True)

    def start(self) -> None:
        """Starts the thread, if it does not run yet."""
        if not self._thread.is_alive() and not self._closed:
            self._thread.start()

    def close(self, seconds: float | None = None) -> None:
        """Ends the thread after the items that wait.

        Args:
          seconds: how long to wait for it; after that, it ends with the process. None: as long as it computes.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
            if self._thread.is_alive():
                _log.warning("the device still computes after %g seconds; its work is given up", seconds)

    @property
    def waiting(self) -> int:
        """Number of items that wait."""
        return len(self._jobs)

    async def compute(self, kind: str, item: Any) -> Any:
        """Returns the result of an item. If the caller is cancelled, an item that still waits is dropped.

        Args:
          kind: name of its kind.
          item: what the kind's `compute` takes a list of.
        """
        job = _Job(kind, item, Future(), time.perf_counter())
        job.result.add_done_callback(lambda result: self._drop(job) if result.cancelled() else None)
        with self._changed:
            if self._closed:
                raise RuntimeError("the device thread has ended")
            self._jobs.append(job)
            self._changed.notify()
        return await asyncio.wrap_future(job.result)

    def _drop(self, job: _Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        try:
            for kind in self.kinds.values():
                kind.warm()
        except BaseException as error:
            self.ready.set_exception(error)
        else:
            self.ready.set_result(None)
        while (batch := self._next()) is not None:
            started = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if started:
                self._compute(started)

    def _next(self) -> list[_Job] | None:
        """Waits for the next batch, and returns it; None if the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            while self._jobs and not self._closed:
                name = self._jobs[0].kind
                left = self._jobs[0].since + self.wait_s - time.perf_counter()
                if left <= 0 or sum(job.kind == name for job in self._jobs) >= self.kinds[name].size:
                    break
                self._changed.wait(left)
            if not self._jobs:  # all of them were dropped
                return []
            name = self._jobs[0].kind
            batch = [job for job in self._jobs if job.kind == name][: self.kinds[name].size]
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _compute(self, jobs: list[_Job]) -> None:
        """Computes a batch. If it fails, its items are computed one by one, so that one does not fail the others."""
        start = time.perf_counter()
        kind = self.kinds[jobs[0].kind]
        try:
            results = kind.compute([job.item for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
            else:
                for job in jobs:
                    self._compute([job])
            return
        for job, found in zip(jobs, results, strict=True):
            job.result.set_result(found)
        seconds = time.perf_counter() - start
        name, average = jobs[0].kind, self.seconds_per_item[jobs[0].kind]
        self.seconds_per_item[name] += (seconds / len(jobs) - average) * (1 / 8 if average else 1)
        if self.metrics is not None:
            self.metrics.batch(name, len(jobs))
            self.metrics.stage_took("compute", seconds)
            for job in jobs:
                self.metrics.stage_took("wait", start - job.since)
