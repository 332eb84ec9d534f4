"""Denoising of mask files: each gives a file of the same format and shape with restored masks."""

import contextlib
import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.draw.pictures import save_picture
from jaxseg.draw.sheet import contact_sheet
from jaxseg.files import atomic_file
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import FolderResult, process, writer
from jaxseg.folder_runs.inputs import Job, find_by_suffix, plan
from jaxseg.folder_runs.parts import Part, as_part
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.picture import ImageError
from jaxseg.masks.formats import Stack, open_pictures
from jaxseg.masks.pictures import PICTURES
from jaxseg.masks.read import open_masks, select
from jaxseg.masks.write import PREVIEW
from jaxseg.nn.indices import bilinear_array
from jaxseg.post_dae.denoise import Denoiser, refuse_soft
from jaxseg.weights.load import as_predictor

SUFFIXES = (*PICTURES, ".npy", ".npz")
ADDED, REMOVED, KEPT = (230, 159, 0), (0, 114, 178), (190, 190, 190)  # orange and blue of Okabe and Ito, and grey
SHOWN = 6  # largest number of classes in a preview


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The masks of a file: `stack` holds all of them, `chosen` those to restore by index, (H, W) bool."""

    stack: Stack
    chosen: dict[int, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all masks of the file."""
        return self.stack.names or ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of reading the file."""
        return tuple(self.stack.notes)


@dataclasses.dataclass(frozen=True)
class Restored:
    """The restored masks of a file by index, (H, W) bool; on request probabilities; and notes for the user."""

    masks: dict[int, np.ndarray]
    soft: dict[int, np.ndarray]
    notes: tuple[str, ...]


def find_mask_files(path: Path, *, recursive: bool = False, output: Path) -> list[Path]:
    """Returns the mask files that `path` means; raises like `jaxseg.folder_runs.inputs.find_by_suffix`."""
    return find_by_suffix(path, SUFFIXES, "masks", recursive=recursive, output=output, results="restored masks")


def denoise_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | nnx.Module | Denoiser,
    *,
    classes: str | None = None,
    names: Sequence[str] | None = None,
    levels: Mapping[int, str] | None = None,
    soft: bool = False,
    grey: str = "refuse",
    preview: bool = False,
    files: Sequence[Path] | None = None,
    part: Part | str | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> FolderResult:
    """Restores the masks of a file or of all files of a folder with a denoising autoencoder (Post-DAE).

    Files that fail are recorded with their reason, and the others are processed. A second call skips what is done, and
    a call that was interrupted is resumed by the next one.

    Args:
      source: a mask file (png, jpg, npy, npz), or a folder of them.
      output: folder of the results, different from that of the masks; it gets `summary.json`, which lists all files.
      model: a training run, a model directory, a file of weights, a model, or a `Denoiser`.
      classes: labels or groups of a file's classes to restore; None if a file holds exactly what the model takes.
      names: names of a file's classes, if the file does not contain them.
      levels: for label maps, as `jaxseg.masks.read.read_masks` takes them. The results are label maps, too: a pixel
        that several restored masks contain keeps its class, or gets the one with the lowest level.
      soft: whether to write probabilities instead of masks.
      grey: "refuse" grey-scale images, or "threshold" them at the middle.
      preview: also write `<mask>.preview.jpg`: before, after, and the change.
      files: the mask files to process, as `find_mask_files` returns them; None: all of `source`.
      part: process only this part of the files, such as "3/8", so that 8 processes share them; `jaxseg.merge_folder`
        joins their summaries. None: all files.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process masks again whose results exist, and replace results of other settings.
      progress: called as (number of files processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every file: `item.source`, `error` (None if it succeeded), `notes`.
      **options: of `Denoiser`: threshold, largest_component, union, batch_size, devices.

    Returns:
      A FolderResult: numbers of files `done`, `skipped` and `failed`, the path `summary`, and `files` one by one.

    Raises:
      ValueError: an option is out of range, the folder has no masks, or the output folder holds results of other
        settings or files of another origin. OSError: a file or folder cannot be opened.
    """
    source, output, part = Path(source), Path(output), as_part(part)
    files = find_mask_files(source, recursive=recursive, output=output) if files is None else files
    denoiser = as_predictor(model, Denoiser, options)
    refuse_soft(denoiser, soft=soft)
    if soft and levels:
        raise ValueError("a label map has no probabilities; leave out soft or levels")
    worker = FileDenoiser(denoiser, classes=classes, names=names, levels=levels, grey=grey, soft=soft)
    jobs = plan(list(files), source, output, name_of=lambda path: path.stem, part=part)
    products = [
        masks({job.base: job.source.suffix for job in jobs}, soft=soft, levels=levels),
        *([previews()] if preview else []),
    ]
    settings = {"denoise": denoiser.settings | {"classes": classes, "soft": soft, "grey": grey}}
    if levels:
        settings["denoise"]["levels"] = {str(level): name for level, name in levels.items()}
    return folder.run(
        jobs,
        Run(output, tuple(products), settings, denoiser.card.note, part=part),
        lambda todo, run: denoise_files(todo, worker, run),
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


class FileDenoiser:
    """Reads mask files and restores the masks of several files at a time, as `jaxseg.folder_runs.stream` calls it.

    Args:
      denoiser: the model, and how its probabilities become masks.
      classes: labels or groups of the file's classes to restore; None if a file holds exactly what the model takes.
      names: names of the file's classes, if the file does not contain them.
      levels: for label maps, as `jaxseg.masks.read.read_masks` takes them.
      grey: "refuse" or "threshold", see `jaxseg.denoise`.
      soft: whether to keep probabilities.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        classes: str | None = None,
        names: Sequence[str] | None = None,
        levels: Mapping[int, str] | None = None,
        grey: str = "refuse",
        soft: bool = False,
    ):
        self.denoiser, self.classes, self.names, self.levels = denoiser, classes, names, levels
        self.grey, self.soft = grey, soft

    @property
    def stages(self) -> tuple[Callable, Callable | None]:
        """The functions `compute` and `fetch` of `jaxseg.folder_runs.stream.stream`; as those of `Segmenter`."""
        on_cpu = self.denoiser.devices[0].platform == "cpu"
        return (self.restore, None) if on_cpu else (self.start, self.fetch)

    def read(self, source: Path) -> Loaded:
        """Reads the masks to restore; may be called from any thread."""
        if self.grey == "threshold" and not self.levels and source.suffix.lower() in PICTURES:
            stack = open_pictures([source], threshold=True)
        else:
            stack = open_masks(source, names=self.names, levels=self.levels)
        wanted = range(stack.count) if self.classes is None else select(stack.names or (), self.classes)
        single = self.levels is not None and self.denoiser.channels == 1  # all named levels, one after the other
        if self.classes is None and stack.count != self.denoiser.channels and not single:
            raise ImageError(
                f"{source.name}: holds {stack.count} masks, the model takes {self.denoiser.channels}: name the classes "
                "to restore"
            )
        masks = dict(zip(wanted, (np.array(mask) for mask in stack.read(wanted)), strict=True))
        if stack.count == 1 == self.denoiser.channels and (state := self.denoiser.blank(masks[0])):
            raise ImageError(f"{source.name}: the mask is {state}: there is no shape in it to restore")
        return Loaded(stack, masks)

    def restore(self, files: Sequence[Loaded]) -> list[Restored]:
        """Restores the masks of several files."""
        chosen, groups = self._given(files)
        answers = self.denoiser.probabilities([mask for group in groups for mask in group])
        return self._restored(files, chosen, groups, answers)

    def start(self, files: Sequence[Loaded]) -> tuple:
        """Gives the masks of several files to the network, without waiting for it; see `fetch`."""
        chosen, groups = self._given(files)
        return files, chosen, groups, self.denoiser.start([mask for group in groups for mask in group])

    def fetch(self, started: tuple) -> list[Restored]:
        """Waits for files that `start` has given to the network, and returns their restored masks."""
        files, chosen, groups, answers = started
        return self._restored(files, chosen, groups, self.denoiser.fetch(answers))

    def _given(self, files: Sequence[Loaded]) -> tuple[list, list]:
        chosen = [self.denoiser.choose(file.chosen, dict(enumerate(file.names))) for file in files]
        groups = [
            self.denoiser.group([file.chosen[k] for k in kept]) if kept else []
            for file, (kept, _) in zip(files, chosen, strict=True)
        ]
        return chosen, groups

    def _restored(self, files: Sequence[Loaded], chosen: list, groups: list, found: list[np.ndarray]) -> list[Restored]:
        answers = iter(found)
        restored_files = []
        for file, group, (kept, notes) in zip(files, groups, chosen, strict=True):
            mine = [next(answers) for _ in group]
            before = [file.chosen[k] for k in kept]
            masks = self.denoiser.masks(mine, before) if kept else []
            soft = [bilinear_array(answer, before[0].shape) for answer in mine] if self.soft else []
            restored = dict(zip(kept, masks, strict=True))
            notes = [*notes, *self.denoiser.vanished(file.chosen, restored, dict(enumerate(file.names)))]
            shares = dict(zip(kept, soft, strict=True)) if self.soft else restored
            restored_files.append(Restored(restored, shares, tuple(notes)))
        return restored_files


