"""How good masks of a CT are: the Dice that a SegAE predicts for them, in full batches of slices.

Volumes are (D, H, W): slice, row, column. Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxseg.devices import shardings
from jaxseg.nn.inference import for_inference
from jaxseg.segae.crop import SLICES, network_input, slices_with, spread
from jaxseg.segae.model import NO_EMBEDDINGS, SegAE, embedding_of
from jaxseg.segae.published import open_model, published_model
from jaxseg.vocabulary import organs
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.pair import check_ct, check_mask, check_pair
from jaxseg.volumes.read import from_array, read_volume
from jaxseg.volumes.volume import Volume
from jaxseg.volumes.volume import canonical as turned

BATCH, ACCELERATOR_BATCH = 10, 128  # a mask's slices fill one batch of the CPU

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """A mask to be scored; volumes that `checked_pair` has let pass.

    Attributes:
      ct: (D, H, W) Hounsfield units.
      mask: (D, H, W) bool.
      organ: that the mask is of.
    """

    ct: np.ndarray
    mask: np.ndarray
    organ: Organ


@dataclasses.dataclass(frozen=True)
class MaskScore:
    """What is thought of a mask.

    Attributes:
      organ: that it is of.
      slices: numbers of those that were looked at, ascending; none of an empty mask.
      dice: predicted for each of them; mostly in [0, 1], though nothing keeps the network there.
    """

    organ: Organ
    slices: tuple[int, ...]
    dice: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """The mask's score: the mean of its slices; None of an empty mask, of which nothing can be said."""
        return float(np.mean(self.dice)) if self.dice else None


