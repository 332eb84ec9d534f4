"""The jobs that users run, from files to results: jaxseg and PyTorch as published, one after the other, on CPUs.

    python benchmarks/end_to_end.py --rounds 5
    python benchmarks/end_to_end.py --jobs png denoise --rounds 3

png, json, features: a folder of X-rays to masks or measurements. score: a CT with its organs. epoch: an epoch on LIDC
for both networks of the annotators. samples: 1,000 masks of one image from each of the two. denoise: 256 lung masks.
Weights are random and the same on both sides, and the results of the two sides are compared, except after training.
Writes `results/end_to_end.json` and `.md`; rows of jobs that were not named are kept. Needs
`pip install 'jaxseg[bench,nifti,tiff]' opencv-python-headless`.

Every row has the seconds of the steady state, without start-up and compilation, and those of a whole process.
"""

import argparse
import csv
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import alternate, jobs  # noqa: E402
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
PACKAGES = {  # job -> packages that it needs besides torch, and what installs them
    "features": {"cv2": "opencv-python-headless"},
    "score": {"nibabel": "'jaxseg[nifti]'"},
    "epoch": {"tifffile": "'jaxseg[tiff]'"},
    "samples": {"tifffile": "'jaxseg[tiff]'"},
    "denoise": {"cv2": "opencv-python-headless"},
}
FILES = {"score": "ct/totalseg/s0001", "epoch": "lidc", "samples": "lidc", "denoise": "lung_masks"}
SIDES = ("jaxseg", "torch")
MASKS, QUICK_MASKS, QUICK_IMAGES = 256, 24, 2
BATCH = 8  # of `jaxseg denoise`
LONG_S = 5.0  # a call that takes longer needs no further warm-up
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
LOG_COMPILES = {"JAX_LOG_COMPILES": "1"}
MAX_APART = {"png": 0.01, "json": 0.01, "denoise": 1e-3}  # of all pixels: JPEG decoders differ by one grey value
MAX_VALUES_APART = 0.1  # of all features: in ragged masks of random weights one pixel changes which contour is first
NEAR = 0.01  # relative difference above which two features differ
_COMPILED = re.compile(r"^Finished .* in ([0-9.e+-]+) sec", re.MULTILINE)


def main() -> None:
    """Measures the jobs one after the other and writes each row as soon as it is complete."""
    if sys.argv[1:2] == ["--part"]:
        use_all_cores()  # as the commands of jaxseg do
        part(*sys.argv[2:])
        return
    options = arguments()
    command = " ".join(["python benchmarks/end_to_end.py", *sys.argv[1:]])
    facts = {"command": command, "date": time.strftime("%Y-%m-%d"), "processor": alternate.processor()}
    with tempfile.TemporaryDirectory() as folder:
        versions = json.loads(in_process(part_command("environment"), Path(folder) / "log")[1])
        for job in options.jobs:
            for name in ROWS[job]:
                print(f"{name}: {time.strftime('%H:%M:%S')}", flush=True)
                row = measured(name, options, Path(folder) / name) | facts
                print(name, json.dumps(brief(row)), flush=True)
                if options.output:
                    write(options.output, name, row, facts | {"environment": versions})


