"""Compares the masks of one image: matches their classes and scores every class that all sides have."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.comparison.scores import TOLERANCE, Scores, Tolerance, parse_tolerance, score_mask
from jaxseg.comparison.sources import UNNAMED, MaskSet, of_memory
from jaxseg.comparison.staple import consensus as consensus_of
from jaxseg.masks.read import LoadedMasks, select
from jaxseg.masks.segmentation import Segmentation
from jaxseg.volumes.pair import AFFINE_TOLERANCE_MM, corner_distance

MASK = "mask"  # class of masks without a name on all sides
_SPACING_TOLERANCE = 1e-3  # largest relative difference of two spacings that are taken as equal


@dataclasses.dataclass(frozen=True)
class Rules:
    """How the masks of an image are compared.

    Attributes:
      tolerance: of NSD.
      spacing_mm: distance between pixels along each axis in millimetres, or one number for all axes; None means that
        the files state it.
      classes: labels or groups, as `jaxseg.masks.read.select` takes them; None means all.
      consensus: how the masks of several annotators become the true mask, one of `jaxseg.comparison.staple.METHODS`;
        None if there is only one true mask.
      compare_annotators: whether the annotators are compared with their consensus; otherwise the first set is the
        prediction, and the others are the annotators.
    """

    tolerance: Tolerance
    spacing_mm: tuple[float, ...] | None = None
    classes: str | Sequence[str] | None = None
    consensus: str | None = None
    compare_annotators: bool = False


@dataclasses.dataclass(frozen=True)
class Matched:
    """The classes that several sets of masks share.

    Attributes:
      names: the shared classes, in the order of the first set.
      indices: for each set, the indices of these classes.
      missing: for each set, the classes of the other sets that it lacks.
    """

    names: tuple[str, ...]
    indices: tuple[tuple[int, ...], ...]
    missing: tuple[tuple[str, ...], ...]


def compare(
    prediction: np.ndarray | Segmentation | LoadedMasks | str | Path,
    truth: np.ndarray | Segmentation | LoadedMasks | str | Path,
    *,
    tolerance: str = TOLERANCE,
    spacing_mm: Sequence[float] | float | None = None,
    classes: str | Sequence[str] | None = None,
) -> dict[str, Scores]:
    """Compares the masks of one image with the true ones.

    Args:
      prediction: one mask, (H, W) or (D, H, W) bool; or the result of `jaxseg.segment` or of
        `jaxseg.masks.read.read_masks`; or a file of masks in any format, or a folder with one picture per class.
      truth: likewise, of the same size.
      tolerance: largest distance at which two surfaces count as equal for NSD, such as "2mm" or "3px".
      spacing_mm: distance between pixels along each axis in millimetres, or one number for all axes. None means the
        spacing that the prediction or the truth states; without one, lengths are in pixels.
      classes: labels or groups to compare. None means all classes that both have.

    Returns:
      The scores of each class. A mask without a name has the name of the other's only class, or "mask".

    Raises:
      ValueError: the sizes or spacings differ, there is no shared class, the tolerance is in mm and no spacing is
        known, or a file is damaged.
      OSError: a file cannot be opened.

    >>> truth = np.zeros((8, 8), bool)
    >>> truth[2:6, 2:6] = True
    >>> found = compare(np.roll(truth, 1, axis=1), truth)["mask"]
    >>> found.dice, found.hd, found.assd
    (0.75, 1.0, 0.5)
    """
    rules = Rules(parse_tolerance(tolerance), as_spacing(spacing_mm), classes)
    sets = [of_memory(prediction), of_memory(truth)]
    found = {name: scores for _, name, scores in score_sets(sets, match(sets, classes), rules)}
    if not found:
        raise ValueError("the masks have no class in common")
    return found


def as_spacing(spacing_mm: Sequence[float] | float | None) -> tuple[float, ...] | None:
    """Returns a spacing as a tuple: of one number for all axes, or of one for each axis.

    Raises:
      ValueError: a number is not positive and finite, or there are not 1 to 3 numbers.
    """
    if spacing_mm is None:
        return None
    found = (spacing_mm,) if isinstance(spacing_mm, int | float) else tuple(spacing_mm)
    if not 1 <= len(found) <= 3 or not all(0 < side < np.inf for side in found):
        raise ValueError(f"the spacing must be 1 to 3 positive numbers of mm, got {', '.join(map(str, found))}")
    return tuple(float(side) for side in found)


def score_sets(sets: Sequence[MaskSet], matched: Matched, rules: Rules) -> Iterator[tuple[int, str, Scores]]:
    """Scores every class that all sets share.

    Args:
      sets: the prediction and the truth; or the prediction and several annotators, whose consensus is the truth; or
        several annotators that are compared with their consensus.
      matched: what `match` returns for them.
      rules: how they are compared.

    Yields:
      The index of the set that was compared, the name of the class, and its scores.

    Raises:
      ValueError: sizes, spacings or positions differ, or a mask is damaged.
    """
    spacing_mm = _spacing_of(sets, rules.spacing_mm)
    streams = [masks.in_order(indices) for masks, indices in zip(sets, matched.indices, strict=True)]
    for name, *masks in zip(matched.names, *streams, strict=True):
        true = masks if rules.compare_annotators else masks[1:]
        truth = true[0] if rules.consensus is None else consensus_of(np.stack(true), rules.consensus)
        for i, mask in enumerate(masks if rules.compare_annotators else masks[:1]):
            yield i, name, score_mask(mask, truth, spacing_mm=spacing_mm, tolerance=rules.tolerance)


def match(sets: Sequence[MaskSet], classes: str | Sequence[str] | None = None) -> Matched:
    """Matches the classes of several sets of masks by their names.

    A mask without a name is the only class of the sets with names, or their class that has the name of the mask's
    folder.

    Args:
      sets: at least two.
      classes: labels or groups; None means all.

    Raises:
      ValueError: a class is unknown, two masks of a set have one name, or a mask without a name fits several classes.
    """
    all_names = list(dict.fromkeys(name for masks in sets for name in masks.names if name != UNNAMED)) or [MASK]
    chosen = [all_names[k] for k in select(all_names, classes)]
    named: list[Mapping[str, int]] = []
    for masks in sets:
        names = [_name(masks, chosen) if name == UNNAMED else name for name in masks.names]
        if len(set(names)) < len(names):
            raise ValueError(f"two masks have the name {next(name for name in names if names.count(name) > 1)}")
        named.append({name: k for k, name in enumerate(names) if name in chosen})
    shared = tuple(name for name in named[0] if all(name in other for other in named))
    indices = tuple(tuple(other[name] for name in shared) for other in named)
    missing = tuple(tuple(name for name in chosen if name not in other) for other in named)
    return Matched(shared, indices, missing)


def _name(masks: MaskSet, chosen: Sequence[str]) -> str:
    """Returns the class of a mask without a name."""
    if len(chosen) == 1:
        return chosen[0]
    if masks.folder in chosen:
        return masks.folder
    raise ValueError(
        f"a mask without a name could be any of {len(chosen)} classes ({', '.join(chosen[:3])}, ...); name its class "
        "with --classes or by its folder, or the levels of a label map with --label"
    )


def _spacing_of(sets: Sequence[MaskSet], given: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Returns the spacing of the masks, after checking that all sets have one size, spacing and position."""
    first = sets[0]
    for other in sets[1:]:
        if other.shape != first.shape:
            sizes = [" x ".join(map(str, masks.shape)) for masks in (first, other)]
            raise ValueError(f"the masks are {sizes[0]} and {sizes[1]}; they must have one size")
    placed = [masks.affine for masks in sets if masks.affine is not None]
    for affine in placed[1:]:
        shape = first.shape if len(first.shape) == 3 else (1, *first.shape)
        apart = corner_distance(placed[0], affine, shape)
        if apart > AFFINE_TOLERANCE_MM:
            raise ValueError(f"the masks cover different places: their corners are up to {apart:.3g} mm apart")
    if given is not None:
        spacing = given * len(first.shape) if len(given) == 1 else given
        if len(spacing) != len(first.shape):
            raise ValueError(f"the spacing has {len(spacing)} numbers, but the masks have {len(first.shape)} axes")
        return spacing
    stated = [masks.spacing_mm for masks in sets if masks.spacing_mm is not None]
    for spacing in stated[1:]:
        if not np.allclose(spacing, stated[0], rtol=_SPACING_TOLERANCE, atol=0):
            shown = [" x ".join(f"{side:g}" for side in sides) for sides in (stated[0], spacing)]
            raise ValueError(f"the pixels are {shown[0]} mm and {shown[1]} mm; state the right ones with --spacing")
    return stated[0] if stated else None
