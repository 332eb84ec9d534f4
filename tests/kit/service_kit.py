"""A small service that runs in a thread of the tests, and raw requests to it."""

import contextlib
import dataclasses
import functools
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import jaxseg
from jaxseg.anatomy.segment import Segmenter
from jaxseg.datasets import phantom
from jaxseg.service.app import create_app
from jaxseg.service.run import Server, address_of, bind
from jaxseg.service.workspace import MARKER

CLASSES = ("heart", "right lung", "left lung")
BOUNDARY = "frontier"


@functools.cache
def network():
    """Returns a narrow network of random weights for inputs of 64 x 64 pixels; each mask covers half of phantom 0."""
    model = jaxseg.create("cxas", class_names=CLASSES, backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    scores = Segmenter(model, probabilities=True)(phantom.draw(0, 64)[0]).scores.astype(np.float64)
    usual = np.median(np.log(scores / (1 - scores)), axis=(1, 2))
    model.classify.bias.set_value(model.classify.bias[...] - usual.astype(np.float32))
    return model


@functools.cache
def segmenter(**options) -> Segmenter:
    """Returns a Segmenter with the small network, whose masks differ between images."""
    return Segmenter(network(), confidence=True, **{"batch_size": 4} | options)


@contextlib.contextmanager
def running(app) -> Iterator[str]:
    """Serves an application, and yields its address once it is ready; the requests at the end are answered."""
    ready = threading.Event()
    bound = bind("127.0.0.1", 0)
    server = Server(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(60)
        yield address_of(bound)
    finally:
        server.should_exit = True
        thread.join(60)
        bound.close()


@contextlib.contextmanager
def service(folder: Path, *predictors, **options) -> Iterator[tuple[str, object]]:
    """Yields the address of a small service, and its engine; its temporary folder is made in `folder`."""
    app = create_app(*(predictors or (segmenter(),)), folder=folder, **options)
    with running(app) as address:
        yield address, app.state.engine


def png(seed: int = 0, size: int = 64) -> bytes:
    """Returns the X-ray of a phantom as a PNG file."""
    return encoded(phantom.draw(seed, size)[0])


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def multipart(files: dict[str, bytes], fields: dict[str, str] | None = None) -> bytes:
    """Returns the body of a multipart request with the boundary `BOUNDARY`."""
    parts = [(f'name="{name}"; filename="{name}.bin"', content) for name, content in files.items()]
    parts += [(f'name="{name}"', value.encode()) for name, value in (fields or {}).items()]
    lines = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"
        for head, body in parts
    ]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def head(address: str, path: str, length: int, **headers: str) -> bytes:
    """Returns the head of a POST request with a multipart body."""
    given = {"Host": address.removeprefix("http://"), "Content-Length": str(length), "Connection": "close"}
    given |= {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def request_folders(engine) -> list[Path]:
    """Returns the folders of requests that a service has not removed."""
    return [path for path in engine.workspace.path.iterdir() if path.name != MARKER]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class OneAtATime:
    """Wraps a function that waits for `go`; `calls` counts how often it has been called."""

    def __init__(self, function: Callable):
        self.function, self.calls, self.go = function, 0, threading.Event()

    def __call__(self, *args, **options):
        self.calls += 1
        self.go.wait(15)
        return self.function(*args, **options)

    def check(self, ask: Callable, ask_other: Callable) -> None:
        """Checks that three requests that need it leave a thread to another request, and all are answered."""
        with ThreadPoolExecutor(3) as pool:
            requests = [pool.submit(ask) for _ in range(3)]
            wait_until(lambda: self.calls == 1)
            time.sleep(0.5)  # the others arrive
            try:
                assert (ask_other().status_code, self.calls) == (200, 1)
            finally:
                self.go.set()
            assert [one.result().status_code for one in requests] == [200] * 3


def connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def exchange(address: str, request: bytes, *, closes: bool = False) -> tuple[int, dict]:
    """Sends raw bytes; returns the status, and the JSON of the answer, {} if it is none.

    With `closes`, the client closes its side after the bytes, as if it had gone away.
    """
    with connected(address) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be refused before its end
            connection.sendall(request)
            if closes:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    start, _, body = answer.partition(b"\r\n\r\n")
    status = int(start.split(b" ")[1]) if start else 0
    try:
        return status, json.loads(body)
    except ValueError:
        return status, {}
