"""Denoising of mask files: each is restored into a file of the same kind and shape; nothing else in it changes."""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from jaxseg.draw.save import save_picture
from jaxseg.draw.sheet import contact_sheet
from jaxseg.files import atomic_file
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import process, writer
from jaxseg.folder_runs.inputs import Job, find_by_suffix
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.picture import ImageError
from jaxseg.masks.formats import PICTURES, Stack, open_pictures
from jaxseg.masks.read import open_masks, select
from jaxseg.masks.write import PREVIEW
from jaxseg.nn.indices import bilinear_array
from jaxseg.post_dae.denoise import Denoiser, blank

SUFFIXES = (*PICTURES, ".npy", ".npz")
ADDED, REMOVED, KEPT = (90, 200, 120), (230, 90, 80), (190, 190, 190)
SHOWN = 6  # classes in a preview


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The masks of a file: `stack` has all; `chosen`, (H, W) bool by their number, are those to restore."""

    stack: Stack
    chosen: dict[int, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Restored:
    """By number: the restored masks, (H, W) bool; probabilities where they are wanted; notes for the user."""

    masks: dict[int, np.ndarray]
    soft: dict[int, np.ndarray]
    notes: tuple[str, ...]


def find_mask_files(path: Path, *, recursive: bool = False, output: Path) -> list[Path]:
    """Returns the mask files that `path` means; raises as `jaxseg.folder_runs.inputs.find_by_suffix`."""
    return find_by_suffix(path, SUFFIXES, "masks", recursive=recursive, output=output, results="restored ones")


class FileDenoiser:
    """Reads mask files and restores them, many at a time; `jaxseg.folder_runs.stream` calls it.

    Args:
      denoiser: the model and how its answers become masks.
      classes: labels or groups of the file's classes; None where a file holds what the model takes.
      names: of the classes, where the file does not say.
      grey: "refuse" or "threshold", see `jaxseg.denoise`.
      soft: keep probabilities.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        classes: str | None = None,
        names: Sequence[str] | None = None,
        grey: str = "refuse",
        soft: bool = False,
    ):
        self.denoiser, self.classes, self.names, self.grey, self.soft = denoiser, classes, names, grey, soft

    def read(self, source: Path) -> Loaded:
        """Reads the masks to restore; in any thread."""
        if self.grey == "threshold" and source.suffix.lower() in PICTURES:
            stack = open_pictures([source], threshold=True)
        else:
            stack = open_masks(source, names=self.names)
        wanted = range(stack.count) if self.classes is None else select(stack.names, self.classes)
        if self.classes is None and stack.count != self.denoiser.channels:
            raise ImageError(
                f"{source.name}: holds {stack.count} masks, the model takes {self.denoiser.channels}: name the classes "
                "to restore"
            )
        masks = dict(zip(wanted, (np.array(mask) for mask in stack.read(wanted)), strict=True))
        if stack.count == 1 == self.denoiser.channels and (state := blank(masks[0])):
            raise ImageError(f"{source.name}: the mask is {state}: there is no shape in it to restore")
        return Loaded(stack, masks)

    def restore(self, files: Sequence[Loaded]) -> list[Restored]:
        """Restores the masks of several files."""
        chosen = [self.denoiser.choose(file.chosen, dict(enumerate(file.stack.names))) for file in files]
        groups = [
            self.denoiser.group([file.chosen[k] for k in kept]) if kept else []
            for file, (kept, _) in zip(files, chosen, strict=True)
        ]
        answers = iter(self.denoiser.probabilities([mask for group in groups for mask in group]))
        found = []
        for file, group, (kept, notes) in zip(files, groups, chosen, strict=True):
            mine = [next(answers) for _ in group]
            before = [file.chosen[k] for k in kept]
            masks = self.denoiser.masks(mine, before) if kept else []
            soft = [bilinear_array(answer, before[0].shape) for answer in mine] if self.soft else []
            pairs = (dict(zip(kept, values, strict=True)) for values in (masks, soft if self.soft else masks))
            found.append(Restored(*pairs, tuple(notes)))
        return found


