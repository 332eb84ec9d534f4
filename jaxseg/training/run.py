"""The folder of a run: opened new or to go on with, trained in, and evaluated."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxseg.devices import select_devices
from jaxseg.draw.save import save_picture
from jaxseg.environment import environment
from jaxseg.files import atomic_file, only_writer, sweep
from jaxseg.training import loop, task
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.config.config import Config, read_config, to_mapping, write_config
from jaxseg.training.evaluation import evaluate_checkpoint
from jaxseg.training.prepare import prepare
from jaxseg.weights.load import load

CONFIG_FILE, VERSIONS_FILE, FACTS_FILE = "config.yaml", "versions.json", "data.json"
MOVABLE = ("data.root", "data.threads", "data.workers", "trainer.keep_memory")  # no result hangs on them


def training_devices(spec: str) -> list[jax.Device]:
    """Returns the devices to train on: "all" of the kind that JAX prefers, of all hosts, or what `select_devices` does.

    Raises:
      ValueError: there is no such device, or some are named where several hosts take part.
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
    """Returns the configuration of a run that is new or goes on; nothing is written yet.

    Args:
      source: a YAML file or the name of a packaged one; may be None where the run is there already.
      folder: of the run.
      data: folder of the data, in place of `data.root`.
      overrides: such as "trainer.epochs=2".
      resume: go on with a run that is there. Where there is none, one is started, if there is a source.
      tell: called with a line for the user, where the settings are an original program's.

    Raises:
      ValueError: the configuration is wrong, or not that of the run which is there; the folder holds other things.
    """
    stored = folder / CONFIG_FILE
    if source or stored.is_file():
        _refuse_no_data(source or stored, overrides, data)
    overrides = [*overrides, *_root(data)]
    if resume and stored.is_file():
        config = read_config(stored, task.sections)
        wanted = read_config(source or stored, task.sections, overrides)
        changed = [name for name in _differences(to_mapping(config), to_mapping(wanted)) if name not in MOVABLE]
        if changed:
            raise ValueError(f"{folder} was started with another {', '.join(changed)}; start a new run in a new folder")
        moved = [override for override in overrides if override.partition("=")[0].strip() in MOVABLE]
        return _located(read_config(stored, task.sections, moved))
    if source is None:
        what = "no run to go on with" if resume else "no configuration was named"
        raise ValueError(f"{folder}: {what}; give one with -t")
    config = read_config(source, task.sections, overrides, tell=tell)
    # another of several hosts may find what the first has begun already; asking for its number starts the devices
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
        _refuse_other_things(folder)
    return _located(config)


