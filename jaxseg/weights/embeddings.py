"""Files of text embeddings of class names: pickle, .npz and .npy. Nothing in them is executed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import files, npy
from jaxseg.weights.model import Model
from jaxseg.weights.torch_file import load_torch_file

MAX_BYTES = 64 * 2**20  # the original's file has 0.4 MB
_FLOATS = ("float16", "float32", "float64")


def read_embeddings(path: str | Path, *, shape: tuple[int, int] = (145, 512)) -> np.ndarray:
    """Returns a table of text embeddings with one row per class.

    Args:
      path: one of three kinds of files. A pickle of a dict from every class (0, 1, ...) to a tensor (E,) or (1, E), as
        in the original project. An .npz with `embeddings` (N, E); if it also has `ids` (N,), they are the classes of
        the rows. An .npy of (N, E).
      shape: (N, E), the shape that the model needs.

    Returns:
      (N, E) float32.

    Raises:
      ValueError: the file is damaged, too large, unsafe, or contains something else.
      OSError: the file cannot be opened.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file of the text embeddings")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 2**20} MB; tables of text embeddings are smaller")
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if path.suffix.lower() == ".npz":
            table = _from_npz(path, shape)
        elif start == b"\x93NUMPY":
            with path.open("rb") as file:
                table = _array(file, shape, _FLOATS)
        else:
            table = _from_pickle(path, shape)
    except ValueError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {files.printable(message)}") from None
    if not np.isfinite(table).all() or not table.any(axis=1).all():
        raise ValueError(f"{path}: some text embedding has values that are not finite, or zeros only")
    return np.ascontiguousarray(table, np.float32)


def embedded(model: Model, path: str | Path) -> Model:
    """Returns a copy of a model with the text embeddings of a file; the card of the copy names the file.

    Raises:
      ValueError: the model takes no text embeddings, or `read_embeddings` refuses the file.
    """
    if model.embedding_shape is None:
        raise ValueError(f"model {model.name!r} takes no text embeddings; leave them out")
    path = Path(path).expanduser()
    model = model.with_embeddings(read_embeddings(path, shape=model.embedding_shape))
    note = f"text embeddings: {path.name}, sha256 {files.sha256(path)}"
    model.card = dataclasses.replace(model.card, note=note)
    return model


def _from_pickle(path: Path, shape: tuple[int, int]) -> np.ndarray:
    tree, (count, size) = load_torch_file(path), shape
    if type(tree) is not dict or set(tree) != set(range(count)) or not all(type(key) is int for key in tree):
        found = f"{len(tree)} entries" if type(tree) is dict else f"a {type(tree).__name__}"
        raise ValueError(f"must hold a dict from the classes 0 to {count - 1} to their text embeddings, got {found}")
    for key, row in tree.items():
        if type(row) is not np.ndarray or row.shape not in ((size,), (1, size)) or row.dtype.name not in _FLOATS:
            found = f"{row.shape} {row.dtype}" if type(row) is np.ndarray else f"a {type(row).__name__}"
            raise ValueError(
                f"the text embedding of class {key} must be ({size},) or (1, {size}) decimals, got {found}"
            )
    return np.stack([tree[i].reshape(size) for i in range(count)]).astype(np.float32)


def _from_npz(path: Path, shape: tuple[int, int]) -> np.ndarray:
    with npy.archive(path) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        if "embeddings" not in members:
            raise npy.NpyError(f"has no array `embeddings`, only {', '.join(sorted(members)[:5])}")
        with archive.open("embeddings.npy") as file:
            table = _array(file, shape, _FLOATS)
        if "ids" not in members:
            return table
        with archive.open("ids.npy") as file:
            ids = _array(file, shape[:1], ("int32", "int64"))
    if not np.array_equal(np.sort(ids), np.arange(shape[0])):
        raise ValueError(f"`ids` must be the classes 0 to {shape[0] - 1}, each once")
    return table[np.argsort(ids)]


def _array(file: Any, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    """Reads an .npy file of the one allowed shape, so that the header cannot make us allocate more memory."""
    header = npy.read_header(file)
    if header.shape != shape or header.dtype.name not in dtypes:
        raise npy.NpyError(f"must be {shape} {' or '.join(dtypes)}, got {header.shape} {header.dtype}")
    return npy.read_values(file, header)
