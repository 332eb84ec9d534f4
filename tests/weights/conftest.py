"""A server for the tests of downloads, and writers of weights files."""

import threading
from pathlib import Path

import pytest
from file_server import Site
from torch_pickles import legacy, zipped

from jaxseg.weights import download


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_S", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    if server.hold is not None:
        server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.pth"


@pytest.fixture
def write(tmp_path_factory):
    """Writes bytes into a file `weights.pth` and returns its path."""
    folder = tmp_path_factory.mktemp("made")  # not tmp_path, whose name has words that the messages are searched for

    def write(content: bytes) -> Path:
        (folder / "weights.pth").write_bytes(content)
        return folder / "weights.pth"

    return write


@pytest.fixture(params=[zipped, legacy], ids=["zip", "legacy"])
def torch_save(request):
    """The writer of one format of torch.save: zip (since 1.6) or legacy."""
    return request.param
