"""Forms of one convolution, timed alternately: XLA's own, jaxseg's, and PyTorch's.

    python benchmarks/convolutions.py transposed --rounds 9

Each kind below has shapes of the published networks and writes `results/convolutions_KIND.json`. `layer_times.py` times
what jaxseg chooses for every convolution of a network.

kernel_gradient: the gradient of a 3x3 kernel with a stride of 1.
transposed: the transposed convolutions of Post-DAE as four small convolutions.
transposed_bfloat16: the same in bfloat16, also as one convolution, as CPUs with instructions for bfloat16 compute it.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.devices import environment
from jaxseg.nn.convolution import exchanged_gradient, gradients_on_cpus, kernel_gradient
from jaxseg.nn.doubling import doubled, doubled_at_once, doubled_in_parts, doubling
from jaxseg.nn.fused import Fusion
from jaxseg.nn.layers import dilated_transpose
from jaxseg.xla import use_all_cores

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.alternate import processor, summary, time_alternately  # noqa: E402

HIGHEST = jax.lax.Precision.HIGHEST
GRADIENT_SHAPES = [  # batch, height and width, channels in, channels out, side of the kernel
    (3, 16, 2048, 1024, 3),  # U-Net
    (3, 32, 512, 512, 3),
    (3, 64, 512, 256, 3),
    (3, 128, 256, 64, 3),
    (16, 64, 64, 64, 3),  # SegAE
    (16, 16, 256, 256, 3),
    (16, 8, 512, 512, 3),
    (8, 512, 16, 1, 3),  # Post-DAE
    (8, 256, 16, 16, 3),
    (5, 64, 24, 24, 3),  # VAE
    (5, 32, 96, 24, 3),
    (5, 64, 12, 4, 3),  # probabilistic U-Net
]
TRANSPOSED_SHAPES = [  # the five levels of 512 x 512 masks, and the first level of 128 x 128 masks
    (8, 16, 32, 16, 3),
    (8, 32, 16, 16, 3),
    (8, 64, 16, 16, 3),
    (8, 128, 16, 16, 3),
    (8, 256, 16, 16, 3),
    (8, 4, 32, 16, 3),
]

Shape = tuple[int, int, int, int, int]
Sides = dict[str, Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one benchmark compares.

    Attributes:
      shapes: batch, height and width, channels in, channels out, side of the kernel.
      passes: name of a pass -> function that maps a shape to its sides.
      base: side that the ratios are relative to.
      difference: maps a shape to the largest difference between two forms, as a share of the largest value; None: the
        tests compare the forms.
    """

    shapes: list[Shape]
    passes: dict[str, Callable[[Shape], Sides]]
    base: str = "XLA"
    difference: Callable[[Shape], float] | None = None


