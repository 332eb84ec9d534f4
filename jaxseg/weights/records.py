"""Inert records in place of the classes and functions that a weights file names; nothing is ever imported."""

import sys
from typing import Any

# Data classes of the standard library that checkpoints contain; no other name of it is allowed.
_HARMLESS = {
    "_codecs": "encode",
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "enum": "Enum Flag IntEnum IntFlag",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "types": "SimpleNamespace",
    "typing": "Any",
    "uuid": "UUID",
}
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
_PYTHON_2_OR_DROPPED = """
asynchat asyncore cPickle cStringIO cgi commands crypt distutils dummy_thread exceptions imp lib2to3 new nis pipes
popen2 smtpd spwd telnetlib thread uu xdrlib
"""
_STANDARD = sys.stdlib_module_names | set(_PYTHON_2_OR_DROPPED.split())


class TorchFileError(ValueError):
    """The file is not a readable weights file, or contains something that no weights file needs."""


class MalformedPickle(TorchFileError):
    """The bytes are not a pickle, or the pickle is damaged."""


class Record:
    """The name and the data of a class, a function or an instance, without its behaviour.

    Attributes:
      module: the module that the file names.
      name: the name inside that module; may hold dots.
      args: arguments that the object would have been created with; None if the file only names a class or function.
      kwargs: keyword arguments likewise.
      state: the state that the object would have been restored from, mostly a dict of its attributes; None without one.
      items: the values that were appended or added to it, in order.
      entries: the values that were set in it by key.
    """

    __slots__ = ("module", "name", "args", "kwargs", "state", "items", "entries")

    def __init__(self, module: str, name: str, args: tuple | None = None, kwargs: dict | None = None):
        self.module, self.name, self.args, self.kwargs = module, name, args, kwargs or {}
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{'class' if self.args is None else 'object of'} {shown(f'{self.module}.{self.name}')}, not imported>"


def named(module: str, name: str) -> Record:
    """Returns the record of a class or function that a file names.

    Raises:
      TorchFileError: the class or function belongs to the standard library and is not plain data.
    """
    module = _RENAMED.get(module, module)
    if module.partition(".")[0] in _STANDARD and name not in _HARMLESS.get(module, "").split():
        full = shown(f"{module}.{name}")
        raise TorchFileError(f"refers to {full}, which no weights file needs; refusing to read it")
    return Record(module, name)


def shown(text: str) -> str:
    """Returns text from a file in a form for messages: short and printable."""
    text = text if len(text) <= 120 else text[:117] + "..."
    return text if text.isprintable() else ascii(text)
