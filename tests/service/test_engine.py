"""Places, time limits, and clients that go away, with a device that waits for the tests."""

import asyncio
import contextlib
import threading
import time

import httpx
import pytest
from service_kit import connected, head, multipart, png, request_folders, segmenter, service, wait_until

from jaxseg.service import formats, run
from jaxseg.service.app import create_app
from jaxseg.service.engine import Engine
from jaxseg.service.limits import Limits, plain
from jaxseg.service.xrays import KIND


class Slow:
    """A Segmenter whose `predict` waits for `go`."""

    def __init__(self):
        self.go, self.calls = threading.Event(), []

    def __getattr__(self, name):
        return getattr(segmenter(), name)

    def predict(self, images):
        self.calls.append(len(images))
        self.go.wait(30)
        return segmenter().predict(images)


@pytest.fixture
def slow():
    found = Slow()
    yield found
    found.go.set()


@pytest.fixture
def start():
    """Returns a function that sends a request, and returns its connection without waiting for the answer."""
    with contextlib.ExitStack() as stack:

        def send(address, body):
            connection = stack.enter_context(connected(address))
            connection.sendall(head(address, "/v1/segment", len(body)) + body)
            return connection

        yield send


def test_a_full_service_asks_to_try_again_and_recovers(tmp_path, slow, start):
    body = multipart({"image": png()})
    with service(tmp_path, slow, limits=Limits(queue=3)) as (address, engine):
        waiting = [start(address, body) for _ in range(3)]
        wait_until(lambda: engine.running == 3)
        for _ in range(2):
            answer = httpx.post(address + "/v1/segment", files={"image": png(size=600)}, timeout=30)
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert "busy with 3 requests" in answer.json()["error"]
        assert httpx.get(address + "/health").status_code == 200
        slow.go.set()
        assert all(one.recv(20).startswith(b"HTTP/1.1 200") for one in waiting)
        wait_until(lambda: engine.running == 0)
        assert httpx.post(address + "/v1/segment", files={"image": png()}, timeout=30).status_code == 200


def test_a_request_that_would_wait_too_long_is_asked_to_come_later(tmp_path, slow, start):
    with service(tmp_path, slow, limits=Limits(seconds=30)) as (address, engine):
        engine.device.seconds_per_item[KIND] = 25.0
        first = start(address, multipart({"image": png()}))
        wait_until(lambda: slow.calls == [1])
        answer = httpx.post(address + "/v1/segment", files={"image": png()}, timeout=30)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "13")
        slow.go.set()
        assert first.recv(20).startswith(b"HTTP/1.1 200")


def test_a_slow_kind_of_requests_does_not_count_for_others(tmp_path, slow, start):
    with service(tmp_path, slow, limits=Limits(seconds=30)) as (address, engine):
        engine.device.seconds_per_item["score"] = 1000.0
        first = start(address, multipart({"image": png()}))
        wait_until(lambda: slow.calls == [1])
        second = start(address, multipart({"image": png()}))
        wait_until(lambda: engine.running == 2)
        slow.go.set()
        assert all(one.recv(20).startswith(b"HTTP/1.1 200") for one in (first, second))


