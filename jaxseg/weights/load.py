"""Ready models: created afresh, loaded from model directories or PyTorch files, converted from one to the other."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from jaxseg import files, registry
from jaxseg.architectures import ARCHITECTURES, architecture
from jaxseg.card import CARD_FILE, Card
from jaxseg.vocabulary import labels
from jaxseg.weights.embeddings import embedded
from jaxseg.weights.fill import fill, refuse_not_finite, wrapper_prefix
from jaxseg.weights.home import default_weights
from jaxseg.weights.store import restore_model, save_model
from jaxseg.weights.torch_file import read_torch_file
from jaxseg.weights.torch_modules import read_torch_modules

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl")


def create(name: str, *, seed: int = 0, class_names: Sequence[str] | None = None, **config) -> nnx.Module:
    """Returns an untrained model in training mode.

    Args:
      name: a model name, such as "cxas".
      seed: of the initial parameters.
      class_names: names of the output channels; `num_classes` follows from them.
      **config: hyper-parameters that differ from the published ones, such as `num_classes=5, width=16`.

    Raises:
      ValueError: the name or a hyper-parameter is unknown or impossible.
    """
    entry = registry.find_available(name)
    kind = architecture(entry.architecture)
    if class_names is not None and not isinstance(class_names, str):
        config = {kind.config.OUTPUTS: len(class_names)} | config
    cfg = kind.make_config(**dict(entry.config) | config)
    model = kind.model(cfg, rngs=nnx.Rngs(seed))
    model.card = _card(entry, cfg, class_names)
    return model


def load(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    *,
    dtype: str | None = None,
    class_names: Sequence[str] | None = None,
    embeddings: str | Path | None = None,
    progress=None,
) -> nnx.Module:
    """Returns a model with weights, in evaluation mode.

    Args:
      name_or_path: a model name ("cxas"), a model directory, a training run, or a PyTorch file that is
        recognised by its tensors.
      weights: a model directory, a training run or a PyTorch file; None means the published weights, from
        the caches or downloaded once.
      dtype: "float32" or "bfloat16" arithmetic, instead of the model's own.
      class_names: names of the output channels, instead of the model's own.
      embeddings: file of text embeddings, which segae needs once (`label_embedding.pkl`, .npz or .npy).
      progress: called while weights are downloaded, with (bytes done, bytes in all or None).

    Raises:
      ValueError: the name is unknown, or the weights do not fit; every misfit is listed.
      OSError: the weights cannot be read or fetched.
    """
    entry = None
    if str(name_or_path).lower() in registry.BY_NAME:
        entry = registry.find(str(name_or_path))
        if entry.weights_file or weights is not None:
            registry.find_available(entry.name)
        path = Path(weights).expanduser() if weights is not None else default_weights(entry, progress=progress)
    elif weights is not None:
        registry.find(str(name_or_path))  # raises, listing the names
    else:
        path = Path(name_or_path).expanduser()
        if not path.exists():
            known = ", ".join(e.name for e in registry.ENTRIES)
            raise ValueError(f"{str(name_or_path)!r} is neither a model name ({known}) nor an existing path")
    model = _from_path(path, entry, dtype, class_names)
    if embeddings is not None:
        model = embedded(model, embeddings)
    # A model may have no batch norm, or no dropout.
    return nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    model: str | None = None,
    class_names: Sequence[str] | None = None,
    embeddings: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the model directory of a PyTorch file and returns its path.

    Args:
      source: a `.pth`, `.pt`, `.ckpt` or `.pkl` file; nothing in it is executed.
      destination: the new folder: Orbax parameters and `card.json`.
      model: the model's name; None: recognised by the file's tensors.
      class_names: names of the output channels, where the published ones do not fit.
      embeddings: file of text embeddings to store with segae (`label_embedding.pkl`, .npz or .npy).
      overwrite: replace a model directory that stands at `destination`.

    Raises:
      ValueError: the file is unsafe, damaged or does not fit; every misfit is listed.
    """
    entry = registry.find_available(model) if model else None
    filled = _from_torch(Path(source).expanduser(), entry, None, class_names)
    if embeddings is not None:
        filled = embedded(filled, embeddings)
    return save_model(filled, Path(destination).expanduser(), filled.card, overwrite=overwrite)


