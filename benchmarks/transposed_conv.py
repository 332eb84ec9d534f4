"""Post-DAE's transposed convolutions: XLA's dilated form, four small convolutions, and PyTorch's, in turn.

    python benchmarks/transposed_conv.py --rounds 31

At the model's own shapes, forward and forward with backward (the gradients of the input and of the kernel), float32.
PyTorch takes part where it is installed, NCHW and eager, as the original runs.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxseg.environment import environment
from jaxseg.nn.layers import dilated_transpose, sub_pixel_transpose

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.turns import in_turn, processor, summary  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "transposed_conv.json"
BATCH = 8
SHAPES = [  # height and width, channels in and out: the five levels of 512 x 512 masks, and the first of 128 x 128
    (16, 32, 16),
    (32, 16, 16),
    (64, 16, 16),
    (128, 16, 16),
    (256, 16, 16),
    (4, 32, 16),
]
FORMS = {"dilated": dilated_transpose, "sub-pixel": sub_pixel_transpose}
PASSES = ("forward", "forward and backward")


def main() -> None:
    """Times every form at every shape, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    rows = [measured(*shape, rounds) for shape in SHAPES]
    print(table(rows))
    RESULTS.write_text(json.dumps(result(rows, rounds, sys.argv[1:]), indent=1) + "\n")


def measured(size: int, num_in: int, num_out: int, rounds: int) -> dict:
    """Medians of all forms in milliseconds, the rounds' ratios, and how far the forms' numbers are apart."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, size, size, num_in), np.float32)
    kernel = rng.standard_normal((3, 3, num_out, num_in), np.float32)
    weights = rng.standard_normal((BATCH, 2 * size, 2 * size, num_out), np.float32)
    runs = {name: jax_runs(form, x, kernel, weights) for name, form in FORMS.items()}
    if torch_takes_part():
        runs["PyTorch"] = torch_runs(x, kernel, weights)
    row = {"input": [BATCH, size, size, num_in], "channels_out": num_out}
    for which in PASSES:
        answers = {name: run[which]() for name, run in runs.items()}  # compiles, too
        times = summary(in_turn({name: run[which] for name, run in runs.items()}, rounds), "dilated")
        row[which] = {
            "milliseconds": {name: round(1e3 * found["median_s"], 3) for name, found in times.items()},
            "dilated_over": {n: round(1 / found["over_dilated"], 2) for n, found in times.items() if n != "dilated"},
            "noisy": {name: found["noisy"] for name, found in times.items()},
            "largest_relative_difference": difference(answers),
        }
    return row


def jax_runs(form: Callable, x: np.ndarray, kernel: np.ndarray, weights: np.ndarray) -> dict[str, Callable]:
    """A compiled form as functions without arguments that return once it is computed."""
    x, kernel, weights = jax.device_put((x, kernel, weights))
    forward = jax.jit(form)

    @jax.jit
    def both(x, kernel, weights):
        out, backward = jax.vjp(form, x, kernel)
        return out, *backward(weights)

    return {
        "forward": lambda: [jax.block_until_ready(forward(x, kernel))],
        "forward and backward": lambda: jax.block_until_ready(both(x, kernel, weights)),
    }


def torch_runs(x: np.ndarray, kernel: np.ndarray, weights: np.ndarray) -> dict[str, Callable]:
    """The same with PyTorch's layer, on the same kind of device; answers in our layout."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    layer = torch.nn.ConvTranspose2d(x.shape[3], kernel.shape[2], 3, 2, 1, output_padding=1, bias=False).to(device)
    layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy(), device=device)
    x, weights = (torch.tensor(array.transpose(0, 3, 1, 2).copy(), device=device) for array in (x, weights))
    learned = x.clone().requires_grad_()

    @torch.inference_mode()
    def forward():
        out = layer(x)
        wait()
        return [out.permute(0, 2, 3, 1)]

    def both():
        learned.grad = layer.weight.grad = None
        out = layer(learned)
        out.backward(weights)
        wait()
        parts = (out.detach(), learned.grad)
        return [*(part.permute(0, 2, 3, 1) for part in parts), layer.weight.grad.permute(2, 3, 1, 0)]

    return {"forward": forward, "forward and backward": both}


def torch_takes_part() -> bool:
    """Whether PyTorch is installed, for the kind of device that JAX computes on."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() not in ("cpu", "gpu"):
        return False
    import torch

    return jax.default_backend() == "cpu" or torch.cuda.is_available()


def difference(answers: dict[str, list]) -> float:
    """The largest difference from the dilated form, as a share of the largest number of the array."""
    found = 0.0
    for name in set(answers) - {"dilated"}:
        for ours, theirs in zip(answers["dilated"], answers[name], strict=True):
            theirs = np.asarray(theirs.cpu() if hasattr(theirs, "cpu") else theirs)
            found = max(found, float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()))
    return found


def table(rows: list[dict]) -> str:
    """The medians as a Markdown table, in milliseconds."""
    forms = list(rows[0]["forward"]["milliseconds"])
    heads = ["input", "channels out", *(f"{which}: {form}" for which in PASSES for form in forms)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        times = [f"{row[which]['milliseconds'][form]:.2f}" for which in PASSES for form in forms]
        cells = ["x".join(map(str, row["input"])), str(row["channels_out"]), *times]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def result(rows: list[dict], rounds: int, words: list[str]) -> dict:
    """Everything that was found, and what it was found with."""
    versions = {}
    if "PyTorch" in rows[0]["forward"]["milliseconds"]:
        import torch

        versions = {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    return {
        "what": "ConvTranspose2d(kernel 3, stride 2, padding 1, output_padding 1): two forms under XLA, and PyTorch's",
        "command": " ".join(["python benchmarks/transposed_conv.py", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": rounds,
        "shapes": rows,
        "environment": environment() | versions | {"processor": processor()},
    }


if __name__ == "__main__":
    main()