def main() -> None:
    """Times every side at every shape, prints the medians in milliseconds and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    use_all_cores()  # as the commands of jaxseg do
    kind, rows = KINDS[options.kind], []
    for shape in kind.shapes:
        row = {"shape": shape}
        if kind.difference is not None:
            row["difference"] = kind.difference(shape)
        for name, sides in kind.passes.items():
            row[name] = summary(time_alternately(sides(shape), options.rounds, pause=0.05), kind.base)
            medians = {side: round(1e3 * found["median_s"], 2) for side, found in row[name].items()}
            print(shape, name, medians, flush=True)
        rows.append(row)
    found = {"command": " ".join(["python benchmarks/convolutions.py", *sys.argv[1:]])}
    found |= {"date": time.strftime("%Y-%m-%d"), "shapes": rows}
    found["environment"] = environment() | torch_versions() | {"processor": processor()}
    path = ROOT / "benchmarks" / "results" / f"convolutions_{options.kind}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def kernel_gradients(shape: Shape) -> Sides:
    """Returns the forms of the gradient of a 3x3 kernel in float32."""
    x, kernel = sample(shape)
    change = by_xla(x, kernel)
    fusion = Fusion(padding=padding(kernel), precision=HIGHEST)

    def by_vjp(x, change):
        return jax.vjp(lambda kernel: by_xla(x, kernel), jnp.zeros_like(kernel))[1](change)[0]

    sides = {
        "products": compiled(lambda x, change: kernel_gradient(x, change, (3, 3), padding(kernel)), x, change),
        "XLA": compiled(by_vjp, x, change),
        "XLA, exchanged": compiled(lambda x, change: exchanged_gradient(fusion, x, kernel, change), x, change),
        "jaxseg": compiled(
            lambda x, kernel, change: gradients_on_cpus(fusion, x, kernel, change)[1], x, kernel, change
        ),
    }
    size = (shape[3], shape[2], 3, 3)
    return sides | torch_side(
        lambda torch, x, change: torch.nn.grad.conv2d_weight(x, size, change, padding=1), x, change
    )


def gradient_difference(shape: Shape) -> float:
    """Returns how far jaxseg's forms of the gradient of a kernel are from XLA's."""
    sides = kernel_gradients(shape)
    wanted = sides["XLA"]()
    return max(relative(sides[name](), wanted) for name in ("products", "XLA, exchanged", "jaxseg"))


def transposed_sides(shape: Shape, *, backward: bool) -> Sides:
    """Returns the forms of a transposed convolution with stride 2, forward only or with both gradients."""
    batch, size, num_in, num_out, side = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, num_in), np.float32)
    kernel = rng.standard_normal((side, side, num_out, num_in), np.float32)
    change = rng.standard_normal((batch, 2 * size, 2 * size, num_out), np.float32)

    def both(form, x, kernel, change):
        out, gradients = jax.vjp(form, x, kernel)
        return out, *gradients(change)

    forms, sides = {"dilated": dilated_transpose, "four": functools.partial(doubling, precision=HIGHEST)}, {}
    for name, form in forms.items():
        if backward:
            sides[name] = compiled(functools.partial(both, form), x, kernel, change)
        else:
            sides[name] = compiled(form, x, kernel)

    def theirs(torch, x, kernel, change):
        x, kernel = x.detach().requires_grad_(backward), kernel.detach().requires_grad_(backward)
        out = torch.nn.functional.conv_transpose2d(x, kernel, stride=2, padding=1, output_padding=1)
        return torch.autograd.grad(out, (x, kernel), change) if backward else out

    return sides | torch_side(theirs, x, kernel, change)


def transposed_difference(shape: Shape) -> float:
    """Returns how far the four small convolutions are from the dilated one, gradients included."""
    sides = transposed_sides(shape, backward=True)
    pairs = zip(sides["four"](), sides["dilated"](), strict=True)
    return max(relative(ours, wanted) for ours, wanted in pairs)


def transposed_bfloat16(shape: Shape) -> Sides:
    """Returns the forms of a transposed convolution with stride 2 in bfloat16, with bias and ReLU, forward only."""
    batch, size, num_in, num_out, side = shape
    rng = np.random.default_rng(0)
    shapes = ((batch, size, size, num_in), (side, side, num_out, num_in), (num_out,))
    given = [jnp.asarray(rng.standard_normal(one, np.float32), jnp.bfloat16) for one in shapes]
    forms = {"four": doubled_in_parts, "one": doubled_at_once, "jaxseg": doubled}
    options = {"relu": True, "precision": None}
    return {name: compiled(functools.partial(form, **options), *given) for name, form in forms.items()}


def bfloat16_difference(shape: Shape) -> float:
    """Returns how far one convolution in bfloat16 is from four."""
    sides = transposed_bfloat16(shape)
    return relative(sides["one"](), sides["four"]())


KINDS = {
    "kernel_gradient": Kind(GRADIENT_SHAPES, {"gradient": kernel_gradients}, difference=gradient_difference),
    "transposed": Kind(
        TRANSPOSED_SHAPES,
        {
            "forward": functools.partial(transposed_sides, backward=False),
            "forward and backward": functools.partial(transposed_sides, backward=True),
        },
        "dilated",
        transposed_difference,
    ),
    "transposed_bfloat16": Kind(TRANSPOSED_SHAPES, {"forward": transposed_bfloat16}, "four", bfloat16_difference),
}


def sample(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Returns a random image (B, H, W, C) and a kernel that keeps its variance."""
    batch, size, num_in, num_out, side = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, num_in), np.float32)
    kernel = rng.standard_normal((side, side, num_in, num_out), np.float32)
    return jax.device_put((x, kernel * np.float32((side * side * num_in) ** -0.5)))


def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution as XLA does."""
    return Fusion(padding=padding(kernel), precision=HIGHEST).by_xla(x, kernel)


def padding(kernel: jax.Array) -> tuple[tuple[int, int], ...]:
    """Returns the padding that keeps height and width."""
    return ((kernel.shape[0] // 2,) * 2,) * 2


def relative(found: jax.Array, wanted: jax.Array) -> float:
    """Returns the largest difference as a share of the largest value."""
    found, wanted = (np.asarray(array, np.float32) for array in (found, wanted))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def compiled(form: Callable, *given: jax.Array) -> Callable[[], object]:
    """Returns a function without arguments that returns once the result is computed."""
    given = jax.device_put(given)
    program = jax.jit(form).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def torch_side(run: Callable, *given: jax.Array) -> Sides:
    """Returns PyTorch's side of a benchmark; none if PyTorch is missing or lacks the device that JAX computes on.

    Args:
      run: (torch, *tensors) -> anything.
      *given: images (B, H, W, C) and kernels (h, w, in, out); PyTorch gets them as NCHW and (out, in, h, w).
    """
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return {}
    orders = {True: (3, 2, 0, 1), False: (0, 3, 1, 2)}  # a kernel is as high and as wide as 1 or 3 pixels
    arrays = [np.asarray(array, np.float32) for array in given]
    arrays = [np.ascontiguousarray(array.transpose(orders[array.shape[0] == array.shape[1] <= 3])) for array in arrays]
    tensors = [torch.from_numpy(array).to(device) for array in arrays]

    def timed():
        run(torch, *tensors)
        if device == "cuda":
            torch.cuda.synchronize()

    return {"PyTorch": timed}


def torch_versions() -> dict:
    """Returns the version of PyTorch and its number of threads, if it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    return {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