def test_a_request_whose_folder_cannot_be_made_takes_no_place(tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    with service(tmp_path) as (address, engine):
        with monkeypatch.context() as patch:
            patch.setattr(engine.workspace, "new", full)
            assert httpx.post(address + "/v1/segment", files={"image": png()}).status_code == 503
        assert engine.running == 0


def test_work_one_by_one_leaves_threads_to_others_and_waits_also_for_cancelled_work(tmp_path):
    engine, go, busy, most = Engine({}, Limits(), folder=tmp_path), threading.Event(), [], []

    def large():
        busy.append(1)
        most.append(len(busy))
        go.wait(20)
        busy.pop()

    async def check():
        lock = asyncio.Lock()
        jobs = [asyncio.create_task(engine.one_by_one(lock, "decode", large)) for _ in range(3)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            assert await engine.in_pool("decode", lambda: 3) == 3
        jobs[0].cancel()
        await asyncio.sleep(0.2)
        assert (most, jobs[0].cancelled()) == ([1], True)
        go.set()
        await asyncio.gather(*jobs[1:])
        await engine.close()

    try:
        asyncio.run(check())
    finally:
        go.set()
    assert most == [1, 1, 1]


def test_clients_that_go_away_free_their_places_also_in_the_queue(tmp_path, slow, start):
    body = multipart({"image": png()})
    with service(tmp_path, slow) as (address, engine):
        first = start(address, body)
        wait_until(lambda: slow.calls == [1])
        waiting = [start(address, body) for _ in range(3)]
        wait_until(lambda: engine.device.waiting == 3)
        for one in waiting[:2]:
            one.close()
        wait_until(lambda: (engine.device.waiting, engine.running) == (1, 2))
        slow.go.set()
        assert all(one.recv(20).startswith(b"HTTP/1.1 200") for one in (first, waiting[2]))
        assert slow.calls == [1, 1]
        wait_until(lambda: engine.running == 0 and len(request_folders(engine)) == len(engine.results) == 2)


def test_a_request_that_takes_too_long_is_answered_in_time(tmp_path, slow):
    with service(tmp_path, slow, limits=Limits(seconds=0.5)) as (address, engine):
        answer = httpx.post(address + "/v1/segment", files={"image": png()}, timeout=30)
        assert (answer.status_code, "0.5 seconds" in answer.json()["error"]) == (503, True)
        with connected(address) as connection:
            connection.sendall(head(address, "/v1/segment", 1000) + b"--")
            assert connection.recv(20).startswith(b"HTTP/1.1 408")
        assert engine.running == 0
        slow.go.set()


def test_a_client_that_does_not_read_its_answer_keeps_its_place_only_for_a_time(tmp_path, start, monkeypatch):
    large = formats.Answer(b"x" * 80_000_000, formats.JSON, ".json")
    monkeypatch.setitem(formats.SEGMENT, formats.JSON, lambda *_: large)
    monkeypatch.setattr(run, "IDLE_SECONDS", 1.0)
    body = multipart({"image": png()})
    with service(tmp_path, limits=Limits(seconds=2)) as (address, engine):
        idle = start(address, body)
        wait_until(lambda: len(engine.results) == 1)
        time.sleep(0.5)
        assert engine.running == 1  # its answer is not sent yet
        wait_until(lambda: engine.running == 0)
        read = httpx.post(address + "/v1/segment", files={"image": png()}, timeout=30)
        assert read.content == large.body
        wait_until(lambda: is_aborted(idle))


def is_aborted(connection) -> bool:
    """Reads what has arrived; returns whether the server has aborted the connection."""
    try:
        return not connection.recv(2**22)
    except ConnectionResetError:
        return True


def test_a_connection_without_a_request_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "IDLE_SECONDS", 1.0)
    with service(tmp_path) as (address, _), connected(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        wait_until(lambda: is_aborted(connection))


def test_requests_are_refused_while_the_service_ends(tmp_path):
    with service(tmp_path) as (address, engine):
        engine.ending = True
        assert httpx.get(address + "/health").status_code == 503
        answer = httpx.post(address + "/v1/segment", files={"image": png()})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert list(tmp_path.iterdir()) == []


def test_health_says_that_the_models_load_and_requests_wait_for_them(tmp_path):
    app = create_app(segmenter(), folder=tmp_path)
    engine = app.state.engine
    assert engine.state == "loading"

    async def check():
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(engine.device.ready.result, 60)
            return engine.state

    assert asyncio.run(check()) == "ready"
    assert (engine.state, list(tmp_path.iterdir())) == ("ending", [])


def test_messages_lose_names_of_files_and_hints_on_options():
    assert plain("upload-mask-1.png: is empty", "upload-mask-1") == "is empty"
    assert (
        plain("refers to an image; x is not one (choose another -ot)", "x") == "refers to an image; the file is not one"
    )
    assert plain("it was clipped; --intensity clinical keeps them") == "it was clipped; intensity=clinical keeps them"
