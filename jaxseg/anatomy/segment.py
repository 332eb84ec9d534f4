"""Anatomy masks of X-rays: preprocessing, the network, thresholding, and masks at the image's own size."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg import registry
from jaxseg.anatomy.copies import copies, settled, with_confidence
from jaxseg.anatomy.forward import Ensemble, Forward, ForwardWithConfidence, dice_of_copy, exclusive, joined, members
from jaxseg.anatomy.orientation import (
    CHECKS,
    REFERENCE_FILE,
    Reference,
    check_reference,
    find_reference,
    known_reference,
    oriented,
    read_reference,
)
from jaxseg.card import Card
from jaxseg.images.preprocess import PREPROCESSING, of_whole_image
from jaxseg.images.read import INTENSITIES, Picture, from_array, read_picture
from jaxseg.masks.segmentation import Orientation, Segmentation
from jaxseg.nn.inference import Runner, fetched
from jaxseg.vocabulary import labels
from jaxseg.weights.load import as_predictor, load, opened
from jaxseg.weights.model import Model, Opened

Classes = str | list[str] | tuple[str, ...] | None
EDGES = ("original", "smooth")
_NO_IMAGES = {  # preprocessing of models that do not segment images -> description of these models
    "mask": "takes masks, not images; `jaxseg denoise` applies it to them",
    "slice_and_mask": "does not segment: it predicts how good a mask of a CT is; `jaxseg score` applies it",
    "as_stored": "takes arrays as its data set stores them; `jaxseg sample` applies it to them",
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An image for the network: `x` (h, w, 3) float32; `source`, its file; the others are those of its `Picture`."""

    x: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    turned: bool = False
    source: Path | None = None


@dataclasses.dataclass(frozen=True)
class Started:
    """Images that a `Segmenter` has given to the network: `x` (B, h, w, 3), and the `answer` on the devices."""

    images: Sequence[Prepared]
    x: np.ndarray
    answer: tuple


