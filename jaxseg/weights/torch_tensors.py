"""PyTorch's tensors and storages as read-only numpy arrays, which are views of the file's bytes if possible."""

import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from jaxseg.weights.records import Record, TorchFileError, shown

MAX_REPEATED = 1_000_000  # largest number of elements of a tensor that repeats memory, as torch.expand does

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "QInt32Storage": "int32",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
}
_NARROW = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_WIDE = ("uint16", "uint32", "uint64")


def numpy_dtype(module: str, name: str) -> np.dtype | None:
    """Returns the dtype of a name such as ("torch", "bfloat16"); None if numpy has no such dtype."""
    if module != "torch":
        return None
    if name in _NARROW:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name) if name in _WIDE or name in _STORAGES.values() else None


class Storage:
    """The bytes of which tensors are views.

    Attributes:
      raw: (N,) uint8, read-only, the bytes as they are in the file.
      dtype: dtype of one element; uint8 for an untyped storage.
      swap: whether the file's byte order differs from this machine's.
      part: whether the storage is a part of another one; it can only be read as its own dtype.
    """

    def __init__(self, raw: np.ndarray, dtype: np.dtype, *, swap: bool = False, part: bool = False):
        self.raw, self.dtype, self.swap, self.part = raw, dtype, swap, part
        self._native: dict[np.dtype, np.ndarray] = {}

    def native(self, dtype: np.dtype) -> np.ndarray:
        """Returns the bytes in this machine's order and aligned for `dtype`, copied only if necessary."""
        if self.part and dtype != self.dtype:
            raise TorchFileError(f"reads a part of a {self.dtype} storage as {dtype}")
        if dtype not in self._native:
            unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            data = self.raw[: self.raw.size // dtype.itemsize * dtype.itemsize]
            if self.swap and unit > 1:
                data = data.view(f"u{unit}").byteswap().view(np.uint8)
            elif data.__array_interface__["data"][0] % dtype.alignment:
                data = data.copy()
            data.flags.writeable = False
            self._native[dtype] = data
        return self._native[dtype]

    def slice(self, start: int, count: int) -> "Storage":
        """Returns the part of the storage with `count` elements from element `start` on."""
        if not 0 <= start <= start + count <= self.raw.size // self.dtype.itemsize:
            raise TorchFileError(f"a storage starts at element {start} of another one and has {count}: outside it")
        start, stop = start * self.dtype.itemsize, (start + count) * self.dtype.itemsize
        return Storage(self.native(self.dtype)[start:stop], self.dtype, part=True)


def storage_id(pid: Any) -> tuple[np.dtype, str, int, tuple | None]:
    """Returns (dtype, key, number of elements, view) of the id that means a storage in a pickle.

    Raises:
      TorchFileError: the id is of another kind.
    """
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise TorchFileError("refers to data in a way that PyTorch does not; download or export the file again")
    _, kind, key, _, count, *view = pid
    known = type(kind) is Record and kind.module in ("torch", "torch.storage") and kind.name in _STORAGES
    if not known or type(key) is not str or not _sizes((count,)):
        raise TorchFileError("describes a storage in a way that PyTorch does not; download or export the file again")
    dtype = cast(np.dtype, numpy_dtype("torch", _STORAGES[kind.name]))  # every storage type has a dtype
    return dtype, key, count, view[0] if view else None


def tensor(storage: Storage, offset: int, size: tuple, stride: tuple, dtype: np.dtype | None = None) -> np.ndarray:
    """Returns a read-only array of shape `size` that is a view of the storage.

    Args:
      storage: the storage that contains the elements.
      offset: index of the first element in the storage.
      size: the shape.
      stride: one step per axis, in elements.
      dtype: dtype of the elements; None: that of the storage.

    Raises:
      TorchFileError: the tensor reaches outside its storage, or repeats its memory too often.
    """
    if type(storage) is not Storage or not _sizes((offset,)) or not (_sizes(size) and _sizes(stride)):
        raise TorchFileError("describes a tensor in a way that PyTorch does not; download or export the file again")
    if len(size) != len(stride) or len(size) > 32:
        raise TorchFileError(f"a tensor has {len(size)} axes and {len(stride)} strides; up to 32 of each can be read")
    dtype = storage.dtype if dtype is None else dtype
    data = storage.native(dtype)
    available, count = data.size // dtype.itemsize, 1
    for length in size:
        count *= length
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= available:
        raise TorchFileError(f"a tensor of shape {size} needs {last + 1} elements, its storage has {available}")
    repeats = count > available or any(step == 0 and n > 1 for n, step in zip(size, stride, strict=True))
    if repeats and count > MAX_REPEATED:
        raise TorchFileError(f"a tensor of shape {size} repeats memory; up to {MAX_REPEATED:,} elements may")
    if count == 0:
        array = np.empty(size, dtype)
        array.flags.writeable = False
        return array
    item = dtype.itemsize
    strides = tuple(step * item if n > 1 else item for n, step in zip(size, stride, strict=True))
    return np.ndarray(size, dtype, buffer=data, offset=offset * item, strides=strides)


def unreadable(value: object) -> str | None:
    """Returns the kind of a tensor that numpy cannot hold (quantized, sparse); None for all other values."""
    if type(value) is Record and value.module in ("torch._utils", "torch._tensor") and value.args is not None:
        return shown(value.name) if value.name.startswith("_rebuild") else None
    return None


def _sizes(values: Any) -> bool:
    return type(values) in (tuple, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _with_metadata(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray:
    _refuse_lazy(metadata)
    return tensor(storage, offset, size, stride)


def _with_dtype(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    _refuse_lazy(metadata)
    if not isinstance(dtype, np.dtype):
        raise TorchFileError("a tensor has a dtype that numpy does not have; convert it in PyTorch and save it again")
    return tensor(storage, offset, size, stride, dtype)


def _refuse_lazy(metadata: object) -> None:
    if type(metadata) is dict and (metadata.get("conj") or metadata.get("neg")):
        raise TorchFileError("a tensor is conjugated or negated lazily; save its resolve_conj().resolve_neg() instead")


def _subclass(function: Any, kind: object, args: tuple, state: object) -> Any:
    build = _REBUILD.get((function.module, function.name)) if type(function) is Record else None
    return build(*args) if build else Record("torch._tensor", "_rebuild_from_type_v2", (function, kind, args, state))


_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _with_metadata,
    ("torch._utils", "_rebuild_tensor_v3"): _with_dtype,
    ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, requires_grad, hooks, state: data,
}
FUNCTIONS = _REBUILD | {("torch._tensor", "_rebuild_from_type_v2"): _subclass}
SWAPPED = {"little": sys.byteorder != "little", "big": sys.byteorder != "big"}
