"""What the throughput of every model is measured with: shapes, batches, and the same random inputs for both sides."""

import dataclasses

import numpy as np

RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Workload:
    """Inputs of a model as users have them.

    Attributes:
      image: (H, W, C) of the images.
      outputs: classes, or channels of the target.
      batches: examples at once: of inference, and of a training step as published.
      step: what a training step is, for people.
      large: on CPUs its training keeps freed memory, as its configuration says.
    """

    image: tuple[int, int, int]
    outputs: int
    batches: tuple[int, int]
    step: str
    large: bool = True


WORKLOADS = {
    "unet": Workload((512, 512, 3), 159, (1, 3), "Dice and cross-entropy, AdamW"),
    "post_dae": Workload((512, 512, 1), 1, (8, 8), "Dice, gradients clipped at 0.5, Adam"),
    "segae": Workload((256, 256, 2), 1, (16, 16), "weighted squared error without the pairs, Adam"),
    "cmvae": Workload((64, 64, 1), 2, (5, 5), "the original's loss, AdamW", large=False),
    "prob_unet": Workload((64, 64, 1), 1, (5, 5), "the original's loss, AdamW", large=False),
}
WHAT = ("inference", "training step")
EMBEDDING, LATENT = 512, 6


def inputs(model: str, batch: int) -> dict[str, np.ndarray]:
    """Returns "image" (B, H, W, C), "target", and what else the model takes; float32, always the same."""
    work, rng = WORKLOADS[model], np.random.default_rng(0)
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