def functional(model: nnx.Module):
    """Returns `(apply, state)` with `apply(state, x)` pure: it jits, vmaps and differentiates.

    Args:
      model: any model; the mode it is in (evaluation after `load`) is the mode of `apply`.

    Returns:
      `apply` maps a state and what the model takes to what the model returns; `state` is a pytree.
      Changes of batch statistics in training mode are dropped.

    Raises:
      ValueError: this is no model.
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(f"a model is needed (from jaxseg.load or jaxseg.create), got {type(model).__name__}")
    graphdef, state = nnx.split(model)

    def apply(state: nnx.State, *args, **kwargs):
        return nnx.merge(graphdef, state)(*args, **kwargs)

    return apply, state


def model_path(path: Path) -> Path:
    """Returns the model directory or PyTorch file that `path` means: a training run stands for its `model/`."""
    if path.is_dir() and not (path / CARD_FILE).is_file() and (path / "model" / CARD_FILE).is_file():
        return path / "model"
    return path


def _from_path(
    path: Path, entry: registry.Entry | None, dtype: str | None, class_names: Sequence[str] | None
) -> nnx.Module:
    path = model_path(path)
    if not path.is_dir():
        return _from_torch(path, entry, dtype, class_names)
    model = restore_model(path, dtype=dtype)
    if entry and model.card.model != entry.name:
        raise ValueError(f"{path} holds a {model.card.model!r} model, not {entry.name!r}")
    if class_names is not None:
        model.card = dataclasses.replace(model.card, class_names=_checked_names(class_names, model.cfg.num_classes))
    return model


def _from_torch(
    path: Path, entry: registry.Entry | None, dtype: str | None, class_names: Sequence[str] | None = None
) -> nnx.Module:
    tensors = read_torch_file(path)
    entry = entry or recognise(tensors, path)
    kind = architecture(entry.architecture)
    found = _config_of(kind, tensors, path)
    _refuse_other(entry, found, path, class_names)
    cfg = kind.make_config(**dict(entry.config))  # the published shapes, so that any misfit is reported
    if found and (class_names is not None or not (entry.class_names and entry.config)):
        cfg = found
    if dtype:
        cfg = dataclasses.replace(cfg, dtype=dtype)
    model = nnx.eval_shape(lambda: kind.model(cfg, rngs=nnx.Rngs(0)))
    try:
        model = fill(model, tensors, kind.torch_names(cfg), ignored=kind.torch_unused(cfg))
    except ValueError as error:
        raise ValueError(f"{path} does not fit model {entry.name!r}: {error}") from None
    refuse_not_finite(model, path)
    model.card = dataclasses.replace(
        _card(entry, cfg, class_names), source=path.name, source_sha256=files.sha256(path), licence=entry.licence
    )
    return model


def _refuse_other(entry: registry.Entry, found, path: Path, class_names: Sequence[str] | None) -> None:
    """Refuses weights with the published shape of another model, which expects other images; names tell them apart."""
    if found is None or class_names is not None:
        return
    for other in registry.ENTRIES:
        same = other.architecture == entry.architecture and other.num_classes == found.num_classes
        if same and other.name != entry.name:
            raise ValueError(
                f"{path} has the {found.num_classes} classes of model {other.name!r}, not those of {entry.name!r}; "
                "name that model, or the classes if they are others"
            )


def recognise(tensors: Mapping[str, np.ndarray], path: Path) -> registry.Entry:
    """Returns the entry whose network has these tensors; ValueError naming the models that would fit otherwise."""
    for key in ARCHITECTURES:
        config = _config_of(architecture(key), tensors, path)
        if config is None:
            continue
        entries = [entry for entry in registry.ENTRIES if entry.architecture == key]
        same = [entry for entry in entries if entry.num_classes in (None, config.num_classes)]
        if len(same) == 1:
            return same[0]
        names = ", ".join(entry.name for entry in entries)
        raise ValueError(f"{path} has {config.num_classes} classes; name its model, one of {names} would fit")
    names = ", ".join(entry.name for entry in registry.ENTRIES if entry.architecture)
    first = files.printable(", ".join(list(tensors)[:3]))
    raise ValueError(f"{path} holds none of the models {names}; its first tensors are {first}")


def _config_of(kind, tensors: Mapping[str, np.ndarray], path: Path):
    prefix = wrapper_prefix(tensors, kind.torch_names(kind.config()).values())
    shapes = {name.removeprefix(prefix): array.shape for name, array in tensors.items()}
    try:
        found = kind.config_from_shapes(shapes)
        if found is None or kind.config_from_modules is None:
            return found
        return kind.config_from_modules(found, read_torch_modules(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _card(entry: registry.Entry, cfg, class_names: Sequence[str] | None) -> Card:
    names = class_names
    if names is None and entry.class_names and len(entry.class_names) == cfg.num_classes:
        names = entry.class_names
    names = _checked_names(labels.numbered(cfg.num_classes) if names is None else names, cfg.num_classes)
    config = tuple(sorted(dataclasses.asdict(cfg).items()))
    size = getattr(cfg, "image_size", Card.input_size)  # a U-Net takes any, and was trained with the card's default
    return Card(entry.name, entry.architecture, config, names, entry.preprocessing, size)


def _checked_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"class names must be a list of names, got the text {names!r}")
    names = tuple(names)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"the model has {count} classes; {len(set(names))} different names were given: {names[:5]}")
    return names
