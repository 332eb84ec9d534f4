"""Scores one mask of a CT, and opens the model for it: a named model, or the published weights.

Volumes are (D, H, W): slice, row, column. Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxseg import registry
from jaxseg.segae.model import NO_EMBEDDINGS
from jaxseg.segae.scorer import MaskScore, Request, Scorer
from jaxseg.vocabulary import organs
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import from_array, read_volume
from jaxseg.volumes.volume import Volume
from jaxseg.volumes.volume import canonical as to_canonical
from jaxseg.weights.home import default_weights
from jaxseg.weights.load import Progress, as_predictor, load

EMBEDDINGS = ("label_embedding.pkl", "label_embedding.npz")  # file names beside the published weights

_log = logging.getLogger(__name__)


def score(
    ct: str | Path | np.ndarray | Volume,
    mask: str | Path | np.ndarray | Volume,
    organ: int | str,
    model: str | Path | nnx.Module | Scorer,
    *,
    per_slice: bool = False,
    canonical: bool | None = None,
    embeddings: str | Path | None = None,
    **options: Any,
) -> float | MaskScore | None:
    """Returns how good a mask of a CT is: the mean over its slices of the Dice that a SegAE predicts.

    Args:
      ct: a file (NIfTI, .npy or .npz), a folder of DICOM slices, or (D, H, W) Hounsfield units.
      mask: in the same formats, with the voxels of the CT; its values are 0 and 1, or 0 and 255.
      organ: class of the organ in the DAP-Atlas, 0 to 144, or its name in the DAP-Atlas or TotalSegmentator.
      model: a training run, a model directory, a file of weights, "segae" for the published weights, a SegAE, or a
        `Scorer`. A Scorer loads and compiles the model only once for many masks.
      per_slice: return a `MaskScore`, which contains every scored slice, instead of the mean.
      canonical: whether to reorient both volumes to the patient's axes first. None: as the model was trained; the
        original does not reorient them. Arrays have no orientation and are used unchanged.
      embeddings: file of text embeddings, for a model that is stored without them.
      **options: options of `Scorer`: slices, names, average, calibrated, batch_size, devices, threads.

    Returns:
      The mean, nominally in [0, 1]. None for a mask without voxels, for which the original returns "n/a": an empty mask
      is not an error, because segmentation models leave out organs that a scan does not show.

    Raises:
      ValueError: the volumes do not match, or are not a CT and a mask; the organ is unknown; or the model does not
        score masks.
      OSError: a file cannot be read.

    Example:
      >>> import jaxseg
      >>> model = jaxseg.create("segae", backbone="resnet18", width=4)
      >>> model = model.with_embeddings(np.ones((145, 512), np.float32))
      >>> ct = np.random.default_rng(0).integers(-1000, 1000, (4, 32, 32))
      >>> print(jaxseg.score(ct, np.zeros_like(ct), "liver", model))  # an empty mask has no score
      None

    Source: Chen et al. 2024, arXiv:2406.00327.
    """
    names = model.names if isinstance(model, Scorer) else options.get("names", "right")
    organs.find(organ, names=names)  # this and the files are checked before the model is loaded
    for given in (ct, mask):
        if isinstance(given, (str, Path)) and not Path(given).exists():
            raise FileNotFoundError(f"{given}: no such file or folder; give a volume file or a folder of DICOM slices")
    scorer = open_scorer(model, embeddings=embeddings, **options)
    if canonical is None and any(isinstance(given, np.ndarray) for given in (ct, mask)):
        canonical = False
    else:
        canonical = choose_orientation(scorer, canonical)
    scan, found, notes = checked_pair(_volume(ct, "the CT", canonical), _volume(mask, "the mask", canonical))
    for note in notes:
        _log.warning("%s", note)
    result = next(scorer.scores([Request(scan.array, found.array, scorer.organ(organ))]))
    return result if per_slice else result.mean


def segae_inference(ct_data: np.ndarray, mask: np.ndarray, class_: int, *, model: Any = None) -> float | str:
    """Returns the mean predicted Dice of a mask, with the arguments of the original's function of this name.

    Args:
      ct_data: (D, H, W) Hounsfield units.
      mask: (D, H, W), values 0 and 1.
      class_: class of the organ in the DAP-Atlas, 0 to 144.
      model: as in `score`; None: the published weights and their text embeddings, from jaxseg's folder of weights.

    Returns:
      The mean of up to 10 slices, nominally in [0, 1]; the text "n/a" for a mask without voxels, as in the original.

    Raises:
      ValueError: as in `score`.
      OSError: the weights or the embeddings are missing; the message says which file to put where.

    Source: Schuture/Quality-Sentinel.
    """
    if isinstance(class_, str):
        raise ValueError(f"class_ is a whole number from 0 to {len(organs.NAMES) - 1}; score takes names")
    found: Any = score(ct_data, mask, class_, published_model() if model is None else model)
    return "n/a" if found is None else found


def open_scorer(
    model: str | Path | nnx.Module | Scorer, *, embeddings: str | Path | None = None, **options: Any
) -> Scorer:
    """Returns a Scorer of a model; a Scorer is returned as it is.

    Args:
      model: as in `score`.
      embeddings: file of text embeddings, for a model that is stored without them.
      **options: options of `Scorer`.

    Raises:
      ValueError: options are given together with a Scorer, or as in `open_model` and `Scorer`.
      OSError: a file is missing or cannot be read.
    """
    if isinstance(model, nnx.Module):
        model = open_model(model, embeddings=embeddings)  # refuses embeddings
    elif isinstance(model, Scorer) and embeddings is not None:
        options["embeddings"] = embeddings  # refused, too
    return as_predictor(model, Scorer, options, load=functools.partial(open_model, embeddings=embeddings))


def open_model(
    model: str | Path | nnx.Module, *, embeddings: str | Path | None = None, progress: Progress | None = None
) -> nnx.Module:
    """Returns a SegAE, loaded if it is named: "segae", a training run, a model directory or a file of weights.

    The published weights are loaded with the text embeddings that are stored beside them, unless others are given.

    Args:
      model: a name or a path; a model is returned unchanged.
      embeddings: file of text embeddings.
      progress: as in `jaxseg.load`.

    Raises:
      ValueError: the model is not a SegAE, or the embeddings do not match it.
      OSError: a file is missing or cannot be read.
    """
    if not isinstance(model, (str, Path)):
        if embeddings is not None:
            raise ValueError("embeddings can only be given with the name or path of a model; jaxseg.load takes both")
        return model
    if str(model).lower() not in registry.BY_NAME:
        return load("segae", model, embeddings=embeddings, progress=progress)
    if registry.find(str(model)).name != "segae":
        raise ValueError(f"a model that scores masks is needed, a trained segae; got {str(model)!r}")
    weights = default_weights(registry.find("segae"), progress=progress)
    return load("segae", weights, embeddings=embeddings or _embeddings_beside(weights), progress=progress)


def published_model() -> nnx.Module:
    """Returns the published weights with their text embeddings, which are kept until one of the two files changes.

    Raises:
      OSError: one of the two files is missing; the message says which file to put where.
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


