"""Settings of the tests of workers."""

import gc

import pytest

# pynetdicom leaves a socket whose other side has gone to the garbage collector, which warns.
LEFT = "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def sockets_left():
    """Collects the sockets that pynetdicom has left, so that no later test hears of them."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in ("test_listen.py", "test_send.py", "test_worker_orthanc.py"):
            item.add_marker(pytest.mark.filterwarnings(LEFT))
            item.add_marker(pytest.mark.usefixtures("sockets_left"))