def denoise_files(todo: list[Job], denoiser: FileDenoiser, run: Run) -> Iterator[Outcome]:
    """Restores the masks of the jobs that `begin` returned, and yields Outcomes."""
    size, (compute, fetch) = denoiser.denoiser.batch_size, denoiser.stages
    read = lambda job: denoiser.read(job.source)  # noqa: E731
    return process(todo, run, read, compute, writer(run), fetch=fetch, batch_size=size)


def masks(suffixes: dict[Path, str], *, soft: bool, levels: Mapping[int, str] | None = None) -> Product:
    """Returns the product of restored masks: `<base>` with the suffix of its source (png for jpg).

    Classes that are not restored are copied.

    Args:
      suffixes: base of a job -> suffix of its source.
      soft: write probabilities: float32, or 0 to 255 in a png.
      levels: the files are label maps with these levels.
    """

    def place(base: Path) -> Path:
        suffix = suffixes[base].lower()
        return base.with_name(base.name + (".png" if suffix in PICTURES else suffix))

    def write(job: Job, loaded: Loaded, restored: Restored) -> list[str]:
        path = place(job.base)
        found = restored.soft if soft else restored.masks
        if levels and loaded.stack.label_map:
            _write_label_map(path, loaded.stack.label_map(), restored.masks, list(levels))
        elif path.suffix == ".png":
            grey = np.rint(255 * found[0].astype(np.float32)).astype(np.uint8)
            save_picture(Image.fromarray(grey), path)
        else:
            _write_array(path, loaded.stack, found, np.dtype(np.float32 if soft else bool))
        return [f"{job.source.name}: {note}" for note in restored.notes]

    return Product("denoised", place, write)


