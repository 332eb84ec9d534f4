"""Model directories: parameters and a card. Those of earlier versions, whose parameters Orbax wrote, are read too."""

import concurrent.futures
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxseg import __version__, files, registry
from jaxseg.card import CARD_FILE, Card, read_card
from jaxseg.devices import all_devices
from jaxseg.files import atomic_folder
from jaxseg.weights.fill import refuse_not_finite
from jaxseg.weights.model import Model, describe
from jaxseg.weights.safetensors import map_arrays, write_arrays

PARAMS_FOLDER, ARRAYS_FILE = "params", "model.safetensors"


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
    if folder.exists() and not overwrite:
        advice = "name a new folder, or replace the model with --overwrite (Python: overwrite=True)"
        raise FileExistsError(f"{folder} exists; {advice}")
    with atomic_folder(folder) as temporary:
        (temporary / PARAMS_FOLDER).mkdir()
        arrays = {name: np.asarray(leaf.get_value()) for name, leaf in _leaves(model).items()}
        write_arrays(temporary / PARAMS_FOLDER / ARRAYS_FILE, arrays)
        digest = files.sha256(temporary / PARAMS_FOLDER)
        dataclasses.replace(card, jaxseg=__version__, params_sha256=digest).write(temporary)
    return folder


def _is_model(folder: Path) -> bool:
    """Returns whether a folder contains exactly a model directory, so that it may be replaced as a whole."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {CARD_FILE, PARAMS_FOLDER}


def restore_model(folder: str | Path, *, dtype: str | None = None) -> Model:
    """Returns the model of a model directory, in training mode, on the first device.

    Args:
      folder: the model directory.
      dtype: dtype of the arithmetic, instead of the card's.

    Raises:
      ValueError: the folder is not a model directory, or its arrays do not fit its card.
    """
    folder = Path(folder)
    card = read_card(folder)
    model_class = registry.model_class(card.architecture)
    config = model_class.make_config(**dict(card.config) | ({"dtype": dtype} if dtype else {}))
    if len(card.class_names) != config.num_classes:
        raise ValueError(
            f"{folder}: the card names {len(card.class_names)} classes, the model has {config.num_classes}"
        )
    params = folder / PARAMS_FOLDER
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        digest = thread.submit(files.sha256, params)  # it reads the file while Python describes the model
        model = describe(model_class, config)
        if not params.is_dir() or (card.params_sha256 and digest.result() != card.params_sha256):
            raise ValueError(
                f"the parameters in {folder} are missing, damaged, or belong to another card; convert or train again"
            )
    try:
        if (params / ARRAYS_FILE).is_file():
            _fill(model, params / ARRAYS_FILE)
        else:
            _fill_by_orbax(model, params)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the parameters in {folder} are damaged or do not fit its card: {reason}") from error
    refuse_not_finite(model, folder)
    model.card = dataclasses.replace(card, config=tuple(sorted(dataclasses.asdict(config).items())))
    return model


def _leaves(model: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and statistics of a model: path with dots -> variable."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def _fill(model: nnx.Module, path: Path) -> None:
    """Gives a model the arrays of a file, on the first device."""
    wanted, found, device = _leaves(model), map_arrays(path), all_devices()[0]
    if {name: leaf.shape for name, leaf in wanted.items()} != {name: array.shape for name, array in found.items()}:
        raise ValueError("other names or shapes")
    for name, leaf in wanted.items():
        # A copy, since the file is mapped; by numpy, since JAX would compile a program for each shape.
        leaf.set_value(jax.device_put(np.array(found[name], leaf.dtype), device))


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
