"""Writes torch files without torch, from single opcodes, because the classes that the files name are not installed."""

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

KINDS = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "bool": "Bool"}
KINDS |= {"int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte"}
KINDS |= {"complex64": "ComplexFloat", "complex128": "ComplexDouble"}


def save(path: Path, tensors: dict[str, np.ndarray], *, under: str = "", prefix: str = "") -> Path:
    """Writes a state dict, below a key such as "model" if one is given, with a prefix before every name."""
    state, storages = {}, {}
    for key, (name, array) in enumerate(tensors.items()):
        strides = np.empty(array.shape, np.uint8).strides  # counted in elements
        state[prefix + name] = tensor(storage(KINDS[array.dtype.name], array.size, str(key)), array.shape, strides)
        storages[str(key)] = array.ravel().view(np.uint8)
    with path.open("wb") as file:
        write_zip(file, {under: state, "epoch": 7} if under else state, storages)
    return path


def write_zip(
    file: BinaryIO, value, storages: dict, *, root: str = "archive/", order: bytes | None = None, extra=()
) -> None:
    """Writes a torch.save file of PyTorch >= 1.6; `storages` maps keys to bytes or (N,) uint8 arrays."""
    members = {"data.pkl": value if type(value) is bytes else pickled(value), "version": b"3\n"}
    members |= {"byteorder": order} if order else {}
    members |= {f"data/{key}": raw for key, raw in storages.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(_aligned(root + name, file.tell()), content)
        for name, content in extra:
            archive.writestr(name, content)


def _aligned(name: str, position: int) -> zipfile.ZipInfo:
    """Adds a zip member whose data start at a multiple of 64 bytes, as torch.save pads them."""
    entry = zipfile.ZipInfo(name)
    padding = -(position + 34 + len(name)) % 64
    entry.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    return entry


class Code(bytes):
    """Opcodes that leave one value on the stack."""


def pickled(value) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def code(value) -> bytes:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"I%d\n" % value
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, (str, bytes)):
        raw = value.encode() if isinstance(value, str) else value
        return (b"X" if isinstance(value, str) else b"B") + struct.pack("<I", len(raw)) + raw
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    return b"}(" + b"".join(code(part) for item in value.items() for part in item) + b"u"


def named(module: str, name: str) -> Code:
    return Code(b"c%s\n%s\n" % (module.encode(), name.encode()))


def call(function: Code, *args) -> Code:
    return Code(function + code(args) + b"R")


def storage(kind: str, count: int, key: str = "0", *rest) -> Code:
    return Code(code(("storage", named("torch", f"{kind}Storage"), key, "cpu", count, *rest)) + b"Q")


def tensor(memory: Code, size: tuple, stride: tuple, offset: int = 0) -> Code:
    hooks = call(named("collections", "OrderedDict"))
    return call(named("torch._utils", "_rebuild_tensor_v2"), memory, offset, size, stride, False, hooks)
