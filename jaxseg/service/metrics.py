"""Numbers about the service for Prometheus. No label has a value that a client chooses."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("receive", "decode", "wait", "compute", "encode")
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts requests, and measures stages and batches.

    The stages of a request are: `receive` (its body arrives), `decode`, `wait` (for the device), `compute` (on the
    device), and `encode` (the answer is made).

    Args:
      waiting: returns the number of items that wait for the device.
      running: returns the number of requests that take one of the service's places.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]):
        self.registry = CollectorRegistry()
        of: Any = {"registry": self.registry}
        self._requests = Counter("jaxseg_requests", "Answered requests.", ("method", "path", "status"), **of)
        self._seconds = Histogram("jaxseg_request_seconds", "Seconds of a request.", ("path",), buckets=_SECONDS, **of)
        self._stages = Histogram("jaxseg_stage_seconds", "Seconds of a stage.", ("stage",), buckets=_SECONDS, **of)
        self._batches = Histogram("jaxseg_batch_size", "Items in a batch.", ("kind",), buckets=_SIZES, **of)
        self._received = Counter("jaxseg_bytes_received", "Bytes of request bodies.", **of)
        Gauge("jaxseg_queue_length", "Items that wait for the device.", **of).set_function(waiting)
        Gauge("jaxseg_requests_running", "Requests that take a place.", **of).set_function(running)
        for stage in STAGES:
            self._stages.labels(stage)

    def answered(self, method: str, path: str, status: int, seconds: float, received: int) -> None:
        """Counts an answered request.

        Args:
          method: of HTTP; unknown ones must be replaced before.
          path: pattern of the address, such as "/v1/results/{id}".
          status: of HTTP; 499 if the client went away.
          seconds: from the first byte of the request to the last one of the answer.
          received: bytes of the request's body.
        """
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        self._received.inc(received)

    def batch(self, kind: str, size: int) -> None:
        """Counts a batch of `size` items of a kind."""
        self._batches.labels(kind).observe(size)

    def stage_took(self, stage: str, seconds: float) -> None:
        """Records the seconds of a stage."""
        self._stages.labels(stage).observe(seconds)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the body as a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_took(name, time.perf_counter() - start)

    def text(self) -> tuple[bytes, str]:
        """Returns all numbers in the text format of Prometheus, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
