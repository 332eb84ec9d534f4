"""`jaxseg compare` on 1,000 pairs of masks of 512 x 512, and the same scores by the package surface-distance.

python benchmarks/comparison.py [--pairs 1000] [--cores 2]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import surface_distance
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "comparison.json"
SIDE = 512
SAMPLED = 30  # pairs that surface-distance scores


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """Returns an ellipse with a wavy edge, (512, 512) bool, in the size of a heart or a lung."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cy, cx = rng.uniform(200, 312, 2)
    ry, rx = rng.uniform(60, 150, 2)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 + 0.2 * np.sin(x / 5)


def save_pairs(folder: Path, count: int) -> None:
    """Writes masks as png files to the folders A and B; B's are moved a little."""
    rng = np.random.default_rng(0)
    for name in "AB":
        (folder / name).mkdir()
    for i in range(count):
        mask = ellipse(rng)
        for name, moved in (("A", mask), ("B", np.roll(mask, rng.integers(-8, 9, 2), (0, 1)))):
            Image.fromarray(moved).save(folder / name / f"{i:04}.png")


def command(folder: Path, cores: int) -> dict[str, float]:
    """Runs the command on some processor cores; returns the seconds of the clock and of the processor."""
    words = [sys.executable, "-m", "jaxseg.cli", "compare", "--prediction", "A", "--truth", "B", "-o", "table.csv"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    usable = sorted(os.sched_getaffinity(0))[:cores]
    subprocess.run(
        words, cwd=folder, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, usable)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - start, 2), "processor_seconds": round(used, 2)}


def with_surface_distance(folder: Path) -> float:
    """Returns the processor seconds per pair of NSD, HD95 and ASSD by the package, without reading the files."""
    seconds = 0.0
    for i in range(SAMPLED):
        pair = [np.asarray(Image.open(folder / name / f"{i:04}.png")) > 0 for name in "AB"]
        start = time.process_time()
        distances = surface_distance.compute_surface_distances(*pair, (1, 1))
        surface_distance.compute_surface_dice_at_tolerance(distances, 2)
        surface_distance.compute_robust_hausdorff(distances, 95)
        surface_distance.compute_average_surface_distance(distances)
        seconds += time.process_time() - start
    return round(seconds / SAMPLED, 4)


def main() -> None:
    """Times both sides and writes the result."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.alternate import processor
    from jaxseg.devices import environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of masks; default: 1000")
    parser.add_argument("--cores", type=int, default=2, help="processor cores of the command; default: 2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        save_pairs(Path(name), options.pairs)
        result = {"pairs": options.pairs, "cores": options.cores} | command(Path(name), options.cores)
        result["surface_distance_processor_seconds_a_pair"] = with_surface_distance(Path(name))
    facts = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "environment": environment()}
    RESULTS.write_text(json.dumps(result | facts, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
