"""What is measured of a whole split, over all devices and hosts."""

import collections
import contextlib
from collections.abc import Callable

import jax
import numpy as np

from jaxseg.data.pipeline import evaluation_batches
from jaxseg.train.learner import State
from jaxseg.train.mesh import Placement
from jaxseg.train.task import Problem


def evaluate(
    problem: Problem, split: str, placement: Placement, evaluation: Callable, state: State, batch_size: int
) -> dict[str, float]:
    """Returns what is measured of a split.

    Args:
      evaluation: of `Placement.compile_evaluation`.
      state: as `Placement.take_state` gives it.
    """
    source, found = problem.splits[split], collections.defaultdict(list)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with contextlib.closing(evaluation_batches(source, problem.prepare, batch_size=batch_size, **share)) as batches:
        for batch in batches:
            batch.pop("index", None)
            results = evaluation(state, placement.put_evaluation_batch(batch))
            weight = np.asarray(results.pop("weight"))
            for name, values in results.items():
                found[name].append(np.asarray(values)[weight > 0])
    return problem.summarise({name: np.concatenate(parts) for name, parts in found.items()})
