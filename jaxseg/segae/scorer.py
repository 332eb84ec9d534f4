"""Predicts the Dice of masks with a SegAE, in full batches of slices.

Volumes are (D, H, W): slice, row, column. Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxseg import journal
from jaxseg.card import Card
from jaxseg.nn.inference import Runner
from jaxseg.segae.calibration import parse_calibration
from jaxseg.segae.crop import SLICES, network_input, slices_with, spread
from jaxseg.segae.model import embedding_of
from jaxseg.vocabulary import organs
from jaxseg.vocabulary.organs import Organ
from jaxseg.weights.model import Model

AVERAGES = ("slices", "area")  # how the slices of a mask are averaged
BATCH, ACCELERATOR_BATCH = 10, 128  # slices; on a CPU the slices of one mask fill one batch


@dataclasses.dataclass(frozen=True)
class Request:
    """A mask to score, of volumes that `jaxseg.segae.score.checked_pair` has accepted.

    Attributes:
      ct: (D, H, W) Hounsfield units.
      mask: (D, H, W) bool.
      organ: the organ that the mask shows.
    """

    ct: np.ndarray
    mask: np.ndarray
    organ: Organ


@dataclasses.dataclass(frozen=True)
class MaskScore:
    """The predicted Dice of a mask.

    Attributes:
      organ: the organ that the mask shows.
      slices: indices of the scored slices, ascending; () for an empty mask.
      dice: predicted Dice of each of these slices. Values are mostly in [0, 1], but the network does not bound them.
      pixels: number of pixels of the mask in each of these slices, by which the mean weighs them; () for equal weights.
      margin: half of the width of the interval around the mean; None if the model has no calibration, or if slices
        weigh by area.
    """

    organ: Organ
    slices: tuple[int, ...]
    dice: tuple[float, ...]
    pixels: tuple[int, ...] = ()
    margin: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the interval that holds the truth of 90 % of masks like those of the validation; None without margin.

        The truth is the mean true Dice of the usable slices of a validation mask, with equal weights. Slices in which
        the mask shares fewer than 20 pixels with its organ (`data.overlap`) are not usable. They are not covered, and
        neither is a mask beside its organ.
        """
        return interval_of(self.mean, self.margin)

    @property
    def mean(self) -> float | None:
        """The score of the mask: the mean over its slices; None for an empty mask, which has no score."""
        return float(np.average(self.dice, weights=self.pixels or None)) if self.dice else None

    @property
    def worst_slice(self) -> int:
        """Index of the slice with the lowest predicted Dice; the mask must not be empty."""
        return min(zip(self.dice, self.slices, strict=True))[1]


def interval_of(mean: float | None, margin: float | None) -> tuple[float, float] | None:
    """Returns the ends of an interval around a score in [0, 1]; None if the score or the margin is None.

    Example:
      >>> interval_of(0.875, 0.25)
      (0.625, 1.0)
    """
    return None if mean is None or margin is None else (max(0.0, mean - margin), min(1.0, mean + margin))


