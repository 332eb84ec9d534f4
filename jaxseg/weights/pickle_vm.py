"""Reads pickles without running them: a small machine that builds only plain containers and inert records.

Nothing is imported or called by name, so a hostile file can at worst be refused. Every step
and every copied element counts against a budget, and no memory is allocated for a size that the file only declares.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from jaxseg.weights.records import MalformedPickle, Record, TorchFileError, named

MAX_STEPS = 5_000_000  # opcodes and copied elements; 1,000 tensors with their optimizer take about 100,000
MAX_CRAFTED_KEYS = 20_000  # keys whose hashes a file can choose; with more of them a dict could be made very slow

_SCALARS = (str, bytes, int, float, bool, type(None))
_PLAIN_ARGUMENT = """
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_LITERALS = frozenset(_PLAIN_ARGUMENT.split())


class Budget:
    """The amount of work that one file, with its nested files, may cause."""

    def __init__(self, steps: int = MAX_STEPS, keys: int = MAX_CRAFTED_KEYS):
        self.steps, self.keys = steps, keys

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TorchFileError(f"needs more than {MAX_STEPS:,} steps to read; no weights file does")

    def spend_key(self) -> None:
        self.keys -= 1
        if self.keys < 0:
            raise TorchFileError(f"holds more than {MAX_CRAFTED_KEYS:,} keys that are large numbers or tuples")


class Machine:
    """Builds the value of one pickle.

    Args:
      stream: an object with read, readline and tell that never allocates more than it contains (io.BytesIO, mmap).
      budget: the amount of work that is allowed.
      functions: (module, name) -> function that is used for a call of that name. All other calls return a Record.
      persistent: returns the value of a persistent id; None: such an id is refused.
      constant: returns the value of (module, name), or None to keep the Record.
    """

    def __init__(
        self,
        stream: Any,
        budget: Budget,
        *,
        functions: Mapping | None = None,
        persistent: Callable | None = None,
        constant: Callable | None = None,
    ) -> None:
        self.stream, self.budget = stream, budget
        self.functions, self.persistent, self.constant = functions or {}, persistent, constant
        self.stack: list[Any] = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self) -> object:
        """Returns the value of the pickle that starts at the position of the stream.

        Raises:
          TorchFileError: the pickle is malformed, names something in the standard library that is not plain data, or
            takes too much work.
        """
        name, start = "", self.stream.tell()
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                name = opcode.name
                self.steps += 1
                self.budget.spend()
                if name == "STOP":
                    return self.stack.pop()
                if name in _LITERALS:
                    self.stack.append(_bounded(argument))
                elif name not in ("PROTO", "FRAME"):
                    _OPERATIONS[name](self, argument)
        except TorchFileError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, Warning) as error:
            where = f"the pickle at byte {start} is damaged after its step {self.steps:,} ({name or 'none'})"
            raise MalformedPickle(f"{where}; download or export the file again") from error
        raise MalformedPickle("the pickle has no end; download or export the file again")

    def pop_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, index: int) -> None:
        if not 0 <= index <= self.steps:  # every pickler counts up from 0, so an index is never beyond the steps taken
            raise MalformedPickle(f"damaged pickle: it stores a value under number {index}")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def key(self, value: Any) -> Any:
        """Returns a value that is safe as a dict key: hashing and comparing it takes little time and no recursion."""
        kind = type(value)
        if kind in (str, bytes, bool, type(None), Record) or (kind is int and -(2**31) <= value < 2**31):
            return value
        flat = kind is tuple and len(value) <= 64 and all(type(part) in (*_SCALARS, Record) for part in value)
        if not flat and kind not in (int, float):
            raise TorchFileError(f"uses a {kind.__name__} as a key; use strings, numbers or flat tuples")
        self.budget.spend_key()
        return value

    def values(self, container: Any = ()) -> list:
        """Returns the elements of a plain container in a new list; a dict's are its (key, value) pairs."""
        if type(container) not in (list, tuple, set, frozenset, dict):
            raise TypeError(f"a container is made from a {type(container).__name__}")
        self.budget.spend(len(container))
        return list(container.items() if type(container) is dict else container)

    def name(self, module: str, name: str) -> object:
        """Returns the record or value of a class, function or constant that the file names."""
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name is not text")
        record = named(module, name)
        value = self.constant(record.module, record.name) if self.constant else None
        return record if value is None else value

    def call(self, target: Any, args: tuple) -> Any:
        """Returns the result of a call: the value of one of the few known functions, a plain container, or a Record."""
        if type(target) is not Record or target.args is not None or type(args) is not tuple:
            raise TypeError("calls something that is not a named class or function")
        self.budget.spend(len(args))
        where = (target.module, target.name)
        if where in self.functions:
            return self.functions[where](*args)
        return _CALLS[where](self, *args) if where in _CALLS else self.make(target, args)

    def make(self, target: Any, args: tuple, kwargs: dict | None = None) -> Any:
        """Returns an instance of a named class: a plain container or a Record."""
        if type(target) is not Record or target.args is not None or type(args) is not tuple:
            raise TypeError("makes an instance of something that is not a named class")
        if kwargs is not None and type(kwargs) is not dict:
            raise TypeError("keyword arguments are not a dict")
        self.budget.spend(len(args))
        container = None if kwargs else _CONTAINERS.get((target.module, target.name))
        return container(self, *args) if container else Record(target.module, target.name, args, kwargs)


