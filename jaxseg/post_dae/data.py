"""Masks of a folder as training data: pictures and `.npy` files at one size, as Post-DAE reads them.

A record is {"mask": (H, W, C) float32 in [0, 1]}.

Source: balazsborsos/dae_postprocessing.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.files import printable
from jaxseg.images.picture import ImageError
from jaxseg.masks.formats import PICTURES
from jaxseg.masks.read import open_masks
from jaxseg.nn.indices import bilinear_array

GREY = ("soft", "threshold")
SPLITS = ("disjoint", "original")
_DARK, _BRIGHT = 32, 223  # what a lossy mask stays out of, but at its edges


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """A source of records: the masks of a folder.

    Pictures have one channel, their brightness; `.npy` files hold (H, W) for one channel or (C, H, W), of bool or
    whole numbers, 0 and 1 or 0 and 255. Masks are resized bilinearly without antialiasing, so their edges become soft
    where the size changes.

    Attributes:
      root: the folder.
      size: H and W of the records.
      channels: C, which every file must have.
      grey: what becomes of values between black and white. "soft": they are kept, divided by 255, as the original
        does; a picture with more than a quarter of them is no mask and is refused. "threshold": pictures are cut at
        127 before they are resized, whatever they show.
      files: the masks. None: all png, jpg and npy files of the folder itself, by name; what is in folders of it, and
        files whose names begin with a dot, are not among them.
      ignored: how many entries of the folder are none of these; counted where `files` is not given.
      blank: empty and full masks are records too: what a segmenter made is measured whatever it is.

    Raises:
      ValueError: the folder holds no mask, or an option is impossible; of a record: its file is damaged, too large,
        has other channels, is no mask, or is empty or full without `blank`: it has no shape to be learnt.
      OSError: the folder or a file cannot be read.
    """

    root: str | Path
    size: tuple[int, int] = (512, 512)
    channels: int = 1
    grey: str = "soft"
    files: tuple[Path, ...] | None = None
    ignored: int = 0
    blank: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        if self.grey not in GREY:
            raise ValueError(f"grey is {self.grey!r}; known: {', '.join(GREY)}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"the size must be two positive numbers, got {self.size}")
        if self.files is None:
            entries = sorted(Path(self.root).iterdir(), key=lambda path: path.name)
            files = tuple(path for path in entries if _is_mask(path))
            if not files:
                raise ValueError(
                    f"{self.root}: none of its {len(entries)} entries is a mask; give the folder that holds the png, "
                    "jpg or npy files themselves"
                )
            object.__setattr__(self, "files", files)
            object.__setattr__(self, "ignored", len(entries) - len(files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        stack = open_masks(path)  # looks at the header alone: size, type, damage
        if stack.count != self.channels:
            raise ImageError(f"{path.name}: has {stack.count} channels; masks with {self.channels} were asked for")
        if path.suffix.lower() == ".npy":
            masks = stack.read(range(stack.count))
        else:
            masks = [_read_picture(path, threshold=self.grey == "threshold")]
        resized = np.stack([_fitted(mask, self.size) for mask in masks], -1)
        for state, value in (("empty", 0), ("full: every pixel is foreground", 1)):
            if not self.blank and (resized == value).all():
                raise ImageError(f"{path.name}: the mask is {state}, at {self.size[0]} x {self.size[1]}")
        return {"mask": resized}

    def name(self, index: int) -> str:
        """Returns the name of a record's file."""
        return printable(self.files[index].name)

    def split(
        self, *, train_fraction: float = 0.8, seed: int = 0, split: str = "disjoint"
    ) -> tuple["MaskFolder", "MaskFolder"]:
        """Returns the sources of training and of validation.

        Args:
          train_fraction: of the files, in (0, 1); their number is rounded down.
          seed: of the choice; it hangs on the files' names alone, not on the order in which the system lists them.
          split: "disjoint": validation has the files that training has not. "original": as the original splits, and
            not for measuring: training is a random choice of all files, validation the last of their list, so that
            most masks of validation are trained on too. Of the original's own splits only this and the numbers of files
            can be had again: its choice had no seed, and its list was in the order of its file system; here it is in
            that of the names.

        Raises:
          ValueError: an option is impossible, or one of the two would be empty.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; known: {', '.join(SPLITS)}")
        if not 0 < train_fraction < 1:
            raise ValueError(f"train_fraction must be in (0, 1), got {train_fraction}")
        count = math.floor(train_fraction * len(self))
        if not 0 < count < len(self):
            raise ValueError(
                f"{len(self)} masks cannot be split into {train_fraction:g} of them and the rest; add masks"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        rest = order[count:] if split == "disjoint" else np.arange(count, len(self))
        return self._part(order[:count]), self._part(rest)

    def _part(self, indices: np.ndarray) -> "MaskFolder":
        return dataclasses.replace(self, files=tuple(self.files[i] for i in indices))


def as_read(record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The transform of masks: none, since they are corrupted on the device (`jaxseg.post_dae.corrupt`)."""
    return record


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in (*PICTURES, ".npy") and not path.name.startswith(".") and path.is_file()


def _read_picture(path: Path, *, threshold: bool) -> np.ndarray:
    """Returns the brightness of a picture that was opened before, (H, W) uint8 of 0 to 255, or where it is cut bool."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            image.info.pop("transparency", None)
            pixels = np.asarray(image.convert("L"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises almost anything on damage
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"{path.name}: damaged picture ({error})") from None
    top = int(pixels.max())
    if top == 1:  # a mask of 0 and 1, which the original takes for a black one
        return pixels > 0
    if 0 < top <= 127:
        raise ImageError(f"{path.name}: has values up to {top}: a mask has 0 and 255, or 0 and 1")
    if threshold:
        return pixels > 127
    if np.count_nonzero((pixels > _DARK) & (pixels < _BRIGHT)) > pixels.size / 4:
        raise ImageError(f"{path.name}: has many shades of grey: it is a picture, not a mask; or set grey to threshold")
    return pixels


def _fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a bool mask, or uint8 of 0 to 255, resized, float32 in [0, 1]."""
    return bilinear_array(mask, size) / np.float32(1 if mask.dtype == bool else 255)
