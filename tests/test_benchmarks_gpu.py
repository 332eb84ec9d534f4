"""The script that measures everything on a GPU: its rows, its errors, its time, its targets; run on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_rows


def gpu_options(folder: Path, *words: str):
    folder.mkdir(exist_ok=True)
    words = ["gpu.py", "--platform", "cpu", "--tiny", "--output", str(folder), *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        return gpu.arguments()


def run_gpu(folder: Path, *words: str) -> dict:
    """Runs the script of the GPU on the CPU with narrow networks, and returns what it wrote."""
    command = [sys.executable, gpu.ROOT / "benchmarks" / "gpu.py", "--platform", "cpu", "--tiny", "--output", folder]
    subprocess.run([*map(str, command), *words], check=True, stdout=subprocess.DEVNULL, timeout=300)
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_the_gpu_script_writes_its_rows_and_a_second_call_measures_only_what_is_missing(tmp_path):
    found = run_gpu(tmp_path, "--tasks", "environment", "folder")
    assert list(found["rows"]) == ["environment", "folder, npy", "folder, png"]
    assert found["rows"]["environment"]["count"] == 2
    assert all(0 <= found["rows"][f"folder, {kind}"]["host_share"] <= 1 for kind in ("npy", "png"))
    assert "| folder, png | " in (tmp_path / "gpu.md").read_text()
    again = run_gpu(tmp_path, "--tasks", "environment", "folder", "peak")
    assert list(again["rows"]) == [*found["rows"], "peak, bfloat16", "peak, float32"]
    assert again["rows"]["folder, png"] == found["rows"]["folder, png"]
    assert "peak" not in again["left_out"]
    assert "goldens" in again["left_out"]


@pytest.mark.full
@pytest.mark.parametrize("task", ["parity", "parallel", "goldens", "throughput, segae, inference, bfloat16"])
def test_every_task_of_the_gpu_script_runs(task, tmp_path):
    rows = run_gpu(tmp_path, "--tasks", task)["rows"]
    assert len(rows) == {"parity": 4, "parallel": 2}.get(task, 1)
    assert not [gpu.line(name, row) for name, row in rows.items() if "error" in row or not row.get("reached", True)]
    if task.startswith("throughput"):
        assert set(rows[task]["batches"]) == {"1", "2"}
        assert rows[task]["sides"]["jaxseg"]["median_s"] > 0


@pytest.mark.slow
def test_a_task_that_fails_or_takes_too_long_is_a_row_with_its_error(tmp_path):
    options = gpu_options(tmp_path)
    options.platform = "gpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu.JAX_NAME, "gpu", "cpu")  # JAX starts, but has no GPU
        ((name, row),) = gpu.rows_of("environment", options, 100)
    assert name == "environment"
    assert "JAX sees cpu, not gpu" in row["error"]
    options = gpu_options(tmp_path)
    ((name, row),) = gpu.rows_of("parity", options, 0.3)
    assert row["error"].startswith("stopped after 0 s")
    assert "FAILED: stopped" in gpu.line(name, row)


def test_without_time_no_task_of_the_gpu_script_starts(tmp_path, monkeypatch, capsys):
    options = gpu_options(tmp_path, "--budget", "5")
    monkeypatch.setattr(gpu, "arguments", lambda: options)
    monkeypatch.setattr(gpu, "rows_of", lambda *_, **__: pytest.fail("a task was started"))
    gpu.main()
    assert json.loads((tmp_path / "gpu.json").read_text())["left_out"] == list(gpu.TASKS)
    assert "Not measured: environment; parity" in capsys.readouterr().out


def test_throughput_on_a_gpu_is_judged_by_the_peak_and_by_tuned_pytorch():
    side = {"median_s": 0.1, "flops": 5e13, "device_gb": 3.0, "peak_gb": 1.0}
    row = {"batch": 8, "sides": {"jaxseg": side, "tuned": side | {"over_jaxseg": 1.1}}}
    found = gpu_rows._judged(row, {"flops_per_s": 1e15}, "unet", "bfloat16")
    assert found["result"].startswith("80 per s in batches of 8; 50% of the peak; PyTorch tuned / jaxseg 1.10")
    assert (found["target"], found["reached"]) == ("45% of the peak, 1.2 times tuned", False)
    row["sides"]["tuned"]["over_jaxseg"] = 1.3
    assert gpu_rows._judged(row, {"flops_per_s": 1e15}, "unet", "bfloat16")["reached"]
    assert not gpu_rows._judged(row, {"flops_per_s": 2e15}, "unet", "bfloat16")["reached"]
