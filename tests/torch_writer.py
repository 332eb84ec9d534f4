"""Writes `.pth` files as torch >= 1.6 does, without torch."""

import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


def save(path: Path, tensors: dict[str, np.ndarray], *, under: str = "", prefix: str = "") -> Path:
    """Writes a state dict, under a key such as "model" where one is given, with a prefix before every name."""
    entries = b"".join(_text(prefix + name) + _tensor(str(i), array) for i, (name, array) in enumerate(tensors.items()))
    state = b"}(" + entries + b"u"
    content = b"}(" + _text(under) + state + _text("epoch") + b"K\x07u" if under else state
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        for i, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def _tensor(key: str, array: np.ndarray) -> bytes:
    strides = tuple(stride // array.itemsize for stride in array.copy(order="C").strides)
    storage = (
        _text("storage") + _named("torch", STORAGES[array.dtype.name]) + _text(key) + _text("cpu") + _int(array.size)
    )
    arguments = b"((" + storage + b"tQ" + _int(0) + _ints(array.shape) + _ints(strides) + b"\x89)t"
    return _named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
