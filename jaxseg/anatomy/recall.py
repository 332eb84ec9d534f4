"""Masks of an earlier run in place of those of the network, for a run that changes them afterwards.

A run that restores masks needs the network's masks. If an earlier run has stored them, they are read, and the network
computes only those that cannot be recovered at its size.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import summaries
from jaxseg.anatomy.segment import Prepared, Segmenter
from jaxseg.images.read import read_picture
from jaxseg.masks.read import on_network_grid, read_masks
from jaxseg.masks.results import find_masks, orientation_of
from jaxseg.masks.segmentation import Orientation, Segmentation
from jaxseg.weights.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recalled(Prepared):
    """An image whose masks an earlier run has stored.

    Attributes:
      masks: those of the network.
      orientation: how the image appeared to the network; None if it looked upright, or was not checked.
    """

    masks: Segmentation
    orientation: Orientation | None = None


class RecallingSegmenter(Segmenter):
    """A Segmenter that takes the network's masks from the results of an earlier run, and then changes them.

    Its masks equal those of a `Segmenter` with the same options. The network computes the masks of images for which
    those at its size cannot be recovered: images that are smaller than its input or were turned before they were
    segmented, and masks that were stored with losses, were changed since, or do not exist.

    Args:
      model: as for `Segmenter`.
      folder: folder of the results of the earlier run, see `jaxseg.segment_folder`.
      postprocess: what changes the masks, such as the result of `jaxseg.Denoiser.postprocess`.
      **options: other options of `Segmenter`, with the values of the earlier run.

    Raises:
      ValueError: the folder holds no results, or results of another model or other settings, or an option is out of
        range. OSError: the folder cannot be read.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        folder: Path,
        postprocess: Callable[[list[Segmentation]], list[Segmentation]],
        **options: Any,
    ):
        super().__init__(model, postprocess=postprocess, **options)
        self.folder = folder
        self._check_run()

    @property
    def stages(self) -> tuple[Callable, Callable | None]:
        """The function `compute` of `jaxseg.folder_runs.stream.stream`; most images need no network to wait for."""
        return self.predict, None

    def compile(self) -> None:
        """Does nothing: the network is compiled with the first image that needs it."""

    def prepare(self, image: str | Path | np.ndarray, *, intensity: str | None = None) -> Prepared:
        """Reads the stored masks of an image; if they are not recovered, prepares the image as `Segmenter` does."""
        if isinstance(image, (str, Path)) and intensity is None:
            found = self._recalled(Path(image))
            if found is not None:
                return found
        return super().prepare(image, intensity=intensity)

    def predict(self, images: Sequence[Prepared]) -> list[Segmentation]:
        """Returns the changed masks of up to `batch_size` images that `prepare` returned."""
        stored = [image.masks for image in images if isinstance(image, Recalled)]
        others = [image for image in images if not isinstance(image, Recalled)]
        changed: Iterator[Segmentation] = iter(self.postprocess(stored) if stored and self.postprocess else stored)
        computed = iter(super().predict(others) if others else [])
        return [
            next(changed).seen_as(image.orientation) if isinstance(image, Recalled) else next(computed)
            for image in images
        ]

    def _check_run(self) -> None:
        """Raises a ValueError if the run in the folder did not make the masks that the network would make."""
        paths = summaries.summary_files(self.folder)
        if not paths:
            raise ValueError(f"{self.folder} holds no results of jaxseg segment; name the folder of such a run")
        stored, own = summaries.joined(paths)["settings"], self.settings | {"denoise": None}
        other = [name for name, value in own.items() if stored.get(name) != value]
        other += ["classes"] * (not set(self.names) <= set(stored.get("classes", ())))
        if other:
            raise ValueError(f"{self.folder} holds masks that were made with other settings: {', '.join(other)}")

    def _recalled(self, image: Path) -> Recalled | None:
        """Returns the stored masks of an image at the network's size; None if they cannot be recovered."""
        try:
            place = find_masks(self.folder, image)
            orientation = orientation_of(place, image)
            loaded = read_masks(place, image=image)
        except (ValueError, OSError):  # the network computes them, or reports what is wrong with the image
            return None
        picture = read_picture(image, intensity=self.intensity, any_modality=self.any_modality)
        turned = orientation is not None and orientation.corrected
        if turned or loaded.size != picture.size or not set(loaded.names) <= set(self.names):
            return None
        coarse, grid, _ = on_network_grid(loaded, place, None)
        if coarse is None or grid is None:
            return None
        bits = np.zeros((len(self.names), grid[0], grid[1] // 8), np.uint8)  # some formats leave out empty masks
        for name, mask in zip(loaded.names, coarse, strict=True):
            bits[self.names.index(name)] = np.packbits(mask, axis=1)
        fields: dict[str, Any] = {
            "notes": picture.notes,
            "spacing_mm": picture.spacing_mm,
            "turned": picture.turned,
            "source": image,
        }
        masks = Segmentation(self.names, self.indices, picture.size, bits, **fields)
        return Recalled(np.empty((0, 0, 3), np.float32), picture.size, **fields, masks=masks, orientation=orientation)
