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
      name: algorithm: "adam", "adamw" (decoupled weight decay), "adam_l2" (weight decay added to the gradient, as in
        PyTorch's Adam with weight_decay) or "sgd" (weight decay added to the gradient).
      learning_rate: base learning rate, before the schedule; above 0.
      beta1: decay of the mean of the gradients, for the Adam optimizers; in [0, 1).
      beta2: decay of the mean of the squared gradients, for the Adam optimizers; in [0, 1).
      epsilon: number added to the denominator of the Adam optimizers; above 0.
      weight_decay: strength of the weight decay, 0 or more; 0: none. "adam" has no weight decay.
      bias_learning_rate: factor on the learning rate of parameters with the name `bias`; 0 or more.
      bias_weight_decay: whether weight decay applies to these parameters.
      momentum: momentum of "sgd", in [0, 1).
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
      milestones: increasing numbers of finished epochs, for "multistep".
      step_size: number of epochs between two changes of the rate, for "step".
      gamma: factor on the rate at each change, in (0, 1], for "step" and "multistep".
      power: exponent of "polynomial", in (0, 100].
      warmup_epochs: number of epochs in which the rate rises linearly to its full value, 0 or more. "cosine" and
        "polynomial" start after them; milestones and step_size count from the start of training.
      final: learning rate at the end of training, 0 or more, for "cosine" and "polynomial".
      per: interval at which the rate changes: "epoch", as in the original projects, or "step" (optimizer step).
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
      epochs: number of passes over the training data.
      batch_size: number of examples per step, over all devices and accumulated parts together.
      max_steps: number of optimizer steps after which training ends early; null: no limit.
      parallel: way to use several devices: "jit" (one program over all devices) or "pmap" (one copy per device).
      precision: dtype of the arithmetic, "float32" or "bfloat16"; parameters and the optimizer's state are float32.
      accumulate: number of parts of a batch that are computed one after the other to save memory; 1 computes the whole
        batch at once.
      clip_norm: largest L2 norm of all gradients together, above 0; null: gradients are not clipped.
      remat: whether the backward pass recomputes the activations inside each block of the network instead of storing
        them. This saves memory on accelerators; on CPUs, XLA undoes it.
      keep_memory: whether a process that uses only CPUs keeps freed memory for later use. Training of large networks
        without huge pages becomes faster, that of small ones slower, and the process can keep a multiple of the memory
        that it needs (`jaxseg.xla.keep_freed_memory`; only in `jaxseg train`).
      ema: decay of a moving average of the parameters, in (0, 1); null: no average. The average is validated and stored
        as the model instead of the parameters. Adam's bias correction removes the random initial parameters from it.
      batch_norm: examples over which batch norm computes its statistics: the "global" batch, or the share of each
        "replica" (device).
      validate_every: number of epochs between validations.
      checkpoint_every: number of epochs between checkpoints.
      checkpoint_steps: number of optimizer steps between additional checkpoints; null: none.
      keep_last: number of newest checkpoints to keep.
      keep_best: number of best checkpoints to keep, by their validation score.
      log_every: number of optimizer steps between entries of the log.
      pictures_every: number of epochs between pictures of predictions; 0: no pictures.
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
    """Reading of the examples; these settings are part of every task's section `data`.

    Attributes:
      threads: number of threads that read examples, 1 to 256.
      workers: number of processes that read examples, 0 to 256, for data that are slow to decode; 0: only threads.
      on_error: treatment of a bad record: "stop" ends the run, "skip" counts the record and reads the next good one.
    """

    threads: Annotated[int, Range(1, 256)] = 4
    workers: Annotated[int, Range(0, 256)] = 0
    on_error: Literal["stop", "skip"] = "stop"
