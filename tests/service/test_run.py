"""The command as a process: 200 requests from 16 clients, memory, signals, and what is left afterwards."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from service_kit import CLASSES, connected, head, multipart, network, png, segmenter

from jaxseg.images.read import read_picture
from jaxseg.masks.coco import decode_rle
from jaxseg.service.app import create_app
from jaxseg.service.run import address_of, bind, is_loopback, run
from jaxseg.weights.store import save_model

PROGRAM = "from jaxseg.cli.main import main; main()"
GROWTH_MB = 40  # of 140 requests; allocators of the threads keep some


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_model(network(), tmp_path_factory.mktemp("weights") / "model", network().card)


class Process:
    """`jaxseg serve` in a process; `lines` of its log are read at the end."""

    def __init__(self, folder: Path, *options: str):
        self.temporary, self.output = folder / "temporary", folder / "output.txt"
        self.temporary.mkdir()
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.temporary)}
        command = [sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--batch-size", "4", *options]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=variables)
        end = time.monotonic() + 90
        while not (found := re.search(r"ready at (\S+)", self.output.read_text())):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)
        self.address = found.group(1)

    @property
    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def process(folder: Path, weights: Path, *options: str):
    found = Process(folder, "--weights", str(weights), *options)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


def wanted(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "x.png"
    path.write_bytes(content)
    assert read_picture(path).size
    return segmenter()(path).masks


def masks_of(answer: httpx.Response) -> np.ndarray:
    content = answer.json()
    size = content["images"][0]["height"], content["images"][0]["width"]
    masks = np.zeros((len(CLASSES), *size), bool)
    for one in content["annotations"]:
        masks[one["category_id"]] = decode_rle(one["segmentation"])
    return masks


@pytest.mark.slow
def test_200_requests_from_16_clients_of_which_every_tenth_is_broken(tmp_path, weights):
    images = [png(seed, 64 + 3 * seed) for seed in range(20)]  # each has another size and other masks
    answers = [wanted(content, tmp_path) for content in images]
    broken = (b"", b"no picture", images[0][:300], b"\0" * 128 + b"DICM" + b"\0" * 99)
    with process(tmp_path, weights) as served, httpx.Client(base_url=served.address, timeout=60) as client:

        def one(number: int) -> int:
            if number % 10 == 9:
                files = {"image": ("broken-name.png", broken[number // 10 % len(broken)])}
                assert client.post("/v1/segment", files=files).status_code == 400
                return 400
            place = number % len(images)
            answer = client.post("/v1/segment", files={"image": ("good-name.png", images[place])})
            assert answer.status_code == 200, answer.text
            masks = masks_of(answer)
            assert masks.shape == answers[place].shape
            assert (masks == answers[place]).mean() > 0.995, place  # rounding may differ between processes
            return 200

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(one, range(60)))
            before = served.resident_mb
            found += list(pool.map(one, range(60, 200)))
            grown = served.resident_mb - before
        assert (found.count(200), found.count(400)) == (180, 20)
        assert grown < GROWTH_MB, f"the process grew by {grown:.0f} MB"
        numbers = client.get("/metrics").text
        assert 'jaxseg_requests_total{method="POST",path="/v1/segment",status="200"} 180.0' in numbers
        assert float(re.search(r'batch_size_count{kind="segment"} (\S+)', numbers).group(1)) < 180  # some were joined
        assert "jaxseg_requests_running 0.0" in numbers
        assert served.end() == 0
    assert list(served.temporary.iterdir()) == []
    log = served.output.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines].count(200) == 181
    assert "-name" not in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_running_requests_end_after_sigterm_and_ctrl_c(tmp_path, weights):
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        folder.mkdir()
        with process(folder, weights) as served, contextlib.ExitStack() as stack:
            body = multipart({"image": png(0, 900)})
            slow = stack.enter_context(connected(served.address))  # its body arrives only after the signal
            slow.sendall(head(served.address, "/v1/segment", len(body)) + body[:500])
            fast = [stack.enter_context(connected(served.address)) for _ in range(8)]
            for one in fast:
                one.sendall(head(served.address, "/v1/segment", len(body)) + body)
            time.sleep(0.2)
            served.process.send_signal(number)
            time.sleep(0.2)
            slow.sendall(body[500:])
            assert [one.recv(20)[:12] for one in (*fast, slow)] == [b"HTTP/1.1 200"] * 9
            assert served.process.wait(60) == 0
        assert list(served.temporary.iterdir()) == []
        assert served.output.read_text().endswith("The service has ended.\n")


@pytest.mark.slow
def test_after_kill_9_the_next_start_removes_what_was_left(tmp_path, weights):
    with process(tmp_path, weights) as served:
        assert httpx.post(served.address + "/v1/segment", files={"image": png()}).status_code == 200
        served.end(signal.SIGKILL)
    (left,) = served.temporary.iterdir()
    assert list(left.rglob("upload-image-1"))
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(served.temporary)}
    program = "from jaxseg.service.workspace import Workspace; Workspace().close()"
    subprocess.run([sys.executable, "-c", program], env=variables, check=True, timeout=60)
    assert list(served.temporary.iterdir()) == []


def test_a_service_whose_models_cannot_be_prepared_ends_with_the_error(tmp_path):
    class Broken:
        def __getattr__(self, name):
            return getattr(segmenter(), name)

        def compile(self):
            raise MemoryError("the device has no memory")

    app = create_app(Broken(), folder=tmp_path)
    with bind("127.0.0.1", 0) as bound, pytest.raises(MemoryError, match="no memory"):
        run(app, bound, pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_only_loopback_addresses_are_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "localhost.example", "")))


def test_a_port_in_use_is_reported_with_its_address():
    with bind("127.0.0.1", 0) as first:
        first.listen()
        assert address_of(first).startswith("http://127.0.0.1:")
        with pytest.raises(OSError, match="choose another"):
            bind("127.0.0.1", first.getsockname()[1])
    if socket.has_ipv6:
        with contextlib.suppress(OSError), bind("::1", 0) as six:
            assert address_of(six).startswith("http://[::1]:")
