"""Training steps with huge pages, as `jaxseg train` asks for them, and without: alternating (A B A B), on CPUs.

    python benchmarks/huge_pages.py
    python benchmarks/huge_pages.py --models post_dae cmvae

Each side is a separate process, with the workload of `throughput.py` in float32. Every row is written as soon as it is
measured, to `results/huge_pages.json`. The system must give huge pages to
the programs that ask for them, and only to these (`/sys/kernel/mm/transparent_hugepage/enabled` is `madvise`).
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import alternate  # noqa: E402
from benchmarks.worker import WORKLOADS  # noqa: E402
from jaxseg.devices import environment  # noqa: E402
from jaxseg.xla import HUGE_PAGES  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "huge_pages.json"
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SIDES = {"huge pages": {"GLIBC_TUNABLES": HUGE_PAGES}, "usual pages": {"GLIBC_TUNABLES": ""}}


def main() -> None:
    """Measures the models of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=7, help="samples of each side; default: 7")
    options = parser.parse_args()
    if not MODE.exists() or "[madvise]" not in MODE.read_text():
        found = MODE.read_text().strip() if MODE.exists() else "no such file"
        sys.exit(f"{MODE} must be madvise, found: {found}. Otherwise both sides have the same pages.")
    os.environ["JAX_PLATFORMS"] = "cpu"
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for model in options.models:
        result[model] = measured(model, options.rounds)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(model, {side: found["median_s"] for side, found in result[model]["sides"].items()}, flush=True)


def measured(model: str, rounds: int) -> dict:
    """Returns the row of a model: both sides with their seconds and their peak memory, and the machine."""
    batch = WORKLOADS[model].batches[1]
    command = [sys.executable, ROOT / "benchmarks" / "worker.py", "--side", "jaxseg", "--model", model]
    command += ["--what", "training step", "--batch", batch]
    running = {side: alternate.Side(command, variables) for side, variables in SIDES.items()}
    samples = alternate.sample_alternately({side: one.sample for side, one in running.items()}, rounds)
    found = alternate.summary(samples, "huge pages")
    for side, one in running.items():
        found[side] |= one.close()
    facts = {"date": time.strftime("%Y-%m-%d"), "batch": batch, "processor": alternate.processor()}
    return facts | {"environment": environment(), "sides": found}


if __name__ == "__main__":
    main()
