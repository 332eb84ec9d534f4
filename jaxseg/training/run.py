"""The folder of a run: training in it and evaluating the run.

A run has three stages: `open_run` in `jaxseg.training.config.config` reads its configuration, `train` makes the task of
the configuration and the plan of the run, and `jaxseg.training.loop.fit` trains.
"""

import contextlib
import csv
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from jaxseg.card import CARD_FILE, read_card
from jaxseg.devices import all_devices, environment, select_devices
from jaxseg.draw.pictures import save_picture
from jaxseg.files import atomic_file, only_writer, read_json, sweep
from jaxseg.registry import TASKS
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints, has_checkpoint
from jaxseg.training.config.config import CONFIG_FILE, VERSIONS_FILE, Config, read_config, write_config
from jaxseg.training.config.config import open_run as open_run
from jaxseg.training.plan import Plan, make_evaluation_plan, make_plan
from jaxseg.training.task import Examination, Task, make_task, task_class
from jaxseg.weights.load import load
from jaxseg.weights.store import same_parameters

FACTS_FILE = "data.json"


class MissingSplitError(ValueError):
    """The data have no examples of a split that shall be evaluated."""


def training_devices(spec: str) -> list[jax.Device]:
    """Returns the devices to train on.

    Args:
      spec: "all" for every device of the kind that JAX prefers, on all hosts; or as `select_devices` takes it.

    Raises:
      ValueError: there is no such device, or single devices are named although several hosts take part.
    """
    if spec == "all":
        return all_devices()
    if jax.process_count() > 1:
        raise ValueError(f"{spec!r} names devices of one host; with several hosts all take part: -g all")
    return select_devices(spec)


