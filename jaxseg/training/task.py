"""The interface between a method and the training engine: one Task class per method, listed in the registry."""

import abc
import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jax
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.registry import TASKS

if TYPE_CHECKING:
    from jaxseg.training.config.config import Config


@dataclasses.dataclass(frozen=True)
class Examination:
    """The measurements of a trained model that a method makes in addition to its scores.

    Attributes:
      numbers: measurements as JSON values.
      table: the same measurements as a text table for users.
      picture: a plot of the measurements; None if the method draws none.
      rows: the measurements as the rows of a CSV file, {column: value} with the same columns; none: no such file.
      calibration: text that `jaxseg evaluate --calibrate` stores in the card of the model; "" if the method has none.
    """

    numbers: Mapping
    table: str
    picture: Image.Image | None = None
    rows: Sequence[Mapping] = ()
    calibration: str = ""


class Task(abc.ABC):
    """A model, its data, its loss and its metrics, made from a configuration.

    A subclass sets the attributes in its constructor. Creating a task reads the lists or headers of its data, but not
    the files that only a new run needs; `initialise` reads those. The optional methods are None in this class.

    Attributes:
      Data, Model, Loss: dataclasses of the sections `data`, `model` and `loss` of the configuration.
      takes_data: whether the section `data` names a folder, `root`. False: the task makes its own data.
      calibrates: whether `examine` fits a calibration of the model's outputs.
      target: name of the number in `summarise` that selects the best checkpoint; higher is better.
      model: the network with its `card` and random arrays, in any mode.
      splits: "train" and, if the data have them, "val" and "test". Each is a source with `len`, `[i] -> record` and
        `name(i)`.
      augment: (record, numpy Generator) -> arrays of one training example. Worker processes may call it, so it must
        be picklable and must not hold the model.
      prepare: the same for evaluation; it does not change examples at random.
      facts: JSON values that identify the data; a run can only be resumed with equal facts.
      notes: messages for the user about the data.
    """

    Data: ClassVar[type]
    Model: ClassVar[type]
    Loss: ClassVar[type]
    takes_data: ClassVar[bool] = True
    calibrates: ClassVar[bool] = False
    target: ClassVar[str] = "dice"

    model: nnx.Module
    splits: Mapping[str, Sequence]
    augment: Callable
    prepare: Callable
    facts: Mapping = {}
    notes: Sequence[str] = ()

    remark: Callable[[int, float | None], str] | None = None
    """Optional method (step, validation score or None) -> a warning for the users of the model of that step, or ""."""

    draw: Callable[[nnx.Module, Sequence[dict]], Image.Image] | None = None
    """Optional method (model in evaluation mode, records) -> picture of its predictions."""

    examine: Callable[[nnx.Module, Sequence], Examination] | None = None
    """Optional method (model in evaluation mode, source) -> Examination."""

    table: Callable[[Mapping[str, float]], list[dict[str, object]]] | None = None
    """Optional static method (numbers of `summarise`) -> rows of `evaluation_SPLIT.csv`, instead of `examine`'s."""

    join: Callable[[tuple[int, Examination], tuple[int, Examination]], Examination] | None = None
    """Optional static method (step and Examination of the best checkpoint, those of the last one) -> one Examination of
    both. Both are equal if the last checkpoint is the best. Without it, only one checkpoint is examined."""

    compare: "Callable[[Config, nnx.Module, Mapping[str, Path], Path], Examination] | None" = None
    """Optional class method (config, model in evaluation mode, folders of masks by row name, folder of the true masks)
    -> Examination of masks from another source; it does not need the data of the run."""

    @abc.abstractmethod
    def __init__(self, config: "Config"):
        """Reads the lists of the data, and creates the untrained model."""

    @abc.abstractmethod
    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a batch and its parts by name.

        Args:
          model: the model in training mode.
          batch: the arrays of `augment`, stacked.
          key: for random numbers.
          step: int32, number of optimisation steps taken before.
        """

    @abc.abstractmethod
    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns measurements of every example, {name: (B, ...)}, by a model in evaluation mode."""

    @abc.abstractmethod
    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the numbers of a whole split from its measurements, {name: (N, ...)}."""

    def initialise(self, model: nnx.Module) -> nnx.Module:
        """Returns the model with the arrays that a new run starts from, such as those of a file of weights.

        Raises:
          ValueError, OSError: the file cannot be read or belongs to another model.
        """
        return model

    @staticmethod
    def translate(raw: dict, tell: Callable[[str], None]) -> dict | None:
        """Returns the configuration of the original program as one of jaxseg; None if `raw` is something else.

        Args:
          raw: a parsed YAML file.
          tell: called with a message for each setting that has no effect.

        Raises:
          ValueError: the settings are impossible; one line per problem.
        """
        return None

    @staticmethod
    def original_folder(raw: dict) -> Path | None:
        """Returns the folder in which the configuration of the original program stores its run, if it names one."""
        return None


def task_class(name: str) -> type[Task]:
    """Returns the Task class of a name in the registry.

    Raises:
      ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"task: {name!r} is not one of {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_task(config: "Config") -> Task:
    """Returns the task of a configuration; reads the lists of its data and creates the untrained model."""
    return task_class(config.task)(config)
