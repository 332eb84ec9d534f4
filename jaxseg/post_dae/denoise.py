"""Anatomical post-processing: a denoising autoencoder turns masks into plausible masks."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import ndimage

from jaxseg.card import Card
from jaxseg.images.picture import ImageError
from jaxseg.masks.pictures import check_array
from jaxseg.masks.read import select
from jaxseg.masks.segmentation import Segmentation
from jaxseg.nn.indices import bilinear_array
from jaxseg.nn.inference import Runner, fetched
from jaxseg.weights.load import as_predictor
from jaxseg.weights.model import Model

GREY = ("refuse", "threshold")
_SOFT = 1 / 4  # largest share of pixels between black and white that counts as soft edges of a mask
_EIGHT = np.ones((3, 3), bool)  # a pixel's neighbours


class Denoiser:
    """Restores many masks with one model, which is compiled once and runs on full batches.

    A model with one channel restores every mask separately. A model with C channels restores C masks together, in the
    order of its channels. A Denoiser can be pickled as a `jaxseg.Segmenter` can.

    Args:
      model: a model of masks from `jaxseg.load` or `jaxseg.create`, such as "post_dae".
      threshold: a pixel belongs to the restored mask if its probability exceeds this; in [0, 1].
      largest_component: keep only the N largest connected components (8 neighbours); None: all. 2 for both lungs.
      union: restore masks of several classes as one mask, and assign each pixel of the result to the nearest class. For
        a model that was trained on all of them together, such as both lungs.
      batch_size: masks in one call of the network; a multiple of the number of devices. None: 8, or one per device.
      devices: JAX devices to spread the batch over; None: the first.

    Raises:
      ValueError: this is not a model of masks, or an option is out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        threshold: float = 0.5,
        largest_component: int | None = None,
        union: bool = False,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.card = _checked_card(model, threshold, largest_component, union=union)
        self.size, self.channels = tuple(model.cfg.image_size), model.cfg.in_channels
        self.threshold, self.largest_component, self.union = threshold, largest_component, union
        self._runner = Runner(model, _forward, devices=devices, batch_size=batch_size, default=8)
        self.batch_size = self._runner.batch_size

    @property
    def devices(self) -> list[jax.Device]:
        """The devices over which a batch is spread."""
        return self._runner.devices

    @property
    def settings(self) -> dict:
        """Everything that the restored masks depend on, as JSON values."""
        values = {name: getattr(self, name) for name in ("threshold", "largest_component", "union")}
        return {"weights_sha256": self.card.params_sha256 or self.card.source_sha256} | values

    def postprocess(self, names: Sequence[str] | None = None) -> "Postprocess":
        """Returns a function that restores masks in Segmentations, for the option `postprocess` of `jaxseg.Segmenter`.

        Args:
          names: names of the masks to restore; None: those of the model.

        Example:
          >>> import jaxseg
          >>> tiny = {"features": (4, 6), "strides": (2, 2), "decoder_features": (4, 4), "intermediate": (8, 16)}
          >>> denoiser = jaxseg.Denoiser(jaxseg.create("post_dae", image_size=(32, 32), **tiny))
          >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
          >>> segmenter = jaxseg.Segmenter(model, postprocess=denoiser.postprocess(["heart"]))
          >>> segmenter.settings["denoise"]["classes"]
          ['heart']
        """
        return Postprocess(self, tuple(self.card.class_names if names is None else names))

    def postprocess_for(self, names: Sequence[str], classes: str | Sequence[str] | None = None) -> "Postprocess":
        """Returns the `postprocess` of a `jaxseg.Segmenter` whose masks have these names.

        Args:
          names: labels of the segmenter's masks.
          classes: labels or groups of the masks to restore; None: the classes of the model of masks.

        Raises:
          ValueError: a class is unknown, or `names` lacks the classes of the model of masks.
        """
        if classes is not None:
            return self.postprocess([names[k] for k in select(names, classes)])
        if not set(self.card.class_names) <= set(names):
            raise ValueError("name those classes that the model of masks restores, such as 'right lung,left lung'")
        return self.postprocess()

    def probabilities(self, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the network's probabilities at its own size, (h, w) float32 each, for masks of any size.

        Args:
          masks: (H, W) bool or numbers in [0, 1]; for a model with C channels, C masks for each group.
        """
        return self._planes(self._runner(part) for part in self._parts(masks))

    def start(self, masks: Sequence[np.ndarray]) -> tuple[list, Iterator[np.ndarray]]:
        """Gives the first batch of masks to the network, without waiting for it; see `fetch`."""
        parts = self._parts(masks)
        return [self._start(part) for part in itertools.islice(parts, 1)], parts

    def fetch(self, started: tuple[list, Iterator[np.ndarray]]) -> list[np.ndarray]:
        """Returns the `probabilities` of the masks given to `start`; at most two batches are on the device."""
        running, parts = started

        def answers() -> Iterator[np.ndarray]:
            for part in parts:
                running.append(self._start(part))
                yield fetched(*running.pop(0))
            yield from (fetched(*answer) for answer in running)

        return self._planes(answers())

    def _start(self, part: np.ndarray) -> tuple[jax.Array, int]:
        return self._runner.start(part), len(part)

    def _parts(self, masks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        if len(masks) % self.channels:
            raise ValueError(f"the model takes {self.channels} masks together, got {len(masks)}")
        planes = [bilinear_array(mask, self.size) for mask in masks]
        whole = self.batch_size * self.channels
        for first in range(0, len(planes), whole):
            part = np.stack(planes[first : first + whole]).reshape(-1, self.channels, *self.size)
            yield part.transpose(0, 2, 3, 1).astype(np.float32)

    def _planes(self, answers: Iterable[np.ndarray]) -> list[np.ndarray]:
        return [plane for answer in answers for plane in answer.transpose(0, 3, 1, 2).reshape(-1, *self.size)]

    def group(self, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the network's input for the masks of one image: the masks themselves, or their union."""
        return [np.maximum.reduce(list(masks))] if self.union else list(masks)

    def masks(self, answers: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the restored masks of an image, (H, W) bool each.

        Args:
          answers: result of `probabilities(group(before))`.
          before: the masks, (H, W) bool or numbers in [0, 1].
        """
        size = before[0].shape
        found = [bilinear_array(answer, size) > np.float32(self.threshold) for answer in answers]
        if self.largest_component is not None:
            found = [_largest(mask, self.largest_component) for mask in found]
        return _shared(found[0], before) if self.union else found

    def segmentations(self, found: Sequence[Segmentation], names: Sequence[str]) -> list[Segmentation]:
        """Returns segmentations with restored masks of these names. Empty and full masks are kept, with a note.

        Raises:
          ValueError: a segmentation lacks a mask of a name, or the number of names is not that of the model.
        """
        befores = [_masks_of(segmentation, names) for segmentation in found]
        called = [dict(zip(before, names, strict=True)) for before in befores]
        chosen = [self.choose(before, name) for before, name in zip(befores, called, strict=True)]
        groups = [
            self.group([before[k] for k in kept]) if kept else []
            for before, (kept, _) in zip(befores, chosen, strict=True)
        ]
        answers = iter(self.probabilities([mask for group in groups for mask in group]))
        restored = []
        for segmentation, before, group, (kept, notes) in zip(found, befores, groups, chosen, strict=True):
            bits, mine = segmentation.bits.copy(), [next(answers) for _ in group]
            masks = dict(zip(kept, self.masks(mine, [before[k] for k in kept]) if kept else [], strict=True))
            for k, mask in masks.items():
                bits[k] = np.packbits(mask, axis=1)
            notes += self.vanished(before, masks, dict(zip(before, names, strict=True)))
            restored.append(dataclasses.replace(segmentation, bits=bits, notes=(*segmentation.notes, *notes)))
        return restored

    def choose(self, masks: dict[int, np.ndarray], names: dict[int, str]) -> tuple[list[int], list[str]]:
        """Returns which masks of an image are restored, and notes on the empty or full masks that are not.

        Masks that are empty or full at the network's size have no shape for it either, and are kept, too. A model with
        several channels restores all of them together unless all are empty or full.
        """
        if self.channels > 1:
            if len(masks) != self.channels:
                raise ImageError(f"the model takes {self.channels} masks together, got {len(masks)}")
            if not all(self.blank(mask) for mask in masks.values()):
                return list(masks), []
        odd = {k: state for k, mask in masks.items() if (state := self.blank(mask))}
        return [k for k in masks if k not in odd], [
            f"{names[k]}: the mask is {state}, and is kept" for k, state in odd.items()
        ]

    def vanished(self, before: dict[int, np.ndarray], after: dict[int, np.ndarray], names: dict[int, str]) -> list[str]:
        """Returns notes on masks that are not empty, but were restored as empty ones."""
        return [
            f"{names[k]}: the restored mask is empty, although the mask is not"
            for k, mask in after.items()
            if blank(mask) == "empty" and blank(before[k]) != "empty"
        ]

    def blank(self, mask: np.ndarray) -> str:
        """Returns why a mask has no shape for the network; "" if it has one."""
        state = blank(mask)
        if state or not (reduced := blank(bilinear_array(mask, self.size))):
            return state
        return f"{reduced} at the network's size of {self.size[0]} x {self.size[1]}"


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """Restores the masks with given names in Segmentations; `Denoiser.postprocess` creates it."""

    denoiser: Denoiser
    names: tuple[str, ...]

    @property
    def settings(self) -> dict:
        """Everything that the restored masks depend on, as JSON values."""
        return self.denoiser.settings | {"classes": list(self.names)}

    def __call__(self, found: Sequence[Segmentation]) -> list[Segmentation]:
        return self.denoiser.segmentations(found, self.names)


def denoise(
    mask: np.ndarray,
    model: str | Path | nnx.Module | Denoiser,
    *,
    soft: bool = False,
    grey: str = "refuse",
    **options: Any,
) -> np.ndarray:
    """Restores a mask, or several of one image, with a denoising autoencoder (Post-DAE).

    Args:
      mask: (H, W) or (K, H, W), any size: bool, whole numbers 0 and 1 or 0 and 255, or floats in [0, 1]. It is resized
        bilinearly to the network's size and back, as in training.
      model: a training run, a model directory, a PyTorch file or a model; or a `Denoiser`, which saves the preparation
        if there are many masks.
      soft: return probabilities instead of a mask.
      grey: what to do with grey-scale images (more than a quarter of the pixels are between black and white): "refuse"
        them, or "threshold" them at the middle.
      **options: of `Denoiser`: threshold, largest_component, union, devices.

    Returns:
      An array of the shape of `mask`: bool, or float32 in [0, 1] if `soft`.

    Raises:
      ValueError: the mask is empty or full, has another shape, or is not a mask; or an option is out of range.
      OSError: the model cannot be read.

    Example:
      >>> import jaxseg, numpy as np
      >>> tiny = {"features": (4, 6), "strides": (2, 2), "decoder_features": (4, 4), "intermediate": (8, 16)}
      >>> model = jaxseg.create("post_dae", image_size=(32, 32), **tiny)
      >>> mask = np.zeros((40, 50), bool)
      >>> mask[10:30, 10:30] = True
      >>> jaxseg.denoise(mask, model, soft=True).shape
      (40, 50)
    """
    denoiser = as_predictor(model, Denoiser, options)
    refuse_soft(denoiser, soft=soft)
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ImageError(f"masks must be (H, W) or (K, H, W), got {mask.shape}")
    planes = [checked(plane, grey=grey) for plane in (mask if mask.ndim == 3 else mask[None])]
    if len(planes) != denoiser.channels and denoiser.channels > 1:
        raise ImageError(f"the model takes {denoiser.channels} masks together, got {len(planes)}")
    for k, plane in enumerate(planes):
        if (state := denoiser.blank(plane)) and (denoiser.channels == 1 or all(map(denoiser.blank, planes))):
            where = f"mask {k}" if mask.ndim == 3 else "the mask"
            raise ImageError(f"{where} is {state}: there is no shape in it to restore")
    answers = denoiser.probabilities(denoiser.group(planes))
    if soft:
        found = [bilinear_array(answer, planes[0].shape) for answer in answers]
    else:
        found = denoiser.masks(answers, planes)
    return np.stack(found).reshape(mask.shape)


def _masks_of(segmentation: Segmentation, names: Sequence[str]) -> dict[int, np.ndarray]:
    """Returns the masks with these names at the network's size, by their index."""
    missing = [name for name in names if name not in segmentation.names]
    if missing:
        there = ", ".join(segmentation.names)
        raise ValueError(f"there is no mask of {', '.join(missing)} to denoise; the masks are {there}")
    places = [segmentation.names.index(name) for name in names]
    return {k: np.unpackbits(segmentation.bits[k], axis=1).view(bool) for k in places}


def refuse_soft(denoiser: Denoiser, *, soft: bool) -> None:
    """Raises a ValueError if probabilities are requested together with options that only apply to masks."""
    if soft and (denoiser.union or denoiser.largest_component):
        raise ValueError("probabilities have neither a union nor largest components; leave those out, or soft")


def checked(mask: np.ndarray, *, grey: str = "refuse") -> np.ndarray:
    """Returns an (H, W) array as a mask: bool unchanged, everything else as float32 in [0, 1].

    Raises:
      ImageError: its values are not those of a mask. ValueError: `grey` is unknown.
    """
    if grey not in GREY:
        raise ValueError(f"grey is {grey!r}; known: {', '.join(GREY)}")
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf":
        raise ImageError(f"a mask holds bool or numbers, got {mask.dtype}")
    low, high = mask.min(), mask.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("the mask has values that are not finite")
    top = 1 if mask.dtype.kind == "f" or high <= 1 else 255
    if low < 0 or high > top:
        allowed = "0 and 1 (floats: all between), or 0 and 255"
        raise ImageError(f"has values from {low} to {high}; a mask has {allowed}")
    values = mask.astype(np.float32) / np.float32(top)
    if grey == "threshold":
        return values > 0.5
    check_array(mask)
    if 0 < high <= top / 2:
        raise ImageError(f"has values up to {high}, all below the middle: is it a label map? A mask has 0 and {top}")
    if np.count_nonzero((values > 1 / 8) & (values < 7 / 8)) > _SOFT * values.size:
        raise ImageError("has many shades of grey: it is an image, not a mask; or cut it at the middle with threshold")
    return values


def blank(mask: np.ndarray) -> str:
    """Returns "empty" or "full" for a mask that has no shape in it, and "" for any other."""
    high, low = mask.max() > 0.5, mask.min() > 0.5  # soft masks may be nowhere exactly 0 or 1
    return "" if high and not low else "full" if high else "empty"


def _largest(mask: np.ndarray, count: int) -> np.ndarray:
    """Returns a mask with only its `count` largest connected components."""
    parts, total = ndimage.label(mask, _EIGHT)
    if total <= count:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    return np.isin(parts, 1 + np.argsort(-sizes, kind="stable")[:count])


def _shared(union: np.ndarray, before: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns a union as masks of classes: a class keeps its pixels; pixels of no class go to the nearest one."""
    classes = [np.asarray(mask) > 0.5 for mask in before]
    distances = np.stack([ndimage.distance_transform_edt(~mask) for mask in classes])
    nearest = distances.argmin(0)
    free = union & ~np.logical_or.reduce(classes)
    return [union & mask | (free & (nearest == k)) for k, mask in enumerate(classes)]


def _checked_card(model: Any, threshold: float, largest_component: int | None, *, union: bool) -> Card:
    """The model's card, if the model takes masks and the options suit it."""
    card = getattr(model, "card", None)
    if card is None or card.preprocessing != "mask":
        given = type(model).__name__ if card is None else f"model {card.model!r}, which takes images"
        raise ValueError(f"a model of masks is needed, such as a trained post_dae; got {given}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if largest_component is not None and (type(largest_component) is not int or largest_component < 1):
        raise ValueError(f"largest_component must be a whole number of at least 1, got {largest_component!r}")
    cfg = model.cfg
    if cfg.in_channels != cfg.out_channels:
        raise ValueError(f"the model makes {cfg.out_channels} masks from {cfg.in_channels}; the numbers must be equal")
    if union and cfg.in_channels > 1:
        raise ValueError(f"union is for models of one mask; this one takes {cfg.in_channels}")
    return card


def _forward(model: nnx.Module, masks: jax.Array) -> jax.Array:
    """Returns the probabilities of masks (B, h, w, C), with the same shape."""
    return model(masks).astype(jnp.float32)
