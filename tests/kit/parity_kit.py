"""The parity kit in tests/data: weights and inputs by name, goldens, and the comparison with them."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
KIT = Path(__file__).resolve().parent
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
