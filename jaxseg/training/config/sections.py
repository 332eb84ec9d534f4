"""The settings that every task has: optimizer, schedule of the learning rate, and how training runs."""

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
    """The optimizer; its numbers mean what they mean in PyTorch.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay), "adam_l2" (weight decay added to the gradient, which is what
        PyTorch calls Adam with weight_decay) or "sgd" (weight decay added to the gradient).
      learning_rate: before the schedule.
      beta1: decay of the mean of the gradients, of the Adams.
      beta2: decay of the mean of their squares, of the Adams.
      epsilon: added to the Adams' denominator.
      weight_decay: 0 is none; "adam" has none.
      bias_learning_rate: factor on the learning rate of parameters whose name is `bias`.
      bias_weight_decay: whether these have weight decay too.
      momentum: of "sgd".
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
            yield "weight_decay: adam has none; choose adamw (decoupled) or adam_l2 (added to the gradient)"
        if self.name != "sgd" and self.momentum:
            yield f"momentum: {self.name} has none; it is of sgd (the Adams have beta1)"


_SHAPES = {  # setting -> the schedules that have it
    "milestones": ("multistep",),
    "step_size": ("step",),
    "gamma": ("step", "multistep"),
    "power": ("polynomial",),
    "final": ("cosine", "polynomial"),
}


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes. All lengths are in epochs.

    Attributes:
      name: "constant", "step" (times gamma every step_size epochs), "multistep" (times gamma at each milestone),
        "cosine" or "polynomial" (from the learning rate down to `final` at the end of training).
      milestones: of "multistep": numbers of finished epochs, increasing.
      step_size: of "step".
      gamma: of "step" and "multistep".
      power: of "polynomial".
      warmup_epochs: epochs in which the rate rises evenly to its full value. "cosine" and "polynomial" begin after
        them; milestones and step_size count from the start of training.
      final: learning rate at the end, of "cosine" and "polynomial".
      per: the rate changes once an "epoch", as in the original projects, or at every "step".
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
                yield f"{field.name}: {self.name} has none; it is of {' and '.join(names)}"
        if self.name == "multistep" and not self.milestones:
            yield "milestones: multistep needs at least one"
        if list(self.milestones) != sorted(set(self.milestones)):
            yield f"milestones: {shown(self.milestones)} do not increase"
        if self.name == "step" and self.step_size is None:
            yield "step_size: step needs it"


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How training runs.

    Attributes:
      epochs: passes over the training data.
      batch_size: examples a step, over all devices and accumulated parts together.
      max_steps: optimizer steps after which training ends before its last epoch; null: all are taken.
      parallel: "jit" (one program over all devices) or "pmap" (a copy of the program a device).
      precision: dtype of the arithmetic; parameters and the optimizer are float32.
      accumulate: parts that a batch is computed in, one after another, to save memory.
      clip_norm: largest norm of all gradients together; null: not clipped.
      remat: of every block of the network only the inputs are kept for the backward pass, and the rest is computed
        again there. It saves memory on accelerators; on CPUs, XLA undoes it.
      keep_memory: where CPUs alone compute, the process keeps freed memory for its next use: for large networks up to
        a third faster, for small ones slower (`jaxseg.xla.keep_freed_memory`; `jaxseg train` only).
      ema: decay of a running mean of the parameters, which is then validated and published; null: none. As Adam's, it
        is corrected for its start, so that the random parameters there do not count.
      batch_norm: statistics over the "global" batch or over each "replica" (device) alone.
      validate_every: epochs.
      checkpoint_every: epochs.
      checkpoint_steps: also every so many steps; null: not.
      keep_last: newest checkpoints that are kept.
      keep_best: best checkpoints that are kept.
      log_every: steps.
      pictures_every: epochs; 0: never.
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
            yield "batch_norm: replica is of parallel: pmap; jit sees the whole batch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How examples are read; part of every task's section `data`.

    Attributes:
      threads: that read at the same time.
      workers: processes that read, where decoding is heavy; 0: none.
      on_error: what a bad record does: "stop" the run, or "skip" to the next good one, and be counted.
    """

    threads: Annotated[int, Range(1, 256)] = 4
    workers: Annotated[int, Range(0, 256)] = 0
    on_error: Literal["stop", "skip"] = "stop"
