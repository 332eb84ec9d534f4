"""Jobs whose sides are processes, so that peak memory is their own: jaxseg's commands, and the original's steps.

Seconds are those of an item in the steady state, without start-up and compilation; the whole process is beside them.
"""

import dataclasses
import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import alternate

SIDES = ("jaxseg", "torch")
BATCH = 8  # of `jaxseg denoise`
MASKS = 256
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
LOG_COMPILES = {"JAX_LOG_COMPILES": "1"}
_COMPILED = re.compile(r"^Finished .* in ([0-9.e+-]+) sec", re.MULTILINE)
_FEATURES = "area,centroid,box,perimeter,compactness,convexity"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
      what: for people, with a place for the number of items.
      item: what the seconds are of.
      weights: of the parity kit, random ones; both sides have the same.
      command: jaxseg's, without files.
      reports: whether the command writes its seconds with --report.
    """

    what: str
    item: str
    weights: str
    command: tuple[str, ...]
    reports: bool = True


JOBS = {
    "png": Job("{} X-rays to PNG masks, 159 classes", "image", "cxas.pth", ("segment", "-ot", "png")),
    "json": Job("{} X-rays to COCO JSON, 159 classes", "image", "cxas.pth", ("segment", "-ot", "json")),
    "features": Job(
        "{} X-rays to six features of 159 classes",
        "image",
        "cxas.pth",
        ("extract", "-f", _FEATURES, "--original-values"),
    ),
    "denoise": Job("{} lung masks of 512 x 512, restored, PNG to PNG", "mask", "post_dae.ckpt", ("denoise",), False),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One process; `turns` takes it as it takes a `alternate.Sample`.

    Attributes:
      seconds: of an item in the steady state.
      cpu: seconds of processor for each second of wall clock.
      others: share of the machine that other processes used meanwhile.
      whole: seconds from the start of the process to its end.
      stages: seconds by stage.
      peak_gb: the most memory that it held.
    """

    seconds: float
    cpu: float
    others: float
    whole: float
    stages: dict[str, float]
    peak_gb: float


def row(name: str, source: Path, folder: Path, *, rounds: int, quick: bool, weights: Path | None) -> dict:
    """Measures a job.

    Args:
      name: of `JOBS`.
      source: folder of the files.
      folder: an empty one for all that is written; results of the last round stay there.
      rounds: of both sides in turn.
      quick: one round, whatever else the machine does.
      weights: a file; None: random ones of the parity kit.
    """
    job = JOBS[name]
    if weights is None:
        weights = folder / job.weights
        printed([*own("weights"), weights], folder / "weights.log")
    take = {side: functools.partial(measured, side, name, weights, source, folder) for side in SIDES}
    taken = in_rounds(take, rounds, quick=quick)
    count = len(list(source.iterdir()))
    found = {"what": job.what.format(count), "item": job.item, "items": count, "sides": summary(taken)}
    found["agreement"] = json.loads(printed([*own("compare"), name, folder], folder / "compare.log")[1])
    return found


def measured(side: str, name: str, weights: Path, source: Path, folder: Path) -> Run:
    """Runs one side, into a new folder."""
    job, output, report = JOBS[name], folder / side, folder / "report.json"
    shutil.rmtree(output, ignore_errors=True)
    log, count = folder / f"{side}.log", len(list(source.iterdir()))
    if side == "torch":
        run, text = printed([*own(name), weights, source, output], log)
        return dataclasses.replace(run, seconds=json.loads(text)["images"] / count, stages=json.loads(text))
    words = [*job.command, "-i", source, "-o", output, "--weights", weights]
    words += ["--report", report] if job.reports else []
    run, _ = printed([sys.executable, "-m", "jaxseg.cli", *words], log, None if job.reports else LOG_COMPILES)
    if job.reports:
        stages = json.loads(report.read_text())["seconds"]
        return dataclasses.replace(run, seconds=stages["images"] / count, stages=stages)
    seconds, stages = of_times(output, run.whole, log.read_text())
    return dataclasses.replace(run, seconds=seconds, stages=stages)


def of_times(output: Path, whole: float, log: str) -> tuple[float, dict[str, float]]:
    """Seconds of an item and by stage, of a command that does not report them.

    The steady state is what lies between the files of the first batch and the last file, by the times of the files;
    compilation is what JAX logs; the rest is the start.
    """
    times = sorted(path.stat().st_mtime_ns / 1e9 for path in output.glob("*.png"))
    compiled = [float(seconds) for seconds in _COMPILED.findall(log)]
    if len(times) <= BATCH or not compiled:
        raise ValueError(f"{len(times)} files and {len(compiled)} compilations tell no steady state")
    seconds = (times[-1] - times[BATCH - 1]) / (len(times) - BATCH)
    images, compiling = seconds * len(times), sum(compiled)
    return seconds, {"start": whole - images - compiling, "compile": compiling, "images": images}


def own(name: str) -> list[str]:
    """The command that runs a part of this benchmark in a process of its own."""
    return [sys.executable, str(Path(__file__).with_name("end_to_end.py")), "--part", name]


def printed(command: list, log: Path, variables: Mapping[str, str] | None = None) -> tuple[Run, str]:
    """Runs a command on processors; returns what it took and what it printed. Leaves where it fails."""
    words = [str(word) for word in command]
    environment = os.environ | CPU | (variables or {})
    busy, start = alternate.busy_seconds(), time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # in place of `wait`, which does not tell the memory
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    whole, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    if process.returncode:
        sys.exit(f"{log.read_text()[-3000:]}\n{' '.join(words)}: ended with {process.returncode}")
    busy = alternate.busy_seconds() - busy
    others = max(0.0, busy - cpu) / (whole * (os.cpu_count() or 1)) if busy else 0.0
    kilobyte = 1e9 if sys.platform == "darwin" else 1e6
    return Run(whole, cpu / whole, others, whole, {}, round(usage.ru_maxrss / kilobyte, 2)), text


def in_rounds(takers: dict[str, Callable], rounds: int, *, quick: bool) -> dict[str, list]:
    """Measurements of all sides in turn; a quick one is taken as it comes."""
    if quick:
        return {side: [take()] for side, take in takers.items()}
    return alternate.taken_in_turn(takers, rounds)


def summary(taken: dict[str, list[Run]]) -> dict:
    """What `alternate.summary` tells of the steady state, and of the whole process, the stages and the memory."""
    sides = alternate.summary(taken, "jaxseg")
    whole = {side: [dataclasses.replace(run, seconds=run.whole) for run in runs] for side, runs in taken.items()}
    for side, found in alternate.summary(whole, "jaxseg").items():
        sides[side]["whole"] = {key: found[key] for key in ("median_s", "over_jaxseg", "samples_s")}
        runs = taken[side]
        sides[side]["stages_s"] = {
            stage: round(statistics.median(run.stages[stage] for run in runs), 3) for stage in runs[0].stages
        }
        sides[side]["peak_gb"] = statistics.median(run.peak_gb for run in runs)
    return sides


def few(source: Path, count: int, folder: Path) -> Path:
    """Copies the first files of a folder, and returns the new one."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder
