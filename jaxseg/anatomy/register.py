"""Registers chest X-rays: moves T4 and T10 to where a reference has them, by rotation, one scale and translation.

Points are (x, y), in pixels, with the centre of the first pixel at (0, 0). Images are (H, W, 3) uint8.

Source: ConstantinSeibold/ChestXRayAnatomySegmentation, version 0.0.20.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxseg.anatomy.orientation import (
    Point,
    Reference,
    check_reference,
    find_reference,
    known_reference,
    read_reference,
)
from jaxseg.anatomy.segment import Segmenter
from jaxseg.images.picture import Picture
from jaxseg.images.preprocess import colours
from jaxseg.images.read import from_array, read_picture
from jaxseg.masks.segmentation import Orientation, Segmentation
from jaxseg.weights.load import as_predictor, load

LANDMARKS = {"T4": "vertebrae T4", "T10": "vertebrae T10"}  # name in results -> class
_BLOCK = 2**20  # pixels that are warped at once

Landmarks = dict[str, Point | None]


@dataclasses.dataclass(frozen=True)
class WarpedMasks:
    """Masks that are moved by a matrix when they are asked for; see `jaxseg.masks.segmentation.Masks`.

    Attributes:
      whole: the masks before.
      matrix: (2, 3), from points of the image before to points of the image afterwards.
    """

    whole: Segmentation
    matrix: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) label of every mask."""
        return self.whole.names

    @property
    def indices(self) -> tuple[int, ...]:
        """(K,) positions of the labels in the model's label set."""
        return self.whole.indices

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.whole.size

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, W) bool."""
        padded = np.append(self.whole.mask(k).ravel(), False)
        return padded[self._places].reshape(self.size)

    def packed_mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, ceil(W / 8)) uint8, eight columns per byte, the first one in the highest bit."""
        return np.packbits(self.mask(k), axis=1)

    @functools.cached_property
    def _places(self) -> np.ndarray:
        return nearest_places(self.matrix, self.size)


@dataclasses.dataclass(frozen=True, eq=False)
class Registration:
    """An image that was registered, or the reason why it was not.

    Attributes:
      image: (H, W, 3) uint8, upright and not inverted as far as that was checked, and then moved.
      matrix: (2, 3) float64, from points of the upright image to points of `image`; the identity if there is a reason.
      landmarks: the (x, y) of T4 and T10 in the upright image, in pixels of the network's grid; None: not found.
      masks: the moved masks of the chosen classes.
      reason: why the image was not moved; "" if it was.
      orientation: how the image appeared to the network; None if that was not checked.
      notes: remarks for the user.
      reference: the landmarks of the reference, as `landmarks`.
    """

    image: np.ndarray
    matrix: np.ndarray
    landmarks: Landmarks
    masks: WarpedMasks
    reason: str
    orientation: Orientation | None
    notes: tuple[str, ...]
    reference: Landmarks

    @property
    def metadata(self) -> dict:
        """The content of the original's `<name>_metadata.json`."""
        seen = self.orientation or Orientation()
        found: dict[str, Any] = {
            "color_detected": "inverted" if seen.inverted else "normal",
            "color_corrected": seen.inverted and seen.corrected,
            "rotation_detected": seen.rotation,
            "rotation_corrected": bool(seen.quarters),
        }
        if seen.quarters:
            found["rotation_correction_angle"] = 360 - seen.rotation
        found["landmarks"] = _described(self.landmarks)
        if self.reason:
            return found | {"registration_success": False, "error": self.reason}
        parts = {"reference_landmarks": _described(self.reference), "transform": parameters(self.matrix)}
        return found | parts | {"registration_success": True}


