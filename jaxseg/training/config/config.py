"""A training run as one frozen dataclass, read from a YAML file that people edit."""

import dataclasses
import importlib.resources
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from jaxseg.files import atomic_file, printable
from jaxseg.registry import TASKS
from jaxseg.settings import Range, convert, renamed, shown, to_mapping, unknown_setting
from jaxseg.training.config import yaml_text
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig
from jaxseg.training.task import task_class

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


def read_config(
    source: str | Path, overrides: Iterable[str] = (), *, tell: Callable[[str], None] = lambda _: None
) -> Config:
    """Returns the configuration of a YAML file, with some settings replaced.

    Args:
      source: path of a file; or, if there is no such file, the name of a configuration packaged with jaxseg ("paxray",
        "configs/paxray.yaml"). Configurations of the original programs that a task can translate are read too.
      overrides: such as "trainer.epochs=2"; the text after the = is YAML.
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
    config = None if problems else _config(raw, problems, tell)
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise ValueError("\n".join([f"{count} in the settings of {name}:", *problems]))
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
        with path.open("rb") as file:
            content = file.read(4 * yaml_text.MAX_CHARACTERS + 1)  # a character has up to four bytes
        try:
            return content.decode("utf-8-sig"), path.name
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text, or it is longer than a configuration") from None
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
