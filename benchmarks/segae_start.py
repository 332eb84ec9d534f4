"""The start of a SegAE training: with an index of usable slices, and without one.

    python benchmarks/segae_start.py --cases 5000

Makes synthetic cases with tiny volumes (8 slices of 32 x 32 pixels, two organs with ten masks each) in a temporary
folder, and reads the data set as a training does: first without an index, which opens every volume, then three times
with it. Real volumes take longer to open, but the start with an index does not read them: its time depends on the
number of files.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from jaxseg.devices import environment
from jaxseg.segae.data import read_segae
from jaxseg.segae.layout import MADE_BY

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ORGANS, MASKS, REPEATS = {"liver": 13, "spleen": 26}, 10, 3


def main() -> None:
    """Measures the starts and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        files = make(root, options.cases)
        time.sleep(3)  # files that have just changed are not stored
        seconds = [start(root) for _ in range(1 + REPEATS)]
        size = (root / "index_20.json").stat().st_size
    result = {"command": f"python benchmarks/segae_start.py --cases {options.cases}", "date": str(date.today())}
    result |= {"cases": options.cases, "files": files, "index_bytes": size}
    result |= {"first_start_s": round(seconds[0], 2), "later_starts_s": [round(s, 2) for s in seconds[1:]]}
    result |= {"load_average": os.getloadavg()[0], "environment": environment()}
    (RESULTS / "segae_start.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def make(root: Path, cases: int) -> int:
    """Writes a data set, which seems to be one of `jaxseg prepare segae`, and returns its number of files."""
    labels = np.zeros((8, 32, 32), np.uint8)
    for place, label in enumerate(ORGANS.values()):
        labels[1:7, 4 + 12 * place : 14 + 12 * place, 4:28] = label
    ct = np.random.default_rng(0).integers(-1000, 1000, labels.shape).astype(np.int16)
    masks = {name: _npy((labels == label).astype(np.uint8)) for name, label in ORGANS.items()}
    volumes = {"ct.npy": _npy(ct), "label.npy": _npy(labels)}
    for number in range(cases):
        folder = root / ("val" if number % 5 == 0 else "train") / f"case_{number:05}"
        for name, label in ORGANS.items():
            (folder / f"{name}_{label}").mkdir(parents=True)
            for mask in range(MASKS):
                (folder / f"{name}_{label}" / f"degraded_{mask:02}.npy").write_bytes(masks[name])
        for name, content in volumes.items():
            (folder / name).write_bytes(content)
    (root / "summary.json").write_text(json.dumps({"made_by": MADE_BY}))
    return cases * (len(volumes) + len(ORGANS) * MASKS)


def start(root: Path) -> float:
    """Returns the seconds in which a training reads a data set."""
    before = time.perf_counter()
    read_segae(root)
    return time.perf_counter() - before


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


if __name__ == "__main__":
    main()