class Registrar:
    """Registers many images with one model and one reference.

    Args:
      model: a name that `jaxseg.load` knows, a training run, a model directory, a file of weights or a model.
      reference: as `jaxseg.build_reference` returns it, or its .npz file. None: the `reference.npz` in the training run
        or the model directory; otherwise the packaged one, if the model has the published weights of CXAS.
      correction: whether images that look inverted or turned are corrected first.
      masks: whether all classes are segmented, so that `Registration.masks` holds them; otherwise only T4 and T10 are.
      **options: of `jaxseg.Segmenter`, except `check_orientation`.

    Attributes:
      segmenter: the Segmenter; `reference`: the Reference.

    Raises:
      ValueError: there is no reference or it has no landmarks, it belongs to other weights, the model lacks T4 or T10,
        or an option is wrong. OSError: a file cannot be read.
    """

    def __init__(
        self,
        model: str | Path | nnx.Module,
        *,
        reference: Reference | str | Path | None = None,
        correction: bool = True,
        masks: bool = False,
        **options: Any,
    ):
        if isinstance(model, (str, Path)):
            reference = find_reference(model) if reference is None else reference
            model = load(model)
        card = getattr(model, "card", None)
        found = read_reference(reference) if isinstance(reference, (str, Path)) else reference
        found = known_reference(card) if found is None and card is not None else found
        if not masks:
            options["classes"] = landmark_classes
        options |= {"check_orientation": "fix" if correction and found is not None else "off", "reference": found}
        self.segmenter = as_predictor(model, Segmenter, options)
        landmark_classes(self.segmenter.names)
        if found is None or found.landmarks is None:
            what = "no reference is known for these weights" if found is None else "the reference has no landmarks"
            advice = "build one with jaxseg register --build-reference, and name it with --reference"
            raise ValueError(f"{what}; {advice} (Python: jaxseg.build_reference, reference=)")
        check_reference(found, model)
        self.reference = found

    def __call__(self, image: str | Path | np.ndarray) -> Registration:
        """Returns an image file or an array registered; see `jaxseg.register`."""
        is_file = isinstance(image, (str, Path))
        picture = read_picture(image, intensity=self.segmenter.intensity) if is_file else from_array(image)
        return self.registered(picture, self.segmenter(image))

    @property
    def settings(self) -> dict:
        """Everything that the results depend on, as JSON values."""
        return self.segmenter.settings | {"reference": self.reference.digest}

    def registered(self, picture: Picture, segmentation: Segmentation) -> Registration:
        """Returns a picture registered with the masks of the same image."""
        pixels, seen = colours(picture), segmentation.orientation
        if seen is not None and seen.corrected:
            pixels = np.rot90(255 - pixels if seen.inverted else pixels, -seen.quarters)
        upright = segmentation.upright
        found = landmarks_of(upright)
        targets = dict(zip(LANDMARKS, self.reference.landmarks or (), strict=True))
        matrix, reason = _matrix(found, targets, upright)
        notes = (*segmentation.notes, f"not registered: {reason}") if reason else segmentation.notes
        image = np.ascontiguousarray(pixels) if reason else warp(pixels, matrix)
        return Registration(image, matrix, found, WarpedMasks(upright, matrix), reason, seen, notes, targets)


def register(
    image: str | Path | np.ndarray,
    model: str | Path | nnx.Module | Registrar = "cxas",
    **options: Any,
) -> Registration:
    """Registers one X-ray: moves the vertebrae T4 and T10 to where the reference has them.

    An image that looks inverted or turned is corrected first. If T4 or T10 is not found, the image is not moved, and
    the result has a reason.

    Args:
      image: an image file or an array, as for `jaxseg.segment`.
      model: as for `jaxseg.segment`; or a `jaxseg.anatomy.register.Registrar`, which saves the preparation if there are
        many images.
      **options: of `Registrar`: reference, correction, masks, and those of `jaxseg.Segmenter`.

    Returns:
      A Registration: `image` (H, W, 3) uint8, `matrix` (2, 3), `landmarks`, `masks`, `reason`, `metadata`.

    Raises:
      ValueError, OSError: as `Registrar` and `jaxseg.segment`.
    """
    if not isinstance(model, Registrar):
        model = Registrar(model, **options)
    elif options:
        raise ValueError(f"options {', '.join(options)} belong to the Registrar; create it with them")
    return model(image)


def landmark_classes(names: Sequence[str]) -> list[str]:
    """Returns the classes T4 and T10, as `jaxseg.Segmenter` takes them.

    Args:
      names: of the classes that can be segmented.

    Raises:
      ValueError: T4 or T10 is not among them.
    """
    if missing := [name for name in LANDMARKS.values() if name not in names]:
        raise ValueError(
            f"X-rays are registered by T4 and T10, but there is no class {' and '.join(map(repr, missing))}"
        )
    return [f"label:{name}" for name in LANDMARKS.values()]


def landmarks_of(segmentation: Segmentation) -> Landmarks:
    """Returns the mean column and row of all pixels of T4 and T10, on the network's grid; None for an empty mask."""
    found: Landmarks = {}
    for landmark, name in LANDMARKS.items():
        rows, columns = np.nonzero(np.unpackbits(segmentation.bits[segmentation.names.index(name)], axis=1))
        found[landmark] = (float(columns.mean()), float(rows.mean())) if len(rows) else None
    return found