class Segmenter:
    """Segments many images with one model, which is compiled once with folded batch norm.

    A Segmenter can be pickled if its `postprocess` can, for example for Ray or Dask. The copy uses the first device of
    the process that reads it, which JAX starts with the first image.

    Args:
      model: a model from `jaxseg.load` or `jaxseg.create`; or a list of several, of the same classes and input, which
        segment together: by the mean of their probabilities; or what `jaxseg.weights.load.opened` returns, so that
        `compile` compiles while the weights are read.
      threshold: a pixel belongs to a class if its sigmoid exceeds this; in [0, 1].
      classes: label or group names (a list or a comma-separated string), or a function that returns them for the (K,)
        class names of the model; None: all.
      batch_size: images in one call of the network; a multiple of the number of devices. None: one per device.
      devices: JAX devices to spread the batch over; None: the first.
      preprocessing: key of `PREPROCESSING`; None: that of the model's card.
      intensity: one of `jaxseg.images.read.INTENSITIES`. "original" reads grey values as CXAS up to 0.0.16, in the
        training of the published weights; "cxas-0.0.20" as that version, with the window of DICOM files; "clinical" as
        a viewer shows them (window, palette, 16-bit images by their range, EXIF orientation).
      any_modality: whether to leave out the note on DICOM files that are not projection X-rays, such as CT.
      probabilities: whether to keep the sigmoid values too.
      mean_probabilities: whether to compute the mean sigmoid value in each mask, on the network's grid, which the
        formats "coco-lines" and "parquet" hold. It is unknown for masks that `postprocess` changes.
      postprocess: changes the list of Segmentations of a batch before they are returned, for example a denoiser; it
        cannot be combined with `probabilities`. For runs over folders it needs an attribute `settings`, a dict of
        everything that its results depend on, as `jaxseg.Denoiser.postprocess` has.
      after: earlier name of `postprocess`.
      groups: version of the groups that `classes` may name, see `jaxseg.vocabulary.labels.select`. "original" are those
        of CXAS up to 0.0.16; since 0.0.20 ("cxas-0.0.20") two of them contain the vertebra C7.
      check_orientation: what to do about images that look inverted or turned. "warn" segments them as they are, with a
        note; "fix" segments the corrected image and turns the masks back, so that they fit the file, with a note; "off"
        does not check. Without a reference for the weights, "warn" does nothing.
      reference: of upright images for these weights, see `jaxseg.build_reference`: a Reference or its .npz file. None:
        the packaged one, if the model has the published weights of CXAS.
      confidence: whether Segmentations say how sure the network is, in `Segmentation.confidence`. The next two options
        and several models switch it on, too. Neither it nor smooth edges can be combined with `postprocess`.
      tta: number of changed copies of each image that are segmented too, for their agreement; see
        `jaxseg.anatomy.copies`. The masks stay those of the image.
      shape_check: what `jaxseg.Denoiser.postprocess` returns. The masks are compared with the restored ones, and stay.
      edges: "original" enlarges masks to the size of the image by nearest neighbour; "smooth" enlarges the
        probabilities bilinearly, and then cuts them at the threshold; it is not for classes that exclude each other.

    Attributes:
      card: of the model; of several, that of the first with the digests of all.
      names: labels of the masks; `indices`: their output channels.
      groups: version of the groups, for the features of `jaxseg.extract`.
      reference: with which the orientation of images is checked; None: it is not checked.
      cutoff: the logit that a pixel of a mask exceeds.
      postprocess: may be set later; `after` is an alias.

    Example:
      >>> import jaxseg, numpy as np
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> segmenter = jaxseg.Segmenter(model, threshold=0.3)
      >>> segmenter(np.zeros((90, 80), np.uint8)).masks.shape
      (2, 90, 80)
    """

    def __init__(
        self,
        model: Model | Sequence[Model] | Opened,
        *,
        threshold: float = 0.5,
        classes: Classes | Callable[[tuple[str, ...]], Classes] = None,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        preprocessing: str | None = None,
        intensity: str = "original",
        any_modality: bool = False,
        probabilities: bool = False,
        mean_probabilities: bool = False,
        postprocess: Callable[[list[Segmentation]], list[Segmentation]] | None = None,
        after: Callable[[list[Segmentation]], list[Segmentation]] | None = None,
        groups: str = "original",
        check_orientation: str = "warn",
        reference: Reference | str | Path | None = None,
        confidence: bool = False,
        tta: int = 0,
        shape_check: Any = None,
        edges: str = "original",
    ):
        model, read = model if isinstance(model, Opened) else (model, None)
        network = joined(model)
        self.card = _checked_card(network, preprocessing, intensity, threshold)
        self.preprocessing = preprocessing or self.card.preprocessing
        chosen = classes(self.card.class_names) if callable(classes) else classes
        self.indices = labels.select(self.card.class_names, chosen, groups=groups)
        self.names = tuple(self.card.class_names[i] for i in self.indices)
        self.threshold, self.intensity, self.groups = threshold, intensity, groups
        self.any_modality = any_modality
        self.reference = _reference(members(network)[0], reference, check_orientation)
        self._corrects = check_orientation == "fix"
        self.postprocess = postprocess or after
        self.probabilities, self.tta, self.shape_check, self.edges = probabilities, tta, shape_check, edges
        self.confidence = bool(confidence or tta or shape_check) or isinstance(network, Ensemble)
        self._copies = copies(tta, self.card.input_size, self.card.class_names, self.indices, self.preprocessing)
        self._check_results(network)
        self.cutoff = _logit(threshold)
        forward = self._forward(means=mean_probabilities or probabilities)
        self._runner = Runner(network, forward, devices=devices, batch_size=batch_size, read=read)
        self.batch_size = self._runner.batch_size

    def __call__(self, image: str | Path | np.ndarray) -> Segmentation:
        """Returns the masks of a file or an array; see `jaxseg.segment`."""
        return self.predict([self.prepare(image)])[0]

    @property
    def after(self) -> Callable[[list[Segmentation]], list[Segmentation]] | None:
        """Earlier name of `postprocess`."""
        return self.postprocess

    @after.setter
    def after(self, postprocess: Callable[[list[Segmentation]], list[Segmentation]] | None) -> None:
        self.postprocess = postprocess

    @property
    def devices(self) -> list[jax.Device]:
        """The devices over which a batch is spread."""
        return self._runner.devices

    @property
    def compile_seconds(self) -> float:
        """Seconds that `compile` took; 0 before."""
        return self._runner.compile_seconds

    @property
    def stages(self) -> tuple[Callable, Callable | None]:
        """The functions `compute` and `fetch` of `jaxseg.folder_runs.stream.stream`, for runs over files.

        On accelerators, one batch is computed while the one before is fetched. On CPUs, where the network uses all
        cores, this would only take more memory.
        """
        return (self.predict, None) if self.devices[0].platform == "cpu" else (self.start, self.fetch)

    @property
    def settings(self) -> dict:
        """Everything that the masks depend on, except the selection of classes, as JSON values.

        Raises:
          ValueError: `postprocess` has no attribute `settings`.
        """
        card = self.card
        if self.postprocess is not None and not hasattr(self.postprocess, "settings"):
            raise ValueError(
                "postprocess needs an attribute `settings`, a dict of everything that its results depend on, so that "
                "results made with other settings are not mixed"
            )
        corrector = self.reference if self._corrects else None
        return {
            "model": card.title,
            "weights_sha256": card.params_sha256 or card.source_sha256,
            "threshold": self.threshold,
            "labels_sha256": hashlib.sha256(json.dumps(card.class_names).encode()).hexdigest(),
            "preprocessing": self.preprocessing,
            "intensity": self.intensity,
            "orientation": f"corrected by {corrector.digest}" if corrector else "as stored",
            "edges": self.edges,
            "grid": list(card.input_size),
            "dtype": dict(card.config)["dtype"],
            "denoise": None if self.postprocess is None else self.postprocess.settings,
        }

    def prepare(self, image: str | Path | np.ndarray, *, intensity: str | None = None) -> Prepared:
        """Reads and preprocesses an image with numpy; may be called from any thread.

        Args:
          image: a file or an array.
          intensity: how a file is read, instead of as the Segmenter reads files; see `jaxseg.images.read.INTENSITIES`.
        """
        if isinstance(image, (str, Path)):
            how = intensity or self.intensity
            picture: Picture = read_picture(image, intensity=how, any_modality=self.any_modality)
        else:
            picture = from_array(image)
        x = PREPROCESSING[self.preprocessing](picture, self.card.input_size)
        source = Path(image) if isinstance(image, (str, Path)) else None
        return Prepared(x, picture.size, picture.notes, picture.spacing_mm, picture.turned, source)

    def compile(self) -> None:
        """Compiles before the first image, if that is not done yet, and waits for weights that are still being read.

        Raises:
          ValueError: the weights are damaged.
        """
        image = jax.ShapeDtypeStruct((*self.card.input_size, 3), jnp.float32)
        self._runner.compile(image, jax.ShapeDtypeStruct((), jnp.float32))
        self._runner.wait()

    def predict(self, images: Sequence[Prepared]) -> list[Segmentation]:
        """Segments up to `batch_size` prepared images."""
        return self.fetch(self.start(images))

    def start(self, images: Sequence[Prepared]) -> Started:
        """Gives up to `batch_size` prepared images to the network, without waiting for it; see `fetch`."""
        if not 1 <= len(images) <= self.batch_size:
            raise ValueError(f"between 1 and {self.batch_size} images fit in a batch, got {len(images)}")
        x = np.stack([image.x for image in images])
        return Started(images, x, self._start(x))

    def fetch(self, started: Started) -> list[Segmentation]:
        """Waits for images that `start` has given to the network, and returns their masks."""
        images, x = started.images, started.x
        answer = settled(fetched(started.answer, len(x)))
        seen: Sequence[Orientation | None] = [None] * len(images)
        if self.reference is None:
            bits, scores, sure, _ = answer
        else:
            (bits, scores, sure), seen = oriented(
                self._run, x, answer, self.reference, preprocessing=self.preprocessing, correct=self._corrects
            )
        kept = [None] * len(images) if scores is None else scores
        cutoff = self.threshold if self.edges == "smooth" else None
        found = []
        for i, (image, orientation) in enumerate(zip(images, seen, strict=True)):
            size, spacing = image.size, image.spacing_mm
            if orientation is not None and orientation.quarters % 2:  # the masks are those of the image turned back
                size, spacing = size[::-1], spacing and spacing[::-1]
            seen_bits, seen_scores = of_whole_image(bits[i], kept[i], size, self.preprocessing)
            masks = (self.names, self.indices, size, seen_bits, seen_scores, image.notes, spacing)
            mean = None if sure is None or self.postprocess is not None else sure[i, :, 0]
            more: dict[str, Any] = {"mean_probabilities": mean, "source": image.source, "cutoff": cutoff}
            found.append(Segmentation(*masks, turned=image.turned, **more))
        if self.confidence:
            found = with_confidence(found, sure, self.shape_check)
        if self.postprocess is not None:
            found = self.postprocess(found)
        return [masks.seen_as(orientation) for masks, orientation in zip(found, seen, strict=True)]

    def _start(self, x: np.ndarray) -> tuple:
        """Gives images to the network, and then their changed copies; returns what `settled` takes, on the devices."""
        cutoffs = self._cutoffs(x)
        if not self.confidence:
            return self._runner.start(x, cutoffs)
        bits, scores, sure, pooled = self._runner.start(x, cutoffs)
        agreements = [
            self._runner.start(x, cutoffs, bits, shared=(copy,), function=dice_of_copy) for copy in self._copies
        ]
        return bits, scores, (sure, agreements), pooled

    def _run(self, x: np.ndarray) -> tuple:
        return settled(fetched(self._start(x), len(x)))

    def _forward(self, *, means: bool) -> Forward | ForwardWithConfidence:
        """Returns the program for the devices."""
        kept = None if len(self.indices) == len(self.card.class_names) else self.indices
        scores, pooled = self.probabilities or self.edges == "smooth", self.reference is not None
        if self.confidence:
            return ForwardWithConfidence(kept, scores, pooled)
        return Forward(kept, scores, pooled, means)

    def _check_results(self, network: Any) -> None:
        """Raises a ValueError if results that the options ask for exclude each other."""
        if self.edges not in EDGES:
            raise ValueError(f"edges must be one of {', '.join(EDGES)}, got {self.edges!r}")
        if self.edges == "smooth" and exclusive(network):
            raise ValueError(
                "edges 'smooth' would leave pixels without a class, because the classes of this model exclude each "
                "other; choose 'original'"
            )
        asked = {"probabilities": self.probabilities, "confidence": self.confidence, "edges": self.edges == "smooth"}
        if self.postprocess is not None and any(asked.values()):
            names = ", ".join(name for name, value in asked.items() if value)
            raise ValueError(
                "probabilities are those of the network; they cannot be kept if masks are changed afterwards: leave "
                f"out {names} or postprocess"
            )

    def _cutoffs(self, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), self.cutoff)


