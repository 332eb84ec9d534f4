"""Inference and a training step of a network: jaxseg against PyTorch as published (eager, NCHW), in turn, float32.

    python benchmarks/throughput.py --model post_dae --rounds 9

So far for post_dae: batches of 8 masks of 512 x 512; a step is forward, Dice loss, backward, clipping and Adam, without
reading or corrupting masks. Both sides use all processors.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

import jaxseg
from jaxseg.environment import environment
from jaxseg.ops.losses import probability_dice_loss

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.end_to_end import processor  # noqa: E402
from benchmarks.torch_models.dae import DAE  # noqa: E402
from benchmarks.turns import in_turn, summary  # noqa: E402

BATCH, SIZE, RATE, CLIP = 8, 512, 1e-4, 0.5


def main() -> None:
    """Times both sides in turn and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["post_dae"], default="post_dae")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    given, truth = (rng.random((BATCH, SIZE, SIZE, 1), np.float32).round() for _ in range(2))
    sides = {"jaxseg": jax_side(given, truth), "pytorch": torch_side(given, truth)}
    result = {"model": options.model, "batch": [BATCH, SIZE, SIZE, 1], "rounds": options.rounds}
    for what in ("inference", "training step"):
        runs = {side: of[what] for side, of in sides.items()}
        result[what] = summary(in_turn(runs, options.rounds), "jaxseg")
        print(what, {side: row["median_s"] for side, row in result[what].items()})
    result |= {"command": f"python benchmarks/throughput.py --model {options.model} --rounds {options.rounds}"}
    result |= {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    result["environment"] = environment() | {"processor": processor()}
    path = ROOT / "benchmarks" / "results" / f"throughput_{options.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def jax_side(given: np.ndarray, truth: np.ndarray) -> dict[str, Callable]:
    """Inference and a step of our network, each without arguments, returning once it is computed."""
    model = jaxseg.create("post_dae", image_size=(SIZE, SIZE))
    apply, params = jaxseg.functional(model)
    transform = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))
    state = {"params": jax.tree.map(jnp.copy, nnx.to_pure_dict(params))}  # the step gives its state away
    state["optimizer"] = transform.init(state["params"])
    graphdef = nnx.graphdef(model)
    given, truth = jax.device_put((given, truth))
    infer = jax.jit(apply)

    def step(state: dict, given: jax.Array, truth: jax.Array) -> dict:
        def loss(params):
            return probability_dice_loss(nnx.merge(graphdef, params)(given), truth)

        gradients = jax.grad(loss)(state["params"])
        updates, optimizer = transform.update(gradients, state["optimizer"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer}

    compiled = jax.jit(step, donate_argnums=0)

    def train():
        nonlocal state
        state = jax.block_until_ready(compiled(state, given, truth))

    return {"inference": lambda: jax.block_until_ready(infer(params, given)), "training step": train}


def torch_side(given: np.ndarray, truth: np.ndarray) -> dict[str, Callable]:
    """The same of the original's network."""
    model = DAE(image_size=(SIZE, SIZE))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    given, truth = (torch.from_numpy(array.transpose(0, 3, 1, 2).copy()) for array in (given, truth))

    @torch.inference_mode()
    def infer():
        model(given)

    def train():
        answer = model(given)
        overlap, total = (answer * truth).sum((1, 2, 3)), answer.sum((1, 2, 3)) + truth.sum((1, 2, 3))
        loss = 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return {"inference": infer, "training step": train}


if __name__ == "__main__":
    main()
