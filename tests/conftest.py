"""Settings and fixtures of the whole suite: 8 virtual CPU devices, strict JAX, the parity kit, the shared data."""

import importlib.util
import json
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs are compiled once for all tests and the commands they start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).resolve().parent / "data"
SHARED = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared"))


class Kit:
    """The parity kit in tests/data: weights and inputs by name, goldens, and the comparison with them."""

    def __init__(self, folder: Path):
        spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
        self.fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.fill)
        self.folder = folder
        self.index = json.loads((folder / "goldens" / "index.json").read_text())
        self.seed = self.index["seed"]

    def manifest(self, name: str) -> dict:
        return json.loads((self.folder / "manifests" / f"{name}.json").read_text())

    def weights(self, name: str) -> dict[str, np.ndarray]:
        return self.fill.state_dict(self.manifest(name), self.seed)

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.index["goldens"] if name.startswith(prefix)]

    def golden(self, name: str) -> tuple[dict, dict[str, np.ndarray]]:
        entry = self.index["goldens"][name]
        with np.load(self.folder / "goldens" / entry["file"]) as arrays:
            return entry, dict(arrays)

    def input(self, name: str, key: str) -> np.ndarray:
        return self.fill.make_input(self.index["goldens"][name]["inputs"][key], self.seed)

    def check(self, name: str, key: str, value) -> None:
        entry, arrays = self.golden(name)
        result = self.fill.check(entry, arrays, key, value)
        assert result["ok"], f"{name} {key}: {result}"


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit(DATA)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data; a test that asks for it carries the marker `shared`."""
    return SHARED


def pytest_collection_modifyitems(items):
    """Leaves out what this machine lacks, with the reason; with JAXSEG_REQUIRE_ALL=1 (CI) the tests run and fail."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
    if os.environ.get("JAXSEG_REQUIRE_ALL") or (SHARED / "data").is_dir():
        return
    reason = "needs the shared data: set JAXSEG_SHARED to its folder"
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason=reason))
