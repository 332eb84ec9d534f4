"""What a weights file may name, and the inert records that stand for what it names; nothing is ever imported."""

import sys

# Data classes of the standard library that checkpoints do hold; nothing else of it may be named.
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
    """The file is not a readable weights file, or asks for something that no weights file needs."""


class MalformedPickle(TorchFileError):
    """The bytes are no pickle, or a damaged one."""


class Record:
    """An inert stand-in for a class, a function or an object of one: its name and its data, no behaviour.

    Attributes:
      module: the module that the file names.
      name: the name inside that module; may hold dots.
      args: what the object would have been made from; None where the file only names a class or function.
      kwargs: the same for keyword arguments.
      state: what the object would have been restored from, mostly a dict of its attributes; None without one.
      items: what was appended or added to it, in order.
      entries: what was set in it by key.
    """

    __slots__ = ("module", "name", "args", "kwargs", "state", "items", "entries")

    def __init__(self, module: str, name: str, args: tuple | None = None, kwargs: dict | None = None):
        self.module, self.name, self.args, self.kwargs = module, name, args, kwargs or {}
        self.state, self.items, self.entries = None, [], {}

    def __repr__(self) -> str:
        return f"<{'class' if self.args is None else 'object of'} {shown(f'{self.module}.{self.name}')}, not imported>"


def named(module: str, name: str) -> Record:
    """Returns the record of a class or function that a file names.

    Raises:
      TorchFileError: it belongs to the standard library and is not plain data.
    """
    module = _RENAMED.get(module, module)
    if module.partition(".")[0] in _STANDARD and name not in _HARMLESS.get(module, "").split():
        full = shown(f"{module}.{name}")
        raise TorchFileError(f"refers to {full}, which no weights file needs; refusing to read it")
    return Record(module, name)


def shown(text: str) -> str:
    """Returns text from a file as it may stand in a message: short and printable."""
    text = text if len(text) <= 120 else text[:117] + "..."
    return text if text.isprintable() else ascii(text)
