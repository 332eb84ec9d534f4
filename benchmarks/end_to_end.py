"""The jobs that users run, from files to results: jaxseg and PyTorch as published, one after the other, on CPUs.

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --jobs png denoise --rounds 3

png, json, features: a folder of X-rays to masks or measurements. score: a CT with its organs. epoch: an epoch on LIDC
for both networks of the annotators. samples: 1,000 masks of one image from each of the two. denoise: 256 lung masks.
Weights are random and the same on both sides, and the results of the two sides are compared, except after training.
Writes `results/end_to_end.json` and `.md`; rows of jobs that were not named are kept. Needs
`pip install 'jaxseg[bench,nifti,tiff]' opencv-python-headless`.

Every row has the seconds of the steady state, without start-up and compilation, and those of a whole process. Each
side has its own processes. All rows take about a quarter of an hour on two cores.
"""

import argparse
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
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import agreement, alternate, jobs  # noqa: E402
from jaxseg import programs  # noqa: E402
from jaxseg.files import atomic_file  # noqa: E402
from jaxseg.xla import HUGE_PAGES, keep_freed_memory, use_all_cores  # noqa: E402

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
LONG_ROUND_S = 60.0
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
LOG_COMPILES = {"JAX_LOG_COMPILES": "1"}
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
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each side; default: 2")
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
    if name in jobs.FUNCTIONS:
        return row_of_functions(name, options.data, folder, **settings)
    if name == "denoise":
        count = QUICK_MASKS if options.quick else MASKS
        source = first_files(options.data / "lung_masks", count, folder / "masks")
        return row_of_commands(name, source, folder, weights=None, **settings)
    source = first_files(options.images, QUICK_IMAGES, folder / "images") if options.quick else options.images
    return row_of_commands(name, source, folder, weights=options.weights, **settings)


def part(name: str, *given: str) -> None:
    """Does what this script does in a child process: writes JSON to a file or prints it."""
    if name in ("prepare", "serve", "once", "agree"):
        job, data, folder, *sides, quick = given
        found, folder = make_job(job, Path(data), Path(folder), quick=json.loads(quick)), Path(folder)
        if name == "prepare":
            return  # weights and copies of files are made, so that no side has to load what makes them
        if name == "agree":
            print(json.dumps(agree(found, folder)))
            return
        if sides == ["jaxseg"] and found.keeps_memory:
            keep_freed_memory()
        if sides == ["jaxseg"] and found.keeps_programs:
            programs.keep()
        if name == "serve":
            serve(found, folder, *sides)
            return
        run = found.makers[sides[0]]()
        print(json.dumps({"job": alternate.sample(run, 1).seconds}))
    elif name == "environment":
        import torch

        from jaxseg.devices import environment

        print(json.dumps(environment() | {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}))
    elif name == "weights":
        jobs.make_weights(Path(given[0]))
    elif name == "compare":
        folder = Path(given[1])
        print(json.dumps(agreement.apart(given[0], folder / "jaxseg", folder / "torch")))
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


def row_of_functions(name: str, data: Path, folder: Path, *, rounds: int, quick: bool) -> dict:
    """Measures a job of `jobs.FUNCTIONS`: the steady state in one process per side, and then whole processes.

    Args:
      name: a key of `jobs.FUNCTIONS`.
      data: the shared data.
      folder: empty folder for everything that is written.
      rounds: measurements of each side.
      quick: a small job, measured once.
    """
    given = [name, data, folder]
    in_process([*part_command("prepare"), *given, json.dumps(quick)], folder / "prepare.log")
    found = steady(given, rounds, quick=quick)

    def whole(side: str) -> Run:
        command = [*part_command("once"), *given, side, json.dumps(quick)]
        run, text = in_process(command, folder / f"{side}.log", variables_of(name))
        done = json.loads(text)["job"]
        return dataclasses.replace(run, stages={"start": run.whole - done, "job": done})

    samplers = {side: functools.partial(whole, side) for side in SIDES}
    for side, figures in summary(in_rounds(samplers, rounds, quick=quick)).items():
        found["sides"][side] |= {key: figures[key] for key in ("whole", "stages_s", "peak_gb")}
    return found


def steady(given: list, rounds: int, *, quick: bool) -> dict:
    """Times both sides of a job alternately, without preparation and compilation, and compares their first results."""
    command, variables = [*part_command("serve"), *given], CPU | variables_of(given[0])
    sides = {side: alternate.Side([*command, side, json.dumps(quick)], variables) for side in SIDES}
    samples = in_rounds({side: one.sample for side, one in sides.items()}, rounds, quick=quick)
    found = alternate.summary(samples, "jaxseg")
    for side, one in sides.items():
        one.close()
        found[side]["first_call_s"] = round(one.facts["first_call_s"], 3)
    text = in_process([*part_command("agree"), *given, json.dumps(quick)], given[2] / "agree.log")[1]
    return json.loads(text) | {"sides": found}


def serve(job: jobs.Job, folder: Path, side: str) -> None:
    """Prepares a side, writes its first result to a file, and measures it as often as `steady` requests."""
    run, kept = job.makers[side](), []
    first = alternate.sample(lambda: kept.append(run()), 1).seconds
    np.savez(folder / f"{side}.npz", **kept.pop())
    alternate.serve(run, {"first_call_s": first})


def agree(job: jobs.Job, folder: Path) -> dict:
    """Returns the description of a job, and how far the results that `serve` wrote are apart."""
    answers = {side: dict(np.load(folder / f"{side}.npz")) for side in SIDES}
    return job.facts | {"agreement": job.compare(answers)}


def make_job(name: str, data: Path, folder: Path, *, quick: bool) -> jobs.Job:
    """Returns a job of `jobs.FUNCTIONS`; its weights, copies and temporary files go to the folder."""
    tempfile.tempdir = str(folder)
    return jobs.FUNCTIONS[name](data, folder, quick=quick)


def variables_of(name: str) -> dict[str, str]:
    """Returns the environment variables of both sides of a row: training has huge pages, as in `jaxseg train`."""
    return {"GLIBC_TUNABLES": HUGE_PAGES} if name.startswith("epoch") else {}


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
    """Returns the samples of all sides, taken alternately; one round is enough if it takes longer than a minute.

    A quick run takes one sample of each side, noisy or not.
    """
    if quick:
        return {side: [take()] for side, take in samplers.items()}
    start = time.perf_counter()
    first = alternate.sample_alternately(samplers, 1)
    if rounds == 1 or time.perf_counter() - start > LONG_ROUND_S:
        return first
    more = alternate.sample_alternately(samplers, rounds - 1)
    return {side: [*samples, *more[side]] for side, samples in first.items()}


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
