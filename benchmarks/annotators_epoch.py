"""How long an epoch on LIDC takes: jaxseg beside PyTorch with the original's loading, the same networks and batch of 5.

    python benchmarks/annotators_epoch.py --data ../shared/data/lidc

The sides take turns in one process. Compilation, and a first epoch of each, are apart. Writes
`results/annotators_epoch.json`.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path

import jax
import numpy as np
import torch

from jaxseg.devices import environment
from jaxseg.training.batches import prefetch_to_device, training_batches
from jaxseg.training.config.config import read_config
from jaxseg.training.plan import make_plan
from jaxseg.training.task import make_task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.alternate import in_turn, summary  # noqa: E402
from benchmarks.annotators import BATCH, BETA, torch_epoch, torch_side  # noqa: E402


def main() -> None:
    """Times both networks and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=shared / "lidc")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = {}
    for network in BETA:
        sides = {"jaxseg": jaxseg_epochs(network, options.data), "pytorch": torch_epochs(network, options.data)}
        rows[network] = summary(in_turn(sides, options.rounds), "jaxseg")
        print(network, {side: row["median_s"] for side, row in rows[network].items()}, flush=True)
    versions = environment() | {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    found = {"command": "python benchmarks/annotators_epoch.py", "date": str(date.today()), "batch": BATCH, **rows}
    path = ROOT / "benchmarks" / "results" / "annotators_epoch.json"
    path.write_text(json.dumps(found | {"environment": versions}, indent=1) + "\n")


def jaxseg_epochs(network: str, data: Path):
    """Returns what trains an epoch of jaxseg, as `jaxseg train` does between validations."""
    config = read_config(f"{network}_lidc", overrides=["data.draw=batch", f"data.root={data}"])
    plan = make_plan(config, make_task(config), Path(tempfile.mkdtemp()), devices=jax.devices())
    compiled, state = plan.placement.compile(plan.learner), plan.placement.put_state(plan.fresh_state())
    batches = training_batches(
        plan.task.splits["train"],
        plan.task.augment,
        batch_size=config.trainer.batch_size,
        seed=config.seed,
        threads=config.data.threads,
    )
    put = plan.placement.put_batch
    stream = prefetch_to_device(batches, lambda batch: put({k: v for k, v in batch.items() if k != "index"}))

    def epoch() -> None:
        nonlocal state
        for _ in range(plan.steps_per_epoch):
            state, metrics = compiled(state, next(stream)[0])
        jax.block_until_ready(metrics)

    return epoch


def torch_epochs(network: str, data: Path):
    """Returns what trains an epoch of PyTorch, with the files read again for every item."""
    (model, optimizer), rng = torch_side(network), np.random.default_rng(0)
    return lambda: torch_epoch(model, optimizer, data / "train", network, rng, BETA[network])


if __name__ == "__main__":
    main()
