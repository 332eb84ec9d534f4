"""A training run as one frozen dataclass, read from a YAML file that people edit or from the folder of the run."""

import dataclasses
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

from jaxseg.files import atomic_file, printable
from jaxseg.registry import TASKS
from jaxseg.settings import Range, convert, renamed, shown, to_mapping, unknown_setting
from jaxseg.training.config import yaml_text
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig
from jaxseg.training.task import task_class

CONFIG_FILE, VERSIONS_FILE = "config.yaml", "versions.json"  # in the folder of a run
MOVABLE = ("data.root", "data.threads", "data.workers", "trainer.keep_memory")  # settings on which no result depends

Seed = Annotated[int, Range(0, 2**32 - 1)]


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a training run.

    Attributes:
      task: name of the method, such as "paxray".
      seed: random seed of the initial weights, the order of the data and the augmentation; in [0, 2^32).
      data: settings of the data; the dataclass depends on the task, as those of model and loss do.
      model: hyper-parameters of the network.
      loss: settings of the loss.
      optimizer: settings of the optimizer.
      schedule: schedule of the learning rate.
      trainer: settings of the training loop.
    """

    task: str
    seed: Seed
    data: Any
    model: Any
    loss: Any
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig

    def __post_init__(self):
        if self.schedule.final > self.optimizer.learning_rate:
            raise ValueError(
                f"schedule.final: {self.schedule.final:g} is above optimizer.learning_rate, "
                f"{self.optimizer.learning_rate:g}"
            )

    @property
    def data_folder(self) -> Path | None:
        """The folder of the data; None if the task makes its own data."""
        return Path(self.data.root) if task_class(self.task).takes_data else None


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
    if resume and stored.is_file():
        return _with_whole_root(_resumed(stored, source, overrides, data))
    if source is None:
        what = "no run to resume" if resume else "no configuration was named"
        raise ValueError(f"{folder}: {what}; give a configuration with -t")
    config = read_config(source, overrides, data=data, tell=tell)
    # Only the first of several hosts checks, because the others may find the run that it has already started. The
    # number of a host is known only after the devices have started, so a single host does not ask for it.
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
        _check_empty(folder)
    return _with_whole_root(config)


def _resumed(stored: Path, source: str | Path | None, overrides: Sequence[str], data: Path | None) -> Config:
    """Returns the configuration of the run in a folder; only settings that do not affect results may differ from it."""
    config, wanted = read_config(stored), read_config(source or stored, overrides, data=data)
    changed = [name for name in _differences(to_mapping(config), to_mapping(wanted)) if name not in MOVABLE]
    if changed:
        names = ", ".join(changed)
        raise ValueError(f"{stored.parent} was started with a different {names}; start a new run in a new folder")
    moved = [override for override in overrides if override.partition("=")[0].strip() in MOVABLE]
    return read_config(stored, moved, data=data)


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
    root = config.data_folder
    if root is None:
        return config
    data = dataclasses.replace(config.data, root=str(root.expanduser().resolve()))
    return dataclasses.replace(config, data=data)


def read_config(
    source: str | Path,
    overrides: Iterable[str] = (),
    *,
    data: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Config:
    """Returns the configuration of a YAML file, with some settings replaced.

    Args:
      source: path of a file; or, if there is no such file, the name of a configuration packaged with jaxseg ("paxray",
        "configs/paxray.yaml"). Configurations of the original programs that a task can translate are read too.
      overrides: such as "trainer.epochs=2"; the text after the = is YAML.
      data: folder of the data, instead of `data.root`.
      tell: called with a message for each setting of an original program that has no effect, and for each setting
        that is given by its old name.

    Raises:
      ValueError: the file cannot be read or is not YAML; or its settings are wrong, with one line per problem.
      OSError: the system cannot read the file.
    """
    text, name = _read(source)
    raw = yaml_text.parse(text, name)
    if not isinstance(raw, dict):
        raise ValueError(f"{name} holds {'nothing' if raw is None else 'no settings'}; it needs lines of `name: value`")
    problems: list[str] = []
    try:
        raw = _translated(raw, tell)
    except ValueError as error:
        problems += str(error).split("\n")
    for override in overrides:
        _override(raw, override, problems)
    generates = data is not None and _generates_data(raw.get("task"))
    if data is not None and not generates:
        _override(raw, f"data.root={json.dumps(str(data.resolve()))}", problems)
    config = None if problems else _config(raw, problems, tell)
    if problems:
        raise ValueError(yaml_text.all_problems(name, problems))
    if generates:
        raise ValueError(f"-i: {config.task} generates its own data; leave -i out")
    return config


def write_config(config: Config, path: Path) -> None:
    """Writes a configuration as YAML; `read_config` reads an equal one from it."""
    text = yaml_text.dump(to_mapping(config))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def stored_folder(source: str | Path) -> Path | None:
    """Returns the folder in which the configuration of an original program stores its run, if it names one.

    Raises:
      ValueError, OSError: as `read_config`.
    """
    text, name = _read(source)
    raw = yaml_text.parse(text, name)
    if not isinstance(raw, dict) or "task" in raw:
        return None
    return next(filter(None, (task_class(task).original_folder(raw) for task in TASKS)), None)


def packaged() -> dict[str, str]:
    """Returns the texts of the packaged training configurations by name."""
    files = [file for file in importlib.resources.files("jaxseg.configs").iterdir() if file.name.endswith(".yaml")]
    texts = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}
    return {name: texts[name] for name in sorted(texts) if re.search(r"^task:", texts[name], re.MULTILINE)}


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        return yaml_text.read(path), path.name
    known = packaged()
    name = path.name.removesuffix(".yaml")
    if name in known and path.parent.as_posix() in (".", "configs"):
        return known[name], f"{name}.yaml"
    raise ValueError(f"no configuration {printable(str(source))}: give a YAML file or one of {', '.join(known) or '-'}")


def _translated(raw: dict, tell: Callable[[str], None]) -> dict:
    """Returns the settings of an original program's file as ours; a file that names a task is ours already."""
    if "task" in raw:
        return raw
    found = (task_class(task).translate(raw, tell) for task in TASKS)
    return next((settings for settings in found if settings is not None), raw)


