"""A run before its first step: model, optimizer, devices and lengths, put together from its configuration."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxseg.training.config.config import Config
from jaxseg.training.learner import AXIS, Learner, State, initial_state, make_learner
from jaxseg.training.mesh import Placement, make_placement
from jaxseg.training.optim import learning_rate, make_optimizer
from jaxseg.training.task import Problem


@dataclasses.dataclass
class Run:
    """A run under way: what does not change while it goes on, and where it is.

    Attributes:
      steps_per_epoch, total: numbers of optimisation steps.
      step: how many were taken.
      rate: step -> learning rate.
      on_step: called with (step, total, metrics or None) after every step.
      on_validation: called with (epochs taken, score) after a validation that is not the last, once all of it is
        kept; an exception from it ends the run there.
      tell: called with a line for the user.
      pause: called where the run may be left, between steps and between batches of an evaluation.
    """

    config: Config
    problem: Problem
    folder: Path
    placement: Placement
    learner: Learner
    steps_per_epoch: int
    total: int
    rate: Callable
    on_step: Callable
    tell: Callable[[str], None]
    on_validation: Callable[[int, float], None] = lambda *_: None
    step: int = 0
    since: tuple[float, int] = (0.0, 0)
    pause: Callable[[], None] = lambda: None

    @property
    def epoch(self) -> int:
        """Whole epochs that were taken."""
        return self.step // self.steps_per_epoch

    def due(self, every: int) -> bool:
        """Whether the step just taken ends an epoch that is a multiple of `every`, or the run."""
        if self.step == self.total:
            return every > 0
        return every > 0 and self.step % (every * self.steps_per_epoch) == 0

    def speed(self, step: int) -> dict[str, float]:
        """Returns the seconds since this was last asked, and how many examples a second were trained on."""
        (then, before), self.since = self.since, (time.perf_counter(), step)
        seconds = max(self.since[0] - then, 1e-6)
        examples = (step - before) * self.config.trainer.batch_size
        return {"seconds": round(seconds, 3), "examples_per_second": round(examples / seconds, 2)}

    def fresh(self) -> State:
        """Returns the state at step 0, whole on every device."""
        state = initial_state(self.learner, self.problem.model, seed=self.config.seed)
        return jax.device_put(state, self.placement.replicated)

    def compile_evaluation(self) -> Callable:
        """Returns the function with which `jaxseg.training.evaluation.evaluate` measures a batch."""
        return self.placement.compile_evaluation(self.learner, self.problem.scores)


def prepare(
    config: Config,
    problem: Problem,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    on_step: Callable = lambda *_: None,
    on_validation: Callable[[int, float], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Run:
    """Returns a run that has not begun; nothing is written.

    Raises:
      ValueError: data, batch and devices do not fit.
    """
    cfg = config.trainer
    placement = make_placement(cfg.parallel, devices, cfg.batch_size, accumulate=cfg.accumulate)
    steps_per_epoch = len(problem.splits["train"]) // cfg.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"trainer.batch_size: {cfg.batch_size} is more than the {len(problem.splits['train'])} training examples"
        )
    total = min(cfg.epochs * steps_per_epoch, cfg.max_steps or math.inf)
    times = {"steps_per_epoch": steps_per_epoch, "epochs": cfg.epochs}
    transform = make_optimizer(config.optimizer, config.schedule, **times, clip_norm=cfg.clip_norm)
    rate = learning_rate(config.optimizer, config.schedule, **times)
    learner = make_learner(
        problem.model,
        transform,
        problem.loss,
        axis=AXIS if cfg.parallel == "pmap" else None,
        batch_norm=cfg.batch_norm,
        accumulate=cfg.accumulate,
        remat=cfg.remat,
        ema=cfg.ema,
        timed=problem.timed,
    )
    return Run(config, problem, folder, placement, learner, steps_per_epoch, total, rate, on_step, tell, on_validation)
