"""Stores models with their cards: in a folder, the model directory, or in one safetensors file.

The file holds the card in its metadata. Its arrays have PyTorch's names and layout if all layers have names there, so
that programs without jaxseg can use them. Folders of earlier versions, which Orbax wrote, are read too.
"""

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxseg import __version__, files, registry
from jaxseg.card import CARD_FILE, Card, parse_card, read_card
from jaxseg.devices import all_devices
from jaxseg.files import atomic_file, atomic_folder
from jaxseg.nn.layers import EmbeddingTable
from jaxseg.weights.fill import fill, refuse_not_finite, torch_tensors
from jaxseg.weights.model import Model, Opened, describe
from jaxseg.weights.safetensors import is_safetensors, map_arrays, read_metadata, write_arrays

PARAMS_FOLDER, ARRAYS_FILE = "params", "model.safetensors"
# Metadata of a file: the card as JSON, and whose names the arrays have ("pt" is also what other libraries expect).
CARD_KEY, LAYOUT_KEY, TORCH, OURS = "jaxseg", "format", "pt", "flax"


def save_model(model: nnx.Module, folder: str | Path, card: Card, *, overwrite: bool = False) -> Path:
    """Writes a model directory atomically and returns its path. With several hosts, only one host calls this.

    Args:
      model: the model whose parameters and statistics are written.
      folder: the new folder.
      card: the description of the model; the digest of the parameters and the version of jaxseg are filled in.
      overwrite: replace a model directory at `folder`. Other folders are never replaced.

    Raises:
      FileExistsError: the folder exists, and `overwrite` is False or it is not a model directory.
      OSError: the folder cannot be written, for example on a full disk.
    """
    folder = Path(folder)
    if folder.exists() and not _is_model(folder):
        raise FileExistsError(f"{folder} exists and is not a model directory; name a new folder")
    _refuse_existing(folder, overwrite)
    with atomic_folder(folder) as temporary:
        (temporary / PARAMS_FOLDER).mkdir()
        write_arrays(temporary / PARAMS_FOLDER / ARRAYS_FILE, _arrays(model))
        digest = files.sha256(temporary / PARAMS_FOLDER)
        dataclasses.replace(card, jaxseg=__version__, params_sha256=digest).write(temporary)
    return folder


def save_model_file(model: Model, path: str | Path, card: Card, *, overwrite: bool = False) -> Path:
    """Writes a model into one safetensors file atomically and returns its path.

    Args:
      model: as for `save_model`.
      path: the new file, with the suffix `.safetensors`.
      card: as for `save_model`.
      overwrite: replace a file that jaxseg has written. Other files are never replaced.

    Raises:
      ValueError: the path has another suffix.
      FileExistsError: the path exists, and `overwrite` is False or it is not a file of jaxseg.
      OSError: the file cannot be written, for example on a full disk.
    """
    path = Path(path)
    if not is_safetensors(path):
        raise ValueError(f"{path} must end in .safetensors")
    if path.exists() and not _has_card(path):
        raise FileExistsError(f"{path} exists and is not a model file of jaxseg; name a new file")
    _refuse_existing(path, overwrite)
    named = torch_tensors(model, model.torch_names(model.cfg))
    arrays = _arrays(model) if named is None else named
    card = dataclasses.replace(card, jaxseg=__version__, params_sha256=_digest(arrays))
    metadata = {CARD_KEY: card.text(), LAYOUT_KEY: OURS if named is None else TORCH}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        write_arrays(temporary, arrays, metadata)
    return path


def file_card(path: Path) -> Card | None:
    """Returns the card in a safetensors file; None if another program wrote the file.

    Raises:
      ValueError: the file or its card is damaged.
      OSError: the file cannot be opened.
    """
    try:
        text = read_metadata(path).get(CARD_KEY)
    except ValueError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from None
    return None if text is None else parse_card(text, path)


def open_model_file(path: Path, *, dtype: str | None = None) -> Opened:
    """Returns the model of a safetensors file with a card, in training mode.

    Args:
      path: a file for which `file_card` returns a card.
      dtype: dtype of the arithmetic, instead of the card's.

    Raises:
      ValueError: the file is damaged.
    """
    card = file_card(path)
    if card is None:
        raise ValueError(f"{path} holds no card of jaxseg")
    model = _described(card, path, dtype)

    def read() -> Model:
        try:
            arrays, layout = map_arrays(path), read_metadata(path).get(LAYOUT_KEY)
            if card.params_sha256 and _digest(arrays) != card.params_sha256:
                raise ValueError("they are damaged or belong to another card")
            if layout != TORCH:
                _fill(model, arrays)
            else:
                _fill_by_torch(model, arrays)
        except ValueError as error:
            raise ValueError(f"the parameters in {path} do not fit its card: {error}") from None
        refuse_not_finite(model, path)
        return model

    return Opened(model, read)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        advice = "name a new place, or replace the model with --overwrite (Python: overwrite=True)"
        raise FileExistsError(f"{path} exists; {advice}")