def _bounded(value: object) -> object:
    if type(value) is int and value.bit_length() > 1024:
        raise MalformedPickle(f"holds a number of {value.bit_length()} bits; no weights file does")
    return value


def _new_dict(vm: Machine, pairs: object = ()) -> dict:
    return {vm.key(key): value for key, value in vm.values(pairs)}


def _new_set(vm: Machine, elements: object = ()) -> set:
    return {vm.key(element) for element in vm.values(elements)}


_CONTAINERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "dict"): _new_dict,
    ("collections", "OrderedDict"): _new_dict,
    ("collections", "Counter"): _new_dict,
    ("collections", "defaultdict"): lambda vm, factory=None, pairs=(): _new_dict(vm, pairs),
    ("builtins", "set"): _new_set,
    ("builtins", "frozenset"): lambda vm, elements=(): frozenset(_new_set(vm, elements)),
    ("builtins", "list"): Machine.values,
    ("collections", "deque"): lambda vm, elements=(), maxlen=None: vm.values(elements),
    ("builtins", "tuple"): lambda vm, elements=(): tuple(vm.values(elements)),
    ("torch", "Size"): lambda vm, elements=(): tuple(vm.values(elements)),
}


def _encode(vm: Machine, text: str, encoding: str = "utf-8") -> bytes:
    """Returns encoded text; pickles of protocol 2 write bytes this way."""
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8"):
        raise TypeError("encodes something other than text")
    vm.budget.spend(len(text) // 64)
    return text.encode(encoding)


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("copyreg", "_reconstructor"): lambda vm, kind, base, state: vm.make(kind, () if state is None else (state,)),
    ("copyreg", "__newobj__"): lambda vm, kind, *args: vm.make(kind, args),
    ("copyreg", "__newobj_ex__"): lambda vm, kind, args, kwargs: vm.make(kind, args, kwargs),
}


def _mark(vm: Machine, _: Any) -> None:
    vm.marks.append(vm.stack)
    vm.stack = []


def _pop(vm: Machine, _: Any) -> None:
    if vm.stack:
        vm.stack.pop()
    else:
        vm.pop_mark()


def _extend(vm: Machine, items: list) -> None:
    target = vm.stack[-1]
    if type(target) is set:
        target.update([vm.key(item) for item in items])
    else:
        (target if type(target) is list else target.items).extend(items)


