"""Convolutions in bfloat16 on CPUs: XLA's own, products that sum in float32, PyTorch's; beside two in float32.

    python benchmarks/half.py --rounds 9

Shapes of the published networks, strides of 1. PyTorch takes part where installed. Writes `results/half.json`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.environment import environment
from jaxseg.nn import bfloat16 as half
from jaxseg.nn.convolution import convolution

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.turns import in_turn, processor, summary  # noqa: E402
from benchmarks.winograd import compiled, has_torch, theirs  # noqa: E402

SHAPES = [  # batch, height and width, channels in and out, kernel
    (1, 16, 2048, 1024, 3),
    (1, 32, 1024, 512, 3),
    (1, 64, 1024, 512, 3),
    (1, 128, 512, 256, 3),
    (16, 16, 256, 256, 3),
    (16, 32, 128, 128, 3),
    (1, 256, 128, 64, 3),
    (16, 64, 64, 64, 3),
    (1, 32, 1024, 256, 1),
    (1, 64, 128, 512, 1),
    (1, 128, 64, 256, 1),
]


def main() -> None:
    """Times every side at every shape, prints medians in milliseconds and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    rows = []
    for shape in SHAPES:
        row = {"shape": shape, "difference": difference(*shape), "used": used(*shape)}
        row["forward"] = summary(in_turn(sides(*shape), rounds, pause=0.05), "XLA")
        print(shape, {side: round(1e3 * found["median_s"], 1) for side, found in row["forward"].items()}, flush=True)
        rows.append(row)
    found = {"command": f"python benchmarks/half.py --rounds {rounds}", "date": time.strftime("%Y-%m-%d")}
    found |= {"shapes": rows, "environment": environment() | {"processor": processor()}}
    path = ROOT / "benchmarks" / "results" / "half.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def sides(*shape: int) -> dict:
    """Functions without arguments that return once the convolution is computed."""
    x, kernel = drawn(*shape)
    halves = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    runs = {
        "XLA": compiled(by_xla, *halves),
        "products": compiled(by_products, *halves),
        "XLA, float32": compiled(by_xla, x, kernel),
        "jaxseg, float32": compiled(ours, x, kernel),
    }
    if has_torch():
        import torch

        image, weight = (array.bfloat16() for array in theirs(x, kernel))
        image = image.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous(memory_format=torch.channels_last)
        runs["PyTorch"] = lambda: torch.nn.functional.conv2d(image, weight, padding=shape[-1] // 2)
    return runs


def difference(*shape: int) -> float:
    """The largest difference from the same numbers' convolution in float32, as a share of the largest value."""
    x, kernel = (array.astype(jnp.bfloat16) for array in drawn(*shape))
    wanted = np.asarray(by_xla(x.astype(jnp.float32), kernel.astype(jnp.float32)))
    found = np.asarray(by_products(x, kernel).astype(jnp.float32))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def used(*shape: int) -> bool:
    """Whether jaxseg computes this shape as products."""
    kernel = jax.ShapeDtypeStruct((shape[-1], shape[-1], *shape[2:4]), jnp.bfloat16)
    return shape[-1] == 1 or half.is_faster(kernel)


def drawn(batch: int, size: int, num_in: int, num_out: int, kernel: int) -> tuple[jax.Array, jax.Array]:
    """An image and a kernel."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, num_in), np.float32)
    weights = rng.standard_normal((kernel, kernel, num_in, num_out), np.float32)
    return jax.device_put((x, weights * np.float32((kernel * kernel * num_in) ** -0.5)))


def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dimensions = ("NHWC", "HWIO", "NHWC")
    padding = _padding(kernel)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=dimensions, precision=precision)


def by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Products that sum in float32, whether jaxseg takes them for this shape or not."""
    if kernel.shape[0] == 3:
        return half.by_taps(x, kernel)
    return half.product(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:3], -1)


def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What jaxseg computes."""
    return convolution(x, kernel, (1, 1), _padding(kernel), precision=jax.lax.Precision.HIGHEST)


def _padding(kernel: jax.Array) -> tuple[tuple[int, int], ...]:
    return ((kernel.shape[0] // 2,) * 2,) * 2


if __name__ == "__main__":
    main()
