"""Shared by the tests of the reader of torch files: contents in both formats, and the check that a file is refused."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch_writer import Code, code, named, pickled, storage, tensor, write_zip

from jaxseg.weights.torch_file import TorchFileError, read_torch_file

CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "files" / "checkpoints"
MAGIC = 0x1950A86A20F9469CFC6C
FLOATS = np.arange(4, dtype="<f4").tobytes()


def instance(module: str, name: str, state) -> Code:
    return Code(named(module, name) + b")\x81" + code(state) + b"b")


def vector(count: int = 4, key: str = "0") -> Code:
    return tensor(storage("Float", count, key), (count,), (1,))


def zipped(value, storages: dict | None = None, **options) -> bytes:
    """Returns the bytes of a torch.save file of PyTorch >= 1.6; `storages` maps keys to bytes; see write_zip."""
    out = io.BytesIO()
    write_zip(out, value, {"0": FLOATS} if storages is None else storages, **options)
    return out.getvalue()


def legacy(value, storages: dict | None = None, *, itemsize: int = 4, magic: int = MAGIC) -> bytes:
    """Returns the bytes of a torch.save file of PyTorch < 1.6."""
    storages = {"0": FLOATS} if storages is None else storages
    system = {"protocol_version": 1001, "little_endian": True}
    magic = Code(b"\x8a\x0a" + magic.to_bytes(10, "little"))
    data = b"".join(struct.pack("<q", len(raw) // itemsize) + raw for raw in storages.values())
    return b"".join(pickled(part) for part in (magic, 1001, system, value, list(storages))) + data


def assert_refused_cheaply(path: Path, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError, match=words):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
