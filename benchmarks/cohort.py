"""Seconds and memory per picture of runs over 1,000, 10,000 and 100,000 pictures: first run, resumed run, and merge.

    python benchmarks/cohort.py [--counts 1000,10000]

A narrow network measures small pictures and writes their masks as COCO files, so that nearly all of the time is that of
the account: files, summary, journal, table. Each step is a separate process. Its time and memory are counted after a
warm-up with 300 other pictures, which compiles the network.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "cohort.json"
STEPS = ("first", "resumed", "merge")
SIDE, PER_FOLDER = 32, 1000  # pixels of a picture, and pictures in one folder


def draw(folder: Path, count: int) -> None:
    """Writes pictures of noise, which all differ."""
    for number in range(count):
        place = folder / f"{number // PER_FOLDER:03}"
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)
        Image.fromarray(noise).save(place / f"{number:06}.png")


def step(name: str, folder: Path) -> dict:
    """Does one step in this process; returns its seconds, processor seconds, and memory before and at its peak."""
    import jaxseg

    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(SIDE, SIDE))
    segmenter = jaxseg.Segmenter(model, batch_size=16)
    options = {"recursive": True, "store_masks": True, "output_type": "json", "part": "1/1"}
    jaxseg.extract_folder(folder / "warm", folder / f"warm_{name}", "area", segmenter, **options)
    jaxseg.merge_folder(folder / f"warm_{name}")
    before, start, used = peak_mb(), time.perf_counter(), time.process_time()
    if name == "merge":
        found = jaxseg.merge_folder(folder / "out")
        if found.problems:
            raise SystemExit("\n".join(found.problems))
    else:
        found = jaxseg.extract_folder(folder / "in", folder / "out", "area", segmenter, **options)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    return {
        "done": found.done,
        "seconds": seconds,
        "processor_seconds": processor,
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Returns the largest memory of this process so far; Linux counts it from the start of the program."""
    return int(re.search(r"VmHWM:\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) / 1024


def measured(count: int, scratch: Path | None) -> dict:
    """Returns what each step takes for this number of pictures, as a whole and per picture."""
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place)
        draw(folder / "in", count)
        draw(folder / "warm", 300)
        rows = {}
        for name in STEPS:
            command = [sys.executable, __file__, "--step", name, "--folder", place]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            row |= {"ms_per_picture": 1e3 * row["seconds"] / count}
            row |= {"processor_ms_per_picture": 1e3 * row["processor_seconds"] / count}
            row |= {"kb_per_picture": 1024 * (row["peak_mb"] - row["before_mb"]) / count}
            rows[name] = {key: round(value, 3) for key, value in row.items()}
            print(count, name, json.dumps(rows[name]), flush=True)
        return rows


def main() -> None:
    """Measures each number of pictures, and writes the JSON file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1000,10000,100000", help="numbers of pictures")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--scratch", type=Path, help="folder for the pictures and results; default: that of the system")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options.folder)))
        return
    from benchmarks.alternate import processor
    from jaxseg.devices import environment

    result = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": {}}
    for count in map(int, options.counts.split(",")):
        result["rows"][str(count)] = measured(count, options.scratch)
        result |= {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "environment": environment()}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