def _set_items(vm: Machine, items: list, target: Any = None) -> Any:
    target = vm.stack[-1] if target is None else target
    entries = target if type(target) is dict else target.entries
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[vm.key(key)] = value
    return target


def _build(vm: Machine, _: Any) -> None:
    state = vm.stack.pop()
    if type(vm.stack[-1]) is Record:  # attributes of a plain container, such as a state dict's _metadata, are dropped
        vm.stack[-1].state = state


def _instance(vm: Machine, written: str) -> None:
    args = tuple(vm.pop_mark())
    vm.stack.append(vm.call(vm.name(*written.split(" ", 1)), args))


def _from_mark(function: Callable) -> Callable:
    """An operation that replaces the values above the mark by function(machine, values)."""

    def operation(vm: Machine, _: Any) -> None:
        items = vm.pop_mark()
        vm.stack.append(function(vm, items))

    return operation


def _on_top(count: int, function: Callable) -> Callable:
    """An operation that replaces the uppermost values by function(machine, *values)."""

    def operation(vm: Machine, _: Any) -> None:
        values = [vm.stack.pop() for _ in range(count)]
        vm.stack.append(function(vm, *reversed(values)))

    return operation


def _persistent(vm: Machine, pid: object) -> Any:
    if vm.persistent is None:
        raise TorchFileError("the pickle refers to data outside it, which this file does not contain")
    return vm.persistent(pid)


def _refused(vm: Machine, _: Any) -> None:
    raise TorchFileError("uses extension codes, outside buffers or text ids, which no weights file needs")


_OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "NONE": lambda vm, _: vm.stack.append(None),
    "NEWTRUE": lambda vm, _: vm.stack.append(True),
    "NEWFALSE": lambda vm, _: vm.stack.append(False),
    "EMPTY_TUPLE": lambda vm, _: vm.stack.append(()),
    "EMPTY_LIST": lambda vm, _: vm.stack.append([]),
    "EMPTY_DICT": lambda vm, _: vm.stack.append({}),
    "EMPTY_SET": lambda vm, _: vm.stack.append(set()),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda vm, _: vm.pop_mark(),
    "DUP": lambda vm, _: vm.stack.append(vm.stack[-1]),
    "TUPLE": _from_mark(lambda vm, items: tuple(items)),
    "TUPLE1": _on_top(1, lambda vm, *items: items),
    "TUPLE2": _on_top(2, lambda vm, *items: items),
    "TUPLE3": _on_top(3, lambda vm, *items: items),
    "LIST": _from_mark(lambda vm, items: items),
    "DICT": _from_mark(lambda vm, items: _set_items(vm, items, {})),
    "FROZENSET": _from_mark(lambda vm, items: frozenset(_new_set(vm, items))),
    "APPEND": lambda vm, _: _extend(vm, [vm.stack.pop()]),
    "APPENDS": lambda vm, _: _extend(vm, vm.pop_mark()),
    "ADDITEMS": lambda vm, _: _extend(vm, vm.pop_mark()),
    "SETITEM": lambda vm, _: _set_items(vm, [vm.stack.pop(-2), vm.stack.pop()]),
    "SETITEMS": lambda vm, _: _set_items(vm, vm.pop_mark()),
    "MEMOIZE": lambda vm, _: vm.remember(len(vm.memo)),
    "GLOBAL": lambda vm, written: vm.stack.append(vm.name(*written.split(" ", 1))),
    "STACK_GLOBAL": _on_top(2, Machine.name),
    "REDUCE": _on_top(2, Machine.call),
    "NEWOBJ": _on_top(2, Machine.make),
    "NEWOBJ_EX": _on_top(3, Machine.make),
    "INST": _instance,
    "OBJ": _from_mark(lambda vm, items: vm.call(items[0], tuple(items[1:]))),
    "BUILD": _build,
    "BINPERSID": _on_top(1, _persistent),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    **dict.fromkeys(("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"), _refused),
}