def arguments() -> argparse.Namespace:
    """Returns the options; exits with a message if the jobs cannot run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--jobs", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side; default: 5")
    parser.add_argument("--data", type=Path, default=shared / "data", help="default: $JAXSEG_SHARED/data")
    parser.add_argument("--images", type=Path, help="folder of X-rays; default: DATA/cxr")
    parser.add_argument("--weights", type=Path, help="CXAS .pth file for the X-rays; default: random weights")
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
            sys.exit(f"{folder} is not a folder; name the data with --data, X-rays with --images")
    if not options.quick:
        options.output = options.output or RESULTS / "end_to_end.json"
    return options


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict:
    """Measures a row; everything runs in child processes, so that the memory of this process is not counted."""
    folder.mkdir()
    settings = {"rounds": options.rounds, "quick": options.quick}
    if name in jobs.IN_ONE_PROCESS:
        return row_in_one_process(name, options.data, folder, **settings)
    if name == "denoise":
        count = QUICK_MASKS if options.quick else MASKS
        source = first_files(options.data / "lung_masks", count, folder / "masks")
        return row_of_commands(name, source, folder, weights=None, **settings)
    source = first_files(options.images, QUICK_IMAGES, folder / "images") if options.quick else options.images
    return row_of_commands(name, source, folder, weights=options.weights, **settings)


def part(name: str, *given: str) -> None:
    """Does what this script does in a child process: writes JSON to a file or prints it."""
    if name == "steady":
        job, data, folder, path, settings = given
        found = steady(job, Path(data), Path(folder), **json.loads(settings))
        Path(path).write_text(json.dumps(found))
    elif name == "once":
        job, data, folder, side, settings = given
        make_job(job, Path(data), Path(folder), **json.loads(settings)).makers[side]()()
    elif name == "environment":
        import torch

        from jaxseg.devices import environment

        print(json.dumps(environment() | {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}))
    elif name == "weights":
        jobs.make_weights(Path(given[0]))
    elif name == "compare":
        folder = Path(given[1])
        print(json.dumps(compare(given[0], folder / "jaxseg", folder / "torch")))
    else:
        print(json.dumps(jobs.COMMANDS[name].torch(*map(Path, given))))


@dataclasses.dataclass(frozen=True)
class Run:
    """One process, measured; `alternate` accepts it in place of an `alternate.Sample`.

    Attributes:
      seconds: per item in the steady state.
      cpu: processor seconds per second of wall clock.
      others: share of the machine that other processes used at the same time.
      whole: seconds from the start of the process to its end.
      stages: seconds by stage.
      peak_gb: largest amount of memory that the process held.
    """

    seconds: float
    cpu: float
    others: float
    whole: float
    stages: dict[str, float]
    peak_gb: float


def row_of_commands(name: str, source: Path, folder: Path, *, rounds: int, quick: bool, weights: Path | None) -> dict:
    """Measures a job whose sides are processes.

    Args:
      name: a key of `jobs.COMMANDS`.
      source: folder of the files.
      folder: empty folder for everything that is written; the results of the last round stay there.
      rounds: measurements of each side.
      quick: measures once, even if other processes are busy.
      weights: a file; None: random weights of the parity kit.
    """
    job = jobs.COMMANDS[name]
    if weights is None:
        weights = folder / job.weights
        in_process([*part_command("weights"), weights], folder / "weights.log")
    samplers = {side: functools.partial(run_side, side, name, weights, source, folder) for side in SIDES}
    runs = in_rounds(samplers, rounds, quick=quick)
    count = len(list(source.iterdir()))
    found = {"what": job.what.format(count), "item": job.item, "items": count, "sides": summary(runs)}
    found["agreement"] = json.loads(in_process([*part_command("compare"), name, folder], folder / "compare.log")[1])
    return found


def run_side(side: str, name: str, weights: Path, source: Path, folder: Path) -> Run:
    """Runs one side of a job of `jobs.COMMANDS` into a new folder."""
    job, output, report = jobs.COMMANDS[name], folder / side, folder / "report.json"
    shutil.rmtree(output, ignore_errors=True)
    log, count = folder / f"{side}.log", len(list(source.iterdir()))
    if side == "torch":
        run, text = in_process([*part_command(name), weights, source, output], log)
        return dataclasses.replace(run, seconds=json.loads(text)["images"] / count, stages=json.loads(text))
    words = [*job.words, "-i", source, "-o", output, "--weights", weights]
    words += ["--report", report] if job.reports else []
    run, _ = in_process([sys.executable, "-m", "jaxseg.cli", *words], log, None if job.reports else LOG_COMPILES)
    if job.reports:
        stages = json.loads(report.read_text())["seconds"]
        return dataclasses.replace(run, seconds=stages["images"] / count, stages=stages)
    seconds, stages = from_file_times(output, run.whole, log.read_text())
    return dataclasses.replace(run, seconds=seconds, stages=stages)


def from_file_times(output: Path, whole: float, log: str) -> tuple[float, dict[str, float]]:
    """Returns the seconds per item and by stage of a command that does not report them.

    The steady state lasts from the last file of the first batch to the last file, by the times of the files. JAX logs
    the seconds of compilation, and the rest is the start.
    """
    times = sorted(path.stat().st_mtime_ns / 1e9 for path in output.glob("*.png"))
    compiled = [float(seconds) for seconds in _COMPILED.findall(log)]
    if len(times) <= BATCH or not compiled:
        raise ValueError(f"{len(times)} files and {len(compiled)} compilations do not show a steady state")
    seconds = (times[-1] - times[BATCH - 1]) / (len(times) - BATCH)
    images, compiling = seconds * len(times), sum(compiled)
    return seconds, {"start": whole - images - compiling, "compile": compiling, "images": images}


def row_in_one_process(name: str, data: Path, folder: Path, *, rounds: int, quick: bool) -> dict:
    """Measures a job of `jobs.IN_ONE_PROCESS`: the steady state in one process, the whole in one process per side.

    Args:
      name: a key of `jobs.IN_ONE_PROCESS`.
      data: the shared data.
      folder: empty folder for everything that is written.
      rounds: measurements of each side.
      quick: a small job, measured once.
    """
    path, settings = folder / "row.json", {"quick": quick}
    in_process(
        [*part_command("steady"), name, data, folder, path, json.dumps(settings | {"rounds": rounds})],
        folder / "steady.log",
    )
    found = json.loads(path.read_text())

    def whole(side: str) -> Run:
        command = [*part_command("once"), name, data, folder, side, json.dumps(settings)]
        return in_process(command, folder / f"{side}.log")[0]

    samplers = {side: functools.partial(whole, side) for side in found["sides"]}
    for side, figures in summary(in_rounds(samplers, rounds, quick=quick)).items():
        found["sides"][side] |= {key: figures[key] for key in ("whole", "peak_gb")}
    return found


def steady(name: str, data: Path, folder: Path, *, rounds: int, quick: bool) -> dict:
    """Times both sides of a job alternately, without preparation and compilation, and compares their first results."""
    job, samplers, answers, first = make_job(name, data, folder, quick=quick), {}, {}, {}
    for side, maker in job.makers.items():
        run, kept = maker(), []
        first[side] = alternate.sample(lambda run=run, kept=kept: kept.append(run()), 1).seconds
        answers[side], calls = kept[0], 1
        if not quick and first[side] <= LONG_S:
            calls = max(1, round(alternate.SHORTEST_S / alternate.sample(run, 1).seconds))
        samplers[side] = functools.partial(alternate.sample, run, calls)
    sides = alternate.summary(in_rounds(samplers, rounds, quick=quick), "jaxseg")
    for side, found in sides.items():
        found["first_call_s"] = round(first[side], 3)
    return job.facts | {"sides": sides, "agreement": job.compare(answers)}


def make_job(name: str, data: Path, folder: Path, *, quick: bool) -> jobs.Job:
    """Returns a job of `jobs.IN_ONE_PROCESS`; its weights, copies and temporary files go to the folder."""
    tempfile.tempdir = str(folder)
    return jobs.IN_ONE_PROCESS[name](data, folder, quick=quick)


def part_command(name: str) -> list[str]:
    """Returns the command that runs a part of this script in its own process."""
    return [sys.executable, str(Path(__file__).resolve()), "--part", name]


def in_process(command: list, log: Path, variables: Mapping[str, str] | None = None) -> tuple[Run, str]:
    """Runs a command on CPUs; returns what it took and what it printed. Exits with its messages if it fails."""
    words = [str(word) for word in command]
    environment = os.environ | CPU | (variables or {})
    busy, start = alternate.busy_seconds(), time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # `Popen.wait` does not return the memory
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    whole, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    if process.returncode:
        sys.exit(f"{log.read_text()[-3000:]}\n{' '.join(words)}: ended with {process.returncode}")
    busy = alternate.busy_seconds() - busy
    others = max(0.0, busy - cpu) / (whole * (os.cpu_count() or 1)) if busy else 0.0
    kilobyte = 1e9 if sys.platform == "darwin" else 1e6
    return Run(whole, cpu / whole, others, whole, {}, round(usage.ru_maxrss / kilobyte, 2)), text


def in_rounds(samplers: dict[str, Callable], rounds: int, *, quick: bool) -> dict[str, list]:
    """Returns the samples of all sides, taken alternately; a quick run takes one of each, noisy or not."""
    if quick:
        return {side: [take()] for side, take in samplers.items()}
    return alternate.sample_alternately(samplers, rounds)


def summary(runs: dict[str, list[Run]]) -> dict:
    """Returns `alternate.summary` of the steady state, and figures of the whole process, the stages and the memory."""
    sides = alternate.summary(runs, "jaxseg")
    whole = {side: [dataclasses.replace(run, seconds=run.whole) for run in taken] for side, taken in runs.items()}
    for side, found in alternate.summary(whole, "jaxseg").items():
        taken = runs[side]
        sides[side]["whole"] = {key: found[key] for key in ("median_s", "over_jaxseg", "samples_s")}
        sides[side]["stages_s"] = {
            stage: round(statistics.median(run.stages[stage] for run in taken), 3) for stage in taken[0].stages
        }
        sides[side]["peak_gb"] = statistics.median(run.peak_gb for run in taken)
    return sides


def first_files(source: Path, count: int, folder: Path) -> Path:
    """Copies the first files of a folder, and returns the new folder."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder


