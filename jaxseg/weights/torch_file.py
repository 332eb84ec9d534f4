"""Reads PyTorch's weights files (.pth, .pt, .ckpt, .pkl) without PyTorch, and without running anything in them.

Tensors become read-only numpy arrays in PyTorch's own layout. Most are views of the file: do not change the file while
they are in use, or copy them.
"""

import io
import mmap
import reprlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.weights.pickle_vm import Budget, Machine
from jaxseg.weights.records import MalformedPickle, Record, TorchFileError, shown
from jaxseg.weights.stored_zip import members_of
from jaxseg.weights.torch_tensors import FUNCTIONS, SWAPPED, Storage, numpy_dtype, storage_id, unreadable

__all__ = ["Record", "TorchFileError", "load_torch_file", "read_torch_file"]

MAX_NESTED = 4  # largest depth of files inside files (torch.storage._load_from_bytes)
MAX_DEPTH = 100  # largest depth of modules inside modules
MAX_MODULES = 100_000

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
_LEGACY = 0x1950A86A20F9469CFC6C  # the number that files of PyTorch < 1.6 start with
_FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: run `git lfs pull`",
    b"PK\x05\x06": "is an empty zip archive",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "is compressed with xz: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"\x89HDF": "is an HDF5 file (Keras), not one of PyTorch",
    b"\x89PNG": "is a PNG picture",
    b"\xff\xd8\xff": "is a JPEG picture",
    b"\x93NUMPY": "is a numpy array, not a file of PyTorch",
}


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the state dict of a weights file: unchanged names, in file order, with their arrays.

    The file may contain a state dict or a whole pickled module, either directly or under "model", "state_dict",
    "model_state_dict", "net", "network" or "weights". Everything else in the file (optimizer, options) is ignored.

    Args:
      path: a file of torch.save, of any version since 0.4, or a plain pickle of tensors.

    Raises:
      TorchFileError: the file is none of these, is damaged, or contains something that no weights file needs.
      OSError: the file cannot be opened.
    """
    tree = load_torch_file(path)
    try:
        tensors = _find(tree)
        if not tensors:
            raise TorchFileError(
                f"no named tensors found; the file holds {_described(tree)}. Save the state dict on its own, or pick "
                "it from the value of load_torch_file"
            )
    except TorchFileError as error:
        raise TorchFileError(f"{shown(str(path))}: {error}") from error
    return tensors


def load_torch_file(path: str | Path) -> Any:
    """Returns the whole content of a weights file: plain containers, read-only numpy arrays, and Records for the rest.

    A storage that is saved on its own is returned as a Storage. Set elements and dict keys that cannot be hashed safely
    are refused.

    Args:
      path: a file of torch.save, of any version since 0.4, or a plain pickle of tensors.

    Raises:
      TorchFileError: the file is none of these, is damaged, or contains something that no weights file needs.
      OSError: the file cannot be opened.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise TorchFileError(f"is a {'folder' if path.is_dir() else 'device or pipe'}; give a weights file")
        with path.open("rb") as file:
            if not file.seek(0, io.SEEK_END):
                raise TorchFileError("the file is empty: the download was probably interrupted")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _load(mapped, np.frombuffer(mapped, np.uint8), Budget())
    except TorchFileError as error:
        raise TorchFileError(f"{shown(str(path))}: {error}") from error


def read_torch_modules(path: str | Path) -> dict[str, tuple[str, dict[str, object]]]:
    """Returns the modules of a file: path -> (class name, attributes that are plain numbers or text).

    Args:
      path: a file of `torch.save(module, ...)`; nothing in it is executed.

    Returns:
      The modules, the outermost under ""; empty if the file contains only tensors.

    Raises:
      TorchFileError: the file is damaged, or contains something that no weights file needs.
      OSError: the file cannot be opened.
    """
    found: dict[str, tuple[str, dict[str, object]]] = {}
    waiting: list[tuple[str, int, object]] = [("", 0, load_torch_file(path))]
    while waiting:
        name, depth, module = waiting.pop()
        if type(module) is not Record or type(module.state) is not dict or module.entries:
            continue
        if depth > MAX_DEPTH or len(found) >= MAX_MODULES:
            raise TorchFileError(f"its modules are nested more than {MAX_DEPTH} deep, or are over {MAX_MODULES:,}")
        plain = {key: value for key, value in module.state.items() if type(value) in (bool, int, float, str)}
        found[name] = (module.name, plain)
        children = module.state.get("_modules")
        if type(children) is dict:
            waiting += [(f"{name}.{key}".lstrip("."), depth + 1, child) for key, child in children.items()]
    return found


