"""Commands of jaxseg in processes of their own, and how long they take.

The benchmarks of training import `train` and `jaxseg`, which skip what exists. As a script, this measures start-up:

    python benchmarks/commands.py

It runs the commands of `STARTUP` one after the other, 11 times, and writes the medians to `results/startup.json`.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).resolve().parent / "results" / "startup.json"
STARTUP = {
    "python": ["-c", "pass"],
    "import jax": ["-c", "import jax"],
    "import jax, jaxseg": ["-c", "import jax, jaxseg"],
    "jaxseg --help": ["-m", "jaxseg.cli", "--help"],
    "jaxseg segment --help": ["-m", "jaxseg.cli", "segment", "--help"],
}
ROUNDS = 11


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


def main() -> None:
    """Measures start-up and writes the medians."""
    from jaxseg.devices import environment

    seconds = {name: [] for name in STARTUP}
    for _ in range(ROUNDS):
        for name, words in STARTUP.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    result = {"command": "python benchmarks/commands.py", "date": time.strftime("%Y-%m-%d"), "median_seconds": medians}
    RESULT.write_text(json.dumps(result | {"rounds": ROUNDS, "environment": environment()}, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