def compare(name: str, ours: Path, theirs: Path) -> dict[str, float]:
    """Returns how far the results of a job in two folders are apart.

    Raises:
      ValueError: they are further apart than rounding explains, or results are missing.
    """
    if name == "features":
        return _compare_features(ours, theirs)
    pairs = {"png": _png_pairs, "denoise": _png_pairs, "json": _coco_pairs}[name](ours, theirs)
    apart = pixels = masks = 0
    for one, other in pairs:
        if one.shape != other.shape:
            raise ValueError(f"{name}: a mask is {one.shape} on one side and {other.shape} on the other")
        apart, pixels, masks = apart + int((one != other).sum()), pixels + one.size, masks + 1
    share = apart / pixels if pixels else 1.0
    if share > MAX_APART[name]:
        raise ValueError(f"{name}: {share:.2%} of the pixels of {masks} masks differ")
    return {"masks": masks, "pixels_apart": share}


def _png_pairs(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*.png"))
    if names != sorted(path.relative_to(ours) for path in ours.rglob("*.png")):
        raise ValueError(f"{ours} and {theirs} hold PNG files of different names")
    for name in names:
        with Image.open(ours / name) as one, Image.open(theirs / name) as other:
            yield np.asarray(one).astype(bool), np.asarray(other).astype(bool)


def _coco_pairs(ours: Path, theirs: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from jaxseg.masks.coco import decode_rle

    (merged,) = (path for path in sorted(ours.glob("*.json")) if len(_read(path).get("images", [])) > 1)
    found, wanted = _annotations(_read(merged)), _annotations(_read(theirs / "all.json"))
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)  # a mask of few pixels may be empty on one side
        known = one or other
        pair = [decode_rle(rle) if rle else np.zeros(known["size"], bool) for rle in (one, other)]
        yield pair[0], pair[1]


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def _annotations(content: dict) -> dict[tuple[str, int], dict]:
    files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    return {(files[one["image_id"]], one["category_id"]): one["segmentation"] for one in content["annotations"]}


def _compare_features(ours: Path, theirs: Path) -> dict[str, float]:
    (path,) = ours.glob("*.csv")
    found, wanted = (list(csv.DictReader(file.read_text().splitlines())) for file in (path, theirs / "all.csv"))
    columns = [name for name in wanted[0] if name != "file"]
    missing = [name for name in columns if name not in found[0]]
    if missing or [row["filename"] for row in found] != [row["file"] for row in wanted]:
        raise ValueError(f"the tables hold different files, or jaxseg's lacks columns: {missing[:5]}")
    one, other = (np.array([[float(row[name]) for name in columns] for row in rows]) for rows in (found, wanted))
    share = float((np.abs(one - other) > NEAR * np.abs(other)).mean())
    if share > MAX_VALUES_APART:
        raise ValueError(f"features: {share:.2%} of the values differ by more than {NEAR:.0%}")
    return {"values": one.size, "values_apart": share}


def brief(row: dict) -> dict:
    """Returns the figures of a row that are printed."""
    sides = {side: [found["median_s"], found["whole"]["median_s"]] for side, found in row["sides"].items()}
    ratios = [row["sides"]["torch"]["over_jaxseg"], row["sides"]["torch"]["whole"]["over_jaxseg"]]
    return {"seconds and whole": sides, "torch over jaxseg": ratios, "agreement": row.get("agreement")}


def write(path: Path, name: str, row: dict, facts: dict) -> None:
    """Adds a row to the JSON file, and writes the table beside it."""
    present = json.loads(path.read_text()) if path.exists() else {}
    rows = present.get("jobs", {}) | {name: row}
    rows = {name: rows[name] for names in ROWS.values() for name in names if name in rows}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(facts | {"jobs": rows}, indent=1) + "\n")
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(table(rows))


def table(rows: dict[str, dict]) -> str:
    """Returns a Markdown table of all rows: the steady state, and from the start of the process to its end."""
    lines = [
        "| job | what | seconds per | jaxseg | PyTorch | PyTorch / jaxseg | from start to end: jaxseg | PyTorch "
        "| PyTorch / jaxseg | GB: jaxseg | PyTorch | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ours, theirs = row["sides"]["jaxseg"], row["sides"]["torch"]
        cells = [name, row["what"], row["item"]]
        for one, other in ((ours, theirs), (ours["whole"], theirs["whole"])):
            cells += [f"{one['median_s']:.3g}", f"{other['median_s']:.3g}", f"{other['over_jaxseg']:.2f}"]
        cells += [f"{side['peak_gb']:.1f}" if "peak_gb" in side else "" for side in (ours, theirs)]
        lines.append("| " + " | ".join([*cells, row["date"]]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
