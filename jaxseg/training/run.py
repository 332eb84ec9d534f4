"""The folder of a run: opening it, training in it and evaluating the run.

A run has three stages: `open_run` reads its configuration, `train` makes the task of the configuration and the plan of
the run, and `jaxseg.training.loop.fit` trains.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg.devices import environment, select_devices
from jaxseg.draw.pictures import save_picture
from jaxseg.files import atomic_file, only_writer, read_json, sweep
from jaxseg.registry import TASKS
from jaxseg.settings import to_mapping
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints, has_checkpoint
from jaxseg.training.config.config import Config, read_config, write_config
from jaxseg.training.plan import Plan, make_evaluation_plan, make_plan
from jaxseg.training.task import Examination, Task, data_folder, make_task, task_class
from jaxseg.weights.load import load

CONFIG_FILE, VERSIONS_FILE, FACTS_FILE = "config.yaml", "versions.json", "data.json"
MOVABLE = ("data.root", "data.threads", "data.workers", "trainer.keep_memory")  # settings on which no result depends


def training_devices(spec: str) -> list[jax.Device]:
    """Returns the devices to train on.

    Args:
      spec: "all" for every device of the kind that JAX prefers, on all hosts; or as `select_devices` takes it.

    Raises:
      ValueError: there is no such device, or single devices are named although several hosts take part.
    """
    if spec == "all":
        return jax.devices()
    if jax.process_count() > 1:
        raise ValueError(f"{spec!r} names devices of one host; with several hosts all take part: -g all")
    return select_devices(spec)


def open_run(
    source: str | Path | None,
    folder: Path,
    *,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Config:
    """Returns the configuration of a new run or of one to resume; nothing is written yet.

    Args:
      source: a YAML file or the name of a packaged configuration; may be None if the folder holds a run.
      folder: folder of the run.
      data: folder of the data, instead of `data.root`.
      overrides: such as "trainer.epochs=2".
      resume: resume the run in the folder; if it holds none, a new one is started from `source`.
      tell: called with each message for the user about the settings.

    Raises:
      ValueError: the configuration is wrong or is not that of the run in the folder, or the folder holds other files.
    """
    stored = folder / CONFIG_FILE
    if source or stored.is_file():
        _check_takes_data(source or stored, overrides, data)
    overrides = [*overrides, *_root(data)]
    if resume and stored.is_file():
        return _with_whole_root(_resumed(stored, source, overrides))
    if source is None:
        what = "no run to resume" if resume else "no configuration was named"
        raise ValueError(f"{folder}: {what}; give a configuration with -t")
    config = read_config(source, overrides, tell=tell)
    # Only the first of several hosts checks, because the others may find the run that it has already started. The
    # number of a host is known only after the devices have started, so a single host does not ask for it.
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
        _check_empty(folder)
    return _with_whole_root(config)


def _check_takes_data(source: str | Path, overrides: Sequence[str], data: Path | None) -> None:
    """Raises if a data folder is given for a task that generates its data; other problems are reported later."""
    if data is None:
        return
    try:
        config = read_config(source, overrides)
    except ValueError:
        return
    if not task_class(config.task).takes_data:
        raise ValueError(f"-i: {config.task} generates its own data; leave -i out")


def _root(data: Path | None) -> list[str]:
    """Returns the override that has the effect of `-i`."""
    return [] if data is None else [f"data.root={json.dumps(str(data.resolve()))}"]


def _resumed(stored: Path, source: str | Path | None, overrides: Sequence[str]) -> Config:
    """Returns the configuration of the run in a folder; only settings that do not affect results may differ from it."""
    config, wanted = read_config(stored), read_config(source or stored, overrides)
    changed = [name for name in _differences(to_mapping(config), to_mapping(wanted)) if name not in MOVABLE]
    if changed:
        names = ", ".join(changed)
        raise ValueError(f"{stored.parent} was started with a different {names}; start a new run in a new folder")
    return read_config(stored, [o for o in overrides if o.partition("=")[0].strip() in MOVABLE])


def _differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    """Returns the names of the settings in which two configurations differ."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(prefix + name)
    return found


def _check_empty(folder: Path) -> None:
    """Raises if a folder holds files that a run killed at its start would not have left."""
    if folder.exists() and any(p.name != VERSIONS_FILE and not p.name.startswith(".jaxseg-") for p in folder.iterdir()):
        there = (folder / CONFIG_FILE).is_file()
        resume = ", or resume the run in it with --resume" if there else ""
        raise ValueError(f"{folder} is not empty; name a new folder{resume}")


def _with_whole_root(config: Config) -> Config:
    """Returns a configuration with the absolute path of its data, so that any working directory can resume the run."""
    root = data_folder(config)
    if root is None:
        return config
    data = dataclasses.replace(config.data, root=str(root.expanduser().resolve()))
    return dataclasses.replace(config, data=data)


