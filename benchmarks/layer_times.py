"""Where the time of a network goes: its convolutions one by one, and what is between them; jaxseg beside tuned PyTorch.

    python benchmarks/layer_times.py segae --dtype bfloat16

Every convolution of the network in inference is timed by itself with its bias and ReLU, on both sides, with the shapes
of `throughput.py`. What remains of the time of the whole network is between the convolutions: resizing, joining and
adding maps, and loss of cache. Writes a row of `results/layer_times.json`.
"""

import argparse
import collections
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend import core

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jaxseg  # noqa: E402
from benchmarks import jax_side, torch_side  # noqa: E402
from benchmarks.alternate import processor, summary, time_alternately  # noqa: E402
from benchmarks.counts import programs_inside  # noqa: E402
from benchmarks.worker import WORKLOADS, inputs  # noqa: E402
from jaxseg.devices import environment  # noqa: E402
from jaxseg.nn.engine import fused  # noqa: E402
from jaxseg.nn.fused import Fusion  # noqa: E402
from jaxseg.nn.inference import fold_batch_norm  # noqa: E402
from jaxseg.nn.winograd import is_faster, transformed, winograd  # noqa: E402
from jaxseg.xla import keep_freed_memory, use_all_cores  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "layer_times.json"
Key = tuple[Fusion, tuple[int, ...], tuple[int, ...]]  # what is computed, shapes of the images and of the kernel


def main() -> None:
    """Measures one network and writes its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=WORKLOADS)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if WORKLOADS[options.model].large:
        keep_freed_memory()  # as the commands of jaxseg do with these networks
    use_all_cores()
    row = measured(options.model, options.dtype, options.rounds)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result[f"{options.model}, {options.dtype}"] = row
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sums = {name: value for name, value in row.items() if name.endswith("_ms")}
    print(options.model, options.dtype, sums)


def measured(model: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Returns the milliseconds of the whole network, of its convolutions and of what is between them, by side."""
    batch = WORKLOADS[model].batches[0]
    whole = {
        "jaxseg": jax_side.make(model, "inference", batch, dtype)[0],
        "tuned": torch_side.make(model, "inference", batch, dtype, tuned=True)[0],
    }
    total = {name: 1e3 * found["median_s"] for name, found in _medians(whole, rounds).items()}
    row: dict[str, Any] = {f"{name}_whole_ms": round(value, 2) for name, value in total.items()}
    layers, sums = [], collections.Counter[str]()
    for (fusion, image, kernel), count in convolutions(model, batch, dtype).items():
        found = _medians(sides(fusion, image, kernel, dtype), rounds)
        times = {f"{name}_ms": round(1e3 * one["median_s"], 3) for name, one in found.items()}
        for name, one in found.items():
            sums[name] += count * 1e3 * one["median_s"]
        layers.append({"image": image, "kernel": kernel, "strides": fusion.strides, "count": count} | times)
        print(image, kernel, fusion.strides, count, times, flush=True)
    for name, value in total.items():
        row[f"{name}_convolutions_ms"] = round(sums[name], 2)
        row[f"{name}_between_ms"] = round(value - sums[name], 2)
    row |= {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "environment": environment()}
    return row | {"torch": torch.__version__, "layers": layers}


def _medians(runs: dict, rounds: int) -> dict[str, dict]:
    return summary(time_alternately(runs, rounds, shortest=0.1, pause=0.05), "jaxseg")


def convolutions(model: str, batch: int, dtype: str) -> dict[Key, int]:
    """Returns the distinct convolutions of a network in inference, and how often each of them runs."""
    given = inputs(model, batch)
    arguments = [given[name] for name in ("image", "embedding") if name in given]
    apply, state = jaxseg.functional(fold_batch_norm(jax_side.network_of(model, dtype)))
    found: dict[Key, int] = collections.Counter()
    for equation in _convolutions_in(jax.make_jaxpr(apply)(state, *arguments).jaxpr):
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


def sides(fusion: Fusion, image: tuple, kernel: tuple, dtype: str) -> dict[str, Callable[[], object]]:
    """Returns functions that compute one convolution as jaxseg and as tuned PyTorch do in inference."""
    rng = np.random.default_rng(0)
    more = [kernel[-1:]] * fusion.bias + [fusion.result_shape(image, kernel)] * fusion.residual
    arrays = [rng.standard_normal(shape, np.float32) for shape in (image, kernel, *more)]
    given = [jnp.asarray(array, dtype) for array in arrays]
    if fusion.keeps_size(kernel) and is_faster(given[1]):
        given[1] = jax.jit(transformed)(given[1])
        ours = lambda x, k, *more: fusion.finish(winograd(x, k, precision=fusion.precision), *more)  # noqa: E731
    else:
        ours = functools.partial(fused, fusion)
    program = jax.jit(ours).lower(*given).compile()
    return {"jaxseg": lambda: jax.block_until_ready(program(*given)), "tuned": _theirs(fusion, arrays, dtype)}


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
