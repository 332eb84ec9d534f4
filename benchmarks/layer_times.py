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
from jaxseg.nn.convolution import SUB_PIXEL_PADDING, gradients_on_cpus, sub_pixels  # noqa: E402
from jaxseg.nn.engine import fused  # noqa: E402
from jaxseg.nn.fused import Fusion  # noqa: E402
from jaxseg.nn.inference import fold_batch_norm  # noqa: E402
from jaxseg.nn.winograd import is_faster, transformed, winograd  # noqa: E402
from jaxseg.xla import keep_freed_memory, use_all_cores  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "layer_times.json"
Key = tuple[Fusion, tuple[int, ...], tuple[int, ...]]  # what is computed, shapes of the images and of the kernel
Runs = dict[str, Callable[[], object]]
FORWARD, OF_IMAGES, OF_KERNEL = "forward", "gradient of the images", "gradient of the kernel"


def main() -> None:
    """Measures one network and writes its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=WORKLOADS)
    parser.add_argument("--what", choices=WHAT, default=WHAT[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if WORKLOADS[options.model].keeps[WHAT.index(options.what)]:
        keep_freed_memory()  # as jaxseg does with these networks
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
    for (fusion, image, kernel), count in convolutions(model, what, batch, dtype).items():
        runs = sides(fusion, image, kernel, dtype) if what == WHAT[0] else step_sides(fusion, image, kernel, dtype)
        if image[-1] == image_channels:
            runs.pop(OF_IMAGES, None)  # nobody needs the gradient of the network's input
        layer = {"image": image, "kernel": kernel, "strides": fusion.strides, "count": count}
        for name, both in runs.items():
            found = summary(time_alternately(both, rounds, shortest=0.1, pause=0.05), "jaxseg")
            layer[name] = {side: round(1e3 * one["median_s"], 3) for side, one in found.items()}
            sums[name].update({side: count * one for side, one in layer[name].items()})
        layers.append(layer)
        print(layer, flush=True)
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


def convolutions(model: str, what: str, batch: int, dtype: str) -> dict[Key, int]:
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
    found: dict[Key, int] = collections.Counter()
    for equation in _convolutions_in(jax.make_jaxpr(apply)(*arguments).jaxpr):
        x, kernel = (value.aval.shape for value in equation.invars[:2])
        found[equation.params["fusion"], x, kernel] += 1
    return found


def _convolutions_in(program: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in program.eqns:
        if equation.primitive.name == "jaxseg_convolution":
            yield equation
        else:
            for _, inner in programs_inside(equation):
                yield from _convolutions_in(inner)


def sides(fusion: Fusion, image: tuple, kernel: tuple, dtype: str) -> dict[str, Runs]:
    """Returns functions that compute one convolution as jaxseg and as tuned PyTorch do in inference."""
    arrays = _arrays(fusion, image, kernel)
    given = [jnp.asarray(array, dtype) for array in arrays]
    if fusion.keeps_size(kernel) and is_faster(given[1]):
        given[1] = jax.jit(transformed)(given[1])
        ours = lambda x, k, *more: fusion.finish(winograd(x, k, precision=fusion.precision), *more)  # noqa: E731
    else:
        ours = functools.partial(fused, fusion)
    return {FORWARD: {"jaxseg": _compiled(ours, *given), "tuned": _theirs(fusion, arrays, dtype)}}


def step_sides(fusion: Fusion, image: tuple, kernel: tuple, dtype: str) -> dict[str, Runs]:
    """Returns functions that compute the passes of one convolution as jaxseg and as PyTorch do in a training step."""
    arrays = _arrays(fusion, image, kernel)
    change = np.random.default_rng(1).standard_normal(fusion.result_shape(image, kernel), np.float32)
    given = [jnp.asarray(array, dtype) for array in arrays]
    changed = (*given[:2], jnp.asarray(change, dtype))
    found = {FORWARD: {"jaxseg": _compiled(functools.partial(fused, fusion), *given)}}
    for place, name in enumerate((OF_IMAGES, OF_KERNEL)):
        found[name] = {"jaxseg": _compiled(lambda *a, place=place: gradients_on_cpus(fusion, *a)[place], *changed)}
    for name, run in _their_passes(fusion, arrays, change, dtype).items():
        found[name]["tuned"] = run
    return found


def _arrays(fusion: Fusion, image: tuple, kernel: tuple) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    more = [kernel[-1:]] * fusion.bias + [fusion.result_shape(image, kernel)] * fusion.residual
    return [rng.standard_normal(shape, np.float32) for shape in (image, kernel, *more)]


def _compiled(function: Callable, *given: jax.Array) -> Callable[[], object]:
    program = jax.jit(function).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def _their_passes(fusion: Fusion, arrays: list[np.ndarray], change: np.ndarray, dtype: str) -> Runs:
    """The passes as PyTorch's compiled step calls them: separate calls on maps with the channels last."""
    image, kernel, bias = arrays[0], arrays[1], (*arrays[2:], None)[0]
    top, left = fusion.padding[0][0], fusion.padding[1][0]
    doubles = fusion.padding == SUB_PIXEL_PADDING
    if doubles:  # the small convolution of a transposed one: PyTorch has a function for the whole
        kernel, change = (
            np.zeros((3, 3, kernel.shape[3] // 4, kernel.shape[2]), np.float32),
            np.asarray(sub_pixels(change)),
        )
        bias, top, left = None if bias is None else bias[: kernel.shape[2]], 1, 1
    order = getattr(torch, dtype)
    x, given = (torch.from_numpy(np.array(a)).to(order).permute(0, 3, 1, 2) for a in (image, change))
    kernel = torch.from_numpy(kernel).to(order).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else torch.from_numpy(bias).to(order)
    strides = [2, 2] if doubles else list(fusion.strides)
    options = (strides, [top, left], [1, 1], doubles, [int(doubles)] * 2, 1)
    found: Runs = {FORWARD: lambda: torch.ops.aten.convolution(x, kernel, bias, *options)}
    for name, wanted in ((OF_IMAGES, (True, False, False)), (OF_KERNEL, (False, True, False))):
        found[name] = functools.partial(torch.ops.aten.convolution_backward, given, x, kernel, None, *options, wanted)
    return found


def _theirs(fusion: Fusion, arrays: list[np.ndarray], dtype: str) -> Callable[[], object]:
    x, kernel, *more = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in arrays)
    (top, bottom), (left, right) = fusion.padding
    layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], tuple(kernel.shape[:2]), fusion.strides, bias=fusion.bias)
    layer = layer.to(x.dtype)
    layer.weight.data = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    if fusion.bias:
        layer.bias.data = more.pop(0)
    x, more = x.permute(0, 3, 1, 2), [array.permute(0, 3, 1, 2) for array in more]
    if (top, left) == (bottom, right):
        layer.padding = (top, left)
    else:
        x = torch.nn.functional.pad(x, (left, right, top, bottom)).contiguous(memory_format=torch.channels_last)
    layer = layer.eval().requires_grad_(False)

    def forward(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        found = layer(x)
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
