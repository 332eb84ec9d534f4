"""Phantoms and a small model for runs over folders in several processes, and what equal runs have in common."""

import dataclasses
import json
import time
from pathlib import Path

from fake_segmenter import tree
from PIL import Image

import jaxseg
from jaxseg.datasets import phantom
from jaxseg.weights.store import save_model

_DIFFERENT = ("seconds", "status")  # fields of an entry that differ between equal runs


def phantoms(folder: Path, count: int, size: int = 64) -> Path:
    """Writes phantom X-rays with the names 000.png and so on, and returns their folder."""
    folder.mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(phantom.draw(seed, size)[0]).save(folder / f"{seed:03}.png")
    return folder


def saved_model(folder: Path, classes: tuple[str, ...] = ("heart", "right lung", "left lung")) -> Path:
    """Saves a model of the plain network for images of 64 x 64, and returns its folder."""
    model = jaxseg.create("cxas", class_names=classes, backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    return save_model(model, folder, model.card)


def compared(output: Path) -> tuple[dict, dict]:
    """Returns the digests of all files of a finished run, and its summary without times."""
    summary = json.loads((output / "summary.json").read_text())
    assert summary["complete"]
    files = {
        key: {name: value for name, value in entry.items() if name not in _DIFFERENT}
        for key, entry in summary.pop("files").items()
    }
    kept = {name: summary[name] for name in ("jaxseg", "note", "products", "settings", "merged")}
    digests = {name: digest for name, digest in tree(output).items() if name != "summary.json"}
    return digests, kept | {"files": files}


@dataclasses.dataclass(frozen=True)
class Slow:
    """A `postprocess` that changes nothing and takes its time, so that a run can be disturbed in the middle."""

    seconds: float

    @property
    def settings(self) -> dict:
        return {"slow": True}

    def __call__(self, found: list) -> list:
        time.sleep(self.seconds * len(found))
        return found
