"""Runs the parts of a run over files on a Ray cluster: each worker loads the model once, and lost parts run again.

Ray places the workers and notices when they die. A part that runs again resumes, so only the file at hand is repeated.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxseg.files import Locked
from jaxseg.folder_runs.parts import Part

LOCAL = "local"  # the address for a Ray that is started on this computer and ends with the run
KINDS = ("auto", "cpu", "gpu")  # of devices
TRIES = 3  # workers that may die at one part
_FILES, _MOST_PARTS = 100, 16  # files in a part, if a worker then gets at most this number of parts
_LOCK_S = 60  # for a worker that Ray gave up to end, and to release the lock of its part
_POLL_S = 0.5
_ANSWER_S = 10  # for a cluster to accept a connection

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RayResult:
    """What the parts of a run did.

    Attributes:
      parts: their number.
      done: number of files that were processed.
      skipped: number of files whose results existed already.
      failed: number of files that failed.
    """

    parts: int
    done: int
    skipped: int
    failed: int


def need_ray() -> ModuleType:
    """Returns the module ray. Call it before a run, so that one error says that it is missing.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("runs on a cluster need ray: pip install 'jaxseg[ray]', on every node") from None
    return ray


def run_on_ray(
    ray: Any,
    job: Callable[..., Any],
    predictor: Any,
    files: int,
    *,
    gpus: str = "auto",
    folder: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Any], None] | None = None,
) -> RayResult:
    """Runs all parts of a run over files on a Ray cluster, without merging them.

    Each worker has a GPU, or all cores of a node. There are several parts per worker, so that all end at about the same
    time. If a worker dies, its part runs again on another one.

    Meanwhile nothing appears on the standard output, where Ray prints long reports about workers that died.

    Args:
      ray: the module that `connected` yields.
      job: called on the nodes with the keyword arguments `model` (the predictor), `part`, `progress` and `report`, as
        `jaxseg.segment_folder` takes them; for example a `functools.partial` of it. It can be pickled, and its
        paths mean the same on every node. Its result has the numbers `done`, `skipped` and `failed`.
      predictor: a `jaxseg.Segmenter`, `Scorer` or other predictor that can be pickled.
      files: number of files of all parts.
      gpus: kind of the devices: "auto" (GPUs if the cluster has some), "cpu" or "gpu".
      folder: to which the relative paths of the job belong; it must exist on every node. None: there are none.
      progress: called as (number of files processed or skipped, their total, name of the last), first with 0 and "".
      report: called with what `job` reports about each file; errors become a ValueError with the same text.

    Raises:
      ValueError: the cluster lacks such devices, or as `job`.
      ConnectionError: workers died too often.
      OSError: as `job`.
    """
    with _quiet():
        count, reserved = workers_of([node["Resources"] for node in ray.nodes() if node["Alive"]], gpus)
        parts = count * parts_of_a_worker(files, count)
        return _Run(ray, job, predictor, (gpus, folder), reserved, parts)(count, files, progress, report)


def workers_of(nodes: list[dict[str, float]], gpus: str) -> tuple[int, dict[str, int]]:
    """Returns the number of workers, and what Ray reserves for each of them.

    Args:
      nodes: the resources of each node.
      gpus: kind of the devices: "auto", "cpu" or "gpu".

    Raises:
      ValueError: no node has such devices, or the kind is unknown.
    """
    if gpus not in KINDS:
        raise ValueError(f"a cluster computes on {', '.join(KINDS)}, got {gpus!r}")
    devices = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus == "gpu" and not devices:
        raise ValueError("no node of the Ray cluster has a GPU")
    if devices and gpus != "cpu":
        return devices, {"num_cpus": 0, "num_gpus": 1}
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise ValueError("no node of the Ray cluster has a CPU that it lends to workers")
    return len(cores), {"num_cpus": min(cores)}  # JAX uses all cores of a node, so one worker per node is enough


