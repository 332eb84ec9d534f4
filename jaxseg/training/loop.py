"""The training loop: steps, validation, checkpoints, and going on exactly where a run was cut short."""

import collections
import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jaxseg.draw.save import save_picture
from jaxseg.training.batches import prefetch_to_device, training_batches
from jaxseg.training.checkpoint import Checkpoints, clear_when_full
from jaxseg.training.evaluation import evaluate
from jaxseg.training.interrupts import uninterrupted
from jaxseg.training.learner import State
from jaxseg.training.log import METRICS_FILE, Log, read_metrics
from jaxseg.training.prepare import Run
from jaxseg.training.reader import listed
from jaxseg.training.task import begun
from jaxseg.weights.store import save_model

CHECKPOINTS, MODEL, PICTURES = "checkpoints", "model", "pictures"
PICTURED = 4  # examples in a picture


class TrainingError(ValueError):
    """A run cannot go on; the message says at which step, and what is kept."""


def fit(run: Run) -> dict[str, float]:
    """Trains a model, from the newest checkpoint in the folder if there is one, and returns the last validation.

    The folder gets `metrics.jsonl`, `checkpoints/`, `pictures/`, and the model directory `model/` of the best
    validation, or of the last step where there is no validation split. Ctrl-C and SIGTERM act between steps, and
    between batches of a validation; a second one at once.

    Raises:
      TrainingError: the loss or its gradient is not finite. RecordError: a record is bad. ValueError: all checkpoints
        are damaged. OSError: something cannot be read or written; the checkpoints before stay as they are.
    """
    compiled = run.placement.compile(run.learner)
    cfg = run.config.trainer
    with uninterrupted() as run.pause, contextlib.ExitStack() as stack:
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
    found = checkpoints.restore_latest(run.fresh(), run.tell)
    if found is None:
        run.problem = begun(run.problem)
        return run.placement.put_state(run.fresh())
    run.step, single, position = found
    _refuse_other_replicas(run, position)
    batches.set_state(position)
    run.tell(f"going on after step {run.step} of {run.total}")
    return run.placement.put_state(single)


def _replicas(run: Run) -> dict[str, int]:
    """What a position says besides where batch statistics hang on the number of devices."""
    return {"replicas": len(run.placement.devices)} if run.config.trainer.batch_norm == "replica" else {}


def _refuse_other_replicas(run: Run, position: dict) -> None:
    for name, count in _replicas(run).items():
        if position.get(name, count) != count:
            raise ValueError(
                f"the run took batch statistics on each of {position[name]} devices (trainer.batch_norm: replica), and "
                f"cannot go on with {count}: name as many with -g, or start a new run"
            )


def _train(run: Run, state: State, compiled, batches, checkpoints: Checkpoints, log: Log) -> dict:
    """Takes the steps that are left, and returns the position in the data after the last.

    What a step measured is read when the next is under way.
    """
    evaluation = run.compile_evaluation()
    pending: collections.deque = collections.deque()
    position = batches.get_state()
    best, run.since = checkpoints.best_score(), (time.perf_counter(), run.step)
    stream = prefetch_to_device(batches, lambda batch: _put(run, batch))
    while run.step < run.total:
        run.pause()
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
        single, score, failure = run.placement.take_state(state), None, None
        try:
            if validates:
                score = _validate(run, evaluation, single, log)
            if draws:
                _write_picture(run, single)
        except Exception as error:
            if jax.process_count() > 1:  # the other hosts would wait for this one
                raise
            failure = error
        better = score is not None and score > best
        if stores or better or failure:
            checkpoints.save(run.step, single, position | _replicas(run), score=score)
        if better:
            best = score
            _write_model(run, single)
        if failure:
            what = "validation" if validates and score is None else "its picture"
            run.tell(f"step {run.step} is kept as a checkpoint, though {what} failed")
            raise failure
        if score is not None and run.step < run.total:
            run.on_validation(run.epoch, score)
    return position


def _validate(run: Run, evaluation, state: State, log: Log) -> float:
    """Measures the validation split, records it, and returns the score."""
    scores = evaluate(run, "val", evaluation, state)
    log.write("val", run.step, run.epoch, scores)
    run.tell(f"step {run.step}: {', '.join(f'{name} {value:.4f}' for name, value in scores.items())}")
    return scores[run.problem.target]


def _settle(run: Run, step: int, metrics: dict, indices: np.ndarray, log: Log) -> None:
    """Reads what a step measured, stops where it is not finite, and records it."""
    values = run.placement.fetch(metrics)
    for name in ("loss", "gradient_norm"):  # one that is not finite spoils the parameters, and all that follows
        if not math.isfinite(values[name]):
            names = [run.problem.splits["train"].name(int(i)) for i in indices]
            what = f"the {name.replace('_', ' ')} is {values[name]} at step {step}"
            raise TrainingError(
                f"{what}; its examples: {listed(names)}. The checkpoints before it are kept; lower "
                "optimizer.learning_rate, set trainer.clip_norm, or look at these files"
            )
    run.on_step(step, run.total, values)
    if step % run.config.trainer.log_every == 0 or step == run.total:
        rate = float(run.rate(step - 1))
        log.write(
            "train", step, (step - 1) // run.steps_per_epoch + 1, values | {"learning_rate": rate} | run.speed(step)
        )


def _tell_of_skipped(run: Run, skipped: dict[str, int]) -> None:
    if skipped:
        names = listed([f"{name} ({times} times)" for name, times in skipped.items()])
        run.tell(f"{len(skipped)} bad records were skipped, others taken in their place: {names}")


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
    state, _ = checkpoints.restore(step, run.fresh())
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


def _readable(run: Run) -> Iterator[dict]:
    """The records to be pictured; bad ones are left out where they are skipped in training."""
    split = run.problem.splits.get("val", run.problem.splits["train"])
    for i in range(len(split)):
        try:
            yield split[i]
        except (ValueError, OSError):
            if run.config.data.on_error == "stop":
                raise


def _write_picture(run: Run, state: State) -> None:
    if jax.process_count() > 1:
        return  # a picture is drawn by one host, and computing takes them all
    records = list(itertools.islice(_readable(run), PICTURED))
    (run.folder / PICTURES).mkdir(exist_ok=True)
    picture = run.problem.draw(run.learner.trained(state), records)
    save_picture(picture, run.folder / PICTURES / f"step_{run.step:07d}.png")
