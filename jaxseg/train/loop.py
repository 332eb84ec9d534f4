"""The training loop: steps, validation, checkpoints, and going on exactly where a run was cut short."""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxseg.data.pipeline import prefetch_to_device, training_batches
from jaxseg.draw.save import save_picture
from jaxseg.train.checkpoint import Checkpoints, clear_when_full
from jaxseg.train.config import Config
from jaxseg.train.evaluation import evaluate
from jaxseg.train.learner import AXIS, Learner, State, initial_state, make_learner
from jaxseg.train.log import METRICS_FILE, Log, read_metrics
from jaxseg.train.mesh import Placement, make_placement
from jaxseg.train.optim import learning_rate, make_optimizer
from jaxseg.train.task import Problem
from jaxseg.weights.store import save_model

CHECKPOINTS, MODEL, PICTURES = "checkpoints", "model", "pictures"
PICTURED = 4  # examples in a picture
NAMED = 8  # examples in a message


class TrainingError(ValueError):
    """A run cannot go on; the message says at which step, and what is kept."""


@dataclasses.dataclass
class Run:
    """A run under way: what does not change while it goes on, and where it is.

    Attributes:
      steps_per_epoch, total: numbers of optimisation steps.
      step: how many were taken.
      rate: step -> learning rate.
      on_step: called with (step, total, metrics or None) after every step.
      tell: called with a line for the user.
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
    step: int = 0
    since: tuple[float, int] = (0.0, 0)

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


def fit(run: Run) -> dict[str, float]:
    """Trains a model, from the newest checkpoint in the folder if there is one, and returns the last validation.

    The folder gets `metrics.jsonl`, `checkpoints/`, `pictures/`, and the model directory `model/` of the best
    validation, or of the last step where there is no validation split.

    Raises:
      TrainingError: the loss or its gradient is not finite. RecordError: a record is bad. ValueError: all checkpoints
        are damaged. OSError: something cannot be read or written; the checkpoints before stay as they are.
    """
    compiled = run.placement.compile(run.learner)
    cfg = run.config.trainer
    with contextlib.ExitStack() as stack:
        folder = run.folder / CHECKPOINTS
        checkpoints = stack.enter_context(Checkpoints(folder, keep_last=cfg.keep_last, keep_best=cfg.keep_best))
        batches = stack.enter_context(contextlib.closing(_batches(run)))
        state = _restored(run, checkpoints, batches)
        with Log(run.folder, run.step) as log:
            position = _train(run, state, compiled, batches, checkpoints, log)
        checkpoints.wait()
        _finish(run, checkpoints)
        _tell_of_skipped(run, position["skipped"])
    return _last_validation(run.folder)


def evaluate_checkpoint(
    config: Config, problem: Problem, checkpoints: Checkpoints, step: int, split: str, devices: Sequence[jax.Device]
) -> dict[str, float]:
    """Returns what is measured of a split with the checkpoint of a step."""
    run = prepare(config, problem, checkpoints.folder.parent, devices=devices)
    state, _ = checkpoints.restore(step, _fresh(run))
    evaluation = run.placement.compile_evaluation(run.learner, problem.scores)
    return evaluate(problem, split, run.placement, evaluation, state, config.trainer.batch_size)


def _fresh(run: Run) -> State:
    """The state at step 0, on all devices."""
    return jax.device_put(initial_state(run.learner, run.problem.model, seed=run.config.seed), run.placement.replicated)


def prepare(
    config: Config,
    problem: Problem,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    on_step: Callable = lambda *_: None,
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
    total = cfg.epochs * steps_per_epoch if cfg.max_steps is None else cfg.max_steps
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
    )
    return Run(config, problem, folder, placement, learner, steps_per_epoch, total, rate, on_step, tell)


def _batches(run: Run):
    cfg, data = run.config.trainer, run.config.data
    return training_batches(
        run.problem.splits["train"],
        run.problem.augment,
        batch_size=cfg.batch_size,
        seed=run.config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=data.threads,
        workers=data.workers,
        on_error=data.on_error,
    )


def _restored(run: Run, checkpoints: Checkpoints, batches) -> State:
    """The state to start from, on the devices; `run.step` and the position in the data follow it."""
    single = _fresh(run)
    found = checkpoints.restore_latest(single, run.tell)
    if found is not None:
        run.step, single, position = found
        batches.set_state(position)
        run.tell(f"going on after step {run.step} of {run.total}")
    return run.placement.put_state(single)


def _train(run: Run, state: State, compiled, batches, checkpoints: Checkpoints, log: Log) -> dict:
    """Takes the steps that are left, and returns the position in the data after the last.

    What a step measured is read when the next is under way.
    """
    evaluation = run.placement.compile_evaluation(run.learner, run.problem.scores)
    pending: collections.deque = collections.deque()
    position = batches.get_state()
    best, run.since = checkpoints.best_score(), (time.perf_counter(), run.step)
    stream = prefetch_to_device(batches, lambda batch: _put(run, batch))
    while run.step < run.total:
        (batch, indices), position = next(stream)
        state, metrics = compiled(state, batch)
        run.step += 1
        pending.append((run.step, metrics, indices))
        validates, stores, draws = _validates(run), _stores(run), _draws(run)
        stops = validates or stores or draws
        while len(pending) > (0 if stops else 1):
            _settle(run, *pending.popleft(), log)
        if not stops:
            continue
        single, score = run.placement.take_state(state), None
        if validates:
            scores = evaluate(run.problem, "val", run.placement, evaluation, single, run.config.trainer.batch_size)
            log.write("val", run.step, run.epoch, scores)
            score = scores[run.problem.target]
            run.tell(f"step {run.step}: {', '.join(f'{name} {value:.4f}' for name, value in scores.items())}")
        if draws:
            _write_picture(run, single)
        better = score is not None and score > best
        if stores or better:
            checkpoints.save(run.step, single, position, score=score)
        if better:
            best = score
            _write_model(run, single)
    return position


def _settle(run: Run, step: int, metrics: dict, indices: np.ndarray, log: Log) -> None:
    """Reads what a step measured, stops where it is not finite, and records it."""
    values = run.placement.fetch(metrics)
    for name in ("loss", "gradient_norm"):  # one that is not finite spoils the parameters, and all that follows
        if not math.isfinite(values[name]):
            what = f"the {name.replace('_', ' ')} is {values[name]} at step {step}"
            raise TrainingError(
                f"{what}; its examples: {_names(run, indices)}. The checkpoints before it are kept; lower "
                "optimizer.learning_rate, set trainer.clip_norm, or look at these files"
            )
    run.on_step(step, run.total, values)
    if step % run.config.trainer.log_every == 0 or step == run.total:
        rate = float(run.rate(step - 1))
        log.write(
            "train", step, (step - 1) // run.steps_per_epoch + 1, values | {"learning_rate": rate} | run.speed(step)
        )


def _names(run: Run, indices: np.ndarray) -> str:
    """The names of a batch's examples, the first of many."""
    names = [run.problem.splits["train"].name(int(i)) for i in indices[:NAMED]]
    return ", ".join(names) + (f" and {len(indices) - NAMED} more" if len(indices) > NAMED else "")


