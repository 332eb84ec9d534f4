"""What all requests share: places, time limits, threads, the device, the temporary folder, results and numbers."""

import asyncio
import collections
import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from jaxseg.service.device import Device, Kind
from jaxseg.service.limits import ClientGone, Limits, Refused, plain
from jaxseg.service.metrics import Metrics
from jaxseg.service.results import Results
from jaxseg.service.upload import Upload, read_upload
from jaxseg.service.workspace import Workspace

SWEEP_SECONDS = 20.0
_WAIT_SHARE = 0.75  # of the time limit; a request that would wait longer is better sent again later
_PART = 2**16  # bytes of an answer that are given to the server at once
_END_SECONDS = 15.0  # at the end of the service, the device may compute as long as this
_RETRY_SECONDS = 30  # seconds that Retry-After asks for at most


class Engine:
    """Does the work of requests within limits.

    A request takes one of `limits.queue` places from its first byte until its answer is sent, also while it waits. So
    memory, disk and threads are bounded by that number. A client that goes away frees its place at once.

    Args:
      kinds: what the device computes, as `Device` takes it.
      limits: bounds.
      threads: number of threads that decode and encode.
      folder: where the temporary folder is made; None: the system's place for temporary files.

    Attributes:
      ending: whether new requests are refused, because the service ends.
    """

    def __init__(self, kinds: dict[str, Kind], limits: Limits, *, threads: int = 2, folder: Path | None = None):
        self.limits, self.ending = limits, False
        self._running: collections.Counter[str] = collections.Counter()
        self.device = Device(kinds)
        self.metrics = self.device.metrics = Metrics(lambda: self.device.waiting, lambda: self.running)
        self.workspace = Workspace(folder)
        self.results = Results(limits, self.workspace.remove)
        self._pool = ThreadPoolExecutor(threads, "jaxseg-files")
        self._sweeper: asyncio.Task | None = None

    async def start(self) -> None:
        """Starts the device, which then prepares itself, and the removal of old results; it may be called again."""
        self.device.start()
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Ends all threads after their work, for which the device has 15 seconds, and removes the temporary folder."""
        self.ending = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.to_thread(self.device.close, _END_SECONDS)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        self.workspace.close()

    @property
    def running(self) -> int:
        """Number of requests that take a place."""
        return self._running.total()

    @property
    def state(self) -> str:
        """ "ready", "loading", "ending", or "failed" if the device could not be prepared."""
        if self.ending:
            return "ending"
        if not self.device.ready.done():
            return "loading"
        return "ready" if self.device.ready.exception() is None else "failed"

    async def work(
        self,
        request: Request,
        job: Callable[[Upload], Awaitable[Response]],
        *,
        kind: str = "",
        files: Mapping[str, int] | None = None,
        fields: tuple[str, ...] = (),
    ) -> "Held":
        """Returns the answer of a job, which takes a place until the answer is sent.

        Args:
          request: the request.
          job: makes the answer from what the client sent.
          kind: of the items that the device computes for the job; "": it computes none.
          files: as `read_upload` takes it; None: the request has no body.
          fields: as `read_upload` takes it.

        Raises:
          Refused: the service ends, all places are taken or the wait would be too long, the upload is refused, or the
          time is over.
          ClientGone: the client closed the connection.
        """
        await self.start()
        self._check_place()
        folder = self.workspace.new()  # if this fails, no place is taken
        self._running[kind] += 1
        try:
            answer = await self._answer(request, job, folder, files, fields)
        except BaseException:
            self._release(kind, folder)
            raise
        return Held(answer, self.limits.seconds, functools.partial(self._release, kind, folder))

    async def _answer(
        self, request: Request, job: Callable, folder: Path, files: Mapping[str, int] | None, fields: tuple[str, ...]
    ) -> Response:
        upload: Upload | None = None
        try:
            async with asyncio.timeout(self.limits.seconds):
                if files is None:
                    upload = Upload({}, {})
                else:
                    with self.metrics.stage("receive"):
                        bounds: Any = {"files": files, "fields": fields, "most": self.limits.bytes}
                        upload = await read_upload(request, folder, **bounds)
                return await _unless_gone(request, job(upload))
        except TimeoutError:
            seconds = f"{self.limits.seconds:g} seconds"
            if upload is None:
                raise Refused(408, f"the request did not arrive within {seconds}; send it again") from None
            text = f"the answer was not ready within {seconds}; send a smaller file, or try again later"
            raise Refused(503, text, Retry_After=str(_RETRY_SECONDS)) from None

    def _release(self, kind: str, folder: Path) -> None:
        self._running[kind] -= 1
        if not self.results.holds(folder):
            self.workspace.remove(folder)

    async def in_pool(self, stage: str, function: Callable, *args: Any, **options: Any) -> Any:
        """Returns the result of a function that a thread for files runs; a stage for the numbers.

        Raises:
          Refused: there is not enough memory.
        """
        loop = asyncio.get_running_loop()
        timed = functools.partial(self._timed, stage, functools.partial(function, *args, **options))
        try:
            return await loop.run_in_executor(self._pool, timed)
        except MemoryError:
            raise Refused(413, "the file needs more memory than this machine has; send a smaller one") from None

    async def one_by_one(self, lock: asyncio.Lock, stage: str, function: Callable, *args: Any, **options: Any) -> Any:
        """Does the same as `in_pool`, but functions with the same lock run one after another.

        Those that wait take no thread. The lock is held until the function ends, also if the caller is
        cancelled before.
        """
        await lock.acquire()
        task = asyncio.create_task(self.in_pool(stage, function, *args, **options))
        task.add_done_callback(lambda _: lock.release())
        return await asyncio.shield(task)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """Yields an empty folder that is removed afterwards."""
        folder = self.workspace.new()
        try:
            yield folder
        finally:
            self.workspace.remove(folder)

    def _timed(self, stage: str, function: Callable) -> Any:
        with self.metrics.stage(stage):
            return function()

    def _check_place(self) -> None:
        if self.ending:
            raise Refused(503, "the service ends; try again in a moment", Retry_After="5")
        if self.device.ready.done() and self.device.ready.exception() is not None:
            raise Refused(503, "the models could not be prepared; the log of the service says why")
        # Of a new request, about: the device computes the items in their order, and a request has one at a time.
        wait_s = sum(count * self.device.seconds_per_item.get(kind, 0.0) for kind, count in self._running.items())
        if self.running >= self.limits.queue or wait_s > _WAIT_SHARE * self.limits.seconds:
            seconds = min(_RETRY_SECONDS, max(1, math.ceil(wait_s / 2)))
            text = f"the service is busy with {self.running} requests; try again in {seconds} s"
            raise Refused(429, text, Retry_After=str(seconds))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.results.drop_old()


class Held:
    """An answer that keeps the place of its request until it is sent, so that clients that read slowly are bounded too.

    It is sent in parts, because a server keeps what it was given until the client has read it.

    Args:
      answer: the answer.
      seconds: how long sending it may take.
      release: frees the place.
    """

    def __init__(self, answer: Response, seconds: float, release: Callable[[], None]):
        self.answer, self.seconds, self.release = answer, seconds, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await self.answer(scope, receive, functools.partial(_send_in_parts, send))
        finally:
            self.release()


async def _send_in_parts(send: Send, message: Message) -> None:
    body = message.get("body", b"")
    for start in range(0, len(body) - _PART, _PART):
        await send({"type": message["type"], "body": body[start : start + _PART], "more_body": True})
    last = (len(body) - 1) // _PART * _PART if body else 0
    await send({**message, "body": body[last:]} if "body" in message else message)


@contextlib.contextmanager
def refusing(file: str = "", *, status: int = 400) -> Iterator[None]:
    """Turns the errors of the library about a file into a refusal.

    Args:
      file: name of the file in the service's folder, which messages may contain.
      status: of HTTP.
    """
    try:
        yield
    except FileNotFoundError:
        raise Refused(404, "the file of this result was removed meanwhile; send the image again") from None
    except ValueError as error:
        raise Refused(status, plain(str(error), file)) from None


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Returns the answer of `work`; cancels it if the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
