"""Where the time of a network goes: its convolutions one by one, and what is between them; jaxseg beside tuned PyTorch.

    python benchmarks/layer_times.py segae --dtype bfloat16
    python benchmarks/layer_times.py segae --what "training step"

Every convolution of the network is timed by itself on both sides, with the shapes of `throughput.py`: in inference with
its bias and ReLU, in a training step as three passes, the forward one and those of the two gradients. What remains of
the time of the whole network is between the convolutions: norms, resizing, joining and adding maps, the optimizer, and
loss of cache. Writes a row of `results/layer_times.json`.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.extend import core

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jaxseg  # noqa: E402
from benchmarks import jax_side  # noqa: E402
from benchmarks.alternate import processor, sample_alternately, summary, time_alternately  # noqa: E402
from benchmarks.counts import programs_inside  # noqa: E402
from benchmarks.throughput import Side  # noqa: E402
from benchmarks.worker import WHAT, WORKLOADS, inputs  # noqa: E402
from jaxseg.devices import environment  # noqa: E402
from jaxseg.nn.convolution import gradients_on_cpus  # noqa: E402
from jaxseg.nn.doubling import HALVING, doubled, halving_gradient  # noqa: E402
from jaxseg.nn.engine import fused  # noqa: E402
from jaxseg.nn.fused import Fusion  # noqa: E402
from jaxseg.nn.inference import fold_batch_norm  # noqa: E402
from jaxseg.nn.winograd import is_faster, transformed, winograd  # noqa: E402
from jaxseg.xla import keep_freed_memory, restart_with_huge_pages, use_all_cores  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "layer_times.json"
Runs = dict[str, Callable[[], object]]
FORWARD, OF_IMAGES, OF_KERNEL = "forward", "gradient of the images", "gradient of the kernel"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of a network.

    Attributes:
      fusion: what is computed; that of the convolution which is transposed, if one is.
      image: (B, H, W, C).
      kernel: (h, w, C, C'), or (3, 3, C', C) of a transposed convolution.
      transposed: whether it is a transposed convolution that doubles height and width.
    """

    fusion: Fusion
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    transposed: bool = False

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the result."""
        if self.transposed:
            return (self.image[0], 2 * self.image[1], 2 * self.image[2], self.kernel[2])
        return self.fusion.result_shape(self.image, self.kernel)

    def arrays(self) -> list[np.ndarray]:
        """Returns random images and a kernel, and the bias and the residual as far as they are used."""
        rng = np.random.default_rng(0)
        more = [self.result[-1:]] * self.fusion.bias + [self.result] * self.fusion.residual
        return [rng.standard_normal(shape, np.float32) for shape in (self.image, self.kernel, *more)]

    def compute(self, *given: jax.Array) -> jax.Array:
        """Returns the result as jaxseg computes it."""
        if self.transposed:
            return doubled(*given, relu=self.fusion.relu, precision=self.fusion.precision)
        return fused(self.fusion, *given)

    def gradients(self, x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the gradients of the images and of the kernel as jaxseg computes them."""
        if not self.transposed:
            return gradients_on_cpus(self.fusion, x, kernel, change)
        halving = dataclasses.replace(HALVING, precision=self.fusion.precision)
        return fused(halving, change, kernel), halving_gradient(change, x, precision=self.fusion.precision)


def main() -> None:
    """Measures one network and writes its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=WORKLOADS)
    parser.add_argument("--what", choices=WHAT, default=WHAT[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if WORKLOADS[options.model].keeps and options.what == "inference":
        keep_freed_memory()  # as jaxseg does with these networks
    elif options.what != "inference":
        restart_with_huge_pages()  # as `jaxseg train` does
    use_all_cores()
    row = measured(options.model, options.what, options.dtype, options.rounds)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result[f"{options.model}, {options.what}, {options.dtype}"] = row
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(options.model, options.what, options.dtype, {name: row[name] for name in ("whole_ms", "passes_ms")})


def measured(model: str, what: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Returns the milliseconds of the whole network and of each pass of its convolutions, by side."""
    batch = WORKLOADS[model].batches[WHAT.index(what)]
    row: dict[str, Any] = {"batch": batch, "whole_ms": whole(model, what, batch, dtype, rounds), "passes_ms": {}}
    layers, sums = [], collections.defaultdict[str, collections.Counter[str]](collections.Counter)
    image_channels = WORKLOADS[model].image[-1]
    for layer, count in convolutions(model, what, batch, dtype).items():
        runs = sides(layer, dtype) if what == WHAT[0] else step_sides(layer, dtype)
        if layer.image[-1] == image_channels:
            runs.pop(OF_IMAGES, None)  # nobody needs the gradient of the network's input
        row_of_layer: dict[str, Any] = {"image": layer.image, "kernel": layer.kernel, "count": count}
        row_of_layer |= {"strides": layer.fusion.strides, "transposed": layer.transposed}
        for name, both in runs.items():
            found = summary(time_alternately(both, rounds, shortest=0.1, pause=0.05), "jaxseg")
            row_of_layer[name] = {side: round(1e3 * one["median_s"], 3) for side, one in found.items()}
            sums[name].update({side: count * one for side, one in row_of_layer[name].items()})
        layers.append(row_of_layer)
        print(row_of_layer, flush=True)
    row["passes_ms"] = {name: {side: round(one, 2) for side, one in both.items()} for name, both in sums.items()}
    row |= {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "environment": environment()}
    return row | {"torch": torch.__version__, "layers": layers}


def whole(model: str, what: str, batch: int, dtype: str, rounds: int) -> dict[str, float]:
    """Returns the milliseconds of the whole network by side, each in its own process as in `throughput.py`."""
    running = {side: Side("cpu", side, model, what, batch, dtype) for side in ("jaxseg", "tuned")}
    found = summary(sample_alternately({side: one.sample for side, one in running.items()}, rounds), "jaxseg")
    for one in running.values():
        one.close()
    return {side: round(1e3 * one["median_s"], 2) for side, one in found.items()}