def _tell_of_skipped(run: Run, skipped: dict[str, int]) -> None:
    if skipped:
        names = ", ".join(f"{name} ({times} times)" for name, times in list(skipped.items())[:NAMED])
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        run.tell(f"{len(skipped)} bad records were skipped, others taken in their place: {names}{more}")


def _last_validation(folder: Path) -> dict[str, float]:
    """What the log says of it: a run that had taken all steps before does not validate again."""
    entries = [entry for entry in read_metrics(folder / METRICS_FILE) if entry["split"] == "val"]
    last = entries[-1] if entries else {}
    return {k: math.nan if v is None else v for k, v in last.items() if k not in ("split", "step", "epoch")}


def _validates(run: Run) -> bool:
    return "val" in run.problem.splits and run.due(run.config.trainer.validate_every)


def _stores(run: Run) -> bool:
    steps = run.config.trainer.checkpoint_steps
    return run.due(run.config.trainer.checkpoint_every) or bool(steps and run.step % steps == 0)


def _draws(run: Run) -> bool:
    return run.problem.draw is not None and run.due(run.config.trainer.pictures_every)


def _finish(run: Run, checkpoints: Checkpoints) -> None:
    """Makes sure of the model directory: a run that was killed may have stored its best step and not the model."""
    step = checkpoints.best() or run.total
    state, _ = checkpoints.restore(step, _fresh(run))
    _write_model(run, state)


def _put(run: Run, batch: dict[str, np.ndarray]) -> tuple[dict[str, jax.Array], np.ndarray]:
    """A batch on the devices, and which examples it holds."""
    indices = batch["index"]
    return run.placement.put_batch({name: x for name, x in batch.items() if name != "index"}), indices


def _write_model(run: Run, state: State) -> None:
    """Writes the model directory; its arrays are whole on every host, and the first writes."""
    if jax.process_index() == 0:
        local = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), state)
        with clear_when_full("the model", run.folder / MODEL):
            save_model(run.learner.trained(local), run.folder / MODEL, run.problem.model.card, overwrite=True)


def _write_picture(run: Run, state: State) -> None:
    if jax.process_count() > 1:
        return  # a picture is drawn by one host, and computing takes them all
    split = run.problem.splits.get("val", run.problem.splits["train"])
    records = [split[i] for i in range(min(PICTURED, len(split)))]
    (run.folder / PICTURES).mkdir(exist_ok=True)
    picture = run.problem.draw(run.learner.trained(state), records)
    save_picture(picture, run.folder / PICTURES / f"step_{run.step:07d}.png")