def _matrix(found: Landmarks, targets: Landmarks, upright: Segmentation) -> tuple[np.ndarray, str]:
    """Returns the matrix that registers an image, or the identity and the reason why it cannot be registered."""
    missing = [name for name, point in found.items() if point is None]
    if missing:
        return np.eye(2, 3), f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not found"
    height, width = upright.bits.shape[1], upright.bits.shape[2] * 8
    scale = np.array([upright.size[1] / width, upright.size[0] / height])
    # In float32, as in the original.
    sources, wanted = (
        (np.array([points[name] for name in LANDMARKS]) * scale).astype(np.float32) for points in (found, targets)
    )
    if (sources[0] == sources[1]).all() or (wanted[0] == wanted[1]).all():
        return np.eye(2, 3), "T4 and T10 are at the same place"
    return similarity(sources, wanted), ""


def similarity(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the rotation, scale and translation that map two points exactly to two others.

    Args:
      sources: (2, 2), two different points (x, y).
      targets: (2, 2), two different points.

    Returns:
      (2, 3) float64, the matrix M with targets = M @ (x, y, 1).

    Raises:
      ValueError: two points are equal or not finite.

    >>> similarity(np.array([[0, 0], [1, 0]]), np.array([[5, 5], [5, 7]])).tolist()
    [[0.0, -2.0, 5.0], [2.0, 0.0, 5.0]]
    """
    both = np.array([sources, targets], np.float64)
    (first, second), (start, end) = (tuple(complex(*point) for point in points) for points in both)
    if not np.isfinite(both).all() or first == second or start == end:
        raise ValueError("the two points must be finite and different")
    factor = (end - start) / (second - first)
    shift = start - factor * first
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def parameters(matrix: np.ndarray) -> dict[str, float]:
    """Returns the rotation in degrees, the scale and the translation in pixels of a matrix from `similarity`."""
    (a, _, x), (c, _, y) = matrix.tolist()
    return {
        "rotation": math.degrees(math.atan2(c, a)),
        "scale": math.hypot(a, c),
        "translation_x": x,
        "translation_y": y,
    }


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Moves an image by bilinear interpolation; what comes from outside is black.

    Args:
      image: (H, W, C) uint8.
      matrix: (2, 3), from points of the image to points of the result; invertible.

    Returns:
      (H, W, C) uint8. It equals OpenCV's `warpAffine`, whose weights have 5 bits, up to one grey value.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 2), (1, 2), (0, 0))).astype(np.float32)
    result = np.empty_like(image, order="C")
    for rows, x, y in _origins(matrix, (height, width)):
        x, y = np.clip(x, -1, width), np.clip(y, -1, height)
        left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        across, down = ((a - b).astype(np.float32)[..., None] for a, b in ((x, left), (y, top)))
        upper = padded[top + 1, left + 1] * (1 - across) + padded[top + 1, left + 2] * across
        lower = padded[top + 2, left + 1] * (1 - across) + padded[top + 2, left + 2] * across
        result[rows] = np.rint(upper * (1 - down) + lower * down)
    return result


def nearest_places(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns for each of the H * W pixels of a moved mask the position of the nearest pixel in the mask before.

    Args:
      matrix: (2, 3), as in `warp`.
      size: height and width.

    Returns:
      (H * W,) int64, positions in the flattened mask; H * W means outside.
    """
    height, width = size
    places = np.empty((height, width), np.int64)
    for rows, x, y in _origins(matrix, size):
        column, row = (np.clip(np.floor(v + 0.5), -1, n).astype(np.int64) for v, n in ((x, width), (y, height)))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        places[rows] = np.where(inside, row * width + column, height * width)
    return places.ravel()


def _origins(matrix: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields blocks of rows of a result, and from which x and y, each (rows, W), their pixels come."""
    height, width = size
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    count = max(1, _BLOCK // width)
    for start in range(0, height, count):
        rows = np.arange(start, min(start + count, height))[:, None]
        x, y = (inverse[i, 0] * np.arange(width) + (inverse[i, 1] * rows + inverse[i, 2]) for i in (0, 1))
        yield slice(start, start + len(rows)), x, y


def _described(landmarks: Landmarks) -> dict:
    """Returns landmarks as the original's metadata hold them."""
    found: dict[str, Any] = {}
    for name, point in landmarks.items():
        x, y = point or (0.0, 0.0)
        found[name.lower()] = {"name": name, "x": x, "y": y, "valid": point is not None}
    return found | {"valid": all(point is not None for point in landmarks.values())}