def train(
    config: Config,
    folder: Path,
    *,
    devices: Sequence[jax.Device],
    on_step: Callable = lambda *_: None,
    on_validation: Callable[[int, float], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Trains in the folder of a run, made if it is new, and returns the last validation; see `training.loop.fit`.

    Raises:
      ValueError: also where the data, the batch and the devices do not fit; nothing was written then.
    """
    problem = task.make_problem(config)
    for note in problem.notes:
        tell(note)
    _refuse_other_data(folder / FACTS_FILE, problem)
    if not (folder / loop.CHECKPOINTS).is_dir():
        problem = task.begun(problem)  # before anything is written
    calls = {"on_step": on_step, "on_validation": on_validation, "tell": tell}
    under_way = prepare(config, problem, folder, devices=devices, **calls)
    if jax.process_index() > 0:
        return loop.fit(under_way)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        sweep(folder)
        if (folder / CONFIG_FILE).is_file():
            _tell_of_versions(folder / VERSIONS_FILE, tell)
        else:
            _write_json(folder / VERSIONS_FILE, environment())
        write_config(config, folder / CONFIG_FILE)
        if problem.facts:
            _write_json(folder / FACTS_FILE, problem.facts)
        return loop.fit(under_way)


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
    """Evaluates a run's best checkpoint, or that of a step, writes `evaluation_<split>.json` and returns its content.

    Args:
      split: None: "test" where there is one, else "val".
      data: folder of the data, in place of the run's own.
      show: called with the table of what the method examines, where it does; the picture is `evaluation_<split>.png`.

    Raises:
      ValueError: the folder holds no run, or no such split or checkpoint.
    """
    config = _stored(folder, data)
    problem = task.make_problem(config)
    if split is None:
        split = "test" if problem.splits.get("test") else "val"
        tell(f"the split is {split}")
    if not problem.splits.get(split):
        known = ", ".join(name for name, records in problem.splits.items() if len(records))
        raise ValueError(f"the data have no split {split!r} with examples; there are: {known}")
    if not (folder / loop.CHECKPOINTS).is_dir():
        raise ValueError(f"{folder} has no checkpoint yet")
    with Checkpoints(folder / loop.CHECKPOINTS, read_only=True) as checkpoints:
        step = _checkpoint(checkpoints, step, folder)
        found = evaluate_checkpoint(config, problem, checkpoints, step, split, devices=devices, tell=tell)
    return _kept(folder / f"evaluation_{split}.json", {"step": step} | found[0], found[1], show)


def compare_masks(
    folder: Path,
    masks: Sequence[Path],
    truth: Path,
    *,
    devices: Sequence[jax.Device],
    show: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures what a run's model makes of other masks, writes `evaluation_masks.json` and returns its content.

    Args:
      masks: folders, such as of a segmenter at several stages of its training.
      truth: folder of the true masks, with the same names.
      devices: the first is used.
      show: as of `evaluate`.

    Raises:
      ValueError: the folder holds no run, or one of a method that takes no masks; masks are missing or bad.
    """
    config = _stored(folder)
    names = [path.name for path in masks]
    rows = {name if names.count(name) == 1 else str(path): path for name, path in zip(names, masks, strict=True)}
    if len(rows) < len(masks):
        raise ValueError("a folder of masks is named twice")
    with jax.default_device(devices[0]):
        examination = task.compare(config, load(folder), rows, truth)
    return _kept(folder / "evaluation_masks.json", {}, examination, show)


def _stored(folder: Path, data: Path | None = None) -> Config:
    """The configuration of the run in a folder, with other data where these are given."""
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG_FILE}")
    _refuse_no_data(folder / CONFIG_FILE, (), data)
    return read_config(folder / CONFIG_FILE, task.sections, _root(data))


def _kept(path: Path, scores: dict, examination: task.Examination | None, show: Callable[[str], None]) -> dict:
    """Writes what was measured, and returns it."""
    found = scores | (dict(examination.numbers) if examination else {})
    if jax.process_index() == 0:
        _write_json(path, found)
        if examination and examination.picture is not None:
            save_picture(examination.picture, path.with_suffix(".png"))
    if examination:
        show(examination.table)
    return found


def _refuse_other_things(folder: Path) -> None:
    """Raises where a folder holds more than a run that was killed at once may have left."""
    if folder.exists() and any(p.name != VERSIONS_FILE and not p.name.startswith(".jaxseg-") for p in folder.iterdir()):
        there = (folder / CONFIG_FILE).is_file()
        resume = ", or go on with the run in it with --resume" if there else ""
        raise ValueError(f"{folder} is not empty; name a new folder{resume}")


def _refuse_other_data(path: Path, problem: task.Problem) -> None:
    """Raises where a run goes on and its data are not those that it was started with."""
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(dict(problem.facts))):
        raise ValueError(f"the data are not those that the run was started with, which {path} lists; start a new run")


def _tell_of_versions(path: Path, tell: Callable[[str], None]) -> None:
    """Tells where a run goes on under other versions than it was started with."""
    now = _versions(environment())
    try:
        then = _versions(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        tell(f"{path} cannot be read, which says under which versions the run was started")
        return
    changed = [f"{name} {then.get(name, 'unknown')} (now {now[name]})" for name in now if then.get(name) != now[name]]
    if changed:
        tell(f"the run was started under other versions, and may not go on to the bit: {', '.join(changed)}")


def _versions(found: dict) -> dict[str, str]:
    return {"jaxseg": found.get("jaxseg"), "Python": found.get("python")} | dict(found.get("versions", {}))


def _refuse_no_data(source: str | Path, overrides: Sequence[str], data: Path | None) -> None:
    """Raises where data are named for a task that takes none; other faults of the settings are told of later."""
    if data is None:
        return
    try:
        config = read_config(source, task.sections, overrides)
    except ValueError:
        return
    if not hasattr(config.data, "root"):
        raise ValueError(f"-i: {config.task} takes no data, it makes its own; leave -i out")


def _root(data: Path | None) -> list[str]:
    """The override that `-i` stands for."""
    return [] if data is None else [f"data.root={json.dumps(str(data.resolve()))}"]


def _located(config: Config) -> Config:
    """A configuration with the whole path of its data, so that the run can go on from another working directory."""
    if not hasattr(config.data, "root"):
        return config
    root = str(Path(config.data.root).expanduser().resolve())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))


def _checkpoint(checkpoints: Checkpoints, step: int | None, folder: Path) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise ValueError(f"{folder} has no checkpoint yet")
    if step is None:
        best = checkpoints.best()
        return steps[-1] if best is None else best
    if step not in steps:
        raise ValueError(f"there is no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return step


def _differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    """The names of the settings in which two configurations differ."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(prefix + name)
    return found


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
