"""Settings and fixtures of the whole suite: 8 virtual CPU devices, strict JAX, caches, tiers and shards."""

import collections
import ctypes
import gc
import os
import shutil
import signal
import zlib
from pathlib import Path

# JAX reads these when it is imported. The commands that tests start inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most tests compile a lot and compute little
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # each process needs hundreds of small ones

import jax
import processor_seconds
import pytest
from compilation_cache import compilation_cache
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from parity_kit import DATA, SHARED, Kit

from jaxseg import cpu, xla
from jaxseg.nn import onednn as onednn_calls

pytest_plugins = ["training_fixtures"]
MAX_RESIDENT_MB = 1500  # above this, a worker drops its compiled programs at the end of a module
SECONDS = {"full": 6, "torch": 2, "slow": 0.4}  # marker -> the usual time of a test

# Under `nohup` or `&`, a shell starts its processes with SIGINT ignored, and their children inherit that. The tests of
# Ctrl-C need Python's own handler, here and in the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compilation_cache()))
xla.use_all_cores()  # the commands do the same, and some tests run them in this process
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def memory_of_this_process(monkeypatch):
    """Commands that tests run in this process must not change how it keeps memory."""
    monkeypatch.setattr(xla, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # hypothesis looks for objects that are then hidden


@pytest.fixture
def onednn():
    """Turns off the store of compiled programs, which excludes oneDNN, and forgets the programs in memory."""

    def use(store: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", store)
        reset_cache()
        jax.clear_caches()
        cpu.onednn.cache_clear()

    before = jax.config.jax_enable_compilation_cache
    use(False)
    yield
    use(before)


def pytest_generate_tests(metafunc):
    """Runs tests with the marker `onednn_too` twice: as they are, and in `make test-long` with oneDNN."""
    if metafunc.definition.get_closest_marker("onednn_too"):
        metafunc.fixturenames.append("convolutions")
        kinds = ["xla", pytest.param("onednn", marks=pytest.mark.full)]
        metafunc.parametrize("convolutions", kinds, indirect=True)


@pytest.fixture
def convolutions(request, monkeypatch):
    """Lets oneDNN compute the convolutions of a test, and checks that it did, or leaves them to XLA."""
    if request.param == "xla":
        yield
        return
    request.getfixturevalue("onednn")
    convolve, calls = onednn_calls.convolve, []
    monkeypatch.setattr(onednn_calls, "convolve", lambda *given: calls.append(1) or convolve(*given))
    yield
    assert calls, "no program with oneDNN was made"


def pytest_addoption(parser):
    parser.addoption("--shard", default="1/1", help="Run only part I of N of the test files, as I/N.")


def pytest_configure(config):
    processor_seconds.register(config)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit(DATA)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Returns the folder of shared data. Tests that use it get the marker `shared`."""
    return SHARED


@pytest.fixture(scope="module")
def plain():
    """Replaces the U-Net by a plain network in modules that test runs and not the network."""
    from plain_network import PLACE

    from jaxseg.registry import MODELS

    with pytest.MonkeyPatch.context() as patch:
        for name, place in PLACE.items():
            patch.setitem(MODELS, name, place)
        yield


@pytest.fixture(scope="module")
def shallow():
    """Gives ResNet-18 one block per stage instead of two, which halves its compile time."""
    from jaxseg.nn.resnet import VARIANTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "resnet18", ((1, 1, 1, 1), False))
        yield


@pytest.fixture(autouse=True)
def optimised(request, monkeypatch):
    """Lets XLA optimise the programs of tests that compute more than they compile."""
    if request.node.get_closest_marker("optimised"):
        monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", before)
    else:
        yield


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Drops compiled programs at the end of a module if the worker has grown too large."""
    yield
    if _resident_mb() > MAX_RESIDENT_MB:
        jax.clear_caches()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a function of glibc
        if trim is not None:
            trim(0)


def _resident_mb() -> float:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if statm.exists() else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    """Keeps one shard of the tests, skips what this machine lacks, and sorts the files."""
    _keep_one_shard(config, items)
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.slow)  # `make test-quick` leaves out both
    if not os.environ.get("JAXSEG_REQUIRE_ALL"):  # with JAXSEG_REQUIRE_ALL=1 (CI), tests of what is missing fail
        _skip_what_is_missing(items)
    result = yield  # pytest drops the tests of other tiers
    _longest_files_first(items)
    return result


def _keep_one_shard(config, items) -> None:
    part, count = (int(word) for word in config.getoption("--shard").split("/"))
    if not 1 <= part <= count:
        raise pytest.UsageError(f"--shard {part}/{count}: I must be from 1 to N")
    in_shard = [zlib.crc32(item.location[0].encode()) % count == part - 1 for item in items]
    config.hook.pytest_deselected(items=[item for item, kept in zip(items, in_shard, strict=True) if not kept])
    items[:] = [item for item, kept in zip(items, in_shard, strict=True) if kept]


def _skip_what_is_missing(items) -> None:
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the shared data: set JAXSEG_SHARED to its folder"))
        for marker in item.iter_markers("system"):  # pytest.mark.system("dciodvfy"): programs of Debian packages
            missing = [program for program in marker.args if shutil.which(program) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs the programs {', '.join(missing)} (see .ci/run)"))


def _longest_files_first(items) -> None:
    """Sorts the files by an estimate of their seconds, so that no worker starts a long one when the others end."""
    seconds: collections.Counter = collections.Counter()
    for item in items:
        seconds[item.path] += next((s for name, s in SECONDS.items() if item.get_closest_marker(name)), 0.05)
    items.sort(key=lambda item: -seconds[item.path])  # stable: the tests of a file keep their order
