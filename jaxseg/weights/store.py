"""Model directories: Orbax parameters and a card."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from jaxseg import __version__, files, registry
from jaxseg.card import CARD_FILE, Card, read_card
from jaxseg.devices import all_devices
from jaxseg.files import atomic_folder
from jaxseg.weights.fill import refuse_not_finite
from jaxseg.weights.model import Model
from jaxseg.weights.orbax_limits import adapt_to_file_system, plain_errors, remove_places, silence_orbax_threads

PARAMS_FOLDER = "params"


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
    silence_orbax_threads()
    with atomic_folder(folder) as temporary, plain_errors():
        adapt_to_file_system(temporary)
        with ocp.StandardCheckpointer(multiprocessing_options=_this_host_only()) as checkpointer:
            checkpointer.save((temporary / PARAMS_FOLDER).resolve(), _arrays(model))
        remove_places(temporary / PARAMS_FOLDER)
        digest = files.sha256(temporary / PARAMS_FOLDER)
        dataclasses.replace(card, jaxseg=__version__, params_sha256=digest).write(temporary)
    return folder


def _this_host_only() -> ocp.options.MultiprocessingOptions:
    """Returns options with which Orbax does not wait for the other processes of a run, because they do not write."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


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
    if not params.is_dir() or (card.params_sha256 and files.sha256(params) != card.params_sha256):
        raise ValueError(
            f"the parameters in {folder} are missing, damaged, or belong to another card; convert or train again"
        )
    model = nnx.eval_shape(lambda: model_class(config, rngs=nnx.Rngs(0)))
    nnx.update(model, _with_int_keys(_restore(params, _arrays(model))))
    refuse_not_finite(model, folder)
    model.card = dataclasses.replace(card, config=tuple(sorted(dataclasses.asdict(config).items())))
    return model


def _restore(params: Path, wanted: dict) -> dict:
    """Reads arrays with the expected names and shapes onto the first device."""
    sharding = jax.sharding.SingleDeviceSharding(all_devices()[0])
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), wanted)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.metadata(params.resolve())
            found = jax.tree.map(lambda a: tuple(a.shape), getattr(found, "item_metadata", found).tree)
            if found != jax.tree.map(lambda a: tuple(a.shape), target):
                raise ValueError("other names or shapes")
            return checkpointer.restore(params.resolve(), target)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the parameters in {params.parent} are damaged or do not fit its card: {reason}") from error


def _arrays(model: nnx.Module) -> dict:
    """Returns the parameters and statistics as nested dictionaries with text keys."""
    return _with_text_keys(nnx.to_pure_dict(nnx.state(model)))


def _with_text_keys(tree: Any) -> Any:
    return {str(k): _with_text_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _with_int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_int_keys(v) for k, v in tree.items()}
