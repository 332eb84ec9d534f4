"""The training loop: steps, validation, checkpoints, and resuming exactly where a run was interrupted."""

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxseg.card import read_card
from jaxseg.draw.pictures import save_picture
from jaxseg.interrupts import uninterrupted
from jaxseg.training.batches import Batches, evaluation_batches, prefetch_to_device, training_batches
from jaxseg.training.checkpoint import Checkpoints, clear_when_full
from jaxseg.training.learner import State, empty
from jaxseg.training.log import METRICS_FILE, Log, brief, read_metrics
from jaxseg.training.plan import Due, Plan
from jaxseg.training.reader import listed
from jaxseg.weights.store import same_parameters, save_model

CHECKPOINTS, MODEL, PICTURES = "checkpoints", "model", "pictures"
PICTURED = 4  # examples in a picture


class TrainingError(ValueError):
    """Training cannot continue; the message states the step and which checkpoints are kept."""


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
      step: number of optimisation steps taken.
      best: the highest validation score so far; minus infinity before the first validation.
      pause: called between steps and between batches of a validation; a pending Ctrl-C or SIGTERM acts there.
      since: time in seconds and step of the last measurement of the speed.
    """

    step: int
    best: float
    pause: Callable[[], None]
    since: tuple[float, int]

    def speed(self, step: int, batch_size: int) -> dict[str, float]:
        """Returns the seconds since this was last called and the number of training examples per second."""
        (then, before), self.since = self.since, (time.perf_counter(), step)
        seconds = max(self.since[0] - then, 1e-6)
        examples = (step - before) * batch_size
        return {"seconds": round(seconds, 3), "examples_per_second": round(examples / seconds, 2)}


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """The files that a run writes into its folder during training."""

    checkpoints: Checkpoints
    log: Log


def fit(plan: Plan) -> dict[str, float]:
    """Trains a model and returns the last validation; resumes from the newest checkpoint in the folder if there is one.

    The folder gets `metrics.jsonl`, `checkpoints/`, `pictures/`, and the model directory `model/` of the best
    validation, or of the last step if there is no validation split. Ctrl-C and SIGTERM take effect between steps and
    between batches of a validation; a second one takes effect at once.

    Raises:
      TrainingError: the loss or its gradient is not finite.
      RecordError: a record is bad.
      ValueError: all checkpoints are damaged.
      OSError: something cannot be read or written; the checkpoints before it are kept.
    """
    cfg = plan.config.trainer
    with uninterrupted() as pause, contextlib.ExitStack() as stack:
        folder = plan.folder / CHECKPOINTS
        checkpoints = stack.enter_context(Checkpoints(folder, keep_last=cfg.keep_last, keep_best=cfg.keep_best))
        batches = stack.enter_context(contextlib.closing(_training_batches(plan)))
        step, state = _start(plan, checkpoints, batches)
        with Log(plan.folder, step) as log:
            progress = Progress(step, checkpoints.best_score(), pause, since=(time.perf_counter(), step))
            position = _train(plan, progress, state, batches, _Outputs(checkpoints, log))
        checkpoints.wait()
        _write_best_model(plan, checkpoints)
        _report_skipped(plan, position["skipped"])
    return _last_validation(plan.folder)


def _training_batches(plan: Plan) -> Batches:
    cfg, data = plan.config.trainer, plan.config.data
    return training_batches(
        plan.task.splits["train"],
        plan.task.augment,
        batch_size=cfg.batch_size,
        seed=plan.config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=data.threads,
        workers=data.workers,
        on_error=data.on_error,
    )


def _start(plan: Plan, checkpoints: Checkpoints, batches: Batches) -> tuple[int, State]:
    """Returns the number of steps taken and the state on the devices; sets the position in the data."""
    found = checkpoints.restore_latest(plan.state_shapes(), plan.tell)
    if found is None:
        state = plan.fresh_state()
        empty(plan.task.model)
        return 0, plan.placement.put_state(state)
    empty(plan.task.model)
    step, state, position = found
    for name, count in _replicas(plan).items():
        if position.get(name, count) != count:
            raise ValueError(
                f"the run computed batch statistics on each of {position[name]} devices (trainer.batch_norm: replica) "
                f"and cannot resume with {count}: select {position[name]} devices with -g, or start a new run"
            )
    batches.set_state(position)
    plan.tell(f"resuming after step {step} of {plan.total_steps}")
    return step, plan.placement.put_state(state)


def _replicas(plan: Plan) -> dict[str, int]:
    """Returns the additional entries of a position if batch statistics depend on the number of devices."""
    return {"replicas": len(plan.placement.devices)} if plan.config.trainer.batch_norm == "replica" else {}


def _train(plan: Plan, progress: Progress, state: State, batches: Batches, outputs: _Outputs) -> dict:
    """Takes the remaining steps and returns the position in the data after the last one.

    The metrics of a step are read while the next step is computed.
    """
    take_step = plan.placement.compile(plan.learner)
    pending: collections.deque = collections.deque()
    position = batches.get_state()
    stream = prefetch_to_device(batches, lambda batch: _put(plan, batch))
    if progress.step < plan.total_steps:
        plan.on_start(progress.step, plan.total_steps)
    while progress.step < plan.total_steps:
        progress.pause()
        (batch, indices), position = next(stream)
        state, metrics = take_step(state, batch)
        progress.step += 1
        pending.append((progress.step, metrics, indices))
        due = plan.due(progress.step)
        while len(pending) > (0 if any(due) else 1):
            _record_step(plan, progress, outputs.log, *pending.popleft())
        if any(due):
            _conclude_interval(plan, progress, due, plan.placement.take_state(state), position, outputs)
    return position


def _put(plan: Plan, batch: dict[str, np.ndarray]) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Returns a batch on the devices and the numbers of its examples."""
    indices = batch["index"]
    return plan.placement.put_batch({name: x for name, x in batch.items() if name != "index"}), indices


