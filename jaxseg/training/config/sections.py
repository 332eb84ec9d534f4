"""The settings that every task has: optimizer, schedule of the learning rate, and trainer."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from jaxseg.settings import Range, shown, verify

Count = Annotated[int, Range(1, 100_000_000)]
CountOrZero = Annotated[int, Range(0, 100_000_000)]
Epochs = Annotated[int, Range(1, 1_000_000)]
Positive = Annotated[float, Range(0, 1_000_000, above=True)]
NotNegative = Annotated[float, Range(0, 1_000_000)]
Decay = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; its numbers have the same meaning as in PyTorch.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay), "adam_l2" (weight decay added to the gradient, which is what
        PyTorch calls Adam with weight_decay) or "sgd" (weight decay added to the gradient).
      learning_rate: the base rate, before the schedule.
      beta1: decay of the mean of the gradients, for the Adam optimizers.
      beta2: decay of the mean of the squared gradients, for the Adam optimizers.
      epsilon: added to the denominator of the Adam optimizers.
      weight_decay: 0 turns it off; "adam" does not have it.
      bias_learning_rate: factor on the learning rate of parameters that are called `bias`.
      bias_weight_decay: whether these parameters have weight decay.
      momentum: for "sgd".
    """

    name: Literal["adam", "adamw", "adam_l2", "sgd"]
    learning_rate: Positive
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    bias_learning_rate: NotNegative = 1.0
    bias_weight_decay: bool = True
    momentum: Decay = 0.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self) -> Iterator[str]:
        if self.name == "adam" and self.weight_decay:
            yield "weight_decay: adam does not have it; choose adamw (decoupled) or adam_l2 (added to the gradient)"
        if self.name != "sgd" and self.momentum:
            yield f"momentum: {self.name} does not have it; it belongs to sgd (the Adam optimizers have beta1)"


_SHAPES = {  # setting -> the schedules that have it
    "milestones": ("multistep",),
    "step_size": ("step",),
    "gamma": ("step", "multistep"),
    "power": ("polynomial",),
    "final": ("cosine", "polynomial"),
}


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The schedule of the learning rate. All lengths are in epochs.

    Attributes:
      name: "constant", "step" (times gamma every step_size epochs), "multistep" (times gamma at each milestone),
        "cosine" or "polynomial" (from the learning rate down to `final` at the end of training).
      milestones: for "multistep": increasing numbers of finished epochs.
      step_size: for "step".
      gamma: for "step" and "multistep".
      power: for "polynomial".
      warmup_epochs: number of epochs in which the rate rises linearly to its full value. "cosine" and "polynomial"
        start after them; milestones and step_size count from the start of training.
      final: learning rate at the end, for "cosine" and "polynomial".
      per: the rate changes once per "epoch", as in the original projects, or at every "step".
    """

    name: Literal["constant", "step", "multistep", "cosine", "polynomial"] = "constant"
    milestones: tuple[Epochs, ...] = ()
    step_size: Epochs | None = None
    gamma: Annotated[float, Range(0, 1, above=True)] = 0.1
    power: Annotated[float, Range(0, 100, above=True)] = 0.9
    warmup_epochs: Annotated[int, Range(0, 1_000_000)] = 0
    final: NotNegative = 0.0
    per: Literal["epoch", "step"] = "epoch"

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            names = _SHAPES.get(field.name, (self.name,))
            if self.name not in names and getattr(self, field.name) != field.default:
                yield f"{field.name}: {self.name} does not have it; it belongs to {' and '.join(names)}"
        if self.name == "multistep" and not self.milestones:
            yield "milestones: multistep needs at least one"
        if list(self.milestones) != sorted(set(self.milestones)):
            yield f"milestones: {shown(self.milestones)} do not increase"
        if self.name == "step" and self.step_size is None:
            yield "step_size: the schedule step needs it"


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The settings of the training loop.

    Attributes:
      epochs: passes over the training data.
      batch_size: examples per step, over all devices and accumulated parts together.
      max_steps: number of optimizer steps after which training ends early; null: all epochs are trained.
      parallel: "jit" (one program over all devices) or "pmap" (one copy of the program per device).
      precision: dtype of the arithmetic; parameters and the optimizer are float32.
      accumulate: number of parts of a batch that are computed one after the other to save memory.
      clip_norm: largest norm of all gradients together; null: gradients are not clipped.
      remat: store only the inputs of every block of the network for the backward pass and compute the rest again. It
        saves memory on accelerators; on CPUs, XLA undoes it.
      keep_memory: if only CPUs compute, keep freed memory for later use. It makes training of large networks up to a
        third faster and that of small ones slower (`jaxseg.xla.keep_freed_memory`; only in `jaxseg train`).
      ema: decay of a moving average of the parameters, which is validated and published instead of the parameters;
        null: none. It is corrected for its start as in Adam, so that the random initial parameters have no weight.
      batch_norm: statistics over the "global" batch or over the share of each "replica" (device).
      validate_every: number of epochs between validations.
      checkpoint_every: number of epochs between checkpoints.
      checkpoint_steps: number of steps between further checkpoints; null: none.
      keep_last: number of the newest checkpoints to keep.
      keep_best: number of the best checkpoints to keep.
      log_every: number of steps between entries of the log.
      pictures_every: number of epochs between pictures; 0: never.
    """

    epochs: Epochs
    batch_size: Annotated[int, Range(1, 1_000_000)]
    max_steps: Count | None = None
    parallel: Literal["jit", "pmap"] = "jit"
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: Annotated[int, Range(1, 1_000_000)] = 1
    clip_norm: Positive | None = None
    remat: bool = False
    keep_memory: bool = False
    ema: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    batch_norm: Literal["global", "replica"] = "global"
    validate_every: Count = 1
    checkpoint_every: Count = 1
    checkpoint_steps: Count | None = None
    keep_last: Count = 2
    keep_best: Count = 1
    log_every: Count = 10
    pictures_every: CountOrZero = 0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self) -> Iterator[str]:
        if self.batch_size % self.accumulate:
            yield f"accumulate: a batch of {self.batch_size} cannot be divided into {self.accumulate} equal parts"
        if self.batch_norm == "replica" and self.parallel == "jit":
            yield "batch_norm: replica needs parallel: pmap; jit sees the whole batch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How examples are read; these settings are part of every task's section `data`.

    Attributes:
      threads: number of reading threads.
      workers: number of reading processes, for data that are slow to decode; 0: none.
      on_error: "stop" ends the run at a bad record; "skip" counts it and takes the next good one.
    """

    threads: Annotated[int, Range(1, 256)] = 4
    workers: Annotated[int, Range(0, 256)] = 0
    on_error: Literal["stop", "skip"] = "stop"