def train(
    config: Config,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    name: str = "",
    split: str | None = None,
    on_start: Callable[[int, int], None] = lambda *_: None,
    on_step: Callable = lambda *_: None,
    on_validation: Callable[[int, float], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Trains in the folder of a run, which is created if necessary, and returns the last validation.

    Args:
      config: result of `open_run`.
      folder: folder of the run.
      devices: devices to train on.
      name: name of the model in its card; empty: that of the folder.
      split: name of a split that will be evaluated after the training, and so must have examples.
      on_start, on_step, on_validation, tell: see `jaxseg.training.plan.Plan`.

    Raises:
      MissingSplitError: there is no such split; nothing is written.
      ValueError: data, batch size and devices do not fit, before anything is written; and the errors of
        `jaxseg.training.loop.fit`.
    """
    task = make_task(config)
    if split is not None:
        _check_split(task, split)
    for note in task.notes:
        tell(note)
    _check_same_data(folder / FACTS_FILE, task, "start a new run")
    if not has_checkpoint(folder / loop.CHECKPOINTS):
        task.model = task.initialise(task.model)
    task.model.card = dataclasses.replace(task.model.card, name=name or folder.resolve().name)
    calls: dict[str, Callable] = {"on_start": on_start, "on_step": on_step}
    calls |= {"on_validation": on_validation, "tell": tell}
    plan = make_plan(config, task, folder, devices=devices, **calls)
    if jax.process_index() > 0:
        return loop.fit(plan)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        sweep(folder)
        _write_start(plan)
        return loop.fit(plan)


def _check_split(task: Task, split: str) -> None:
    if not task.splits.get(split):
        known = ", ".join(name for name, records in task.splits.items() if len(records))
        raise MissingSplitError(f"the data have no split {split!r} with examples; there are: {known}")


def _check_same_data(path: Path, task: Task, advice: str) -> None:
    """Raises if the data of a task are not those that its run was started with."""
    if path.is_file() and _stored(path) != json.loads(json.dumps(dict(task.facts))):
        raise ValueError(f"the data differ from those that the run was started with, which {path} lists; {advice}")


def _stored(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the data of a run: {error}") from None


def _write_start(plan: Plan) -> None:
    """Writes the settings, data and versions of a run; reports versions that differ from those of its first start."""
    folder = plan.folder
    if (folder / CONFIG_FILE).is_file():
        _report_versions(folder / VERSIONS_FILE, plan.tell)
    else:
        _write_json(folder / VERSIONS_FILE, environment())
    write_config(plan.config, folder / CONFIG_FILE)
    if plan.task.facts:
        _write_json(folder / FACTS_FILE, plan.task.facts)


def _report_versions(path: Path, tell: Callable[[str], None]) -> None:
    now = _versions(environment())
    try:
        then = _versions(read_json(path))
    except (OSError, ValueError, TypeError, AttributeError):
        tell(f"{path}, which lists the versions that the run was started with, cannot be read")
        return
    changed = [f"{name} {then.get(name, 'unknown')} (now {now[name]})" for name in now if then.get(name) != now[name]]
    if changed:
        tell(f"the run was started with other versions, so its results may differ slightly: {', '.join(changed)}")


def _versions(found: dict) -> dict[str, str]:
    return {"jaxseg": found.get("jaxseg"), "Python": found.get("python")} | dict(found.get("versions", {}))


def evaluate(
    folder: Path,
    split: str | None = None,
    *,
    devices: Sequence[jax.Device],
    step: int | None = None,
    data: Path | None = None,
    output: Path | None = None,
    calibrate: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    show: Callable[[str], None] = lambda _: None,
    on_scores: Callable[[dict], None] = lambda _: None,
) -> dict:
    """Evaluates a checkpoint of a run, writes `evaluation_<split>.json` and returns its content.

    Args:
      folder: folder of the run.
      split: name of the split; None: "test" if the data have one, else "val".
      devices: any number of devices.
      step: step of the checkpoint; None: the best one by validation, or the last one if there were no validations. Some
        methods then measure the last one as well.
      data: folder of the data, instead of the run's own.
      output: folder of the files; None: that of the run.
      calibrate: store the calibration that the method fits on the split in the card of the run's model. The split is
        then one of the run's own data that was not trained on, and the model is that of the best checkpoint.
      tell: called with each message for the user.
      show: called with the table of the method's own measurements, if it has any. Their picture and their rows, if the
        method makes them, are `evaluation_<split>.png` and `evaluation_<split>.csv`.
      on_scores: called with the result before it is written.

    Raises:
      ValueError: the folder holds no run, there is no such split or checkpoint, or a calibration is impossible: the
        method fits none, `step` is given, the split is "train", the data are others, or the model directory does not
        hold the best checkpoint.
      OSError: the files cannot be written.
      Locked: `calibrate` is True and the run is still being trained.
    """
    config = _stored_config(folder, data)
    if calibrate:
        _check_calibration(config, split, step)
    task = make_task(config)
    split = _chosen_split(task, split, tell)
    if not has_checkpoint(folder / loop.CHECKPOINTS):
        raise ValueError(f"{folder} has no checkpoint yet")
    plan = make_evaluation_plan(config, task, folder, devices=devices, tell=tell)
    with contextlib.ExitStack() as stack:
        if calibrate:
            stack.enter_context(only_writer(folder))
        checkpoints = stack.enter_context(Checkpoints(folder / loop.CHECKPOINTS, read_only=True))
        chosen = _chosen_step(checkpoints, step)
        state, _ = checkpoints.restore(chosen, plan.state_shapes())
        if calibrate:
            _check_run(plan, state, chosen)
        scores = loop.measure_split(plan, split, state)
        examination = _examined(plan, split, state)
        if examination and task.join is not None and step is None:
            examination = _with_last(plan, split, checkpoints, chosen, examination)
        scores = {"step": chosen} | scores | (dict(examination.numbers) if examination else {})
        if examination:
            show(examination.table)
        on_scores(scores)
        path = (output or folder) / f"evaluation_{split}.json"
        rows = task.table(scores) if task.table else (examination.rows if examination else ())
        _write_evaluation(path, scores, rows, examination.picture if examination else None)
        tell(f"measured the checkpoint of step {chosen}; all numbers are in {path}")
        if calibrate:
            _calibrate(folder / loop.MODEL, "" if examination is None else examination.calibration)
            tell(f"stored the calibration in {folder / loop.MODEL / CARD_FILE}")
    return scores


def _chosen_split(task: Task, split: str | None, tell: Callable[[str], None]) -> str:
    """Returns the split to evaluate, which has examples."""
    if split is None:
        split = "test" if task.splits.get("test") else "val"
        tell(f"the split is {split}")
    _check_split(task, split)
    return split


def _check_calibration(config: Config, split: str | None, step: int | None) -> None:
    """Raises if the options of an evaluation exclude a calibration."""
    if step is not None:
        raise ValueError("a calibration belongs to the model of the best checkpoint; leave the step out")
    if not task_class(config.task).calibrates:
        able = ", ".join(name for name in TASKS if task_class(name).calibrates)
        raise ValueError(f"a run of {config.task} has no calibration; runs of {able} do")
    if split == "train":
        raise ValueError("the model was trained on the split 'train', so a calibration on it is wrong; use 'val'")
    if jax.process_count() > 1:
        raise ValueError("a calibration is fitted on one host; evaluate there")


def _check_run(plan: Plan, state: dict, step: int) -> None:
    """Raises if a run has other data, or other weights in its model directory, than those of a calibration."""
    _check_same_data(plan.folder / FACTS_FILE, plan.task, "calibrate with those")
    model = plan.folder / loop.MODEL
    if not same_parameters(model, plan.learner.trained(state)):
        raise ValueError(
            f"{model} does not hold the best checkpoint, that of step {step}: the training was interrupted. Finish it "
            "with `jaxseg train --resume`, then calibrate"
        )


def _examined(plan: Plan, split: str, state: dict) -> Examination | None:
    """Returns the method's own measurements of a checkpoint, if it makes any and this is the only host."""
    if plan.task.examine is None:
        return None
    if jax.process_count() > 1:
        plan.tell("evaluate on one host for the table and the picture")
        return None
    return plan.task.examine(plan.learner.trained(state), plan.task.splits[split])


def _calibrate(model: Path, calibration: str) -> None:
    """Stores a calibration in the card of a model directory."""
    if not calibration:
        raise ValueError("the split has too few examples for a calibration; use another one")
    card = dataclasses.replace(read_card(model), calibration=calibration)
    with atomic_file(model / CARD_FILE) as temporary:
        temporary.write_text(card.text(), encoding="utf-8")


def _with_last(plan: Plan, split: str, checkpoints: Checkpoints, best: int, found: Examination) -> Examination:
    """Returns the measurements of the best checkpoint together with those of the last one, if that can be read."""
    last, other = checkpoints.steps()[-1], found
    if last != best:
        try:
            state, _ = checkpoints.restore(last, plan.state_shapes())
        except ValueError as error:
            plan.tell(f"{error}; only the checkpoint of step {best} is measured")
            return found
        other = plan.task.examine(plan.learner.trained(state), plan.task.splits[split])
    return plan.task.join((best, found), (last, other))


def _stored_config(folder: Path, data: Path | None = None) -> Config:
    """Returns the configuration of the run in a folder, with other data if they are given."""
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG_FILE}")
    return read_config(folder / CONFIG_FILE, data=data)


def _chosen_step(checkpoints: Checkpoints, step: int | None) -> int:
    steps = checkpoints.steps()
    if step is None:
        best = checkpoints.best()
        return steps[-1] if best is None else best
    if step not in steps:
        raise ValueError(f"there is no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return step


def _write_evaluation(
    path: Path, scores: dict, rows: Sequence[Mapping[str, object]], picture: Image.Image | None
) -> None:
    """Writes measurements, and their rows and picture if there are any, on the first host."""
    if jax.process_index() > 0:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, scores)
        if rows:
            _write_csv(path.with_suffix(".csv"), rows)
        else:
            path.with_suffix(".csv").unlink(missing_ok=True)  # that of an earlier evaluation has other numbers
        if picture is not None:
            save_picture(picture, path.with_suffix(".png"))
        else:
            path.with_suffix(".png").unlink(missing_ok=True)
    except OSError as error:
        advice = f"{error.strerror}; the numbers were shown but not stored; name a folder for them with -o"
        raise OSError(error.errno, advice, str(error.filename or path)) from error


def compare_masks(
    folder: Path,
    masks: Sequence[Path],
    truth: Path,
    *,
    levels: Mapping[int, str] | None = None,
    devices: Sequence[jax.Device],
    output: Path | None = None,
    show: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures a run's model on masks from another source, writes `evaluation_masks.json` and returns its content.

    Args:
      folder: folder of the run.
      masks: folders, such as those of a segmenter at several stages of its training, or .jsonl or .parquet files.
      truth: folder or file of the true masks, with the same file names.
      levels: level -> name of its class, if the masks are label maps; None: as in training.
      devices: the first one is used.
      output: folder of the file; None: that of the run.
      show: called with the table, before it is written.

    Raises:
      ValueError: the folder holds no run, or its method takes no masks; masks are missing or bad.
    """
    config = _stored_config(folder)
    method = task_class(config.task)
    if method.compare is None:
        able = ", ".join(name for name in TASKS if task_class(name).compare is not None)
        raise ValueError(f"a run of {config.task} does not take masks; runs of {able} do")
    if levels:
        labels = tuple(f"{level}={name}" for level, name in levels.items())
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, labels=labels, classes=()))
    names = [path.name for path in masks]
    rows = {name if names.count(name) == 1 else str(path): path for name, path in zip(names, masks, strict=True)}
    if len(rows) < len(masks):
        raise ValueError("a folder of masks is named twice")
    with jax.default_device(devices[0]):
        examination = method.compare(config, load(folder), rows, truth)
    show(examination.table)
    scores = dict(examination.numbers)
    _write_evaluation((output or folder) / "evaluation_masks.json", scores, examination.rows, examination.picture)
    return scores


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
