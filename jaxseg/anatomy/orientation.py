"""Finds X-rays that are inverted or turned, by comparing features of the network with those of a reference.

A reference belongs to the weights that computed its features. That of the published weights is part of the package:
`cxas_reference.npz` has the numbers of CXAS 0.0.20 (MIT License, Copyright (c) 2023 Constantin Seibold).

Source: ConstantinSeibold/ChestXRayAnatomySegmentation, version 0.0.20.
"""

import dataclasses
import functools
import hashlib
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxseg import npy, registry
from jaxseg.card import Card
from jaxseg.files import atomic_file, printable
from jaxseg.images.picture import Picture
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.masks.segmentation import Orientation
from jaxseg.weights.load import model_path
from jaxseg.weights.model import Model

REFERENCE_FILE = "reference.npz"  # its name in a training run or a model directory
CHECKS = ("warn", "fix", "off")
ANGLES = (0, 90, 180, 270)  # degrees counter-clockwise
PACKAGED = Path(__file__).with_name("cxas_reference.npz")
MAX_BYTES, MAX_FEATURES = 2**24, 2**16
# Features that other weights computed have a correlation of about 0 with those of the packaged reference.
LEAST_CORRELATION = 0.2
_LANDMARKS = ("t4_x", "t4_y", "t10_x", "t10_y")

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What upright chest X-rays look like to a network, and where the vertebrae T4 and T10 are in them.

    Attributes:
      colours: (2, F) float32, pooled features of an image as it is and of the inverted one.
      rotations: (4, F) float32, pooled features of the image turned by `ANGLES`.
      landmarks: (x, y) of T4 and of T10, in pixels of the network's grid; None: unknown.
      weights_sha256: digest of the weights; "" if the file does not name it, as the original's files.
      images: number of images from which the reference was built; 0 if unknown.
      packaged: whether it is the reference of the published weights.

    Raises:
      ValueError: the features or landmarks cannot be used.
    """

    colours: np.ndarray
    rotations: np.ndarray
    landmarks: tuple[Point, Point] | None = None
    weights_sha256: str = ""
    images: int = 0
    packaged: bool = False

    def __post_init__(self) -> None:
        features = np.vstack([self.colours, self.rotations])
        if not np.isfinite(features).all() or not features.any(axis=1).all():
            raise ValueError("some features are not finite, or all of them are 0")
        points = np.array(self.landmarks or [[0, 0], [1, 1]])
        if not np.abs(points).max() < 1e6 or math.dist(*points) < 1:
            raise ValueError("the landmarks are not finite, too large, or less than a pixel apart")

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the features and landmarks."""
        content = self.colours.tobytes() + self.rotations.tobytes() + repr(self.landmarks).encode()
        return hashlib.sha256(content).hexdigest()

    def fits(self, features: np.ndarray) -> bool:
        """Returns whether pooled features (F,) can have been computed by the weights of the reference."""
        if not self.packaged:
            return True
        centred = self.colours - self.colours.mean(axis=1, keepdims=True)
        return bool(similarities(features - features.mean(), centred).max() >= LEAST_CORRELATION)


def nearest(features: np.ndarray, references: np.ndarray) -> int:
    """Returns the row of `references` (N, F) that has the largest cosine similarity with `features` (F,)."""
    return int(np.argmax(similarities(features, references)))


