"""Creates untrained models, loads models from folders and files, and converts files of weights."""

import concurrent.futures
import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jaxseg import files, registry
from jaxseg.card import CARD_FILE, Card, read_card
from jaxseg.devices import all_devices
from jaxseg.vocabulary import labels
from jaxseg.weights.embeddings import embedded
from jaxseg.weights.fill import fill, refuse_misfits, refuse_not_finite, wrapper_prefix
from jaxseg.weights.home import default_weights
from jaxseg.weights.hub import local_path
from jaxseg.weights.model import Model, Opened, describe
from jaxseg.weights.safetensors import is_safetensors, map_arrays
from jaxseg.weights.store import file_card, in_memory, open_model, open_model_file, save_model, save_model_file
from jaxseg.weights.torch_file import read_torch_file, read_torch_modules

KINDS = "a model directory, a training run, a PyTorch or safetensors file, or hf://owner/name"
Progress = Callable[[int, int | None], None]
Predictor = TypeVar("Predictor")


def create(name: str, *, seed: int = 0, class_names: Sequence[str] | None = None, **config: Any) -> Model:
    """Returns an untrained model in training mode.

    >>> model = create("prob_unet", filters=(2, 4))
    >>> model.cfg.filters, model.card.model
    ((2, 4), 'prob_unet')

    Args:
      name: a model name, such as "cxas"; see `jaxseg models`.
      seed: random seed of the initial parameters.
      class_names: names of the output channels; the number of output channels follows from them.
      **config: hyper-parameters that differ from the published ones, such as `num_classes=5, width=16`.

    Raises:
      ValueError: the name or a hyper-parameter is unknown, or a value is not allowed.
    """
    entry = registry.find(name)
    model_class = entry.model_class
    if class_names is not None and not isinstance(class_names, str):
        config = {model_class.Config.OUTPUTS: len(class_names)} | config
    cfg = model_class.make_config(**dict(entry.config) | config)
    all_devices()  # an error of JAX about missing devices would not say what to do
    model = model_class(cfg, rngs=nnx.Rngs(seed))
    model.card = _card(entry, cfg, class_names)
    return model


def load(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    *,
    dtype: str | None = None,
    class_names: Sequence[str] | None = None,
    embeddings: str | Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """Returns a model with weights, in evaluation mode.

    Args:
      name_or_path: a model name ("cxas"), a model directory, a training run, a PyTorch or safetensors file, or the
        address `hf://owner/name[@revision][/file]` of a file on the Hugging Face Hub. The model of a file without a
        card of jaxseg is recognised by its tensors.
      weights: likewise, but no name. None: the published weights, from the caches or downloaded once.
      dtype: "float32" or "bfloat16" arithmetic, instead of the model's own.
      class_names: names of the output channels, instead of the model's own.
      embeddings: file of text embeddings (`label_embedding.pkl`, .npz or .npy). A segae needs it unless its model
        directory already contains them.
      progress: called while weights are downloaded, with the number of bytes done and the total, or None if the total
        is unknown.

    Raises:
      ValueError: the name is unknown, or the weights do not fit; the message lists every misfit.
      OSError: the weights cannot be read or downloaded.
    """
    found = opened(name_or_path, weights, dtype=dtype, class_names=class_names, progress=progress)
    model = in_memory(found.read())
    if embeddings is not None:
        model = embedded(model, embeddings)
    # A model may have no batch norm, or no dropout.
    return nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)


