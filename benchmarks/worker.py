"""One side of the throughput in a process of its own, so that its memory is its own; it runs when it is told to.

It writes a line of JSON when it is ready, then one for every number of calls that it reads, and its peak memory at the
end of its input.
"""

import argparse
import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.alternate import sample  # noqa: E402
from benchmarks.workloads import WHAT, WORKLOADS  # noqa: E402
from jaxseg.xla import (
    keep_freed_memory,  # noqa: E402
    use_all_cores,  # noqa: E402
)

SIDES = ("jaxseg", "published", "tuned")


def main() -> None:
    """Serves measurements until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--model", choices=WORKLOADS, required=True)
    parser.add_argument("--what", choices=WHAT, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    arguments = (options.model, options.what, options.batch, options.dtype)
    training = WORKLOADS[options.model].large and options.what == "training step"
    if training and options.side != "published" and os.environ.get("JAX_PLATFORMS") == "cpu":
        keep_freed_memory()  # as `jaxseg train` does with the published settings; PyTorch's tuned side has it too
    if options.side == "jaxseg":
        use_all_cores()  # as `jaxseg`'s commands do
        from benchmarks import jax_side

        run, facts = jax_side.make(*arguments)
    else:
        from benchmarks import torch_side

        run, facts = torch_side.make(*arguments, tuned=options.side == "tuned")
    run()
    answer(facts | {"first": sample(run, 1)._asdict()})
    for line in sys.stdin:
        answer(sample(run, int(line))._asdict())
    answer({"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2), "device_gb": device_gb()})


def device_gb() -> float | None:
    """The most memory that was taken on an accelerator; None without one."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return round(sys.modules["torch"].cuda.max_memory_allocated() / 1e9, 2)
    if "jax" in sys.modules:
        found = sys.modules["jax"].devices()[0].memory_stats()
        return round(found["peak_bytes_in_use"] / 1e9, 2) if found else None
    return None


def answer(content: dict) -> None:
    """Writes a line to the process that asks."""
    print("> " + json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
