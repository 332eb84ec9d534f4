"""Commands of jaxseg in processes of their own, and how long they take.

The benchmarks of training import `train` and `jaxseg`, which skip what exists. As a script, this measures start-up:

    python benchmarks/commands.py

It runs the commands of `STARTUP` one after the other, 11 times, and `jaxseg segment` for one X-ray with weights of the
published size: the first start, which compiles, and the second, which finds the compiled program. Then it takes the
time of the stages of a second start. It writes the medians to `results/startup.json`.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import stages  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "startup.json"
STARTUP = {
    "python": ["-c", "pass"],
    "import jax": ["-c", "import jax"],
    "import jax, jaxseg": ["-c", "import jax, jaxseg"],
    "jaxseg --help": ["-m", "jaxseg.cli", "--help"],
    "jaxseg segment --help": ["-m", "jaxseg.cli", "segment", "--help"],
}
ROUNDS = 11
SEGMENT_ROUNDS = 3


def train(folder: Path, config: str, data: Path | None, overrides: list[str]) -> None:
    """Trains a run unless it exists, and writes the seconds that training took beside its folder."""
    arguments = ["train", "-t", config, "-o", folder, *(["-i", data] if data else [])]
    arguments += [word for override in overrides for word in ("--set", override)]
    start = time.perf_counter()
    if jaxseg(*arguments, done=folder / "model"):
        (folder.parent / f"{folder.name}.seconds").write_text(f"{time.perf_counter() - start:.0f}\n")


def training_seconds(folder: Path) -> int:
    """Returns the seconds that `train` wrote for a run."""
    return int((folder.parent / f"{folder.name}.seconds").read_text())


def jaxseg(*arguments: object, done: Path) -> bool:
    """Runs a command unless its result `done` exists; returns whether the command ran."""
    if done.exists():
        return False
    words = [str(argument) for argument in arguments]
    print("jaxseg " + shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "jaxseg.cli", *words], check=True)
    return True


def stage_seconds(folder: Path) -> dict[str, list[float]]:
    """Returns the seconds of the stages of a second start, in the folder that `segment_seconds` has filled."""
    variables = os.environ | {"JAXSEG_HOME": str(folder / "home 0 converted"), "JAX_PLATFORMS": "cpu"}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    seconds: dict[str, list[float]] = {}
    for number in range(SEGMENT_ROUNDS):
        times = folder / f"stages {number}.json"
        words = ["segment", "-i", folder / "phantom.png", "-o", folder / f"stages {number}", "-ot", "npz"]
        words += ["--weights", folder / "model"]
        begin = time.time()
        command = [sys.executable, ROOT / "benchmarks" / "stages.py", times, *words]
        subprocess.run(command, check=True, capture_output=True, env=variables | {stages.START: str(begin)})
        found = json.loads(times.read_text())
        found["end of the process"] = time.time() - begin - sum(found.values())
        for name, value in found.items():
            seconds.setdefault(name, []).append(value)
    return seconds


def segment_seconds(folder: Path) -> dict[str, list[float]]:
    """Returns the seconds of `jaxseg segment` for one phantom of 1024 x 1024 px, from the start of the process.

    The weights have the published size and are random: a PyTorch file as it is downloaded, and what `jaxseg convert`
    makes of it. Before every first start the compiled programs of the last one are removed.
    """
    from PIL import Image

    from benchmarks.jobs import make_weights
    from jaxseg.datasets.phantom import draw

    weights, image = make_weights(folder / "cxas.pth"), folder / "phantom.png"
    Image.fromarray(draw(0, 1024)[0]).save(image)
    subprocess.run([*_COMMAND, "convert", weights, folder / "model"], check=True, capture_output=True)
    seconds: dict[str, list[float]] = {}
    for number in range(SEGMENT_ROUNDS):
        for kind, place in (("PyTorch file", weights), ("converted", folder / "model")):
            variables = os.environ | {"JAXSEG_HOME": str(folder / f"home {number} {kind}"), "JAX_PLATFORMS": "cpu"}
            variables.pop("JAX_COMPILATION_CACHE_DIR", None)
            for start in ("first", "second"):
                output = folder / f"masks {number} {kind} {start}"
                command = [*_COMMAND, "segment", "-i", image, "-o", output, "--weights", place, "-ot", "npz"]
                begin = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env=variables)
                name = f"jaxseg segment, {kind}, {start} start"
                seconds.setdefault(name, []).append(time.perf_counter() - begin)
    return seconds


_COMMAND = [sys.executable, "-m", "jaxseg.cli"]


def main() -> None:
    """Measures start-up and writes the medians."""
    from benchmarks.alternate import processor
    from jaxseg.devices import environment

    seconds: dict[str, list[float]] = {name: [] for name in STARTUP}
    for _ in range(ROUNDS):
        for name, words in STARTUP.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        seconds |= segment_seconds(Path(folder))
        parts = _medians(stage_seconds(Path(folder)))
    medians = _medians(seconds)
    result = {"command": "python benchmarks/commands.py", "date": time.strftime("%Y-%m-%d"), "median_seconds": medians}
    result |= {"stages of the second start, converted": parts}
    result |= {"rounds": ROUNDS, "rounds of segment": SEGMENT_ROUNDS, "processor": processor()}
    RESULT.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n")
    print(json.dumps(medians | parts, indent=1))


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 3) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
