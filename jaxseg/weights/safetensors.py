"""Named arrays in one file that is mapped into memory: the format safetensors, which other libraries read too.

The file has the length of the header (8 bytes, little endian), the header in JSON (dtype, shape, and the first and last
byte of each array, and under `__metadata__` an object of texts), and then the bytes of the arrays without gaps.

Format: https://github.com/huggingface/safetensors
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxseg import files

SUFFIX = ".safetensors"
MAX_HEADER = 2**25  # bytes; the authors of the format allow three times as many
MAX_AXES, MAX_LENGTH = 32, 2**48
_ALIGNED = 64  # bytes
_METADATA = "__metadata__"

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_KNOWN = ", ".join(_DTYPES)


def is_safetensors(path: Path) -> bool:
    """Returns whether a path names a file of this format: its suffix decides.

    >>> is_safetensors(Path("Model.SafeTensors"))
    True
    """
    return path.suffix.lower() == SUFFIX


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named arrays into a new file.

    Args:
      path: of the file; an existing one is replaced.
      arrays: name -> array of any shape.
      metadata: texts about the file.

    Raises:
      ValueError: the format has no such dtype, or an array has a name that the format reserves.
      OSError: the file cannot be written, for example on a full disk.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    # Arrays of the widest elements come first, so that each starts at a multiple of its elements' size.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in names:
        array = arrays[name]
        if array.dtype not in _CODES:
            raise ValueError(f"{name} has the dtype {array.dtype}; allowed: {', '.join(map(str, _CODES))}")
        if name == _METADATA:
            raise ValueError(f"an array may not be called {_METADATA}")
        end = position + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header would have {len(text):,} bytes; at most {MAX_HEADER:,} are allowed")
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the named arrays of a file as read-only views of the mapped file; nothing is read before it is used.

    Copy what is kept: a change of the file changes the views.

    Raises:
      ValueError: the file is damaged or no file of this format; the message does not name it.
      OSError: the file cannot be opened.
    """
    header, data = _open(path)
    header.pop(_METADATA, None)
    arrays = {name: _view(name, entry, data) for name, entry in header.items()}
    _refuse_gaps(header, data.size)
    return arrays


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts about a file; empty if it has none.

    Raises:
      ValueError: the file is damaged or no file of this format; the message does not name it.
      OSError: the file cannot be opened.
    """
    metadata = _open(path)[0].get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"its {_METADATA} is not an object of texts")
    return metadata


def _open(path: Path) -> tuple[dict, np.ndarray]:
    """Returns the header of a file, and the mapped bytes of its arrays."""
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"it has {size} bytes and no header")
    data = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > size - 8 or length > MAX_HEADER:
        raise ValueError(
            f"its header should have {length:,} bytes; the file has {size:,}, and at most {MAX_HEADER:,} are read"
        )
    header = files.parse_json(data[8 : 8 + length].tobytes(), pairs=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, data[8 + length :]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns a JSON object; two entries of one name would mean different things to different readers."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _view(name: str, entry: object, data: np.ndarray) -> np.ndarray:
    try:
        code, shape, (start, end) = (entry[key] for key in ("dtype", "shape", "data_offsets"))  # type: ignore[index]
        dtype = _DTYPES[code]
        right = isinstance(shape, list) and len(shape) <= MAX_AXES
        right = right and all(type(length) is int and 0 <= length <= MAX_LENGTH for length in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        right = False
    if not right or end > data.size or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its header describes {files.printable(name)} wrongly, or with another dtype than {_KNOWN}")
    return data[start:end].view(dtype).reshape(shape)


def _refuse_gaps(header: Mapping[str, dict], size: int) -> None:
    """Raises ValueError if arrays overlap, or if there are bytes between or behind them."""
    position = 0
    for start, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if start != position:
            what = "overlaps another array" if start < position else "does not follow the array before it"
            raise ValueError(f"{files.printable(name)} {what}")
        position = end
    if position != size:
        raise ValueError(f"its arrays end {size - position:,} bytes before the file")
