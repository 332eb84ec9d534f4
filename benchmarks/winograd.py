"""3x3 convolutions of many channels on CPUs: XLA's own, Winograd's with the kernel transformed before or at every call.

    python benchmarks/winograd.py --rounds 9

The published U-Net's convolutions at 512 x 512, float32. PyTorch takes part where installed. "gradients" are those of
the image and the kernel together. Writes `results/winograd.json`.
"""

import argparse
import functools
import importlib.util
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxseg.environment import environment
from jaxseg.nn.winograd import transformed, winograd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.turns import in_turn, processor, summary  # noqa: E402

PADDING = ((1, 1), (1, 1))
SHAPES = [  # batch, height and width, channels in and out
    (1, 16, 2048, 1024),
    (1, 32, 2048, 1024),
    (1, 64, 1024, 512),
    (1, 128, 512, 256),
    (1, 32, 256, 256),
    (1, 128, 256, 64),
    (3, 16, 2048, 1024),
    (3, 64, 1024, 512),
    (3, 128, 512, 256),
]


def main() -> None:
    """Times every side at every shape, prints medians in milliseconds and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    rows = []
    for shape in SHAPES:
        row = {"shape": shape, "difference": difference(*shape)}
        for what, sides in (("forward", forward(*shape)), ("gradients", gradients(*shape))):
            row[what] = summary(in_turn(sides, rounds, pause=0.05), "XLA")
            print(
                shape, what, {side: round(1e3 * found["median_s"], 1) for side, found in row[what].items()}, flush=True
            )
        rows.append(row)
    found = {"command": f"python benchmarks/winograd.py --rounds {rounds}", "date": time.strftime("%Y-%m-%d")}
    found |= {"shapes": rows, "environment": environment() | {"processor": processor()}}
    path = ROOT / "benchmarks" / "results" / "winograd.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def forward(*shape: int) -> dict:
    """Functions without arguments that return once the convolution is computed."""
    x, kernel = drawn(*shape)
    runs = {
        "XLA": compiled(by_xla, x, kernel),
        "prepared": compiled(by_winograd, x, transformed(kernel)),
        "at every call": compiled(lambda x, kernel: by_winograd(x, transformed(kernel)), x, kernel),
    }
    if has_torch():
        import torch

        image, weight = theirs(x, kernel)
        runs["PyTorch"] = lambda: torch.nn.functional.conv2d(image, weight, padding=1)
    return runs


def gradients(*shape: int) -> dict:
    """The same for the gradients of the image and the kernel."""
    x, kernel = drawn(*shape)
    change = by_xla(x, kernel)

    def of(form, x, kernel, change):
        return jax.vjp(form, x, kernel)[1](change)

    runs = {
        "XLA": compiled(functools.partial(of, by_xla), x, kernel, change),
        "at every call": compiled(
            functools.partial(of, lambda x, kernel: by_winograd(x, transformed(kernel))), x, kernel, change
        ),
    }
    if has_torch():
        import torch

        image, weight = theirs(x, kernel)
        result = torch.from_numpy(np.ascontiguousarray(np.asarray(change).transpose(0, 3, 1, 2)))
        options = ([0], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, (True, True, False))
        runs["PyTorch"] = lambda: torch.ops.aten.convolution_backward(result, image, weight, *options)
    return runs


def difference(*shape: int) -> float:
    """The largest difference of the two forms, as a share of the largest value."""
    x, kernel = drawn(*shape)
    wanted = np.asarray(by_xla(x, kernel))
    return float(np.abs(np.asarray(by_winograd(x, transformed(kernel))) - wanted).max() / np.abs(wanted).max())


def drawn(batch: int, size: int, num_in: int, num_out: int) -> tuple[jax.Array, jax.Array]:
    """An image and a kernel."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, num_in), np.float32)
    kernel = rng.standard_normal((3, 3, num_in, num_out), np.float32) * np.float32((9 * num_in) ** -0.5)
    return jax.device_put((x, kernel))


def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution."""
    highest, numbers = jax.lax.Precision.HIGHEST, ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), PADDING, dimension_numbers=numbers, precision=highest)


by_winograd = functools.partial(winograd, precision=jax.lax.Precision.HIGHEST)


def compiled(form, *given: jax.Array):
    """A function without arguments that returns once the result is there."""
    program = jax.jit(form).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def has_torch() -> bool:
    """Whether PyTorch takes part."""
    return importlib.util.find_spec("torch") is not None and jax.default_backend() == "cpu"


def theirs(x: jax.Array, kernel: jax.Array) -> list:
    """Image and kernel as PyTorch has them."""
    import torch

    orders = ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
    return [torch.from_numpy(np.ascontiguousarray(np.asarray(array).transpose(order))) for array, order in orders]


if __name__ == "__main__":
    main()
