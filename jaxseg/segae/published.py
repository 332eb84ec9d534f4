"""Finds and opens the model that scores masks: one that is named, or the published weights with their embeddings."""

import functools
from pathlib import Path

from flax import nnx

from jaxseg import registry
from jaxseg.segae.model import NO_EMBEDDINGS
from jaxseg.weights.home import default_weights
from jaxseg.weights.load import load

EMBEDDINGS = ("label_embedding.pkl", "label_embedding.npz")  # looked for beside the published weights


def open_model(model: str | Path | nnx.Module, *, embeddings: str | Path | None = None, progress=None) -> nnx.Module:
    """Returns a model, loaded where it is named: "segae", a training run, a model directory or a PyTorch file.

    The published weights take the text embeddings that lie beside them, unless others are given.

    Args:
      model: a name or a path; a model is returned as it is.
      embeddings: file of text embeddings.
      progress: as in `jaxseg.load`.

    Raises:
      ValueError: it is no SegAE, or does not fit. OSError: something is not there or cannot be read.
    """
    if not isinstance(model, (str, Path)):
        if embeddings is not None:
            raise ValueError("embeddings are for a model that is named; jaxseg.load takes them with its path")
        return model
    if str(model).lower() not in registry.BY_NAME:
        return load("segae", model, embeddings=embeddings, progress=progress)
    if registry.find(str(model)).name != "segae":
        raise ValueError(f"a model that scores masks is needed, a trained segae; got {str(model)!r}")
    weights = default_weights(registry.find("segae"), progress=progress)
    return load("segae", weights, embeddings=embeddings or _embeddings_beside(weights), progress=progress)


def published_model() -> nnx.Module:
    """Returns the published weights with their text embeddings; kept for the next call while the files are the same.

    Raises:
      OSError: one of the two is not there; says what to put where.
    """
    weights = default_weights(registry.find("segae"))
    return _loaded(*((path, path.stat().st_mtime_ns) for path in (weights, _embeddings_beside(weights))))


@functools.lru_cache(1)
def _loaded(weights: tuple[Path, int], embeddings: tuple[Path, int]) -> nnx.Module:
    return load("segae", weights[0], embeddings=embeddings[0])


def _embeddings_beside(weights: Path) -> Path:
    places = [weights.with_name(name) for name in EMBEDDINGS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{weights} needs text embeddings: put them at {places[0]}, or {NO_EMBEDDINGS}")
    return found
