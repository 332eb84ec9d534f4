"""All measurements on a GPU in at most ten minutes, without anybody present: parity, throughput, devices, a folder.

    python benchmarks/gpu.py            # or benchmarks/gpu.sh, which makes the environment first
    python benchmarks/gpu.py --platform cpu --tiny --output FOLDER   # tests the script itself

Each task is a separate process with a time limit (`gpu_rows.py`), the most important first. Every row is printed and
written as soon as it is measured. A failure becomes a row with its error, and the next task follows. When the time is
used up, the rest is left out; a second call measures what is missing and what failed.
Writes `results/gpu.json` and `results/gpu.md`, and the messages of the processes to `results/gpu.log`.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
JAX_NAME = {"cpu": "cpu", "gpu": "cuda"}  # platform -> value of JAX_PLATFORMS
LEAST_S = 10  # no task starts with less time than this
# With `--tiny`, the tasks that together run every line of the script.
TINY_TASKS = (
    "environment",
    "parity",
    "peak",
    "throughput, segae, inference, bfloat16",
    "folder",
    "parallel",
    "goldens",
)

# Name of a task -> its seconds at most. A task whose name is that of a row makes this row, others several.
TASKS = {
    "environment": 60,
    "parity": 150,
    "peak": 60,
    "throughput, unet, inference, bfloat16": 150,
    "folder": 100,
    "throughput, unet, training step, bfloat16": 200,
    "parallel": 90,
    "throughput, segae, inference, bfloat16": 120,
    "throughput, segae, training step, bfloat16": 150,
    "goldens": 150,
    "throughput, unet, inference, float32": 150,
    "throughput, segae, inference, float32": 120,
    "throughput, unet, training step, float32": 200,
    "throughput, segae, training step, float32": 150,
}


def main() -> None:
    """Runs the tasks that are not done until the time is used up, then writes the table."""
    options = arguments()
    end = time.monotonic() + options.budget
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "gpu.json"
    result = {"rows": {}, "done": []}
    if path.exists() and not options.again:
        result = json.loads(path.read_text())
    result |= {"platform": options.platform, "tiny": options.tiny}
    torch = not options.tiny and _torch_fits(options.platform)
    todo = [name for name in options.tasks if name not in result["done"]]
    for name in todo:
        start = time.monotonic()
        left = end - time.monotonic()
        if left < LEAST_S:
            break
        result["rows"].pop(name, None)  # the error of an earlier call
        failed = False
        for row_name, row in rows_of(name, options, min(TASKS[name], left), torch=torch):
            failed |= "error" in row
            result["rows"][row_name] = row
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(line(row_name, row), flush=True)
        result["done"] += [] if failed else [name]
        result["task_seconds"] = result.get("task_seconds", {}) | {name: round(time.monotonic() - start, 1)}
    result["left_out"] = [name for name in TASKS if name not in result.get("task_seconds", {})]
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(result))
    print(f"\n{table(result)}", flush=True)


def arguments() -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=JAX_NAME, default="gpu")
    parser.add_argument("--tiny", action="store_true", help="narrow networks, which only test the script")
    parser.add_argument("--budget", type=float, default=570, help="seconds for everything; default: 570")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, help="default: all; with --tiny, one of each kind")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure existing rows again")
    options = parser.parse_args()
    options.tasks = options.tasks or (TINY_TASKS if options.tiny else tuple(TASKS))
    return options


def rows_of(task: str, options: argparse.Namespace, limit: float, *, torch: bool = False) -> Iterator[tuple[str, dict]]:
    """Runs a task in a separate process, and yields the names and contents of its rows.

    A task that fails, crashes or takes too long gives a row with the task's name and an `error`.

    Args:
      task: a key of `TASKS`.
      options: of this program.
      limit: seconds after which the process and those that it started are ended.
      torch: whether PyTorch is measured too.
    """
    command = [sys.executable, ROOT / "benchmarks" / "gpu_rows.py", task, "--platform", options.platform]
    command += ["--known", options.output / "gpu.json"] + ["--tiny"] * options.tiny + ["--torch"] * torch
    start, stopped = time.monotonic(), threading.Event()
    with tempfile.TemporaryDirectory() as scratch, (options.output / "gpu.log").open("a+") as messages:
        messages.write(f"== {task}\n")
        messages.flush()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=messages,
            env=_variables(options) | {"TMPDIR": scratch},  # also PyTorch's compiled files, which may be incomplete
            text=True,
            start_new_session=True,
        )

        def stop() -> None:
            stopped.set()
            _end(process)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            with process.stdout as lines:
                for text in lines:
                    if text.startswith("> "):
                        yield tuple(json.loads(text[2:]))
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
        if status != 0:
            messages.seek(0)
            last = " / ".join(messages.read().rpartition("\n== ")[2].splitlines()[1:][-3:])[-600:]
            what = f"stopped after {limit:.0f} s" if stopped.is_set() else f"ended with {status}"
            yield task, {"error": f"{what}: {last}", "seconds": round(time.monotonic() - start, 1)}


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the task and the processes that it started


def _variables(options: argparse.Namespace) -> dict[str, str]:
    variables = os.environ | {"JAX_PLATFORMS": JAX_NAME[options.platform], "PYTHONUNBUFFERED": "1"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if options.platform == "gpu":
        variables.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the GPU
        variables.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "gpu_cache"))  # for the second call
    if options.tiny:
        variables["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes longer than computing
    if options.tiny and options.platform == "cpu":  # two devices for pmap
        variables["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    return variables


def _torch_fits(platform: str) -> bool:
    """Returns whether PyTorch is installed and computes on the platform."""
    code = "import sys, torch; sys.exit(not (sys.argv[1] == 'cpu' or torch.cuda.is_available()))"
    return subprocess.run([sys.executable, "-c", code, platform], capture_output=True, check=False).returncode == 0


def line(name: str, row: dict) -> str:
    """Returns a row as one line of text."""
    if "error" in row:
        return f"{name}: FAILED: {row['error']}"
    reached = {True: " (reached)", False: " (MISSED)"}.get(row.get("reached"), "")
    target = f"; target: {row['target']}{reached}" if "target" in row else ""
    return f"{name}: {row['result']}{target}"


def table(result: dict) -> str:
    """Returns all rows as a Markdown table, and the names of the tasks that are missing."""
    lines = ["| row | result | target | reached |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        found = f"failed: {row['error']}" if "error" in row else row["result"]
        reached = {True: "yes", False: "**no**"}.get(row.get("reached"), "")
        cells = [name, found, row.get("target", ""), reached]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    size = " (tiny networks: no measurement)" if result.get("tiny") else ""
    missing = "; ".join(result["left_out"]) or "nothing"
    return "\n".join([*lines, "", f"Platform: {result['platform']}{size}. Not measured: {missing}."]) + "\n"


if __name__ == "__main__":
    main()