def parts_of_a_worker(files: int, workers: int) -> int:
    """Returns the number of parts for each worker: 100 files in a part, but at most 16 parts.

    Every part reads which files the others have done, so their number must not grow with the number of files.
    """
    return min(max(1, math.ceil(files / (_FILES * workers))), _MOST_PARTS)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connects to a Ray cluster, or starts one on this computer, until the body ends; yields the module ray.

    Call it before JAX starts its devices: Ray starts processes by a fork.

    Args:
      address: of the cluster, as `ray.init` takes it; "local" starts Ray on this computer.

    Raises:
      ValueError: ray is not installed.
      ConnectionError: there is no cluster at the address.
    """
    ray: Any = need_ray()
    _refuse_unreachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's developers
    own = {"include_dashboard": False} if address == LOCAL else {}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster can be used at {address}: {_one_line(error)}") from None
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own
    try:
        yield ray
    finally:
        with _quiet():
            ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _refuse_unreachable(address: str) -> None:
    """Raises ConnectionError if nothing answers at HOST:PORT, for which Ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d{1,5})", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"no Ray cluster can be used at {address}: {_one_line(error)}") from None


class _Messages:
    """Messages of all workers until the driver takes them; an actor beside the driver, whose node cannot be lost."""

    def __init__(self) -> None:
        self.messages: list[tuple] = []

    def put(self, message: tuple) -> None:
        """Adds a message."""
        self.messages.append(message)

    def take(self) -> list[tuple]:
        """Returns the messages since the last call."""
        taken, self.messages = self.messages, []
        return taken


class _Worker:
    """Holds a predictor and runs parts with it; an actor on one of the nodes.

    Args:
      gpus: kind of the devices.
      folder: the current folder of the worker; None: any.
      keep: whether JAX keeps compiled programs.
      messages: the actor `_Messages`.
    """

    def __init__(self, gpus: str, folder: Path | None, keep: bool, messages: Any):
        self.gpus, self.folder, self.keep, self.messages = gpus, folder, keep, messages
        self.predictor: Any = None

    def load(self, predictor: list) -> None:
        """Fetches the predictor, the only item of a list; JAX has the settings of the commands then."""
        import ray

        from jaxseg import programs, xla

        if self.folder is not None:
            os.chdir(self.folder)
        xla.use_all_cores()
        if self.keep:  # JAX reads this when it is imported
            programs.keep()
        else:
            programs.keep_none()
        from jaxseg.devices import only_cpus, select_devices

        if only_cpus(self.gpus):
            xla.keep_freed_memory()
        select_devices(self.gpus)
        self.predictor = ray.get(predictor[0])

    def run(self, job: Callable[..., Any], part: Part) -> tuple[int, int, int]:
        """Runs a part; returns the numbers of files that are done, were skipped and failed."""
        import ray

        told: list = []

        def report(found: Any) -> None:
            told.append(_portable(found))

        def progress(_done: int, _total: int, name: str) -> None:
            if name:  # not before the first file
                ray.get(self.messages.put.remote((part, name, told.pop() if told else None)))

        end = time.monotonic() + _LOCK_S
        while True:
            try:
                found = job(model=self.predictor, part=part, progress=progress, report=report)
                return found.done, found.skipped, found.failed
            except (Locked, BlockingIOError):
                if time.monotonic() > end:
                    raise
                time.sleep(1)


def _portable(found: Any) -> Any:
    """Returns what a job reports about a file in a form that can be pickled."""
    from jaxseg.folder_runs.folder import describe
    from jaxseg.folder_runs.stream import Outcome

    if not isinstance(found, Outcome):
        return found
    error = None if found.error is None else ValueError(describe(found.error))
    return dataclasses.replace(found, result=None, error=error)