def as_segmenter(model: Any, options: Mapping[str, Any], *, later: bool = False) -> Segmenter:
    """Returns a Segmenter; one that is given is returned as it is.

    A training run or a model directory may have a `reference.npz`, with which the orientation of images is checked.

    Args:
      model: as `segment` takes it.
      options: of `Segmenter`.
      later: whether a model that is a name or a path is compiled now, while its numbers are read.

    Raises:
      ValueError, OSError: as `jaxseg.weights.load.as_predictor`.
    """
    several = isinstance(model, (list, tuple))
    first = model[0] if several and model else model
    if isinstance(first, (str, Path)) and options.get("reference") is None:
        options = {**options, "reference": find_reference(first)}
    if several:
        model = [load(one) if isinstance(one, (str, Path)) else one for one in model]
    found = as_predictor(model, Segmenter, options, load=opened if later else load)
    if later and isinstance(model, (str, Path)):
        found.compile()
    return found


def segment(image: str | Path | np.ndarray, model: str | Path | nnx.Module | Segmenter, **options: Any) -> Segmentation:
    """Segments one X-ray.

    Args:
      image: a png, jpg or dcm file; or (H, W) or (H, W, 3) uint8; or (H, W) of another number type, scaled by
        its range as DICOM pixels are.
      model: a name that `jaxseg.load` knows, a training run, a model directory, a file of weights or a model; or a
        `Segmenter`, which saves the preparation if there are many images.
      **options: of `Segmenter`, such as threshold, classes, probabilities, preprocessing, intensity, devices.

    Returns:
      A Segmentation: `masks` (K, H, W) bool at the image's size, `names`, and `probabilities` on request.

    Raises:
      ValueError: the image cannot be read as an X-ray (ImageError), or an option is out of range.
      OSError: a file cannot be opened.

    Example:
      >>> import jaxseg, numpy as np
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> result = jaxseg.segment(np.zeros((90, 80), np.uint8), model)
      >>> result.names, result.masks.shape
      (('heart', 'lung'), (2, 90, 80))
    """
    return as_segmenter(model, options, later=True)(image)