def opened(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    *,
    dtype: str | None = None,
    class_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Opened:
    """Returns a model of which the layers and the card are known and the numbers are read later.

    `jaxseg.Segmenter` takes it, and compiles its program while another thread reads the numbers.

    Args:
      name_or_path, weights, dtype, class_names, progress: as `load` takes them.

    Raises:
      ValueError, OSError: as `load`, except that damaged numbers are found when they are read.
    """
    entry = None
    if weights is not None:
        entry, path = registry.find(str(name_or_path)), local_path(weights, progress=progress)
        _refuse_missing(path, f"weights are {KINDS}")
    elif str(name_or_path).lower() in registry.BY_NAME:
        entry = registry.find(str(name_or_path))
        path = default_weights(entry, progress=progress)
    else:
        path = local_path(name_or_path, progress=progress)
        if not path.exists():
            known = ", ".join(e.name for e in registry.ENTRIES)
            raise ValueError(f"{str(name_or_path)!r} is neither a model name ({known}) nor an existing path")
    all_devices()
    return _opened(path, entry, dtype, class_names)


def choose_model(
    model: str | None, weights: str | Path | None, *, default: str = "cxas"
) -> tuple[str | Path, str | Path | None]:
    """Returns the first two arguments of `load` for a user who names a model, its weights, both or neither.

    Args:
      model: a model name; None: that of the card if `weights` has one, else `default`.
      weights: a folder or a file; None: the published weights.
      default: name of the model to take if nothing else names one.

    Raises:
      ValueError: the model name is unknown, or the card is damaged.

    >>> choose_model(None, None)
    ('cxas', None)
    """
    if model is None and weights is not None and _has_card(Path(weights).expanduser()):
        return weights, None
    return registry.find(model or default).name, weights


def as_predictor(
    model: Any,
    predictor: type[Predictor],
    options: Mapping[str, Any],
    *,
    load: Callable[[str | Path], Any] = load,
) -> Predictor:
    """Returns a predictor of a model, for example a `jaxseg.Segmenter`.

    Args:
      model: a model, its name or path, or a predictor, which is returned as it is.
      predictor: the class of the predictor.
      options: keyword arguments of the class.
      load: loads the model of a name or path.

    Raises:
      ValueError: an option is unknown, options are given together with a predictor, or as in `load` and the predictor.
      OSError: the weights cannot be read or downloaded.
    """
    if isinstance(model, predictor):
        if options:
            raise ValueError(f"options {', '.join(options)} belong to the {predictor.__name__}; create it with them")
        return model
    known = list(inspect.signature(predictor).parameters)[1:]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown option {name}; {advice}")
    return predictor(load(model) if isinstance(model, (str, Path)) else model, **options)  # type: ignore[call-arg]


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    model: str | None = None,
    class_names: Sequence[str] | None = None,
    embeddings: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts weights to a model directory or to one safetensors file, and returns its path.

    Args:
      source: a `.pth`, `.pt`, `.ckpt` or `.pkl` file of PyTorch, in which nothing is executed, or other weights as
        `load` takes them.
      destination: the new folder, which gets the parameters (safetensors) and `card.json`. If it ends in
        `.safetensors`: the new file, with the card in its metadata, and with PyTorch's names and layout of the arrays
        if the model has an original there.
      model: name of the model; None: that of the card, or the model is recognised by the file's tensors.
      class_names: names of the output channels, if they are not the published ones.
      embeddings: file of text embeddings to store with a segae (`label_embedding.pkl`, .npz or .npy).
      overwrite: replace a model of jaxseg at `destination`.

    Raises:
      ValueError: the file is unsafe, damaged or does not fit; the message lists every misfit.
      FileExistsError: `destination` exists and may not be replaced.
    """
    entry, path = registry.find(model) if model else None, local_path(source)
    _refuse_missing(path, f"{KINDS} is converted")
    all_devices()
    filled = _opened(path, entry, None, class_names).read()
    if embeddings is not None:
        filled = embedded(filled, embeddings)
    place = Path(destination).expanduser()
    save = save_model_file if is_safetensors(place) else save_model
    return save(filled, place, filled.card, overwrite=overwrite)


def functional(model: nnx.Module) -> tuple[Callable[..., Any], nnx.State]:
    """Returns `(apply, state)`; `apply(state, x)` is a pure function that works with jit, vmap and grad.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> apply, state = functional(create("prob_unet", filters=(2, 4)))
    >>> jax.eval_shape(apply, state, jnp.zeros((1, 8, 8, 1))).shape
    (1, 8, 8, 1)

    Args:
      model: any model. Its mode (evaluation after `jaxseg.load`) is the mode of `apply`.

    Returns:
      `apply` takes a state and the model's arguments, and returns the model's result. `state` is a pytree.
      In training mode, changes of the batch statistics are dropped.

    Raises:
      ValueError: `model` is not a model.
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(f"a model is needed (from jaxseg.load or jaxseg.create), got {type(model).__name__}")
    graphdef, state = nnx.split(model)

    def apply(state: nnx.State, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(graphdef, state)(*args, **kwargs)

    return apply, state


def _refuse_missing(path: Path, allowed: str) -> None:
    """Raises FileNotFoundError if there is nothing at a path; `allowed` says what may be there."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; {allowed}")


def model_path(path: Path) -> Path:
    """Returns the model directory or file that `path` means; the path of a training run means its `model/`."""
    if path.is_dir() and not (path / CARD_FILE).is_file() and (path / "model" / CARD_FILE).is_file():
        return path / "model"
    return path


def card_of(path: Path) -> Card | None:
    """Returns the card of a model directory, a training run, or a safetensors file; None if a file has no card.

    Raises:
      ValueError: the folder has no card, or the card or the file is damaged.
      OSError: the file cannot be opened.
    """
    path = model_path(path)
    if path.is_dir():
        return read_card(path)
    return file_card(path) if is_safetensors(path) else None


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the named tensors of a PyTorch or safetensors file, in PyTorch's layout; nothing in it is executed.

    Args:
      path: a file as `read_torch_file` takes it, or one that ends in `.safetensors`.

    Raises:
      ValueError: the file is damaged, or contains something that no weights file needs.
      OSError: the file cannot be opened.
    """
    path = Path(path)
    if not is_safetensors(path):
        return read_torch_file(path)
    try:
        return map_arrays(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from None


def _has_card(path: Path) -> bool:
    place = model_path(path)
    return (place / CARD_FILE).is_file() or (place.is_file() and card_of(place) is not None)


def _opened(path: Path, entry: registry.Entry | None, dtype: str | None, class_names: Sequence[str] | None) -> Opened:
    path = model_path(path)
    if not path.is_dir() and not _has_card(path):
        return _opened_tensors(path, entry, dtype, class_names)
    found = open_model(path, dtype=dtype) if path.is_dir() else open_model_file(path, dtype=dtype)
    model = found.model
    if entry and model.card.model != entry.name:
        raise ValueError(f"{path} holds a {model.card.model!r} model, not {entry.name!r}")
    if class_names is not None:
        model.card = dataclasses.replace(model.card, class_names=_checked_names(class_names, model.cfg.num_classes))
    return found


def _opened_tensors(
    path: Path, entry: registry.Entry | None, dtype: str | None, class_names: Sequence[str] | None
) -> Opened:
    tensors = read_tensors(path)
    entry = entry or recognise(tensors, path)
    model_class = entry.model_class
    found = _config_of(model_class, tensors, path)
    _refuse_other(entry, found, path, class_names)
    cfg = model_class.make_config(**dict(entry.config))  # the published shapes, so that any misfit is reported
    if found and (class_names is not None or not (entry.class_names and entry.config)):
        cfg = found
    if dtype:
        cfg = dataclasses.replace(cfg, dtype=dtype)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        digest = thread.submit(files.sha256, path)  # it reads the file while Python describes the model
        model: Model = describe(model_class, cfg)
        named, names = model_class.torch_renamed(tensors), model_class.torch_names(cfg)
        ignored = model_class.torch_unused(cfg)
        try:
            refuse_misfits(model, named, names, ignored=ignored)
        except ValueError as error:
            raise ValueError(f"{path} does not fit model {entry.name!r}: {error}") from None
        card = _card(entry, cfg, class_names)
        model.card = dataclasses.replace(card, source=path.name, source_sha256=digest.result(), licence=entry.licence)

    def read() -> Model:
        filled = fill(model, named, names, ignored=ignored, views=True)
        refuse_not_finite(filled, path)
        return filled

    return Opened(model, read)


def _refuse_other(entry: registry.Entry, found: Any, path: Path, class_names: Sequence[str] | None) -> None:
    """Raises ValueError if the weights have the published shape of another model of the same class.

    That model expects other images. If class names are given, the user has decided.
    """
    if found is None or class_names is not None:
        return
    for other in registry.entries_of(entry.architecture):
        if other.num_classes == found.num_classes and other.name != entry.name:
            raise ValueError(
                f"{path} has the {found.num_classes} classes of model {other.name!r}, not those of {entry.name!r}; "
                "name that model, or the classes if they are others"
            )


def recognise(tensors: Mapping[str, np.ndarray], path: Path) -> registry.Entry:
    """Returns the entry of the model that has these tensors.

    Raises:
      ValueError: no model has them, or several models do; the message lists the models.
    """
    for architecture in registry.MODELS:
        config = _config_of(registry.model_class(architecture), tensors, path)
        if config is None:
            continue
        entries = registry.entries_of(architecture)
        same = [entry for entry in entries if entry.num_classes in (None, config.num_classes)]
        if len(same) == 1:
            return same[0]
        names = ", ".join(entry.name for entry in entries)
        raise ValueError(f"{path} has {config.num_classes} classes; name its model, one of {names} would fit")
    names = ", ".join(entry.name for entry in registry.ENTRIES)
    first = files.printable(", ".join(list(tensors)[:3]))
    raise ValueError(f"{path} holds none of the models {names}; its first tensors are {first}")


def _config_of(model_class: type[Model], tensors: Mapping[str, np.ndarray], path: Path) -> Any | None:
    """Returns the hyper-parameters of a checkpoint, or None if it is not one of this model class.

    Only files of PyTorch can hold modules, which say more than the shapes of the tensors.
    """
    tensors = model_class.torch_renamed(tensors)
    prefix = wrapper_prefix(tensors, model_class.torch_names(model_class.Config()).values())
    shapes = {name.removeprefix(prefix): array.shape for name, array in tensors.items()}
    try:
        found = model_class.config_from_shapes(shapes)
        if found is None or model_class.config_from_modules is None or is_safetensors(path):
            return found
        return model_class.config_from_modules(found, read_torch_modules(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _card(entry: registry.Entry, cfg: Any, class_names: Sequence[str] | None) -> Card:
    names = class_names
    if names is None and entry.class_names and len(entry.class_names) == cfg.num_classes:
        names = entry.class_names
    names = _checked_names(labels.numbered(cfg.num_classes) if names is None else names, cfg.num_classes)
    config = tuple(sorted(dataclasses.asdict(cfg).items()))
    # A U-Net accepts any size; the published ones were trained with the default.
    size = getattr(cfg, "image_size", Card.input_size)
    return Card(entry.name, entry.architecture, config, names, entry.preprocessing, size)


def _checked_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"class names must be a list of names, got the text {names!r}")
    names = tuple(names)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"the model has {count} classes; {len(set(names))} different names were given: {names[:5]}")
    return names