def train(
    config: Config,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    on_step: Callable = lambda *_: None,
    on_validation: Callable[[int, float], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Trains in the folder of a run, which is created if necessary, and returns the last validation.

    Args:
      config: result of `open_run`.
      folder: folder of the run.
      devices: devices to train on.
      on_step, on_validation, tell: see `jaxseg.training.plan.Plan`.

    Raises:
      ValueError: data, batch size and devices do not fit, before anything is written; and the errors of
        `jaxseg.training.loop.fit`.
    """
    task = make_task(config)
    for note in task.notes:
        tell(note)
    _check_same_data(folder / FACTS_FILE, task)
    if not has_checkpoint(folder / loop.CHECKPOINTS):
        task.model = task.initialise(task.model)
    calls = {"on_step": on_step, "on_validation": on_validation, "tell": tell}
    plan = make_plan(config, task, folder, devices=devices, **calls)
    if jax.process_index() > 0:
        return loop.fit(plan)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        sweep(folder)
        _write_start(plan)
        return loop.fit(plan)


def _check_same_data(path: Path, task: Task) -> None:
    """Raises if a run is resumed with data other than those it was started with."""
    if path.is_file() and _stored(path) != json.loads(json.dumps(dict(task.facts))):
        raise ValueError(
            f"the data differ from those that the run was started with, which {path} lists; start a new run"
        )


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
    tell: Callable[[str], None] = lambda _: None,
    show: Callable[[str], None] = lambda _: None,
) -> dict:
    """Evaluates a checkpoint of a run, writes `evaluation_<split>.json` and returns its content.

    Args:
      folder: folder of the run.
      split: name of the split; None: "test" if the data have one, else "val".
      devices: any number of devices.
      step: step of the checkpoint; None: the best one by validation, or the last one if there were no validations.
      data: folder of the data, instead of the run's own.
      tell: called with each message for the user.
      show: called with the table of the method's own measurements, if it has any; their picture is
        `evaluation_<split>.png`.

    Raises:
      ValueError: the folder holds no run, or there is no such split or checkpoint.
    """
    config = _stored_config(folder, data)
    task = make_task(config)
    if split is None:
        split = "test" if task.splits.get("test") else "val"
        tell(f"the split is {split}")
    if not task.splits.get(split):
        known = ", ".join(name for name, records in task.splits.items() if len(records))
        raise ValueError(f"the data have no split {split!r} with examples; there are: {known}")
    if not has_checkpoint(folder / loop.CHECKPOINTS):
        raise ValueError(f"{folder} has no checkpoint yet")
    plan = make_evaluation_plan(config, task, folder, devices=devices, tell=tell)
    with Checkpoints(folder / loop.CHECKPOINTS, read_only=True) as checkpoints:
        step = _chosen_step(checkpoints, step)
        state, _ = checkpoints.restore(step, plan.fresh_state())
    scores = loop.measure_split(plan, split, state)
    examination = None
    if task.examine is not None and jax.process_count() > 1:
        tell("evaluate on one host for the table and the picture")
    elif task.examine is not None:
        examination = task.examine(plan.learner.trained(state), task.splits[split])
    return _write_evaluation(folder / f"evaluation_{split}.json", {"step": step} | scores, examination, show)


def _stored_config(folder: Path, data: Path | None = None) -> Config:
    """Returns the configuration of the run in a folder, with other data if they are given."""
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG_FILE}")
    _check_takes_data(folder / CONFIG_FILE, (), data)
    return read_config(folder / CONFIG_FILE, _root(data))


def _chosen_step(checkpoints: Checkpoints, step: int | None) -> int:
    steps = checkpoints.steps()
    if step is None:
        best = checkpoints.best()
        return steps[-1] if best is None else best
    if step not in steps:
        raise ValueError(f"there is no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return step


def _write_evaluation(path: Path, scores: dict, examination: Examination | None, show: Callable[[str], None]) -> dict:
    """Writes the measurements and returns them."""
    found = scores | (dict(examination.numbers) if examination else {})
    if jax.process_index() == 0:
        _write_json(path, found)
        if examination and examination.picture is not None:
            save_picture(examination.picture, path.with_suffix(".png"))
    if examination:
        show(examination.table)
    return found


def compare_masks(
    folder: Path,
    masks: Sequence[Path],
    truth: Path,
    *,
    levels: Mapping[int, str] | None = None,
    devices: Sequence[jax.Device],
    show: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures a run's model on masks from another source, writes `evaluation_masks.json` and returns its content.

    Args:
      folder: folder of the run.
      masks: folders, such as those of a segmenter at several stages of its training.
      truth: folder of the true masks, with the same file names.
      levels: level -> name of its class, if the masks are label maps; None: as in training.
      devices: the first one is used.
      show: called with the table.

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
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, labels=labels))
    names = [path.name for path in masks]
    rows = {name if names.count(name) == 1 else str(path): path for name, path in zip(names, masks, strict=True)}
    if len(rows) < len(masks):
        raise ValueError("a folder of masks is named twice")
    with jax.default_device(devices[0]):
        examination = method.compare(config, load(folder), rows, truth)
    return _write_evaluation(folder / "evaluation_masks.json", {}, examination, show)


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