def check_classes(
    classes: Any, model: str | Path, weights: str | Path | None = None, *, groups: str = "original"
) -> None:
    """Raises ValueError if a published model lacks classes, before its weights are read.

    Args:
      classes: as `Segmenter` takes them.
      model: what the user named. Only model names are checked: the card of a model directory states its classes.
      weights: of the model; nothing is checked if it is a folder, whose card states the classes.
      groups: version of the groups, as `Segmenter` takes it.
    """
    entry = registry.BY_NAME.get(str(model).lower())
    if entry is None or not entry.class_names or (weights is not None and Path(weights).is_dir()):
        return
    labels.select(entry.class_names, classes(entry.class_names) if callable(classes) else classes, groups=groups)


def _reference(model: Any, given: Reference | str | Path | None, check: str) -> Reference | None:
    """Returns the reference with which the orientation of images is checked; None if it is not checked."""
    if check not in CHECKS:
        raise ValueError(f"check_orientation must be one of {', '.join(CHECKS)}, got {check!r}")
    if check == "off":
        return None
    found = read_reference(given) if isinstance(given, (str, Path)) else given or known_reference(model.card)
    if found is not None:
        check_reference(found, model)
    elif check == "fix":
        raise ValueError(
            "no reference of upright images is known for these weights, so their orientation cannot be corrected: "
            f"build one with jaxseg register --build-reference, and put it into the model's folder as {REFERENCE_FILE}"
        )
    return found


