"""Seconds to import jaxseg and to show the help, beside importing JAX alone; in turn, medians.

python benchmarks/startup.py
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from jaxseg.devices import environment

RESULT = Path(__file__).resolve().parent / "results" / "startup.json"
COMMANDS = {
    "python": ["-c", "pass"],
    "import jax": ["-c", "import jax"],
    "import jax, jaxseg": ["-c", "import jax, jaxseg"],
    "jaxseg --help": ["-m", "jaxseg.cli", "--help"],
    "jaxseg segment --help": ["-m", "jaxseg.cli", "segment", "--help"],
}
ROUNDS = 11


def main() -> None:
    """Runs every command in turn and writes the medians."""
    seconds = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    result = {"command": "python benchmarks/startup.py", "date": time.strftime("%Y-%m-%d"), "median_seconds": medians}
    RESULT.write_text(json.dumps(result | {"rounds": ROUNDS, "environment": environment()}, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
