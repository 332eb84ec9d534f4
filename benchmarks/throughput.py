"""Inference and training steps of every model: jaxseg, PyTorch as published, PyTorch tuned, alternating (A B C A B C).

    python benchmarks/throughput.py --platform cpu

"Published": eager, NCHW, float32. "Tuned": channels last, `torch.compile`, frozen weights in inference, a fused
optimizer, and autocast for bfloat16. The large networks keep freed memory on this side, and in inference on ours. In
training steps, all sides have huge pages.
Every side is a separate process, which waits while the others run, and computes once before each sample. Samples
during which other processes used the machine are taken again. Every row is written as soon as it is measured, and a
second call measures only the missing rows.
Writes `results/throughput_PLATFORM.json`, `.md` and `.png`.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import alternate  # noqa: E402
from benchmarks.throughput_report import plot, table  # noqa: E402
from benchmarks.worker import SIDES, WHAT, WORKLOADS  # noqa: E402
from jaxseg.devices import environment  # noqa: E402
from jaxseg.xla import HUGE_PAGES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def main() -> None:
    """Measures the rows of the options, and writes the JSON, the table and the plot."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # all sides share the GPU
    options = arguments()
    path = RESULTS / f"throughput_{options.platform}.json"
    result = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    result["platform"] = options.platform
    for model, what, batch, dtype in requested(options):
        name = f"{model}, {what}, {batch}, {dtype}"
        if name in result["rows"] and not options.again:
            continue
        row = measured(options.platform, model, what, batch, dtype, options.rounds)
        row |= {"processor": alternate.processor(), "environment": environment()}
        row["environment"]["versions"]["torch"] = importlib.metadata.version("torch")
        keep_other_processor(result, name, row["processor"])
        result["rows"][name] = row
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(name, {side: found["median_s"] for side, found in row["sides"].items()}, flush=True)
    result["peak"] = result.get("peak", {}) | peaks(options.platform, options.dtypes)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(result))
    plot(result, path.with_suffix(".png"))


def keep_other_processor(result: dict, name: str, processor: str) -> None:
    """Moves the row of a name to `elsewhere` if it was measured on another processor than the one that follows."""
    row = result["rows"].get(name)
    if row and row["processor"] != processor:
        result.setdefault("elsewhere", {})[f"{name}, {row['processor']}"] = row


def arguments() -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu")
    parser.add_argument("--models", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--what", nargs="*", choices=WHAT, default=list(WHAT))
    parser.add_argument("--dtypes", nargs="*", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--batches", nargs="*", type=int, help="batch sizes; default: the published ones")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each side; default: 7")
    parser.add_argument("--again", action="store_true", help="measure existing rows again")
    return parser.parse_args()


def requested(options: argparse.Namespace) -> Iterator[tuple[str, str, int, str]]:
    """Yields model, what, batch size and dtype of the rows that the options name."""
    for model, what in itertools.product(options.models, options.what):
        usual = WORKLOADS[model].batches[WHAT.index(what)]
        for batch, dtype in itertools.product(options.batches or [usual], options.dtypes):
            yield model, what, batch, dtype


class Side(alternate.Side):
    """A process that runs one side of a row and measures it on request."""

    def __init__(self, platform: str, side: str, *arguments: object, tiny: bool = False):
        command = [sys.executable, ROOT / "benchmarks" / "worker.py", "--side", side]
        for name, value in zip(("--model", "--what", "--batch", "--dtype"), arguments, strict=True):
            command += [name, value]
        command += ["--tiny"] if tiny else []
        variables = {"JAX_PLATFORMS": PLATFORMS[platform]}
        variables |= {"CUDA_VISIBLE_DEVICES": ""} if platform == "cpu" else {}
        variables |= {"GLIBC_TUNABLES": HUGE_PAGES} if arguments[1] == "training step" else {}
        super().__init__(command, variables)


def measured(platform: str, model: str, what: str, batch: int, dtype: str, rounds: int) -> dict:
    """Measures all sides of a row alternately."""
    sides = [side for side in SIDES if not (side == "published" and dtype == "bfloat16")]
    running = {side: Side(platform, side, model, what, batch, dtype) for side in sides}
    samples = alternate.sample_alternately({side: one.sample for side, one in running.items()}, rounds)
    row = {"date": time.strftime("%Y-%m-%d"), "rounds": rounds, "batch": batch, "dtype": dtype}
    row["sides"] = alternate.summary(samples, "jaxseg")
    for side, one in running.items():
        row["sides"][side] |= one.facts | one.close()
    return row


def peaks(platform: str, dtypes: list[str]) -> dict:
    """Returns the peak rates of the device by dtype, measured in a separate process."""
    code = "import json, sys; from benchmarks import jax_side; print(json.dumps(jax_side.peak(sys.argv[1])))"
    variables = os.environ | {"JAX_PLATFORMS": PLATFORMS[platform], "PYTHONPATH": str(ROOT)}
    found = {}
    for dtype in dtypes:
        ran = subprocess.run([sys.executable, "-c", code, dtype], env=variables, stdout=subprocess.PIPE, check=True)
        found[dtype] = json.loads(ran.stdout)
    return found


if __name__ == "__main__":
    main()
