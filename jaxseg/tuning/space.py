"""The settings that a search may change: ranges such as `optimizer.learning_rate=1e-5..1e-2 log`, and choices.

The paths are those of `--set`. Each end of a range and each choice is checked with the configuration before training.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxseg.files import printable
from jaxseg.settings import shown, to_mapping
from jaxseg.training.config import yaml_text
from jaxseg.training.config.config import Config

MAX_PARAMETERS, MAX_CHOICES, MAX_CHARACTERS = 32, 100, 100_000
FORM = "it has the form optimizer.learning_rate=1e-5..1e-2 log, or optimizer.name=adam|sgd"
# Choices if the configuration has no weight decay; a logarithmic range cannot start at 0.
_DECAYS = ("0", "1e-6", "1e-5", "1e-4", "1e-3")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A setting to search for: a range of numbers, or choices.

    Attributes:
      path: path of the setting, such as "optimizer.learning_rate".
      low, high: both ends of a range, inclusive; None for choices.
      log: whether the logarithm is sampled uniformly.
      whole: whether only whole numbers are sampled.
      choices: as YAML writes them, in the given order; empty for a range.
    """

    path: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return f"{self.path}={'|'.join(self.choices)}"
        return f"{self.path}={self.low!r}..{self.high!r}{' log' if self.log else ''}"

    def position(self, value: object) -> float | str | None:
        """Returns the value of a setting as a number in the range or as a choice; None if it is outside the space."""
        if self.choices:
            return next((text for text in self.choices if _same(yaml_text.parse(text, self.path), value)), None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None


def read_space(given: Sequence[str]) -> list[str]:
    """Returns the lines of a search space.

    Args:
      given: lines of the form `path=low..high`, `path=low..high log` or `path=a|b|c`; or paths of text files of such
        lines, in which empty lines and lines that start with # are ignored.

    Raises:
      ValueError: a file is too long or is not text.
      OSError: it cannot be read.
    """
    lines = []
    for text in given:
        if "=" in text:
            lines.append(text.strip())
            continue
        if not Path(text).is_file():
            raise ValueError(f"{printable(text)}: there is no such file, and it is not a parameter: {FORM}")
        lines += [line.strip() for line in _file(Path(text)).splitlines() if line.strip() and line.lstrip()[0] != "#"]
    return lines


def make_space(lines: Sequence[str], accept: Callable[[str], Config], fixed: Sequence[str] = ()) -> list[Parameter]:
    """Returns the parameters that lines describe; all of them are checked with a configuration.

    Args:
      lines: see `read_space`.
      accept: ("path=value") -> the configuration with this setting; raises ValueError if the configuration refuses
        it, as `jaxseg.training.config.config.read_config` does.
      fixed: paths that cannot be searched for, besides "task".

    Raises:
      ValueError: one line per problem: no parameters or too many, a parameter that is given twice, a path that does
        not exist, or ends and choices that the setting cannot have.
    """
    problems: list[str] = []
    found = [_parsed(line, problems) for line in lines]
    paths = [parameter.path for parameter in found if parameter]
    problems += [f"{path}: given twice" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    barred = [path for path in dict.fromkeys(paths) if path in ("task", *fixed)]
    problems += [f"{path}: it must stay the same during a search" for path in barred]
    space = [_tried(p, accept, problems) for p in found if p and p.path not in barred]
    if not lines:
        problems.append(f"the search space is empty; {FORM}")
    if len(lines) > MAX_PARAMETERS:
        problems.append(f"the search space has {len(lines)} parameters; at most {MAX_PARAMETERS} are allowed")
    if problems:
        raise ValueError("\n".join(["the search space:", *dict.fromkeys(problems)]))
    return space


def default_space(config: Config) -> list[str]:
    """Returns the lines of the default search space.

    The learning rate ranges from a tenth to ten times that of the configuration, but not below `schedule.final`. The
    weight decay does so too; if it is 0, the choices are 0 and 1e-6 to 1e-3, unless the optimizer has no weight decay.
    The batch has half, the same and twice its size, if `trainer.accumulate` divides it.
    """
    rate, decay, trainer = config.optimizer.learning_rate, config.optimizer.weight_decay, config.trainer
    low = max(_short(rate / 10), config.schedule.final)
    lines = [f"optimizer.learning_rate={low!r}..{_short(min(10 * rate, 1e6))!r} log"]
    if decay:
        lines.append(f"optimizer.weight_decay={_short(decay / 10)!r}..{_short(min(10 * decay, 1e6))!r} log")
    elif config.optimizer.name != "adam":
        lines.append(f"optimizer.weight_decay={'|'.join(_DECAYS)}")
    size = trainer.batch_size
    halves = [size // 2] if size % 2 == 0 and size // 2 % trainer.accumulate == 0 else []
    sizes = [*halves, size, *([2 * size] if size <= 500_000 else [])]
    return [*lines, f"trainer.batch_size={'|'.join(map(str, sizes))}"]


def valued(config: Config, path: str) -> object:
    """Returns the value of a setting by its path, as YAML holds it; None if there is no such setting."""
    value = to_mapping(config)
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _file(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_CHARACTERS + 1)
    if len(content) > MAX_CHARACTERS:
        raise ValueError(f"{path} is longer than a search space")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def _parsed(line: str, problems: list[str]) -> Parameter | None:
    """Returns the parameter of a line, or None if a problem was added."""
    path, equals, text = (part.strip() for part in line.partition("="))
    if not equals or not path or not text:
        problems.append(f"{printable(line)[:80]}: not a parameter; {FORM}")
        return None
    if "|" in text:
        return _choices(path, [choice.strip() for choice in text.split("|")], problems)
    parts = re.fullmatch(r"(\S+?)\s*\.\.\s*(\S+)(\s+log)?", text)
    if not parts:
        problems.append(
            f"{printable(path)}: {shown(text)} is neither a range nor choices; {FORM}; use --set for a single value"
        )
        return None
    try:
        low, high = (yaml_text.parse(end, path) for end in parts.group(1, 2))
    except ValueError as error:
        problems.append(str(error))
        return None
    log = bool(parts[3])
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            problems.append(f"{path}: {shown(end)} is not a finite number, as the ends of a range must be")
            return None
    if low >= high or (log and low <= 0):
        what = "must be above 0 for log" if low < high else f"must be below its highest, {shown(high)}"
        problems.append(f"{path}: the lowest, {shown(low)}, {what}")
        return None
    return Parameter(path, low, high, log)


def _choices(path: str, choices: list[str], problems: list[str]) -> Parameter | None:
    before = len(problems)
    values = []
    for choice in choices:
        try:
            values.append(yaml_text.parse(choice, path))
        except ValueError as error:
            problems.append(str(error))
    if not all(choices):
        problems.append(f"{path}: a choice is empty; write null or ''")
    if any(_same(a, b) for i, a in enumerate(values) for b in values[:i]):
        problems.append(f"{path}: a choice is given twice")
    if len(choices) > MAX_CHOICES:
        problems.append(f"{path}: {len(choices)} choices; at most {MAX_CHOICES} are allowed")
    return Parameter(path, choices=tuple(choices)) if len(problems) == before else None


def _tried(parameter: Parameter, accept: Callable, problems: list[str]) -> Parameter:
    """Checks the ends or choices of a parameter with the configuration, and whether it is a whole number."""
    before = len(problems)
    for value in parameter.choices or (repr(parameter.low), repr(parameter.high)):
        try:
            config = accept(f"{parameter.path}={value}")
        except ValueError as error:
            problems += str(error).split("\n")[1:]  # the first line names the file
    if parameter.choices or len(problems) > before:
        return parameter
    kinds = _kinds(config, parameter.path)
    return dataclasses.replace(parameter, whole=float not in kinds)


def _kinds(config: Config, path: str) -> tuple:
    """Returns the types that a setting may have."""
    *groups, last = path.split(".")
    for group in groups:
        config = getattr(config, group)
    hint = typing.get_type_hints(type(config))[last]
    return typing.get_args(hint) or (hint,)


def _same(one: object, other: object) -> bool:
    """Returns whether two values are equal in a configuration, where 1 equals 1.0 but not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _short(number: float) -> float:
    return float(f"{number:.6g}")
