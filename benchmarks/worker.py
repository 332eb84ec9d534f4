"""One side of the throughput in a separate process, which keeps its memory apart; and the workloads.

throughput.py starts this process. It writes a line of JSON when it is ready, then one line for every number of calls
that it reads, and its peak memory when its input ends.
"""

import argparse
import dataclasses
import os
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.alternate import serve  # noqa: E402
from jaxseg.xla import keep_freed_memory, use_all_cores  # noqa: E402

SIDES = ("jaxseg", "published", "tuned")
RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Workload:
    """Size of the inputs of a model, as users have them.

    Attributes:
      image: (H, W, C) of the images.
      outputs: number of classes, or channels of the target.
      batches: batch sizes of inference and of a training step, as published.
      large: whether PyTorch's tuned side keeps freed memory on CPUs.
      keeps: whether jaxseg keeps it in inference, as the model's commands do.
    """

    image: tuple[int, int, int]
    outputs: int
    batches: tuple[int, int]
    large: bool = True
    keeps: bool = True


WORKLOADS = {
    "unet": Workload((512, 512, 3), 159, (1, 3)),  # trained with Dice and cross-entropy, AdamW
    "post_dae": Workload((512, 512, 1), 1, (8, 8)),  # Dice, gradients clipped at 0.5, Adam
    "segae": Workload((256, 256, 2), 1, (16, 16)),  # weighted squared error without the pairs, Adam
    "cmvae": Workload((64, 64, 1), 2, (5, 5), False, False),  # the original's loss, AdamW
    "prob_unet": Workload((64, 64, 1), 1, (5, 5), False, False),  # the original's loss, AdamW
}
# Small inputs and narrow networks, which only test the programs: options of `jaxseg.create`.
TINY = {
    "unet": (Workload((32, 32, 3), 3, (1, 2)), {"backbone": "resnet18", "width": 4, "num_classes": 3}),
    "post_dae": (
        Workload((16, 16, 1), 1, (2, 2)),
        {
            "image_size": (16, 16),
            "features": (4, 6),
            "strides": (2, 2),
            "decoder_features": (4, 4),
            "intermediate": (8, 16),
        },
    ),
    "segae": (Workload((32, 32, 2), 1, (2, 2)), {"backbone": "resnet18", "width": 4}),
    "cmvae": (Workload((16, 16, 1), 2, (2, 2)), {"image_size": (16, 16), "width": 8, "depth": 2}),
    "prob_unet": (Workload((16, 16, 1), 1, (2, 2)), {"filters": (4, 8)}),
}
WHAT = ("inference", "training step")
EMBEDDING, LATENT = 512, 6


def main() -> None:
    """Takes one measurement per line of the input until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--model", choices=WORKLOADS, required=True)
    parser.add_argument("--what", choices=WHAT, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tiny", action="store_true", help="small networks; only for side jaxseg")
    options = parser.parse_args()
    arguments = (options.model, options.what, options.batch, options.dtype)
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    work = WORKLOADS[options.model]
    keeps = {"jaxseg": work.keeps and options.what == "inference", "tuned": work.large, "published": False}
    if keeps[options.side] and on_cpu:
        keep_freed_memory()
    if options.side == "jaxseg":
        use_all_cores()  # as the commands of jaxseg do
        from benchmarks import jax_side

        run, facts = jax_side.make(*arguments, tiny=options.tiny)
    else:
        from benchmarks import torch_side

        run, facts = torch_side.make(*arguments, tuned=options.side == "tuned")
    run()
    serve(run, facts, memory, again=True)


def inputs(model: str, batch: int, *, tiny: bool = False) -> dict[str, np.ndarray]:
    """Returns "image" (B, H, W, C), "target" and the other inputs of the model: random float32, always the same."""
    work, rng = TINY[model][0] if tiny else WORKLOADS[model], np.random.default_rng(0)
    found = {"image": rng.standard_normal((batch, *work.image), np.float32)}
    if model == "segae":
        found["embedding"] = rng.standard_normal((batch, EMBEDDING), np.float32)
        found["target"] = rng.random(batch, np.float32)
        return found
    classes = 1 if model == "cmvae" else work.outputs
    found["target"] = (rng.random((batch, *work.image[:2], classes), np.float32) > 0.9).astype(np.float32)
    if model == "post_dae":
        found["image"] = (found["image"] > 0).astype(np.float32)
    if model in ("cmvae", "prob_unet"):
        found["noise"] = rng.standard_normal((batch, LATENT), np.float32)
    return found


def device_gb() -> float | None:
    """Returns the peak memory on the accelerator in GB; None without one."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return round(sys.modules["torch"].cuda.max_memory_allocated() / 1e9, 2)
    if "jax" in sys.modules:
        found = sys.modules["jax"].devices()[0].memory_stats()
        return round(found["peak_bytes_in_use"] / 1e9, 2) if found else None
    return None


def memory() -> dict[str, float | None]:
    """Returns the peak memory of this process and of its accelerator in GB."""
    return {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2), "device_gb": device_gb()}


if __name__ == "__main__":
    main()