class Scorer:
    """Scores many masks with one SegAE: compiled once, slices of all masks in full batches, cropped in threads.

    Args:
      model: a SegAE with text embeddings, from `jaxseg.load`.
      slices: of a mask that are looked at, spread over it as the original picks them; None: all.
      names: "right", or "original" for the two organs that the original's table confuses, see
        `jaxseg.vocabulary.organs.find`.
      batch_size: slices in one call of the network; a multiple of the number of devices. None: 10, on accelerators
        128, or one a device.
      devices: JAX devices to spread the batch over; None: the first.
      threads: that crop and resize; None: one a core, 8 at most.
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        slices: int | None = SLICES,
        names: str = "right",
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        threads: int | None = None,
    ):
        if not isinstance(model, SegAE):
            given = model.card.model if hasattr(model, "card") else type(model).__name__
            raise ValueError(f"a model that scores masks is needed, a trained segae; got {given!r}")
        if slices is not None and (type(slices) is not int or slices < 1):
            raise ValueError(f"slices must be a whole number of at least 1, or None for all; got {slices!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        organs.find(0, names=names)  # refuses an unknown reading
        if not np.asarray(model.embeddings[...]).any():
            raise ValueError(f"the model has no text embeddings: {NO_EMBEDDINGS}")
        devices = list(devices or jax.devices()[:1])
        usual = BATCH if devices[0].platform == "cpu" else ACCELERATOR_BATCH
        self.batch_size = -(-usual // len(devices)) * len(devices) if batch_size is None else batch_size
        if self.batch_size < 1 or self.batch_size % len(devices):
            raise ValueError(f"batch size {self.batch_size} cannot be split over {len(devices)} devices")
        self.card = getattr(model, "card", None)
        self.canonical = getattr(self.card, "orientation", "") == "canonical"
        height, width = self.card.input_size if self.card else model.cfg.image_size
        if height != width:
            raise ValueError(f"crops are squares; the model's card says {height} x {width}")
        self.size, self.slices, self.names = height, slices, names
        self.threads = min(8, os.cpu_count() or 1) if threads is None else threads
        self.model = model
        replicated, self._split = shardings(devices)
        view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
        self._graphdef, state = nnx.split(for_inference(view, devices[0].platform))
        self._state = jax.device_put(state, replicated)

    def organ(self, organ: int | str) -> Organ:
        """Returns an organ that the model has a text embedding of, by its class or name.

        Raises:
          ValueError: there is no such organ (the nearest names are suggested), or no embedding of it.
        """
        found = organs.find(organ, names=self.names)
        embedding_of(self.model, found.id)
        return found

    def scores(self, requests: Iterable[Request]) -> Iterator[MaskScore]:
        """Yields the score of every mask, in the order of the requests, which are taken one at a time.

        Of each request the slices to be looked at are kept, of no more than some batches together, so that masks of
        any number can be given by a generator that reads them.

        Raises:
          ValueError: CT and mask are not (D, H, W) of one shape.
        """
        pool = ThreadPoolExecutor(self.threads, "jaxseg-crop")
        waiting: collections.deque[tuple[_Begun, int, Future]] = collections.deque()
        computing: collections.deque[tuple[list, jax.Array]] = collections.deque()
        begun: collections.deque[_Begun] = collections.deque()
        try:
            for request in requests:
                mask = self._begin(request)
                begun.append(mask)
                for k, z in enumerate(mask.slices):
                    # A copy of the plane, so that the whole mask can go.
                    planes = request.ct[z], request.mask[z].copy()
                    waiting.append((mask, k, pool.submit(network_input, *planes, self.size)))
                    if len(waiting) >= 2 * self.batch_size:
                        self._compute(waiting, computing)
                del request
                yield from _finished(begun)
            while waiting:
                self._compute(waiting, computing)
            _fetch(computing, 0)
            yield from _finished(begun)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, request: Request) -> "_Begun":
        ct, mask = request.ct, request.mask
        if ct.ndim != 3 or ct.shape != mask.shape:
            raise ValueError(f"CT and mask must be (D, H, W) of one shape, got {ct.shape} and {mask.shape}")
        there = slices_with(mask)
        chosen = there if self.slices is None else there[spread(len(there), self.slices)]
        return _Begun(request.organ, tuple(map(int, chosen)), [None] * len(chosen))

    def _compute(self, waiting: collections.deque, computing: collections.deque) -> None:
        """Starts the network on the next batch; while it runs, the batch after it is cropped."""
        taken = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
        x = np.zeros((self.batch_size, self.size, self.size, 2), np.float32)
        labels = np.zeros(self.batch_size, np.int32)
        for i, (mask, _, crop) in enumerate(taken):
            x[i], labels[i] = crop.result(), mask.organ.id
        answer = _forward(self._graphdef, self._state, *jax.device_put((x, labels), self._split))
        computing.append(([(mask, k) for mask, k, _ in taken], answer))
        _fetch(computing, 1)


@dataclasses.dataclass
class _Begun:
    """A mask of which some slices are not predicted yet: None in `dice`."""

    organ: Organ
    slices: tuple[int, ...]
    dice: list[float | None]


def _fetch(computing: collections.deque, left: int) -> None:
    """Waits for all but the last `left` batches."""
    while len(computing) > left:
        places, answer = computing.popleft()
        for (mask, k), value in zip(places, np.asarray(answer), strict=False):  # the last batch is padded
            mask.dice[k] = float(value)


def _finished(begun: collections.deque) -> Iterator[MaskScore]:
    while begun and None not in begun[0].dice:
        mask = begun.popleft()
        yield MaskScore(mask.organ, mask.slices, tuple(mask.dice))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, x: jax.Array, labels: jax.Array) -> jax.Array:
    """(B, S, S, 2), (B,) int32 -> predicted Dice, (B,) float32."""
    model = nnx.merge(graphdef, state)
    return model(x, model.embeddings[...][labels])


def score(
    ct: str | Path | np.ndarray | Volume,
    mask: str | Path | np.ndarray | Volume,
    organ: int | str,
    model: str | Path | nnx.Module | Scorer,
    *,
    per_slice: bool = False,
    canonical: bool | None = None,
    embeddings: str | Path | None = None,
    **options,
) -> float | MaskScore | None:
    """Returns how good a mask of a CT is: the mean Dice that a SegAE predicts for its slices.

    Args:
      ct: a file (NIfTI, .npy, .npz), a folder of DICOM slices, or (D, H, W) Hounsfield units.
      mask: the same, of 0 and 1 (or 0 and 255), with the CT's voxels.
      organ: its class in the DAP-Atlas, 0 to 144, or its name there or in TotalSegmentator.
      model: a training run, a model directory, a PyTorch file, "segae" for the published weights, a SegAE, or a
        `Scorer`, which saves the preparation where there are many masks.
      per_slice: return a `MaskScore`, with every slice that was looked at, instead of the mean.
      canonical: turn both volumes to the patient's axes first; None: as the model was trained, which is not so in the
        original.
      embeddings: file of text embeddings, where the model comes without.
      **options: of `Scorer`: slices, names, batch_size, devices, threads.

    Returns:
      The mean, nominally in [0, 1]; None for a mask without voxels, where the original says "n/a": it is no error,
      since segmenters leave out what a scan does not show, and no number either.

    Raises:
      ValueError: the volumes do not fit each other, or are no CT or mask; the organ is unknown; or the model is none
        that scores masks. OSError: a file cannot be read.
    """
    if isinstance(model, Scorer) and (options or embeddings is not None):
        given = ", ".join([*options, *(["embeddings"] if embeddings is not None else [])])
        raise ValueError(f"options {given} belong to the Scorer; make it with them")
    organs.find(organ, names=options.get("names", "right"))  # before anything is loaded
    scorer = model if isinstance(model, Scorer) else Scorer(open_model(model, embeddings=embeddings), **options)
    if canonical is None:  # arrays do not say how they lie
        canonical = scorer.canonical and not any(isinstance(given, np.ndarray) for given in (ct, mask))
    scan, found, notes = checked_pair(_volume(ct, "the CT", canonical), _volume(mask, "the mask", canonical))
    for note in notes:
        _log.warning("%s", note)
    result = next(scorer.scores([Request(scan.array, found.array, scorer.organ(organ))]))
    return result if per_slice else result.mean


def segae_inference(ct_data: np.ndarray, mask: np.ndarray, class_: int, *, model=None) -> float | str:
    """Returns the mean predicted Dice of a mask, called as the original's function of this name.

    Args:
      ct_data: (D, H, W) Hounsfield units.
      mask: (D, H, W), 0 and 1.
      class_: 0 to 144, the organ's class in the DAP-Atlas.
      model: as in `score`; None: the published weights and their text embeddings, from jaxseg's folder for weights.

    Returns:
      The mean of up to 10 slices; the text "n/a" for a mask without voxels, as the original.

    Raises:
      ValueError: as `score`. OSError: there are no weights, or no embeddings; says what to put where.
    """
    if isinstance(class_, str):
        raise ValueError(f"class_ is a whole number from 0 to {len(organs.NAMES) - 1}; score takes names")
    found = score(ct_data, mask, class_, published_model() if model is None else model)
    return "n/a" if found is None else found


def checked_pair(ct: Volume, mask: Volume) -> tuple[Volume, Volume, tuple[str, ...]]:
    """Returns a CT, its mask as bool, and remarks on them.

    Raises:
      VolumeError: the CT is no Hounsfield units, the mask is none, or they do not lie alike.
    """
    remarks = check_ct(ct)
    found = check_mask(mask)
    check_pair(ct, found)
    return ct, found, (*ct.notes, *remarks, *mask.notes)


def _volume(given, name: str, canonical: bool) -> Volume:
    if isinstance(given, (str, Path)):
        return read_volume(given, canonical=canonical)
    volume = given if isinstance(given, Volume) else from_array(given, name)
    return turned(volume) if canonical else volume