def convolutions(model: str, what: str, batch: int, dtype: str) -> dict[Layer, int]:
    """Returns the distinct convolutions of a network, and how often each of them runs forward."""
    given, network = inputs(model, batch), jax_side.network_of(model, dtype)
    if what == WHAT[0]:
        apply, state = jaxseg.functional(fold_batch_norm(network))
        arguments = [state, *(given[name] for name in ("image", "embedding") if name in given)]
    else:
        graphdef, state = nnx.split(nnx.view(network, use_running_average=False, raise_if_not_found=False))
        key = jax.random.key(0)
        apply = lambda state, given: jax_side.LOSSES[model](nnx.merge(graphdef, state), given, key, 0)[0]  # noqa: E731
        arguments = [state, given]
    return collections.Counter(_convolutions_in(jax.make_jaxpr(apply)(*arguments).jaxpr))


def _convolutions_in(program: core.Jaxpr) -> Iterator[Layer]:
    for equation in program.eqns:
        shapes = [value.aval.shape for value in equation.invars]
        inside = programs_inside(equation)
        if equation.primitive.name == "jaxseg_convolution":
            yield Layer(equation.params["fusion"], *shapes[:2])
        elif any(inner.debug_info.func_name == "_doubling" for _, inner in inside):
            part = next(_convolutions_in(inside[0][1])).fusion
            yield Layer(dataclasses.replace(part, strides=(2, 2), padding=HALVING.padding), *shapes[:2], True)
        else:
            for _, inner in inside:
                yield from _convolutions_in(inner)


def sides(layer: Layer, dtype: str) -> dict[str, Runs]:
    """Returns functions that compute one convolution as jaxseg and as tuned PyTorch do in inference."""
    fusion, arrays, ours = layer.fusion, layer.arrays(), layer.compute
    given = [jnp.asarray(array, dtype) for array in arrays]
    if not layer.transposed and fusion.keeps_size(layer.kernel) and is_faster(given[1]):
        given[1] = jax.jit(transformed)(given[1])
        ours = lambda x, k, *more: fusion.finish(winograd(x, k, precision=fusion.precision), *more)  # noqa: E731
    return {FORWARD: {"jaxseg": _compiled(ours, *given), "tuned": _theirs(layer, arrays, dtype)}}


def step_sides(layer: Layer, dtype: str) -> dict[str, Runs]:
    """Returns functions that compute the passes of one convolution as jaxseg and as PyTorch do in a training step."""
    arrays = layer.arrays()
    change = np.random.default_rng(1).standard_normal(layer.result, np.float32)
    given = [jnp.asarray(array, dtype) for array in arrays]
    changed = (*given[:2], jnp.asarray(change, dtype))
    found = {FORWARD: {"jaxseg": _compiled(layer.compute, *given)}}
    for place, name in enumerate((OF_IMAGES, OF_KERNEL)):
        found[name] = {"jaxseg": _compiled(lambda *a, place=place: layer.gradients(*a)[place], *changed)}
    for name, run in _their_passes(layer, arrays, change, dtype).items():
        found[name]["tuned"] = run
    return found


def _compiled(function: Callable, *given: jax.Array) -> Callable[[], object]:
    program = jax.jit(function).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def _their_passes(layer: Layer, arrays: list[np.ndarray], change: np.ndarray, dtype: str) -> Runs:
    """The passes as PyTorch's compiled step calls them: separate calls on maps with the channels last."""
    numbers = getattr(torch, dtype)
    x, given = (torch.from_numpy(array).to(numbers).permute(0, 3, 1, 2) for array in (arrays[0], change))
    kernel = torch.from_numpy(arrays[1]).to(numbers).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    bias = torch.from_numpy(arrays[2]).to(numbers) if layer.fusion.bias else None
    padding = [before for before, _ in layer.fusion.padding]
    options = (list(layer.fusion.strides), padding, [1, 1], layer.transposed, [int(layer.transposed)] * 2, 1)
    found: Runs = {FORWARD: lambda: torch.ops.aten.convolution(x, kernel, bias, *options)}
    for name, wanted in ((OF_IMAGES, (True, False, False)), (OF_KERNEL, (False, True, False))):
        found[name] = functools.partial(torch.ops.aten.convolution_backward, given, x, kernel, None, *options, wanted)
    return found


def _theirs(layer: Layer, arrays: list[np.ndarray], dtype: str) -> Callable[[], object]:
    fusion = layer.fusion
    x, kernel, *more = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in arrays)
    size, padding = tuple(kernel.shape[:2]), [before for before, _ in fusion.padding]
    options = {"stride": fusion.strides, "padding": padding, "bias": fusion.bias}
    if layer.transposed:
        module = torch.nn.ConvTranspose2d(kernel.shape[3], kernel.shape[2], size, output_padding=1, **options)
    else:
        module = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], size, **options)
    module = module.to(x.dtype)
    module.weight.data = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    if fusion.bias:
        module.bias.data = more.pop(0)
    x, more = x.permute(0, 3, 1, 2), [array.permute(0, 3, 1, 2) for array in more]
    module = module.eval().requires_grad_(False)

    def forward(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        found = module(x)
        for array in more:
            found = found + array
        return torch.relu(found) if fusion.relu else found

    torch._inductor.config.freezing = True
    torch._dynamo.reset()  # it compiles only eight shapes of one function
    program = torch.compile(forward)

    def run() -> None:
        with torch.no_grad():
            program(x, *more)

    return run


if __name__ == "__main__":
    main()