def _record_step(plan: Plan, progress: Progress, log: Log, step: int, metrics: dict, indices: np.ndarray) -> None:
    """Reads the metrics of a step, stops if they are not finite, and logs them."""
    values = plan.placement.fetch(metrics)
    for name in ("loss", "gradient_norm"):  # if one is not finite, the parameters and all later steps are not either
        if not math.isfinite(values[name]):
            names = [plan.task.splits["train"].name(int(i)) for i in indices]
            what = f"the {name.replace('_', ' ')} is {values[name]} at step {step}"
            raise TrainingError(
                f"{what}; its examples: {listed(names)}. The checkpoints before it are kept; lower "
                "optimizer.learning_rate, set trainer.clip_norm, or check these files"
            )
    plan.on_step(step, plan.total_steps, values)
    cfg = plan.config.trainer
    if step % cfg.log_every == 0 or step == plan.total_steps:
        values = values | {"learning_rate": float(plan.rate(step - 1))} | progress.speed(step, cfg.batch_size)
        log.write("train", step, (step - 1) // plan.steps_per_epoch + 1, values)


def _conclude_interval(
    plan: Plan, progress: Progress, due: Due, state: State, position: dict, outputs: _Outputs
) -> None:
    """Validates, draws and stores a checkpoint, as far as each is due after a step.

    If validation or drawing fails on a single host, the step is stored before the error is raised.
    """
    score, failure = None, None
    try:
        if due.validation:
            score = _validate(plan, progress, state, outputs.log)
        if due.picture:
            _write_picture(plan, progress.step, state)
    except Exception as error:
        if jax.process_count() > 1:  # the other hosts would wait for this one
            raise
        failure = error
    better = score is not None and score > progress.best
    if due.checkpoint or better or failure:
        outputs.checkpoints.save(progress.step, state, position | _replicas(plan), score=score)
    if better:
        progress.best = score
        _write_model(plan, state, progress.step, score)
    if failure:
        what = "validation" if due.validation and score is None else "its picture"
        plan.tell(f"step {progress.step} is stored as a checkpoint, although {what} failed")
        raise failure
    if score is not None and progress.step < plan.total_steps:
        plan.on_validation(progress.step // plan.steps_per_epoch, score)


def _validate(plan: Plan, progress: Progress, state: State, log: Log) -> float:
    """Measures the validation split, logs the numbers, and returns the score."""
    step = progress.step
    scores = measure_split(plan, "val", state, pause=progress.pause)
    log.write("val", step, step // plan.steps_per_epoch, scores)
    plan.tell(f"step {step}: {brief(scores)}")
    return scores[plan.task.target]


def measure_split(
    plan: Plan, split: str, state: State, *, pause: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Returns the numbers of a split, computed by all devices and hosts.

    Args:
      plan: plan of the run.
      split: name of the split.
      state: as `Placement.take_state` returns it.
      pause: called between batches.
    """
    cfg, found = plan.config.data, collections.defaultdict(list)
    devices = len(plan.placement.devices)
    options = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    options |= {"threads": cfg.threads, "on_error": cfg.on_error}
    options["batch_size"] = -(-plan.config.trainer.batch_size // devices) * devices
    with contextlib.closing(evaluation_batches(plan.task.splits[split], plan.task.prepare, **options)) as batches:
        for batch in batches:
            pause()
            batch.pop("index", None)
            results = plan.measure(state, plan.placement.put_evaluation_batch(batch))
            weight = np.asarray(results.pop("weight"))
            for name, values in results.items():
                found[name].append(np.asarray(values)[weight > 0])
    if batches.skipped:
        plan.tell(f"{len(batches.skipped)} bad records of {split} were not measured: {listed([*batches.skipped])}")
    return plan.task.summarise({name: np.concatenate(parts) for name, parts in found.items()})


def _write_picture(plan: Plan, step: int, state: State) -> None:
    if jax.process_count() > 1:
        return  # only one host draws, but computing needs all of them
    records = list(itertools.islice(_readable(plan), PICTURED))
    (plan.folder / PICTURES).mkdir(exist_ok=True)
    picture = plan.task.draw(plan.learner.trained(state), records)
    save_picture(picture, plan.folder / PICTURES / f"step_{step:07d}.png")


def _readable(plan: Plan) -> Iterator[dict]:
    """Yields the records for a picture; bad ones are left out if training skips them."""
    split = plan.task.splits.get("val", plan.task.splits["train"])
    for i in range(len(split)):
        try:
            yield split[i]
        except (ValueError, OSError):
            if plan.config.data.on_error == "stop":
                raise


def _write_best_model(plan: Plan, checkpoints: Checkpoints) -> None:
    """Writes the model directory again: a run that was killed may have stored its best step but not the model."""
    best = checkpoints.best()
    step = best or plan.total_steps
    state, _ = checkpoints.restore(step, plan.state_shapes())
    _write_model(plan, state, step, None if best is None else checkpoints.best_score())


def _write_model(plan: Plan, state: State, step: int, score: float | None) -> None:
    """Writes the model directory; every host has the whole arrays, and the first host writes them."""
    if jax.process_index() == 0:
        local = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), state)
        card = plan.task.model.card
        if plan.task.remark is not None:
            card = dataclasses.replace(card, note="; ".join(filter(None, (card.note, plan.task.remark(step, score)))))
        model = plan.learner.trained(local)
        card = dataclasses.replace(card, calibration=_calibration_of(plan.folder / MODEL, model))
        with clear_when_full("the model", plan.folder / MODEL):
            save_model(model, plan.folder / MODEL, card, overwrite=True)


def _calibration_of(folder: Path, model: nnx.Module) -> str:
    """Returns the calibration of a model directory if it holds this model; "" otherwise."""
    try:
        calibration = read_card(folder).calibration
    except (ValueError, OSError):
        return ""
    return calibration if calibration and same_parameters(folder, model) else ""


def _report_skipped(plan: Plan, skipped: dict[str, int]) -> None:
    if skipped:
        names = listed([f"{name} ({times} times)" for name, times in skipped.items()])
        plan.tell(f"{len(skipped)} bad records were skipped and replaced by others: {names}")


def _last_validation(folder: Path) -> dict[str, float]:
    """Returns the last validation in the log, because a run that has taken all its steps does not validate again."""
    entries = [entry for entry in read_metrics(folder / METRICS_FILE) if entry["split"] == "val"]
    last = entries[-1] if entries else {}
    return {k: math.nan if v is None else v for k, v in last.items() if k not in ("split", "step", "epoch")}