def similarities(features: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Returns the cosine similarities (N,) of features (F,) with each row of `references` (N, F); 0 for zeros."""
    vectors = np.vstack([features, references]).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[1:] @ vectors[0]


def inverted(x: np.ndarray, preprocessing: str) -> np.ndarray:
    """Returns the networks' input (..., 3) of inverted images: where values in [0, 1] were v, they are 1 - v."""
    black, white = (
        PREPROCESSING[preprocessing](Picture(np.full((1, 1, 3), value, np.uint8)), (1, 1))[0, 0] for value in (0, 255)
    )
    return (black + white) - x


def oriented(
    run: Callable[[np.ndarray], tuple],
    x: np.ndarray,
    answer: tuple,
    reference: Reference,
    *,
    preprocessing: str,
    correct: bool,
) -> tuple[tuple, list[Orientation]]:
    """Applies a network to images, and finds out which of them are inverted or turned.

    Only images that appear inverted run a second time, because their rotation is judged after they were inverted;
    with `correct` those that appear turned run again too.

    Args:
      run: images (N, h, w, 3) -> (arrays of results (N, ...), or None, and last the pooled features (N, F)).
      x: (B, h, w, 3) float32, the network's input; h = w.
      answer: `run(x)`.
      reference: of the network's weights.
      preprocessing: that of the input.
      correct: whether to return the results of the corrected images.

    Returns:
      The results, without the features, and how each image appears.
    """
    *results, pooled = answer
    fit = np.array([reference.fits(features) for features in pooled])
    colour = np.array([nearest(features, reference.colours) for features in pooled]) * fit
    if colour.any():
        chosen = np.flatnonzero(colour)
        x = _replaced(x, chosen, inverted(x[chosen], preprocessing))
        *again, features = run(x[chosen])
        pooled = _replaced(pooled, chosen, features)
        results = _merged(results, chosen, again) if correct else results
    quarters = np.array([nearest(features, reference.rotations) for features in pooled]) * fit
    if correct and quarters.any():
        chosen = np.flatnonzero(quarters)
        *again, _ = run(np.stack([np.rot90(x[i], -quarters[i]) for i in chosen]))
        results = _merged(results, chosen, again)
    problem = "its features do not resemble those of the published weights"
    found = [
        Orientation(bool(colour[i]), ANGLES[quarters[i]], correct and bool(colour[i] or quarters[i]))
        if fit[i]
        else Orientation(problem=problem)
        for i in range(len(x))
    ]
    return tuple(results), found


def _replaced(array: np.ndarray, chosen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    array = np.array(array)  # results of the network are read-only
    array[chosen] = rows
    return array


def _merged(results: list, chosen: np.ndarray, again: list) -> list:
    return [old if old is None else _replaced(old, chosen, new) for old, new in zip(results, again, strict=True)]


def find_reference(path: str | Path) -> Path | None:
    """Returns the `reference.npz` in a training run or a model directory; None if there is none.

    Args:
      path: a training run or a model directory; names of models and PyTorch files have none.
    """
    if str(path).lower() in registry.BY_NAME:  # the name of a model, also if a folder has this name
        return None
    path = Path(path).expanduser()
    places = [folder / REFERENCE_FILE for folder in (path, model_path(path))] if path.is_dir() else []
    return next((place for place in places if place.is_file()), None)


def known_reference(card: Card) -> Reference | None:
    """Returns the packaged reference if a model has the published weights, otherwise None.

    Their authors publish no digest, so the name of the file in the card decides; `oriented` then compares features.
    """
    entry, config = registry.find("cxas"), dict(card.config)
    shape = (config.get("backbone"), config.get("width"), config.get("num_classes"))
    published = card.model == entry.name and card.source in (entry.weights_file, entry.release_file)
    if not published or shape != ("resnet50", 64, entry.num_classes):
        return None
    return _packaged()


@functools.cache
def _packaged() -> Reference:
    return dataclasses.replace(read_reference(PACKAGED), packaged=True)


def check_model(model: Model) -> None:
    """Checks that references can be made with a model.

    Raises:
      ValueError: it has no pooled features, or its input is not square.
    """
    if not hasattr(model, "coarse_logits_and_pooled"):
        raise ValueError(f"{type(model).__name__} has no method `coarse_logits_and_pooled`, which a reference needs")
    if model.card.input_size[0] != model.card.input_size[1]:
        raise ValueError(f"only a square input can be turned; that of the model is {model.card.input_size}")


def check_reference(reference: Reference, model: Model) -> None:
    """Checks that a reference belongs to a model.

    Raises:
      ValueError: it was made with other weights or by another model; or as `check_model`.
    """
    check_model(model)
    card, num_features = model.card, model.num_pooled  # type: ignore[attr-defined]
    weights = card.params_sha256 or card.source_sha256
    if reference.weights_sha256 and reference.weights_sha256 not in (card.params_sha256, card.source_sha256):
        raise ValueError(
            f"the reference of the orientation was made with other weights ({reference.weights_sha256[:12]}; the model "
            f"has {weights[:12] or 'none'}): build it again with jaxseg register --build-reference, or remove it"
        )
    if reference.colours.shape[1] != num_features:
        raise ValueError(
            f"the reference of the orientation has {reference.colours.shape[1]} features, but the model has "
            f"{num_features}: it was made with another model; build it again with jaxseg register --build-reference"
        )


def write_reference(reference: Reference, path: str | Path) -> None:
    """Writes a reference as .npz, with the names of the original's files and the digest of the weights.

    Raises:
      ValueError: the path does not end in .npz.
      OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path} must end in .npz")
    content = {"color_features": reference.colours, "rotation_features": reference.rotations}
    content |= {"source": np.array(f"{reference.images} images"), "num_samples": np.array(reference.images)}
    content |= {"weights_sha256": np.array(reference.weights_sha256)}
    if reference.landmarks is not None:
        values = (value for point in reference.landmarks for value in point)
        content |= {name: np.array(value, np.float64) for name, value in zip(_LANDMARKS, values, strict=True)}
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, **content)


def read_reference(path: str | Path) -> Reference:
    """Reads a reference from an .npz of jaxseg or of the original; nothing in it is executed.

    Raises:
      ValueError: the file is damaged, too large, or contains something else.
      OSError: it cannot be opened.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the .npz file of a reference")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 2**20} MB; references are smaller")
    try:
        with npy.archive(path) as archive:
            fields = _parsed({name.removesuffix(".npy"): name for name in archive.namelist()}, archive)
        return Reference(*fields)
    except ValueError as error:
        raise ValueError(f"{path} is not a reference: {printable(str(error))}") from None


def _parsed(members: dict[str, str], archive: zipfile.ZipFile) -> tuple:
    """Returns the fields of a `Reference`, in their order."""

    def array(name: str, shape: tuple, kinds: str) -> np.ndarray:
        with archive.open(members[name]) as file:
            header = npy.read_header(file)
            known = len(header.shape) == len(shape) and all(
                b in (None, a) for a, b in zip(header.shape, shape, strict=True)
            )
            if not known or header.dtype.kind not in kinds or header.nbytes > 64 * MAX_FEATURES:
                raise npy.NpyError(f"`{name}` has the shape {header.shape} and the type {header.dtype}")
            return npy.read_values(file, header)

    missing = [name for name in ("color_features", "rotation_features") if name not in members]
    if missing:
        raise npy.NpyError(f"it has no {' and no '.join(missing)}")
    colours, rotations = array("color_features", (2, None), "f"), array("rotation_features", (4, None), "f")
    if colours.shape[1] != rotations.shape[1] or not 1 <= colours.shape[1] <= MAX_FEATURES:
        raise npy.NpyError(f"it has {colours.shape[1]} and {rotations.shape[1]} features")
    given = [name for name in _LANDMARKS if name in members]
    if given and len(given) < len(_LANDMARKS):
        raise npy.NpyError(f"of the landmarks it has only {', '.join(given)}")
    points = [float(array(name, (), "fiu")) for name in given]
    with np.errstate(over="ignore"):
        features = np.vstack([colours, rotations]).astype(np.float32)
    landmarks = ((points[0], points[1]), (points[2], points[3])) if points else None
    weights = str(array("weights_sha256", (), "U")) if "weights_sha256" in members else ""
    if not re.fullmatch(r"([0-9a-f]{64})?", weights):
        raise npy.NpyError("`weights_sha256` is not a digest")
    images = int(array("num_samples", (), "iu")) if "num_samples" in members else 0
    return features[:2], features[2:], landmarks, weights, images