class _Run:
    """The driver of one run: it gives parts to workers that are free, and replaces workers that died.

    Args:
      ray: the module, connected.
      job, predictor: as `run_on_ray` takes them.
      place: `gpus` and `folder`, as `run_on_ray` takes them.
      reserved: what Ray reserves for a worker.
      parts: number of parts.
    """

    def __init__(self, ray: Any, job: Callable, predictor: Any, place: tuple, reserved: dict[str, int], parts: int):
        self.ray, self.place, self.reserved = ray, place, reserved
        self.parts = parts
        self.job = ray.put(job)
        self.predictor = [ray.put(predictor)]  # what is in a list is fetched by the worker, when it is ready
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.messages = ray.remote(_Messages).options(num_cpus=0, scheduling_strategy=here).remote()
        self.waiting = collections.deque(Part(index + 1, parts) for index in range(parts))
        self.busy: dict[Any, tuple[Any, Part | None]] = {}  # task -> worker, its part; None: it loads
        self.idle: list[Any] = []
        self.deaths: collections.Counter = collections.Counter()
        self.seen: collections.Counter = collections.Counter()  # part -> files that were shown
        self.successes: collections.Counter = collections.Counter()  # part -> files done by the worker at hand
        self.before: collections.Counter = collections.Counter()  # part -> files done by workers that died later
        self.found: dict[Part, tuple[int, int, int]] = {}

    def __call__(self, workers: int, files: int, progress: Callable | None, report: Callable | None) -> RayResult:
        self.files, self.progress, self.report = files, progress or _silent, report or _silent
        self.progress(0, files, "")
        for _ in range(workers):
            self._start_worker()
        while len(self.found) < self.parts:
            while self.idle and self.waiting:
                worker, part = self.idle.pop(), self.waiting.popleft()
                self.busy[worker.run.remote(self.job, part)] = worker, part
            ready, _ = self.ray.wait(list(self.busy), timeout=_POLL_S)
            self._receive()
            for task in ready:
                self._finish(task)
        done, skipped, failed = map(sum, zip(*self.found.values(), strict=True))
        ours = sum(min(count, self.found[part][1]) for part, count in self.before.items())  # skipped by a later worker
        return RayResult(self.parts, done + ours, skipped - ours, failed)

    def _start_worker(self) -> None:
        """Asks Ray for a worker; it gets a part when it has loaded the model, which may be never."""
        keep = os.environ.get("JAX_ENABLE_COMPILATION_CACHE") != "0"
        options = {"scheduling_strategy": "SPREAD", "max_restarts": 0} | self.reserved
        worker = self.ray.remote(_Worker).options(**options).remote(*self.place, keep, self.messages)
        self.busy[worker.load.remote(self.predictor)] = worker, None

    def _receive(self) -> None:
        """Shows what workers have told about files."""
        for part, name, told in self.ray.get(self.messages.take.remote()):
            if told is not None:
                self.report(told)
                self.successes[part] += not (getattr(told, "error", None) or getattr(told, "failed", None))
            self._show(part, name)

    def _show(self, part: Part, name: str, count: int = 1) -> None:
        self.seen[part] += count
        self.progress(min(self.seen.total(), self.files), self.files, name)

    def _finish(self, task: Any) -> None:
        """Frees the worker of a task that has ended, or replaces it if it died."""
        worker, part = self.busy.pop(task)
        try:
            found = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            self._replace(part, error)
            return
        self.idle.append(worker)
        if part is not None:
            self.found[part] = found
            if (rest := sum(found) - self.seen[part]) > 0:
                self._show(part, "done before", rest)

    def _replace(self, part: Part | None, error: Exception) -> None:
        """Asks for another worker in place of one that died, and lets its part wait for any worker."""
        self.deaths[part] += 1
        what = "loading the model" if part is None else f"computing part {part}"
        if self.deaths[part] >= TRIES:
            raise ConnectionError(f"{TRIES} workers died while {what}; the last: {_one_line(error)}") from None
        _log.warning("A worker died while %s, and is replaced: %s", what, _one_line(error))
        if part is not None:
            self.before[part] += self.successes.pop(part, 0)
            self.waiting.appendleft(part)
        self._start_worker()


def _silent(*_: Any) -> None:
    """Shows nothing."""


def _one_line(error: Exception) -> str:
    """Returns the first sentence of an error, without the advice and logs that Ray adds."""
    return " ".join(str(error).split("\n")[0].split()) or type(error).__name__
