"""The jobs that users run, from files to results: jaxseg against PyTorch as published, in turn, on processors.

    python benchmarks/end_to_end.py --rounds 5
    python benchmarks/end_to_end.py --jobs png denoise --rounds 3

png, json, features: a folder of X-rays to masks or measurements. score: a CT with its organs. epoch: a LIDC epoch of
both networks of annotators. samples: 1,000 masks of an image from each. denoise: 256 lung masks. Weights are random
ones, the same on both sides, and what both make is compared (but for epochs). Writes `results/end_to_end.json` and
`.md`; rows of other jobs stay. Needs `pip install 'jaxseg[bench,nifti,tiff]' opencv-python-headless`.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import jobs_compare, jobs_one_process, jobs_process, jobs_torch  # noqa: E402
from benchmarks.alternate import processor  # noqa: E402
from jaxseg.files import atomic_file  # noqa: E402
from jaxseg.xla import use_all_cores  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
ROWS = {  # job -> its rows
    "png": ["png"],
    "json": ["json"],
    "features": ["features"],
    "score": ["score"],
    "epoch": ["epoch_cmvae", "epoch_prob_unet"],
    "samples": ["samples_cmvae", "samples_prob_unet"],
    "denoise": ["denoise"],
}
PACKAGES = {  # job -> packages besides torch, and what installs them
    "features": {"cv2": "opencv-python-headless"},
    "score": {"nibabel": "'jaxseg[nifti]'"},
    "epoch": {"tifffile": "'jaxseg[tiff]'"},
    "samples": {"tifffile": "'jaxseg[tiff]'"},
    "denoise": {"cv2": "opencv-python-headless"},
}
FILES = {"score": "ct/totalseg/s0001", "epoch": "lidc", "samples": "lidc", "denoise": "lung_masks"}
QUICK_IMAGES, QUICK_MASKS = 2, 24


def main() -> None:
    """Measures the jobs one after the other; every row is written when it is there."""
    if sys.argv[1:2] == ["--part"]:
        use_all_cores()  # as `jaxseg`'s commands do
        part(*sys.argv[2:])
        return
    options = arguments()
    command = " ".join(["python benchmarks/end_to_end.py", *sys.argv[1:]])
    facts = {"command": command, "date": time.strftime("%Y-%m-%d"), "processor": processor()}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        versions = json.loads(jobs_process.printed(jobs_process.own("environment"), log)[1])
        for job in options.jobs:
            for name in ROWS[job]:
                print(f"{name}: {time.strftime('%H:%M:%S')}", flush=True)
                row = measured(name, options, Path(folder) / name) | facts
                print(name, json.dumps(brief(row)), flush=True)
                if options.output:
                    write(options.output, name, row, facts | {"environment": versions})


def arguments() -> argparse.Namespace:
    """The options; leaves where the run cannot work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--jobs", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=shared / "data", help="default: $JAXSEG_SHARED/data")
    parser.add_argument("--images", type=Path, help="a folder of X-rays; default: DATA/cxr")
    parser.add_argument("--weights", type=Path, help="a CXAS .pth for the X-rays; default: random ones")
    parser.add_argument("--quick", action="store_true", help="small jobs, one round; no files without --output")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/end_to_end.json")
    options = parser.parse_args()
    options.images = options.images or options.data / "cxr"
    if options.rounds < 1:
        sys.exit(f"--rounds must be at least 1, got {options.rounds}")
    for job in options.jobs:
        for package, install in ({"torch": "'jaxseg[bench]'"} | PACKAGES.get(job, {})).items():
            if importlib.util.find_spec(package) is None:
                sys.exit(f"{job} needs {package}: pip install {install}, or name other jobs with --jobs")
        folder = options.data / FILES[job] if job in FILES else options.images
        if not folder.is_dir():
            sys.exit(f"{folder} is no folder; name the data with --data, X-rays with --images")
    if not options.quick:
        options.output = options.output or RESULTS / "end_to_end.json"
    return options


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict:
    """Measures a row, in processes of their own: the memory of this one would count as theirs where it is larger."""
    folder.mkdir()
    how = {"rounds": options.rounds, "quick": options.quick}
    if name in jobs_one_process.JOBS:
        return jobs_one_process.row(name, options.data, folder, **how)
    if name == "denoise":
        count = QUICK_MASKS if options.quick else jobs_process.MASKS
        source = jobs_process.few(options.data / "lung_masks", count, folder / "masks")
        return jobs_process.row(name, source, folder, weights=None, **how)
    source = jobs_process.few(options.images, QUICK_IMAGES, folder / "images") if options.quick else options.images
    return jobs_process.row(name, source, folder, weights=options.weights, **how)


def part(name: str, *given: str) -> None:
    """What this script does in a process of its own; prints JSON."""
    if name == "steady":
        job, data, folder, path, how = given
        found = jobs_one_process.steady(job, Path(data), Path(folder), **json.loads(how))
        Path(path).write_text(json.dumps(found))
    elif name == "once":
        job, data, folder, how = given
        jobs_one_process.once(job, Path(data), Path(folder), **json.loads(how))
    elif name == "environment":
        import torch

        from jaxseg.devices import environment

        print(json.dumps(environment() | {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}))
    elif name == "weights":
        jobs_torch.make_weights(Path(given[0]))
    elif name == "compare":
        folder = Path(given[1])
        print(json.dumps(jobs_compare.compare(given[0], folder / "jaxseg", folder / "torch")))
    else:
        print(json.dumps(jobs_torch.SIDES[name](*map(Path, given))))


def brief(row: dict) -> dict:
    """What is worth a line on the screen."""
    sides = {side: [found["median_s"], found["whole"]["median_s"]] for side, found in row["sides"].items()}
    ratios = [row["sides"]["torch"]["over_jaxseg"], row["sides"]["torch"]["whole"]["over_jaxseg"]]
    return {"seconds and whole": sides, "torch over jaxseg": ratios, "agreement": row.get("agreement")}


def write(path: Path, name: str, row: dict, facts: dict) -> None:
    """Adds a row to the JSON file, and writes the table beside it."""
    standing = json.loads(path.read_text()) if path.exists() else {}
    jobs = standing.get("jobs", {}) | {name: row}
    jobs = {name: jobs[name] for names in ROWS.values() for name in names if name in jobs}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(facts | {"jobs": jobs}, indent=1) + "\n")
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(table(jobs))


def table(jobs: dict[str, dict]) -> str:
    """Returns a Markdown table of all rows: the steady state, and from the start of the process to its end."""
    lines = [
        "| job | what | seconds of | jaxseg | PyTorch | PyTorch / jaxseg | from start to end: jaxseg | PyTorch "
        "| PyTorch / jaxseg | GB: jaxseg | PyTorch | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in jobs.items():
        ours, theirs = row["sides"]["jaxseg"], row["sides"]["torch"]
        cells = [name, row["what"], row["item"]]
        for one, other in ((ours, theirs), (ours["whole"], theirs["whole"])):
            cells += [f"{one['median_s']:.3g}", f"{other['median_s']:.3g}", f"{other['over_jaxseg']:.2f}"]
        cells += [f"{side['peak_gb']:.1f}" if "peak_gb" in side else "" for side in (ours, theirs)]
        lines.append("| " + " | ".join([*cells, row["date"]]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