def choose_orientation(scorer: Scorer, canonical: bool | None) -> bool:
    """Returns whether volumes are reoriented to the patient's axes; logs a warning if the model was trained otherwise.

    Args:
      scorer: of the model.
      canonical: the user's choice; None: as the model was trained.
    """
    if canonical is None:
        return scorer.canonical
    if canonical != scorer.canonical:
        known = "turned to the patient's axes" if scorer.canonical else "as stored"
        _log.warning("Warning: the model was trained on volumes %s", known)
    return canonical


def checked_pair(ct: Volume, mask: Volume) -> tuple[Volume, Volume, tuple[str, ...]]:
    """Returns a CT, its mask as bool, and remarks about them.

    Raises:
      VolumeError: the CT is not in Hounsfield units, the mask is not a mask, or the two do not cover the same space.
    """
    remarks = check_ct(ct)
    found = check_mask(mask)
    check_pair(ct, found)
    return ct, found, (*ct.notes, *remarks, *mask.notes)


def _volume(given: str | Path | np.ndarray | Volume, name: str, canonical: bool) -> Volume:
    if isinstance(given, (str, Path)):
        return read_volume(given, canonical=canonical)
    volume = given if isinstance(given, Volume) else from_array(given, name)
    return to_canonical(volume) if canonical else volume