def denoise_files(todo: list[Job], denoiser: FileDenoiser, run: Run) -> Iterator[Outcome]:
    """Restores the masks of the jobs that `begin` returned, as `segment_files` segments images."""
    size = denoiser.denoiser.batch_size
    return process(todo, run, lambda job: denoiser.read(job.source), denoiser.restore, writer(run), batch_size=size)


def files(suffixes: dict[Path, str], *, soft: bool) -> Product:
    """The restored masks: `<base>` with the suffix of its source (png for jpg); all other classes as they were.

    Args:
      suffixes: of the sources, by their jobs' bases.
      soft: write probabilities: float32, or 0 to 255 in a png.
    """

    def place(base: Path) -> Path:
        suffix = suffixes[base].lower()
        return base.with_name(base.name + (".png" if suffix in PICTURES else suffix))

    def write(job: Job, loaded: Loaded, restored: Restored) -> list[str]:
        path = place(job.base)
        found = restored.soft if soft else restored.masks
        if path.suffix == ".png":
            grey = np.rint(255 * found[0].astype(np.float32)).astype(np.uint8)
            save_picture(Image.fromarray(grey), path)
        else:
            _write_array(path, loaded.stack, found, np.dtype(np.float32 if soft else bool))
        return [f"{job.source.name}: {note}" for note in restored.notes]

    return Product("denoised", place, write)


def previews() -> Product:
    """`<base>.preview.jpg`: every mask before and after, and what was added and removed."""

    def write(job: Job, loaded: Loaded, restored: Restored) -> list[str]:
        save_picture(before_and_after(loaded, restored), _preview(job.base))
        return []

    return Product("preview", _preview, write)


def before_and_after(loaded: Loaded, restored: Restored) -> Image.Image:
    """Returns a sheet with a row a mask, of the first few: before, after, and the change in colours."""
    rows = []
    for k in list(restored.masks)[:SHOWN]:
        before, after = loaded.chosen[k], restored.masks[k]
        change = np.zeros((*before.shape, 3), np.uint8)
        for where, colour in ((before & after, KEPT), (after & ~before, ADDED), (before & ~after, REMOVED)):
            change[where] = colour
        rows.append([before.astype(np.uint8) * 255, after.astype(np.uint8) * 255, change])
    names = ", ".join(loaded.stack.names[k] for k in list(restored.masks)[:SHOWN])
    more = len(restored.masks) - SHOWN
    caption = (f"{names}" + (f" and {more} more" if more > 0 else "")) if rows else "nothing was restored"
    rows = rows or [[np.zeros((64, 64), np.uint8)] * 3]
    legend = [("added", ADDED), ("removed", REMOVED), ("kept", KEPT)]
    return contact_sheet(rows, titles=["before", "after", "change"], legend=legend, caption=caption)


def _preview(base: Path) -> Path:
    return base.with_name(base.name + PREVIEW)


def _write_array(path: Path, stack: Stack, found: dict[int, np.ndarray], dtype: np.dtype) -> None:
    """Writes a `.npy` or `.npz` like the one that was read, with what was restored in its place."""
    shape = stack.size if stack.flat else (stack.count, *stack.size)
    with atomic_file(path) as temporary, _opened(temporary, path.suffix) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        for plane in _planes(stack, found):
            file.write(np.ascontiguousarray(plane, dtype).tobytes())


def _planes(stack: Stack, found: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Yields all masks in turn, one in memory at a time; a file is read once more, in one pass."""
    rest = stack.read([k for k in range(stack.count) if k not in found])
    for k in range(stack.count):
        yield found[k] if k in found else next(rest)


@contextlib.contextmanager
def _opened(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """Opens a file to write one array to; in an `.npz` that is `arr_0`, deflated."""
    if suffix == ".npy":
        with path.open("wb") as file:
            yield file
    else:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as file,
        ):
            yield file