def _checked_card(model: nnx.Module, preprocessing: str | None, intensity: str, threshold: float) -> Card:
    """Returns the model's card, if the model segments images and accepts the options."""
    card = getattr(model, "card", None)
    if card is None:
        raise ValueError(f"a model from jaxseg.load or jaxseg.create is needed, got {type(model).__name__}")
    if card.preprocessing in _NO_IMAGES:
        raise ValueError(f"model {card.model!r} {_NO_IMAGES[card.preprocessing]}")
    if (preprocessing or card.preprocessing) not in PREPROCESSING:
        name = preprocessing or card.preprocessing
        raise ValueError(f"unknown preprocessing {name!r}; known: {', '.join(PREPROCESSING)}")
    if intensity not in INTENSITIES:
        raise ValueError(f"unknown intensity {intensity!r}; known: {', '.join(INTENSITIES)}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if card.input_size[1] % 8:
        raise ValueError(f"the model's input width must be a multiple of 8, got {card.input_size[1]}")
    return card


def _logit(probability: float) -> np.float32:
    """Returns the logit whose sigmoid is `probability`; infinite at 0 and 1."""
    if probability in (0, 1):
        return np.float32(math.copysign(math.inf, probability - 0.5))
    return np.float32(math.log(probability / (1 - probability)))
