"""What is measured of a whole split, over all devices and hosts."""

import collections
import contextlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxseg.training.batches import evaluation_batches
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.config.config import Config
from jaxseg.training.learner import State
from jaxseg.training.mesh import Placement
from jaxseg.training.prepare import Run, prepare
from jaxseg.training.reader import listed
from jaxseg.training.task import Examination, Problem


def evaluate(run: Run, split: str, evaluation: Callable, state: State) -> dict[str, float]:
    """Returns what is measured of a split.

    Args:
      evaluation: of `run.compile_evaluation`.
      state: as `Placement.take_state` gives it.
    """
    cfg, found = run.config.data, collections.defaultdict(list)
    devices = len(run.placement.devices)
    options = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    options |= {"threads": cfg.threads, "on_error": cfg.on_error}
    options["batch_size"] = -(-run.config.trainer.batch_size // devices) * devices
    with contextlib.closing(evaluation_batches(run.problem.splits[split], run.problem.prepare, **options)) as batches:
        for batch in batches:
            run.pause()
            batch.pop("index", None)
            results = evaluation(state, run.placement.put_evaluation_batch(batch))
            weight = np.asarray(results.pop("weight"))
            for name, values in results.items():
                found[name].append(np.asarray(values)[weight > 0])
    if batches.skipped:
        run.tell(f"{len(batches.skipped)} bad records of {split} were not measured: {listed([*batches.skipped])}")
    return run.problem.summarise({name: np.concatenate(parts) for name, parts in found.items()})


def evaluate_checkpoint(
    config: Config,
    problem: Problem,
    checkpoints: Checkpoints,
    step: int,
    split: str,
    *,
    devices: Sequence[jax.Device],
    tell: Callable[[str], None],
) -> tuple[dict[str, float], Examination | None]:
    """Returns what is measured of a split with the checkpoint of a step, on any number of devices.

    Then what the method examines, where it does; with several hosts it does not, as one alone cannot compute.
    """
    run = prepare(config, problem, checkpoints.folder.parent, devices=devices[:1], tell=tell)
    run.placement = Placement("jit", tuple(devices))
    state, _ = checkpoints.restore(step, run.fresh())
    scores = evaluate(run, split, run.compile_evaluation(), state)
    if problem.examine is None:
        return scores, None
    if jax.process_count() > 1:
        tell("evaluate on one host for the table and the picture")
        return scores, None
    return scores, problem.examine(run.learner.trained(state), problem.splits[split])