def _load(stream: Any, data: np.ndarray, budget: Budget, depth: int = 0) -> Any:
    """Returns the value of a file: `stream` reads it and `data` (N,) uint8 holds it."""
    if depth > MAX_NESTED:
        raise TorchFileError(f"holds files inside files, more than {MAX_NESTED} deep; refusing to read it")
    nested = partial(_load_bytes, budget=budget, depth=depth + 1)
    functions = FUNCTIONS | {("torch.storage", "_load_from_bytes"): nested}
    run = partial(Machine, budget=budget, functions=functions, constant=numpy_dtype)
    head = data[:512].tobytes()
    if head.startswith(b"PK\x03\x04"):
        return _load_zip(stream, data, run)
    _refuse_foreign(head)
    try:
        value = run(stream).run()
    except MalformedPickle as error:
        if head.startswith(b"\x80"):
            raise
        kind = "is a text file, not weights" if head.isascii() and b"\0" not in head else "is not a weights file"
        raise TorchFileError(f"{kind}; it starts with {head[:40]!r}") from error
    return _load_legacy(stream, data, run) if type(value) is int and value == _LEGACY else value


def _load_bytes(content: bytes, *, budget: Budget, depth: int) -> object:
    if type(content) is not bytes:
        raise TypeError("a nested file is not bytes")
    budget.spend(len(content) // 64)
    return _load(io.BytesIO(content), np.frombuffer(content, np.uint8), budget, depth)


def _refuse_foreign(head: bytes) -> None:
    """Raises a TorchFileError that names the format of the file, if it starts like another well-known format."""
    for start, kind in _FOREIGN.items():
        if head.startswith(start):
            raise TorchFileError(kind)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise TorchFileError("this is an HTML page, not weights: the download was probably a login or quota page")
    if head[5:10] == b'\0\0\0{"':
        raise TorchFileError(
            "is a safetensors file, not one of torch.save: jaxseg.load reads it if it ends in .safetensors"
        )
    if head[257:262] == b"ustar" and head[:1] != b"\x80":
        raise TorchFileError("is a tar archive: unpack it first; files of PyTorch < 0.2 cannot be read")


def _load_zip(stream: Any, data: np.ndarray, run: partial) -> object:
    members = members_of(stream, data)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        found = reprlib.repr(list(members))
        raise TorchFileError(f"is a zip archive with {len(pickles)} data.pkl, torch.save writes one; it holds {found}")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in members:
        raise TorchFileError("is a TorchScript archive; save the state dict with torch.save(module.state_dict(), ...)")
    order = members.get(root + "byteorder", np.frombuffer(b"little", np.uint8))[:16].tobytes().decode("latin-1")
    if order not in SWAPPED:
        raise TorchFileError(f"has the byte order {order!r}; little and big can be read")
    storages = {}

    def persistent(pid: object) -> Storage:
        dtype, key, count, _ = storage_id(pid)
        if (key, dtype) not in storages:
            raw = members.get(f"{root}data/{key}")
            if raw is None and count:
                raise TorchFileError(f"lacks the data of storage {shown(key)}; download it again")
            raw = data[:0] if raw is None else raw
            if raw.size != count * dtype.itemsize:
                needed = f"{count} elements of {dtype} need {count * dtype.itemsize} bytes"
                raise TorchFileError(f"storage {shown(key)} has {raw.size} bytes; {needed}")
            storages[key, dtype] = Storage(raw, dtype, swap=SWAPPED[order])
        return storages[key, dtype]

    return run(io.BytesIO(members[pickles[0]].tobytes()), persistent=persistent).run()


def _load_legacy(stream: Any, data: np.ndarray, run: partial) -> object:
    """Returns the value of a file of PyTorch < 1.6: version, system, pickle, keys, then the bytes of each storage."""
    version, _ = run(stream).run(), run(stream).run()
    if type(version) is not int or version != 1001:
        raise TorchFileError("has an unknown format; files of PyTorch 0.4 and later can be read")
    declared: dict[str, tuple[np.dtype, int]] = {}

    def declare(pid: object) -> object:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        dtype, key, count, _ = storage_id(pid)
        if declared.setdefault(key, (dtype, count)) != (dtype, count):
            raise TorchFileError(f"describes storage {shown(key)} twice, differently; refusing to read it")
        return None

    start = stream.tell()
    run(stream, functions={}, persistent=declare).run()  # only finds the sizes of the storages; no tensor is built
    keys = run(stream).run()
    storages = _legacy_storages(data, stream.tell(), keys, declared)

    def persistent(pid: Any) -> object:
        if pid[0] == "module":
            return pid[1]
        _, key, _, view = storage_id(pid)
        if view is None:
            return storages[key]
        view_key, first, count = view
        return storages[key].slice(first, count)

    stream.seek(start)
    return run(stream, persistent=persistent).run()


def _legacy_storages(data: np.ndarray, position: int, keys: object, declared: dict) -> dict[str, Storage]:
    """Returns the storages, whose bytes follow each other from `position`; each after its number of elements."""
    if type(keys) is not list or set(map(str, keys)) != set(declared) or len(keys) != len(declared):
        raise TorchFileError("its list of storages does not fit its tensors; download it again")
    storages = {}
    for key in map(str, keys):
        dtype, count = declared[key]
        start, size = position + 8, count * dtype.itemsize
        if start + size > data.size:
            raise TorchFileError("ends in the middle of its data: the download was probably interrupted")
        if data[position:start].tobytes() != count.to_bytes(8, "little"):
            raise TorchFileError(f"storage {shown(key)} has another size than its tensors say; download it again")
        storages[key] = Storage(data[start : start + size], dtype, swap=SWAPPED["little"])
        position = start + size
    return storages


def _find(tree: Any, depth: int = 0) -> dict[str, np.ndarray]:
    """Returns the named arrays of a tree in one of the known layouts; empty if there are none."""
    if type(tree) is Record and not tree.entries:
        return _module_tensors(tree)
    entries = tree.entries if type(tree) is Record else tree
    if type(entries) is not dict:
        return {}
    for wrapper in _WRAPPERS if depth < 2 else ():
        if found := _find(entries.get(wrapper), depth + 1):
            return found
    tensors: dict[str, np.ndarray] = {}
    for key, value in entries.items():
        _add(tensors, key, value)
    return tensors


def _module_tensors(module: Record) -> dict[str, np.ndarray]:
    """Returns the state dict that a pickled module would give."""
    tensors: dict[str, np.ndarray] = {}
    waiting: list[tuple[str, int, Any]] = [("", 0, module)]
    visited = 0
    while waiting:
        prefix, depth, module = waiting.pop()
        visited += 1
        if depth > MAX_DEPTH or visited > MAX_MODULES:
            raise TorchFileError(f"its modules are nested more than {MAX_DEPTH} deep, or are over {MAX_MODULES:,}")
        state: dict = module.state if type(module) is Record and type(module.state) is dict else {}
        parts = [state.get(part) for part in ("_parameters", "_buffers", "_modules")]
        parameters, buffers, children = (part if type(part) is dict else {} for part in parts)
        hidden = state.get("_non_persistent_buffers_set")
        for key, value in parameters.items():
            _add(tensors, key, value, prefix)
        for key, value in buffers.items():
            if type(hidden) is not set or key not in hidden:
                _add(tensors, key, value, prefix)
        waiting += [(f"{prefix}{key}.", depth + 1, child) for key, child in reversed(children.items())]
    return tensors


def _add(tensors: dict[str, np.ndarray], key: object, value: object, prefix: str = "") -> None:
    if kind := unreadable(value):
        raise TorchFileError(f"{reprlib.repr(key)} is a tensor that numpy cannot hold ({kind}); save it as a dense one")
    if type(value) is not np.ndarray:
        return
    name = f"{prefix}{key}"
    if type(key) not in (str, int) or name in tensors:
        raise TorchFileError(f"{reprlib.repr(key)} is not the name of a tensor, or occurs twice; names are unique text")
    tensors[name] = value


def _described(tree: object) -> str:
    if type(tree) is dict:
        return f"a dict of {len(tree)} entries with the keys {reprlib.repr(list(tree))}"
    if type(tree) is np.ndarray:
        return f"one tensor of shape {tree.shape} without a name"
    return repr(tree) if type(tree) is Record else f"a {type(tree).__name__}"
