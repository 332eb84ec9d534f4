"""The plan of a run: everything that does not change during training, made from the configuration."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxseg.training.config.config import Config
from jaxseg.training.learner import AXIS, Learner, State, initial_state, make_learner, state_shapes
from jaxseg.training.mesh import Placement, make_placement
from jaxseg.training.optim import learning_rate, make_optimizer
from jaxseg.training.task import Task


class Due(NamedTuple):
    """The actions that are due after a step."""

    validation: bool
    checkpoint: bool
    picture: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
      config: all settings.
      task: the method.
      folder: folder of the run.
      placement: the devices, and the distribution of a batch over them.
      learner: the optimisation step as a pure function.
      steps_per_epoch: optimisation steps per epoch.
      total_steps: optimisation steps of the whole run.
      rate: number of finished steps -> learning rate of the next step.
      on_start: called with (finished steps, total steps) before the first step, which includes compiling.
      on_step: called with (step, total steps, metrics) after every step.
      on_validation: called with (finished epochs, score) after every validation except the last, when the checkpoint
        is stored; an exception from it ends the run.
      tell: called with each message for the user.
    """

    config: Config
    task: Task
    folder: Path
    placement: Placement
    learner: Learner
    steps_per_epoch: int
    total_steps: int
    rate: Callable
    on_start: Callable[[int, int], None]
    on_step: Callable
    on_validation: Callable[[int, float], None]
    tell: Callable[[str], None]

    @functools.cached_property
    def measure(self) -> Callable:
        """The compiled function (state, batch) -> the task's scores of the examples and their "weight"."""
        return self.placement.compile_evaluation(self.learner, self.task.scores)

    def fresh_state(self) -> State:
        """Returns the state at step 0, replicated over all devices."""
        state = initial_state(self.learner, self.task.model, seed=self.config.seed)
        return jax.device_put(state, self.placement.replicated)

    def state_shapes(self) -> State:
        """Returns the shapes, dtypes and shardings of the state, for reading one from a checkpoint."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.placement.replicated),
            state_shapes(self.learner, self.task.model),
        )

    def due(self, step: int) -> Due:
        """Returns the actions that are due after a step."""
        cfg = self.config.trainer

        def ends(every: int) -> bool:
            return every > 0 and (step == self.total_steps or step % (every * self.steps_per_epoch) == 0)

        return Due(
            validation="val" in self.task.splits and ends(cfg.validate_every),
            checkpoint=ends(cfg.checkpoint_every) or bool(cfg.checkpoint_steps and step % cfg.checkpoint_steps == 0),
            picture=self.task.draw is not None and ends(cfg.pictures_every),
        )


def make_plan(
    config: Config,
    task: Task,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    on_start: Callable[[int, int], None] = lambda *_: None,
    on_step: Callable = lambda *_: None,
    on_validation: Callable[[int, float], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Returns the plan of a run; nothing is written.

    Raises:
      ValueError: data, batch size and devices do not fit.
    """
    cfg, examples = config.trainer, len(task.splits["train"])
    placement = make_placement(cfg.parallel, devices, cfg.batch_size, accumulate=cfg.accumulate)
    steps_per_epoch = examples // cfg.batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"trainer.batch_size: {cfg.batch_size} is more than the {examples} training examples")
    lengths = {"steps_per_epoch": steps_per_epoch, "epochs": cfg.epochs}
    learner = make_learner(
        task.model,
        make_optimizer(config.optimizer, config.schedule, **lengths, clip_norm=cfg.clip_norm),
        task.loss,
        axis=AXIS if cfg.parallel == "pmap" else None,
        batch_norm=cfg.batch_norm,
        accumulate=cfg.accumulate,
        remat=cfg.remat,
        ema=cfg.ema,
    )
    return Plan(
        config,
        task,
        folder,
        placement,
        learner,
        steps_per_epoch,
        total_steps=min(cfg.epochs * steps_per_epoch, cfg.max_steps or math.inf),
        rate=learning_rate(config.optimizer, config.schedule, **lengths),
        on_start=on_start,
        on_step=on_step,
        on_validation=on_validation,
        tell=tell,
    )


def make_evaluation_plan(
    config: Config, task: Task, folder: Path, *, devices: Sequence[jax.Device], tell: Callable[[str], None]
) -> Plan:
    """Returns the plan for evaluating a run on any number of devices, whether or not they divide its batch size."""
    plan = make_plan(config, task, folder, devices=devices[:1], tell=tell)
    return dataclasses.replace(plan, placement=Placement("jit", tuple(devices)))