def _override(raw: dict, override: str, problems: list[str]) -> None:
    name, equals, text = override.partition("=")
    *groups, last = name.strip().split(".")
    if not equals or not all([*groups, last]):
        problems.append(f"{printable(override)}: an override has the form trainer.epochs=2")
        return
    for group in groups:
        if raw.get(group) is None:
            raw[group] = {}
        if not isinstance(raw[group], dict):
            problems.append(f"{name.strip()}: {group} is not a group of settings")
            return
        raw = raw[group]
    try:
        raw[last] = yaml_text.parse(text, name.strip())
    except ValueError as error:
        problems.append(f"{error} (text with special characters needs quotes)")


def _generates_data(task: Any) -> bool:
    """Returns whether a task makes its own data; False if there is no such task, which is reported later."""
    return isinstance(task, str) and task in TASKS and not task_class(task).takes_data


def _config(raw: dict, problems: list[str], tell: Callable[[str], None]) -> Config | None:
    """Returns the configuration, or None if lines were added to `problems`."""
    names = [field.name for field in dataclasses.fields(Config)]
    problems += [unknown_setting(name, names, "") for name in raw if name not in names]
    hints = {"seed": Seed} | _task_sections(raw.get("task"), problems)
    hints |= {"optimizer": OptimizerConfig, "schedule": ScheduleConfig, "trainer": TrainerConfig}
    values = {"task": raw.get("task")}
    for name, hint in hints.items():
        value = raw.get(name, 0 if name == "seed" else {})
        if value is None and name != "seed":  # all lines of the section are comments
            value = {}
        values[name] = convert(hint, renamed(hint, value, name, tell), name, problems)
    if problems:
        return None
    try:
        return Config(**values)
    except ValueError as error:
        problems.append(str(error))
        return None


def _task_sections(task: Any, problems: list[str]) -> dict[str, type]:
    """Returns the dataclasses of a task's own sections; none if the task is unknown."""
    if not isinstance(task, str):
        problems.append("task: missing" if task is None else f"task: {shown(task)} is not text")
        return {}
    try:
        found = task_class(task)
    except ValueError as error:
        problems.append(str(error))
        return {}
    return {"data": found.Data, "model": found.Model, "loss": found.Loss}