def previews() -> Product:
    """Returns the product `<base>.preview.jpg`: every mask before and after, and what was added and removed."""

    def write(job: Job, loaded: Loaded, restored: Restored) -> list[str]:
        save_picture(before_and_after(loaded, restored), _preview(job.base))
        return []

    return Product("preview", _preview, write)


def before_and_after(loaded: Loaded, restored: Restored) -> Image.Image:
    """Returns an image with one row for each of the first masks: before, after, and the change in colours."""
    rows = []
    for k in list(restored.masks)[:SHOWN]:
        before, after = loaded.chosen[k], restored.masks[k]
        change = np.zeros((*before.shape, 3), np.uint8)
        for where, colour in ((before & after, KEPT), (after & ~before, ADDED), (before & ~after, REMOVED)):
            change[where] = colour
        rows.append([before.astype(np.uint8) * 255, after.astype(np.uint8) * 255, change])
    names = ", ".join(loaded.names[k] for k in list(restored.masks)[:SHOWN])
    more = len(restored.masks) - SHOWN
    caption = (f"{names}" + (f" and {more} more" if more > 0 else "")) if rows else "nothing was restored"
    rows = rows or [[np.zeros((64, 64), np.uint8)] * 3]
    legend = [("added", ADDED), ("removed", REMOVED), ("kept", KEPT)]
    return contact_sheet(rows, titles=["before", "after", "change"], legend=legend, caption=caption)


def _preview(base: Path) -> Path:
    return base.with_name(base.name + PREVIEW)


def _write_array(path: Path, stack: Stack, found: dict[int, np.ndarray], dtype: np.dtype) -> None:
    """Writes a `.npy` or `.npz` file like the one that was read, with the restored masks in place of the old ones."""
    shape = stack.size if stack.flat else (stack.count, *stack.size)
    with atomic_file(path) as temporary, _opened(temporary, path.suffix) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        for plane in _planes(stack, found):
            file.write(np.ascontiguousarray(plane, dtype).tobytes())


def _write_label_map(path: Path, before: np.ndarray, found: dict[int, np.ndarray], levels: Sequence[int]) -> None:
    """Writes a label map with restored classes. Levels that were not restored keep their pixels."""
    after = np.where(np.isin(before, [levels[k] for k in found]), 0, before).astype(before.dtype)
    masks = {levels[k]: mask for k, mask in sorted(found.items())}
    for level, mask in masks.items():
        after[mask & (before == level)] = level
    for level, mask in masks.items():
        after[mask & (after == 0)] = level
    if path.suffix == ".png":
        save_picture(Image.fromarray(after), path)
        return
    header = {"descr": after.dtype.str, "fortran_order": False, "shape": after.shape}
    with atomic_file(path) as temporary, _opened(temporary, path.suffix) as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(after).tobytes())


def _planes(stack: Stack, found: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Yields all masks one after the other, one in memory at a time. The file is read again in one pass."""
    rest = stack.read([k for k in range(stack.count) if k not in found])
    for k in range(stack.count):
        yield found[k] if k in found else next(rest)


@contextlib.contextmanager
def _opened(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """Opens a file to write one array to; in an `.npz` file it is called `arr_0` and deflated."""
    if suffix == ".npy":
        with path.open("wb") as file:
            yield file
    else:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as file,
        ):
            yield file
