"""What the engine knows of a method: a Problem, made by the method's own file from its section of the config."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

TASKS = {  # name -> module
    "cmvae": "jaxseg.annotators.cmvae_task",
    "paxray": "jaxseg.anatomy.task",
    "phantom": "jaxseg.anatomy.phantom_task",
    "post_dae": "jaxseg.post_dae.task",
    "prob_unet": "jaxseg.annotators.prob_unet_task",
    "segae": "jaxseg.segae.task",
}


@dataclasses.dataclass(frozen=True)
class Examination:
    """What a method alone can say of a model: numbers as JSON takes them, lines for people, a picture or None."""

    numbers: Mapping
    table: str
    picture: Image.Image | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model, its data, its loss and its metrics.

    Attributes:
      model: with its `card`, in any mode; its arrays are random.
      splits: "train" and, where there are, "val" and "test": sources with `len`, `[i] -> record` and `name(i)`.
      augment: (record, numpy Generator) -> arrays of one example, for training.
      prepare: the same for evaluation, without chance.
      loss: (model in training mode, batch, key) -> (mean loss, {name: scalar}).
      scores: (model in evaluation mode, batch) -> {name: (B, ...)}, what is measured of every example.
      summarise: {name: (N, ...)} of a whole split -> {name: number}.
      target: the number of which the highest is best.
      draw: (model, records) -> a picture of predictions; None: there is none.
      facts: whatever else of the data should be kept with the run, as JSON takes it.
      notes: lines for the user about the data.
      examine: (model in evaluation mode, source) -> Examination, of what `scores` does not measure; None: nothing.
      begin: (model) -> the same with the arrays that a new run starts from, such as weights of a file that a run which
        goes on has no need of; None: random ones.
      timed: the loss takes `step=` too, how many steps were taken before.
    """

    model: nnx.Module
    splits: Mapping[str, Sequence]
    augment: Callable
    prepare: Callable
    loss: Callable
    scores: Callable
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    target: str
    draw: Callable | None = None
    facts: Mapping = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    examine: Callable[[nnx.Module, Sequence], Examination] | None = None
    begin: Callable[[nnx.Module], nnx.Module] | None = None
    timed: bool = False


def sections(task: str) -> dict[str, type]:
    """Returns the dataclasses of a task's own sections of the config: "data", "model" and "loss".

    Raises:
      ValueError: there is no such task.
    """
    return _module(task).SECTIONS


def make_problem(config) -> Problem:
    """Returns the problem of a config; reads what its data are, and makes the untrained model."""
    return _module(config.task).make_problem(config)


def begun(problem: Problem) -> Problem:
    """Returns a problem whose model has the arrays that a new run starts from.

    Raises:
      ValueError, OSError: they cannot be read, or are of another model.
    """
    if problem.begin is None:
        return problem
    return dataclasses.replace(problem, model=problem.begin(problem.model), begin=None)


def compare(config, model: nnx.Module, masks: Mapping[str, Path], truth: Path) -> Examination:
    """Returns what a method measures of masks from elsewhere against the true ones.

    Args:
      config: of the run that the model is of.
      model: in evaluation mode.
      masks: folders by the names of their rows.
      truth: the folder of the true masks.

    Raises:
      ValueError: the method has no such measure; masks are missing or bad.
    """
    module = _module(config.task)
    if not hasattr(module, "compare"):
        able = [task for task in TASKS if hasattr(_module(task), "compare")]
        raise ValueError(f"a run of {config.task} does not take masks; runs of {', '.join(able)} do")
    return module.compare(config, model, masks, truth)


def _module(task: str):
    if task not in TASKS:
        raise ValueError(f"task: {task!r} is not one of {', '.join(TASKS)}")
    return importlib.import_module(TASKS[task])
