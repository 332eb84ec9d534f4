"""Settings and fixtures of the whole suite: 8 virtual CPU devices, strict JAX, the parity kit, the shared data."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs are compiled once for all tests and the commands they start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest
from parity_kit import DATA, SHARED, Kit

from jaxseg.xla import use_all_cores

pytest_plugins = ["training_fixtures"]

use_all_cores()  # as the commands do that run in this process
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit(DATA)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data; a test that asks for it carries the marker `shared`."""
    return SHARED


@pytest.fixture(scope="module")
def plain():
    """Segmentation networks are plain ones for a module that is about runs, not about the U-Net."""
    from plain_network import PLACE

    from jaxseg.registry import MODELS

    with pytest.MonkeyPatch.context() as patch:
        for name, place in PLACE.items():
            patch.setitem(MODELS, name, place)
        yield


@pytest.fixture(scope="module")
def shallow():
    """A ResNet-18 has one block a stage, not two, for a module that is not about it: half as much to compile."""
    from jaxseg.nn.resnet import VARIANTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "resnet18", ((1, 1, 1, 1), False))
        yield


def pytest_collection_modifyitems(items):
    """Leaves out what this machine lacks, with the reason; with JAXSEG_REQUIRE_ALL=1 (CI) the tests run and fail."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
    if os.environ.get("JAXSEG_REQUIRE_ALL"):
        return
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the shared data: set JAXSEG_SHARED to its folder"))
        for marker in item.iter_markers("system"):  # pytest.mark.system("dciodvfy"): programs of Debian packages
            missing = [program for program in marker.args if shutil.which(program) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs the programs {', '.join(missing)} (see .ci/run)"))
