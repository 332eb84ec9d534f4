"""The consensus of annotators' masks of one object: STAPLE, which weights annotators by their errors, or a majority."""

import dataclasses

import numpy as np

METHODS = ("staple", "majority")
MAX_ANNOTATORS = 64  # the decisions on a pixel are the bits of one number
_CHANGE = 1e-7  # largest change of a sensitivity or specificity at which the estimate has converged
_MAX_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Staple:
    """What STAPLE estimates from the masks of A annotators.

    Attributes:
      probability: float64 in [0, 1], of the masks' shape: that the true mask contains the pixel.
      sensitivity: (A,) float64 in [0, 1], the share of the true mask that each annotator's mask contains; NaN if the
        true mask is empty.
      specificity: (A,) float64 in [0, 1], the share of the other pixels that each annotator's mask leaves out; NaN if
        the true mask is the whole image.
      steps: number of steps after which the estimate had converged.
    """

    probability: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    steps: int


def staple(masks: np.ndarray) -> Staple:
    """Estimates the true mask, and how often each annotator is right, from the masks of several annotators.

    The expectation maximisation starts from the mean of the masks. The prior probability of a pixel is that mean over
    the whole image, so a larger image around the same object changes the result a little. The steps end when no
    sensitivity and specificity changes by more than 1e-7. Pixels on which all annotators decide alike are computed
    once, which makes this fast.

    Args:
      masks: (A, ...) bool, the masks of 1 to 64 annotators.

    Returns:
      The probabilities and the annotators' performance. If all masks are empty, the probability is 0, and if all are
      full, it is 1.

    Raises:
      ValueError: the masks are not bool, or there are too few or too many.

    >>> masks = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1]], bool)
    >>> (staple(masks).probability > 0.5).tolist()
    [True, True, False, False, False, False]

    Source: Warfield, Zou and Wells 2004, doi 10.1109/TMI.2004.828354, with binary decisions. The start and the end are
    those of `STAPLEImageFilter` in ITK.
    """
    masks = _checked(masks)
    decided, place, counts = _patterns(masks)
    truth = decided.mean(axis=1)  # (P,) probability of the true mask for each pattern of decisions
    prior = (truth @ counts) / counts.sum()
    sensitivity, specificity = np.full((2, len(masks)), np.nan)
    step = 0
    while step < _MAX_STEPS and 0 < prior < 1:
        step += 1
        before = sensitivity, specificity
        inside, outside = truth * counts, (1 - truth) * counts
        sensitivity = (inside @ decided) / inside.sum()
        specificity = (outside @ ~decided) / outside.sum()
        of_true = prior * np.where(decided, sensitivity, 1 - sensitivity).prod(axis=1)
        of_other = (1 - prior) * np.where(decided, 1 - specificity, specificity).prod(axis=1)
        total = of_true + of_other
        truth = np.divide(of_true, total, out=truth, where=total > 0)
        changes = np.abs([sensitivity - before[0], specificity - before[1]])
        if np.all(changes <= _CHANGE):  # NaN, in the first step, is not
            break
    if prior == 1:
        sensitivity = np.ones(len(masks))
    elif prior == 0:
        specificity = np.ones(len(masks))
    return Staple(truth[place].reshape(masks.shape[1:]), sensitivity, specificity, step)


def consensus(masks: np.ndarray, method: str) -> np.ndarray:
    """Returns one mask from the masks of several annotators.

    Args:
      masks: (A, ...) bool, the masks of 1 to 64 annotators.
      method: "staple": pixels whose probability by `staple` is at least 0.5. "majority": pixels in the masks of at
        least half of the annotators.

    Returns:
      Bool, of the masks' shape.

    Raises:
      ValueError: the method is unknown, the masks are not bool, or there are too few or too many.

    >>> consensus(np.array([[True, False], [True, True], [False, False]]), "majority").tolist()
    [True, False]
    """
    if method == "staple":
        return staple(masks).probability >= 0.5
    if method == "majority":
        masks = _checked(masks)
        return 2 * np.count_nonzero(masks, axis=0) >= len(masks)
    raise ValueError(f"unknown consensus {method!r}; known: {', '.join(METHODS)}")


def _checked(masks: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; threshold them first")
    if masks.ndim < 2 or not 1 <= len(masks) <= MAX_ANNOTATORS or not masks.size:
        raise ValueError(f"masks must be (A, ...) of 1 to {MAX_ANNOTATORS} annotators, got {masks.shape}")
    return masks


def _patterns(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the patterns of decisions that occur, (P, A) bool; for each pixel its pattern; and their counts, (P,)."""
    codes, bits = np.zeros(masks[0].size, np.uint64), np.arange(len(masks), dtype=np.uint64)
    for bit, mask in zip(bits, masks, strict=True):
        codes |= mask.ravel().astype(np.uint64) << bit
    marked = np.flatnonzero(codes)  # few pixels of an image: sorting only these is faster
    found, places, counts = np.unique(codes[marked], return_inverse=True, return_counts=True)
    place = np.zeros(codes.size, np.int64)
    place[marked] = places + 1
    decided = np.concatenate([np.zeros(1, np.uint64), found])[:, None] >> bits & np.uint64(1)
    return decided.astype(bool), place, np.concatenate([[codes.size - marked.size], counts])
