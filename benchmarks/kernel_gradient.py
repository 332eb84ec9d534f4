"""The gradient of a convolution's kernel on CPUs: XLA's own, jaxseg's products of matrices, and PyTorch's, in turn.

    python benchmarks/kernel_gradient.py --rounds 9

Convolutions of the package's networks, 3x3 with strides of 1, float32. PyTorch takes part where it is installed.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxseg.environment import environment
from jaxseg.nn.convolution import kernel_gradient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.turns import in_turn, processor, summary  # noqa: E402

PADDING = ((1, 1), (1, 1))
SHAPES = {  # batch, height and width, channels in and out
    "cmvae, finest": (5, 64, 24, 24),
    "cmvae, finest, joined": (5, 64, 48, 24),
    "cmvae, joined": (5, 32, 96, 24),
    "post_dae, finest": (8, 512, 16, 16),
    "post_dae, middle": (8, 128, 16, 16),
    "unet, encoder": (1, 128, 64, 64),
    "unet, encoder, deepest": (1, 16, 512, 512),
    "unet, decoder, deepest": (1, 16, 2048, 1024),
    "unet, decoder, middle": (1, 128, 512, 256),
    "unet, decoder, finest": (1, 256, 128, 64),
}


def main() -> None:
    """Times every side at every shape, prints medians in milliseconds and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    rows, versions = {}, {}
    for name, shape in SHAPES.items():
        rows[name] = {"shape": shape} | summary(in_turn(sides(*shape), rounds, pause=0.05), "products")
        print(name, {side: round(1e3 * row["median_s"], 2) for side, row in rows[name].items() if side != "shape"})
    if "PyTorch" in rows[name]:
        import torch

        versions = {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    found = {"command": f"python benchmarks/kernel_gradient.py --rounds {rounds}", "date": time.strftime("%Y-%m-%d")}
    found |= {"rounds": rounds, "shapes": rows, "environment": environment() | versions | {"processor": processor()}}
    path = ROOT / "benchmarks" / "results" / "kernel_gradient.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def sides(batch: int, size: int, num_in: int, num_out: int) -> dict:
    """Functions without arguments that return once the gradient is computed."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, num_in), np.float32)
    change = rng.standard_normal((batch, size, size, num_out), np.float32)
    kernel = np.zeros((3, 3, num_in, num_out), np.float32)

    def by_xla(x, change):
        def forward(kernel):
            highest, numbers = jax.lax.Precision.HIGHEST, ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), PADDING, dimension_numbers=numbers, precision=highest
            )

        return jax.vjp(forward, kernel)[1](change)[0]

    forms = {"products": lambda x, change: kernel_gradient(x, change, (3, 3), PADDING), "XLA": by_xla}
    given = jax.device_put((x, change))
    runs = {}
    for name, form in forms.items():
        compiled = jax.jit(form).lower(*given).compile()
        runs[name] = lambda compiled=compiled: jax.block_until_ready(compiled(*given))
    if importlib.util.find_spec("torch") and jax.default_backend() == "cpu":
        import torch

        theirs = [torch.from_numpy(array.transpose(0, 3, 1, 2).copy()) for array in (x, change)]
        shape = (num_out, num_in, 3, 3)
        runs["PyTorch"] = lambda: torch.nn.grad.conv2d_weight(theirs[0], shape, theirs[1], padding=1)
    return runs


if __name__ == "__main__":
    main()