def _has_card(path: Path) -> bool:
    """Returns whether jaxseg has written a file, so that it may be replaced."""
    try:
        return path.is_file() and CARD_KEY in read_metadata(path)
    except ValueError:
        return False


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and values; the order of the arrays has no effect."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_model(folder: Path) -> bool:
    """Returns whether a folder contains exactly a model directory, so that it may be replaced as a whole."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {CARD_FILE, PARAMS_FOLDER}


def open_model(folder: str | Path, *, dtype: str | None = None) -> Opened:
    """Returns the model of a model directory, in training mode.

    Args:
      folder: the model directory.
      dtype: dtype of the arithmetic, instead of the card's.

    Raises:
      ValueError: the folder is not a model directory, or its card is damaged.
    """
    folder = Path(folder)
    card, params = read_card(folder), folder / PARAMS_FOLDER
    damaged = f"the parameters in {folder} are missing, damaged, or belong to another card; convert or train again"
    if not params.is_dir():
        raise ValueError(damaged)
    thread = concurrent.futures.ThreadPoolExecutor(1)
    digest = thread.submit(files.sha256, params)  # it reads the file while Python describes the model
    thread.shutdown(wait=False)
    model = _described(card, folder, dtype)

    def read() -> Model:
        if card.params_sha256 and digest.result() != card.params_sha256:
            raise ValueError(damaged)
        try:
            if (params / ARRAYS_FILE).is_file():
                _fill(model, map_arrays(params / ARRAYS_FILE))
            else:
                _fill_by_orbax(model, params)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"the parameters in {folder} are damaged or do not fit its card: {reason}") from error
        refuse_not_finite(model, folder)
        return model

    return Opened(model, read)


def same_parameters(folder: Path, model: nnx.Module) -> bool:
    """Returns whether a model directory holds the parameters and statistics of a model; False if it is damaged."""
    try:
        found = _arrays(open_model(folder).read())
    except (ValueError, OSError):
        return False
    wanted = _arrays(model)
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def in_memory(model: Model) -> Model:
    """Returns the model that was read, after it has copied its arrays from their file to the first device."""
    for leaf in _leaves(model).values():
        value = leaf.get_value()
        if isinstance(value, np.ndarray):
            leaf.set_value(jax.device_put(np.array(value, order="C"), all_devices()[0]))
    return model


def _described(card: Card, place: Path, dtype: str | None) -> Model:
    """Returns the model of a card, without numbers."""
    try:
        model_class = registry.model_class(card.architecture)
        config = model_class.make_config(**dict(card.config) | ({"dtype": dtype} if dtype else {}))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if len(card.class_names) != config.num_classes:
        raise ValueError(f"{place}: the card names {len(card.class_names)} classes, the model has {config.num_classes}")
    model: Model = describe(model_class, config)
    model.card = dataclasses.replace(card, config=tuple(sorted(dataclasses.asdict(model.cfg).items())))
    return model


def _leaves(model: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and statistics of a model: path with dots -> variable."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def _arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf.get_value()) for name, leaf in _leaves(model).items()}


def _fill(model: nnx.Module, found: Mapping[str, np.ndarray]) -> None:
    """Gives a model arrays under their paths."""
    wanted = _leaves(model)
    if {name: leaf.shape for name, leaf in wanted.items()} != {name: array.shape for name, array in found.items()}:
        raise ValueError("other names or shapes")
    for name, leaf in wanted.items():
        leaf.set_value(found[name].astype(leaf.dtype, copy=False))


def _fill_by_torch(model: Model, found: Mapping[str, np.ndarray]) -> None:
    """Gives a model arrays that have PyTorch's names and layout, and its text embeddings."""
    tables = {name: leaf for name, leaf in _leaves(model).items() if isinstance(leaf, EmbeddingTable)}
    for name, table in tables.items():
        if name not in found or found[name].shape != table.shape:
            raise ValueError(f"{name} is missing, or has another shape than {table.shape}")
    tensors = {name: array for name, array in found.items() if name not in tables}
    fill(model, tensors, model.torch_names(model.cfg), ignored=model.torch_unused(model.cfg), views=True)
    for name, table in tables.items():
        table.set_value(found[name].astype(table.dtype, copy=False))


def _fill_by_orbax(model: nnx.Module, params: Path) -> None:
    """Gives a model the arrays that an earlier version stored with Orbax, on the first device."""
    import orbax.checkpoint as ocp

    sharding = jax.sharding.SingleDeviceSharding(all_devices()[0])
    wanted = _with_text_keys(nnx.to_pure_dict(nnx.state(model)))
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), wanted)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(params.resolve())
        found = jax.tree.map(lambda a: tuple(a.shape), getattr(found, "item_metadata", found).tree)
        if found != jax.tree.map(lambda a: tuple(a.shape), target):
            raise ValueError("other names or shapes")
        nnx.update(model, _with_int_keys(checkpointer.restore(params.resolve(), target)))


def _with_text_keys(tree: Any) -> Any:
    return {str(k): _with_text_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _with_int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_int_keys(v) for k, v in tree.items()}
