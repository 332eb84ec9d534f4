"""A training run as one frozen dataclass, read from a YAML file that people edit."""

import dataclasses
import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from jaxseg.files import atomic_file, printable
from jaxseg.post_dae import original_config as original_yml
from jaxseg.settings import Range, build, convert, shown, to_mapping, unknown_setting
from jaxseg.training.config import yaml_text
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig

__all__ = [
    "Config",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainerConfig",
    "build",
    "packaged",
    "read_config",
    "to_mapping",
    "write_config",
]
Seed = Annotated[int, Range(0, 2**32 - 1)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a training run is given.

    Attributes:
      task: name of the method, such as "paxray".
      seed: of the initial weights, the order of the data and the augmentation.
      data: the task's own dataclass, as model and loss.
      model: the network.
      loss: what is minimised.
      optimizer: OptimizerConfig.
      schedule: ScheduleConfig.
      trainer: TrainerConfig.
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
    source: str | Path,
    sections: Callable[[str], Mapping[str, type]],
    overrides: Iterable[str] = (),
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Config:
    """Returns the configuration of a YAML file, with some settings replaced.

    Args:
      source: path of a file; or, where there is no such file, the name of one that comes with jaxseg ("paxray",
        "configs/paxray.yaml"). A configuration of the original Post-DAE program is read too.
      sections: name of a task -> {"data", "model", "loss"} -> dataclass; a ValueError for a name it does not know.
      overrides: such as "trainer.epochs=2"; what follows the = is YAML.
      tell: called with a line for each setting of an original program that has no effect.

    Raises:
      ValueError: the file cannot be read or is not YAML; or, one line each, all that is wrong with its settings.
      OSError: the system cannot read the file.
    """
    text, name = _read(source)
    raw = yaml_text.parse(text, name)
    if not isinstance(raw, dict):
        raise ValueError(f"{name} holds {'nothing' if raw is None else 'no settings'}; it needs lines of `name: value`")
    problems: list[str] = []
    if original_yml.is_original(raw):
        try:
            raw = original_yml.translated(raw, tell)
        except ValueError as error:
            problems += str(error).split("\n")
    for override in overrides:
        _override(raw, override, problems)
    config = None if problems else _config(raw, sections, problems)
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise ValueError("\n".join([f"{count} in the settings of {name}:", *problems]))
    return config


def write_config(config: Config, path: Path) -> None:
    """Writes a configuration as YAML; `read_config` makes an equal one of it."""
    text = yaml_text.dump(to_mapping(config))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def stored_folder(source: str | Path) -> Path | None:
    """Returns where the configuration of an original program has its run stored; None: it does not say, or is ours.

    Raises:
      ValueError, OSError: as `read_config`.
    """
    text, name = _read(source)
    return original_yml.run_folder(yaml_text.parse(text, name))


def packaged() -> dict[str, str]:
    """Returns the training configurations that come with jaxseg, by name."""
    files = [file for file in importlib.resources.files("jaxseg.configs").iterdir() if file.name.endswith(".yaml")]
    texts = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}
    return {name: texts[name] for name in sorted(texts) if re.search(r"^task:", texts[name], re.MULTILINE)}


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(4 * yaml_text.MAX_CHARACTERS + 1)  # one character takes up to four bytes
        try:
            return content.decode("utf-8-sig"), path.name
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text, or it is longer than a configuration") from None
    known = packaged()
    name = path.name.removesuffix(".yaml")
    if name in known and path.parent.as_posix() in (".", "configs"):
        return known[name], f"{name}.yaml"
    raise ValueError(f"no configuration {printable(str(source))}: give a YAML file or one of {', '.join(known) or '-'}")


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


def _config(raw: dict, sections: Callable, problems: list[str]) -> Config | None:
    """Returns the configuration, or None where lines were added to `problems`."""
    names = [field.name for field in dataclasses.fields(Config)]
    problems += [unknown_setting(name, names, "") for name in raw if name not in names]
    hints = {"seed": Seed} | _of_task(raw.get("task"), sections, problems)
    hints |= {"optimizer": OptimizerConfig, "schedule": ScheduleConfig, "trainer": TrainerConfig}
    values = {"task": raw.get("task")}
    for name, hint in hints.items():
        value = raw.get(name, 0 if name == "seed" else {})
        if value is None and name != "seed":  # all lines of the section are comments
            value = {}
        values[name] = convert(hint, value, name, problems)
    if problems:
        return None
    try:
        return Config(**values)
    except ValueError as error:
        problems.append(str(error))
        return None


def _of_task(task: Any, sections: Callable, problems: list[str]) -> dict[str, type]:
    """Returns the dataclasses of a task; none where the task is not known."""
    if not isinstance(task, str):
        problems.append("task: missing" if task is None else f"task: {shown(task)} is not text")
        return {}
    try:
        return dict(sections(task))
    except ValueError as error:
        problems.append(f"task: {str(error).removeprefix('task: ')}")
        return {}
