"""YAML of settings: the subset of PyYAML's safe loader that neither surprises users nor exhausts the machine.

A value is text unless it is a number, true, false or null of YAML 1.2: `1e-3` is a number; `no`, `1:30`, `010` and
`2024-01-01` are text. Repeated names, aliases and deep nesting are refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxseg.files import printable

MAX_CHARACTERS = 200_000
MAX_DEPTH = 20

_SCALARS = (  # tag, pattern, first characters; whole numbers come first because the pattern of floats matches them too
    ("tag:yaml.org,2002:null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", list("tf")),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars above, without repeated names, aliases and deep nesting."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not read; write the value", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(None, None, "a name must be text", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes YAML for `_Loader`; quotes text that another YAML reader could read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def read(path: Path) -> str:
    """Returns the text of a file for `parse`; of a file that is too long, only as much as shows that.

    Raises:
      ValueError: it is not UTF-8 text.
      OSError: the system cannot read it.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_CHARACTERS + 1)  # a character has up to four bytes
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text, or it is longer than a configuration") from None


def all_problems(source: str, problems: Sequence[str]) -> str:
    """Returns the message of an error about the settings of a file, with one line per problem."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    return "\n".join([f"{count} in the settings of {source}:", *problems])


def parse(text: str, source: str) -> Any:
    """Returns the content of one YAML document: dicts, lists, text, numbers, booleans and None.

    Args:
      text: the document.
      source: its name in messages.

    Raises:
      ValueError: it is not the YAML described above, or it is longer than MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{source} has more than {MAX_CHARACTERS} characters; a configuration is shorter")
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = error.problem or error.context or "not YAML"
        raise ValueError(f"{source}{place}: {printable(reason)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not YAML"
        raise ValueError(f"{source}: {printable(reason)}") from None


def dump(value: Any) -> str:
    """Returns YAML from which `parse` reads an equal value; the value consists of dicts, lists and plain values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
