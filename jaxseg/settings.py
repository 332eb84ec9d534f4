"""Settings: frozen dataclasses made from plain mappings by their type hints; all problems are reported at once."""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxseg.files import printable

T = typing.TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a number, as in `Annotated[int, Range(1, 10)]`.

    Attributes:
      low: the lowest number.
      high: the highest number.
      above: whether `low` itself is not allowed.
      below: whether `high` itself is not allowed.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (
            (self.above and value == self.low) or (self.below and value == self.high)
        )

    def __str__(self) -> str:
        if not (self.above or self.below):
            return f"from {self.low} to {self.high}"
        low, high = "above" if self.above else "at least", "below" if self.below else "at most"
        return f"{low} {self.low} and {high} {self.high}"


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Returns an instance of a dataclass, made from a mapping of its fields.

    Fields may be int, float (which also accepts an int), str, bool, Literal, X | None, tuple[X, ...], tuple[X, Y],
    Annotated with a Range, and dataclasses of such fields; a tuple is given as a list. There are no other conversions:
    1 is not true and "1" is not 1.

    Args:
      cls: the dataclass; the message of a ValueError from its `__post_init__` is reported with the path.
      mapping: field -> value; fields with a default may be absent.
      where: path of the mapping in the whole configuration, for messages.

    Raises:
      ValueError: one line per problem, each starting with the path: unknown or missing fields, wrong types, values
        that the dataclass refuses.
    """
    problems: list[str] = []
    value = convert(cls, mapping, where, problems)
    if problems:
        raise ValueError("\n".join(problems))
    return value


def convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Returns `value` as the type `hint`; if it does not fit, adds lines to `problems` and returns None.

    Raises:
      TypeError: settings cannot have this type hint.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where, problems)
    if origin is typing.Annotated:
        return _annotated(arguments, value, where, problems)
    if origin is typing.Literal:
        if not any(type(value) is type(allowed) and value == allowed for allowed in arguments):
            problems.append(f"{where}: {shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _optional(arguments, value, where, problems)
    if origin is tuple:
        return _tuple(arguments, value, where, problems)
    if hint not in _PLAIN:
        raise TypeError(f"{where}: settings cannot be of type {hint}")
    return _plain(hint, value, where, problems)


def renamed(hint: Any, value: Any, where: str, tell: Callable[[str], None]) -> Any:
    """Returns settings with the old names of fields replaced by the present ones; `tell` gets a message for each.

    A dataclass lists old names in `RENAMED`, a mapping old name -> (field, {old value: value of the field}).

    Args:
      hint: the type of the settings; only dataclasses have old names.
      value: the settings as read from YAML.
      where: path of the settings in the whole configuration, for messages.
      tell: called with a message.
    """
    if not dataclasses.is_dataclass(hint) or not isinstance(value, Mapping):
        return value
    hints, old = _hints(hint), getattr(hint, "RENAMED", {})
    found = {}
    for name, inner in value.items():
        field, values = old.get(name, (name, {}))
        if field != name and field not in value and isinstance(inner, str | bool) and inner in values:
            tell(f"{joined(where, name)} is now called {joined(where, field)}: write {field}: {values[inner]}")
            name, inner = field, values[inner]
        found[name] = renamed(hints.get(name), inner, joined(where, str(name)), tell)
    return found


def verify(instance: Any, more: Iterable[str] = ()) -> None:
    """Raises ValueError if fields of a dataclass do not have their types or ranges; for `__post_init__`.

    Args:
      instance: a dataclass instance.
      more: further problems, "field: what is wrong", often a generator; it is used only if all types are right.
    """
    problems: list[str] = []
    for name, hint in _hints(type(instance)).items():
        value = getattr(instance, name)
        if isinstance(value, list):  # a frozen dataclass that holds a list cannot be hashed
            problems.append(f"{name}: {shown(value)} is a list; give a tuple")
        else:
            convert(hint, value, name, problems)
    problems = problems or list(more)
    if problems:
        raise ValueError("\n".join(problems))


def section(cls: type, *names: str, **defaults: Any) -> type:
    """Returns a dataclass with some of the fields of another one, so that each setting is declared only once.

    A section of a configuration inherits from it and may add fields.

    Args:
      cls: a dataclass, such as the configuration of a model.
      names: the fields to take over, with their types, ranges and defaults.
      **defaults: defaults that differ from those of `cls`, by field.

    Raises:
      TypeError: `cls` has no such field.
    """
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, _hints(cls)
    if unknown := [name for name in (*names, *defaults) if name not in hints or name not in names]:
        raise TypeError(f"{cls.__name__} has no field {', '.join(unknown)}, or it is not among the fields taken over")
    chosen = [(name, hints[name], defaults.get(name, fields[name].default)) for name in names]
    return dataclasses.make_dataclass(
        f"{cls.__name__}Section",
        [(name, hint, dataclasses.field(default=default)) for name, hint, default in chosen],
        namespace={"__doc__": cls.__doc__, "__post_init__": verify, "RENAMED": getattr(cls, "RENAMED", {})},
        frozen=True,
        kw_only=True,
    )


def pick(cls: type[T], source: Any, **more: Any) -> T:
    """Returns an instance of a dataclass, made from the fields of `source` that have the same names.

    Args:
      cls: the dataclass.
      source: an instance of a section of it, see `section`.
      **more: values of other fields.

    Raises:
      ValueError: the dataclass refuses the values.
    """
    shared = {field.name for field in dataclasses.fields(cls)} & {field.name for field in dataclasses.fields(source)}
    return cls(**{name: getattr(source, name) for name in shared} | more)


def problems_of(cls: type, source: Any, **more: Any) -> list[str]:
    """Returns the problems that `pick` with these arguments raises, one line each; an empty list if there are none."""
    try:
        pick(cls, source, **more)
    except ValueError as error:
        return str(error).split("\n")
    return []


def to_mapping(config: Any) -> Any:
    """Returns a dataclass as plain dicts, lists and values; `build` makes an equal one from them."""
    if dataclasses.is_dataclass(config):
        return {
            field.name: to_mapping(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init
        }
    if isinstance(config, tuple | list):
        return [to_mapping(item) for item in config]
    return config


def unknown_setting(name: Any, allowed: Sequence[str], where: str) -> str:
    """Returns the problem line of an unknown setting, with the most similar known one."""
    near = difflib.get_close_matches(str(name), allowed, 1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed)}"
    return f"{joined(where, printable(str(name))[:80])}: no such setting; {advice}"


def joined(where: str, name: str) -> str:
    """Returns the path of a setting inside the group at `where`."""
    return f"{where}.{name}" if where else name


def shown(value: Any) -> str:
    """Returns a value for messages: as YAML writes it, on one line, and shortened."""
    if isinstance(value, Mapping):
        return "a group of settings"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return printable(text if len(text) <= 80 else text[:77] + "...")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # the whole number exceeds every float
        return False


_PLAIN = {
    int: (_whole, "a whole number"),
    float: (_finite, "a finite number"),
    str: (lambda value: isinstance(value, str), "text (put it in quotes if it is meant as text)"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
}


def _plain(hint: type, value: Any, where: str, problems: list[str]) -> Any:
    fits, meaning = _PLAIN[hint]
    if not fits(value):
        problems.append(f"{where}: {shown(value)} is not {meaning}")
        return None
    return hint(value)


def _annotated(arguments: tuple, value: Any, where: str, problems: list[str]) -> Any:
    before = len(problems)
    found = convert(arguments[0], value, where, problems)
    if len(problems) == before:
        outside = [range for range in arguments[1:] if isinstance(range, Range) and found not in range]
        problems += [f"{where}: must be {range}, got {shown(value)}" for range in outside]
    return found


def _optional(hints: tuple, value: Any, where: str, problems: list[str]) -> Any:
    others = [hint for hint in hints if hint is not types.NoneType]
    if len(others) != 1 or len(others) == len(hints):
        raise TypeError(f"{where}: settings cannot be of type {' | '.join(map(str, hints))}")
    if value is None:
        return None
    return convert(others[0], value, where, problems)


def _tuple(hints: tuple, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(f"{where}: {shown(value)} is not a list")
        return None
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        problems.append(f"{where}: {shown(value)} has {len(value)} entries, it needs {len(hints)}")
        return None
    return tuple(
        convert(hint, item, f"{where}[{i}]", problems) for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _dataclass(cls: type, mapping: Any, where: str, problems: list[str]) -> Any:
    if isinstance(mapping, cls):
        return mapping
    if not isinstance(mapping, Mapping):
        problems.append(f"{where or 'the configuration'}: {shown(mapping)} is not a group of settings (name: value)")
        return None
    hints = _hints(cls)
    problems += [unknown_setting(name, tuple(hints), where) for name in mapping if name not in hints]
    before, values = len(problems), {}
    for name, hint in hints.items():
        if name in mapping:
            values[name] = convert(hint, mapping[name], joined(where, name), problems)
    needed = [field.name for field in dataclasses.fields(cls) if _required(field)]
    problems += [f"{joined(where, name)}: missing" for name in needed if name not in mapping]
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems += _placed(str(error), tuple(hints), where)
        return None


def _placed(message: str, names: tuple[str, ...], where: str) -> list[str]:
    """Returns the problems of a dataclass's own message, each with its path; it separates them by "; " or new lines."""
    begins = rf"(?:{'|'.join(map(re.escape, names))})(?:[.\[][^:;\s]*)?: " if names else r"(?!)"
    parts = re.split(rf"(?:; |\n)(?={begins})", message)
    return [joined(where, part) if re.match(begins, part) else f"{where}: {part}" if where else part for part in parts]


def _required(field: dataclasses.Field) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
