"""Runs the service with uvicorn: the socket, its signals, and its end."""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from jaxseg.service.engine import Engine

MAX_HEADERS = 2**15  # bytes of a request's head
MAX_CONNECTIONS = 1000
IDLE_SECONDS = 20.0  # a connection may be without a request that is answered, or with an answer that is not read
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 5  # besides the time limit of a request
_BACKLOG = 128


def is_loopback(host: str) -> bool:
    """Returns whether only programs of this machine reach a host.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket with this address, which does not accept connections yet.

    Args:
      host: a name or address of this machine.
      port: number; 0 takes a free one.

    Raises:
      OSError: the address is unknown or in use.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}; choose another --host or --port") from None
    return found


def address_of(found: socket.socket) -> str:
    """Returns the address under which a browser opens a bound socket."""
    host, port = found.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A server that refuses new work as soon as it is asked to end, and ends if the models cannot be prepared.

    It aborts connections whose client neither completes a request nor reads an answer; uvicorn would wait for ever.

    Args:
      app: of `jaxseg.service.create_app`.
      on_ready: called once requests are answered.
    """

    def __init__(self, app: Any, on_ready: Callable[[], Any]):
        self.engine: Engine = app.state.engine
        self.on_ready = on_ready
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",  # its messages repeat ours, and contain whole addresses
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADERS,
            timeout_graceful_shutdown=round(self.engine.limits.seconds) + _GRACE_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.engine.device.ready.add_done_callback(self._prepared)
        self._watcher = asyncio.create_task(self._watch())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._watcher.cancel()

    def _prepared(self, ready: Any) -> None:
        if ready.exception() is None:
            self.on_ready()
        else:
            self.should_exit = True

    async def _watch(self) -> None:
        since: dict[Any, float] = {}
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            idle = {one for one in self.server_state.connections if not _is_answering(one)}
            since = {one: since.get(one, now) for one in idle}
            for one, start in since.items():
                if now - start > IDLE_SECONDS:
                    one.transport.abort()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.engine.ending = True
        super().handle_exit(sig, frame)


def _is_answering(connection: Any) -> bool:
    """Returns whether a connection has a request that is being received or answered."""
    cycle = connection.cycle
    return cycle is not None and not cycle.response_complete and not connection.transport.is_closing()


def run(app: Any, bound: socket.socket, on_ready: Callable[[], Any]) -> None:
    """Serves an application until SIGTERM or Ctrl-C; running requests end before it returns.

    Args:
      app: of `jaxseg.service.create_app`.
      bound: result of `bind`.
      on_ready: called once requests are answered.

    Raises:
      Exception: what the preparation of the models raised.
    """
    engine: Engine = app.state.engine
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has ended
            Server(app, on_ready).run(sockets=[bound])
    finally:
        engine.workspace.close()
    ready = engine.device.ready
    if ready.done() and (error := ready.exception()) is not None:
        raise error