@dataclasses.dataclass(frozen=True, slots=True)
class StoredScore:
    """The predicted Dice of a mask, whose slices are in the journal of a table. It has the attributes of `MaskScore`.

    Attributes:
      case: name of the case.
      name: name of the mask.
      organ_id: class of the organ.
      mean: the score of the mask.
      worst_slice: index of the slice with the lowest predicted Dice.
      margin: half of the width of the interval around the score; None if there is none, see `MaskScore`.
      journal: the journal.
      place: position of the line of the case in it, in bytes.
    """

    case: str
    name: str
    organ_id: int
    mean: float
    worst_slice: int
    margin: float | None
    journal: Path
    place: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the interval, see `MaskScore.interval`; None if there is none."""
        return interval_of(self.mean, self.margin)

    @property
    def organ(self) -> Organ:
        """The organ that the mask shows."""
        return organs.ORGANS[self.organ_id]

    @property
    def slices(self) -> tuple[int, ...]:
        """Indices of the scored slices, read from the journal."""
        return tuple(self._line()["slices"])

    @property
    def dice(self) -> tuple[float, ...]:
        """Predicted Dice of each of these slices, read from the journal."""
        return tuple(self._line()["predicted"])

    @property
    def pixels(self) -> tuple[int, ...]:
        """Number of pixels in each of these slices, read from the journal; () if slices have equal weights."""
        return tuple(self._line().get("pixels", ()))

    def _line(self) -> dict:
        line = journal.line_at(self.journal, self.place)
        if line is None or line.get("case") != self.case or self.name not in line["scores"]:
            raise ValueError(f"{self.journal} has changed since; open the table again")
        return line["scores"][self.name]


class Scorer:
    """Scores many masks with one SegAE, which is compiled once.

    Slices of several masks share a batch, and threads crop the next slices while the network runs. A Scorer can be
    pickled as a `jaxseg.Segmenter` can.

    Args:
      model: a SegAE with text embeddings, as `jaxseg.load` returns it.
      slices: number of slices to score per mask, spread over the mask as in the original; None: all slices.
      names: "right", or "original" to take the two organs that the original's table confuses, see
        `jaxseg.vocabulary.organs.find`.
      average: the score of a mask is the mean of its "slices", as in the original, or weighs them by the "area" of the
        mask in each. The Dice of a volume weighs slices by the pixels of the mask and of the truth. A calibration
        gives an interval only for "slices", for which it was fitted.
      calibrated: whether to apply the calibration in the model's card. None: if it has one. Published weights do not.
      batch_size: number of slices in one call of the network, a multiple of the number of devices. None: 10 on CPUs
        and 128 on accelerators, rounded up to such a multiple.
      devices: JAX devices to spread the batch over; None: the first device.
      threads: number of threads that crop and resize; None: one per CPU core, at most 8.

    Attributes:
      calibration: the calibration that is applied; None if there is none.
      canonical: whether the model was trained on volumes that were reoriented to the patient's axes.
      size: side in pixels of the network's input.

    Raises:
      ValueError: the model does not score masks, it has no text embeddings, or an option is out of range.

    Example:
      >>> import jaxseg
      >>> model = jaxseg.create("segae", backbone="resnet18", width=4)
      >>> scorer = jaxseg.Scorer(model.with_embeddings(np.ones((145, 512), np.float32)), slices=3)
      >>> scorer.organ("left kidney").name, scorer.size
      ('kidney left', 256)
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        slices: int | None = SLICES,
        names: str = "right",
        average: str = "slices",
        calibrated: bool | None = None,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        threads: int | None = None,
    ):
        if not isinstance(model, Model) or model.OUTPUT[0] != "dice":
            given = model.name if isinstance(model, Model) else type(model).__name__
            raise ValueError(f"a model that scores masks is needed, a trained segae; got {given!r}")
        if slices is not None and (type(slices) is not int or slices < 1):
            raise ValueError(f"slices must be a whole number of at least 1, or None for all; got {slices!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}")
        organs.find(0, names=names)  # refuses unknown values of `names`
        model.check_ready()
        self.card = getattr(model, "card", None)
        text = getattr(self.card, "calibration", "")
        if calibrated and not text:
            raise ValueError("the model has no calibration; `jaxseg evaluate --run RUN --calibrate` makes one")
        self.calibration = parse_calibration(text) if text and calibrated is not False else None
        self.canonical = getattr(self.card, "orientation", "") == "canonical"
        height, width = self.card.input_size if self.card else model.cfg.image_size
        if height != width:
            raise ValueError(f"crops are squares, but the model's card has an input size of {height} x {width}")
        self.size, self.slices, self.names, self.average = height, slices, names, average
        self._threads = threads
        network: Any = model
        self._embeddings, self._dtype = np.asarray(network.embeddings[...]), network.cfg.dtype
        self._weights = _digest_of(network, self.card)
        self._batch_size = batch_size
        self._runner = Runner(model, _predict, devices=devices, batch_size=batch_size, default=BATCH)

    @property
    def batch_size(self) -> int:
        """Number of slices in one call of the network."""
        if self._batch_size is not None:
            return self._batch_size
        on_cpu = self._runner.devices[0].platform == "cpu"
        return self._runner.round_up(BATCH if on_cpu else ACCELERATOR_BATCH)

    @property
    def threads(self) -> int:
        """Number of threads that crop and resize."""
        return min(8, os.cpu_count() or 1) if self._threads is None else self._threads

    @property
    def settings(self) -> dict:
        """Everything that scores depend on, except how volumes are read, as JSON values."""
        others = {"average": self.average} if self.average != AVERAGES[0] else {}  # as in tables of earlier versions
        if self.calibration is not None:
            others["calibration"] = hashlib.sha256(self.calibration.text().encode()).hexdigest()
        return others | {
            "weights": self._weights,
            "embeddings": hashlib.sha256(self._embeddings.tobytes()).hexdigest(),
            "slices": "all" if self.slices is None else str(self.slices),
            "size": self.size,
            "dtype": self._dtype,
            "names": self.names,
        }

    def organ(self, organ: int | str) -> Organ:
        """Returns an organ for which the model has a text embedding.

        Args:
          organ: class of the DAP-Atlas, 0 to 144, or a name, see `jaxseg.vocabulary.organs.find`.

        Raises:
          ValueError: the organ is unknown (the nearest names are suggested), or the model has no embedding of it.
        """
        found = organs.find(organ, names=self.names)
        embedding_of(self._embeddings, found.id)
        return found

    def scores(self, requests: Iterable[Request]) -> Iterator[MaskScore]:
        """Yields the score of every mask, in the order of the requests.

        Requests are taken one at a time. Of each, only the slices to score are kept, and at most a few batches of
        slices wait at the same time. A generator can therefore read any number of masks.

        Args:
          requests: the masks.

        Raises:
          ValueError: CT and mask of a request are not (D, H, W) of one shape.
        """
        pool = ThreadPoolExecutor(self.threads, "jaxseg-crop")
        waiting: collections.deque[tuple[_Partial, int, Future]] = collections.deque()
        computing: collections.deque[tuple[list, jax.Array]] = collections.deque()
        started: collections.deque[_Partial] = collections.deque()
        try:
            for request in requests:
                mask = self._start(request)
                started.append(mask)
                for k, z in enumerate(mask.slices):
                    # A copy of the plane, so that the memory of the whole mask can be freed.
                    planes = request.ct[z], request.mask[z].copy()
                    waiting.append((mask, k, pool.submit(network_input, *planes, self.size)))
                    if len(waiting) >= 2 * self.batch_size:
                        self._compute(waiting, computing)
                del request
                yield from self._finished(started)
            while waiting:
                self._compute(waiting, computing)
            _fetch(computing, 0)
            yield from self._finished(started)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, request: Request) -> "_Partial":
        ct, mask = request.ct, request.mask
        if ct.ndim != 3 or ct.shape != mask.shape:
            raise ValueError(f"CT and mask must be (D, H, W) of one shape, got {ct.shape} and {mask.shape}")
        occupied = slices_with(mask)
        chosen = occupied if self.slices is None else occupied[spread(len(occupied), self.slices)]
        pixels = np.count_nonzero(mask[chosen], axis=(1, 2)) if self.average == "area" else ()
        return _Partial(request.organ, tuple(map(int, chosen)), [None] * len(chosen), tuple(map(int, pixels)))

    def _finished(self, started: collections.deque) -> Iterator[MaskScore]:
        while started and None not in started[0].dice:
            mask, margin = started.popleft(), None
            dice = tuple(mask.dice)
            if self.calibration is not None:
                dice = tuple(self.calibration(dice).tolist())
                margin = self.calibration.margin if self.average == "slices" else None
            yield MaskScore(mask.organ, mask.slices, dice, mask.pixels, margin)

    def _compute(self, waiting: collections.deque, computing: collections.deque) -> None:
        """Starts the network on the next batch; while it runs, the following batch is cropped."""
        taken = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
        x = np.stack([crop.result() for _, _, crop in taken])
        labels = np.array([mask.organ.id for mask, _, _ in taken], np.int32)
        computing.append(
            ([(mask, k) for mask, k, _ in taken], self._runner.start(x, labels, batch_size=self.batch_size))
        )
        _fetch(computing, 1)


@dataclasses.dataclass
class _Partial:
    """A mask that still has slices without a prediction, which are None in `dice`."""

    organ: Organ
    slices: tuple[int, ...]
    dice: list[float | None]
    pixels: tuple[int, ...]


def _fetch(computing: collections.deque, remaining: int) -> None:
    """Waits for the oldest batches, until this number of batches remains."""
    while len(computing) > remaining:
        places, answer = computing.popleft()
        for (mask, k), value in zip(places, np.asarray(answer), strict=False):  # the last batch is padded
            mask.dice[k] = float(value)


def _digest_of(model: nnx.Module, card: Card | None) -> str:
    """Returns the digest of the file of weights, or of the parameters of a model that was not loaded from a file."""
    if card is not None and (card.params_sha256 or card.source_sha256):
        return card.params_sha256 or card.source_sha256
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _predict(model: Model, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Maps (B, S, S, 2) slices with masks and (B,) int32 classes to (B,) float32 predicted Dice."""
    return model.predict(x, labels)
