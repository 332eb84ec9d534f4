"""Samples for image files: what is written for each, and the run over a folder."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.annotators.images import find_image_files, read_image
from jaxseg.annotators.sample import Prepared, Sampler, Samples
from jaxseg.annotators.sheet import confusion_picture, grey, samples_sheet
from jaxseg.draw.pictures import save_picture
from jaxseg.files import atomic_file, atomic_folder
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import FolderResult, process, writer
from jaxseg.folder_runs.inputs import Job, plan
from jaxseg.folder_runs.parts import Part, as_part
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.picture import ImageError
from jaxseg.masks.write import PREVIEW
from jaxseg.weights.load import as_predictor

FORMATS = ("npz", "npy", "png")


def sample_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | nnx.Module | Sampler,
    *,
    n: int = 16,
    seed: int = 0,
    output_type: str = "npz",
    preview: bool = False,
    files: Sequence[Path] | None = None,
    part: Part | str | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> FolderResult:
    """Samples masks that annotators might draw, for an image or all images of a folder, and writes them.

    Files that fail are recorded with their reason, and the others are processed. A second call skips what is done, and
    a call that was interrupted is resumed by the next one.

    Args:
      source: an image file (tif, npy, npz, png), or a folder of them.
      output: folder of the results, not that of the images; it gets `summary.json`, which lists all files.
      model: a training run, a model directory, a file of weights, a model, or a `Sampler`.
      n: number of masks per image.
      seed: random seed, 0 to 2**32 - 1. The samples of an image depend only on the image, n, the seed and the model.
      output_type: from `FORMATS`, see `samples`.
      preview: also write `<image>.preview.jpg`, the masks and maps on one sheet.
      files: the image files to process, as `find_image_files` returns them; None: all of `source`.
      part: process only this part of the files, such as "3/8", so that 8 processes share them; `jaxseg.merge_folder`
        joins their summaries. None: all files.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image: `item.source`, `error` (None if it succeeded), `notes`.
      **options: of `Sampler`: latent_source (its option `source`), normalise, resize, devices.

    Returns:
      A FolderResult: numbers of files `done`, `skipped` and `failed`, the path `summary`, and `files` one by one.

    Raises:
      ValueError: an option is out of range, the folder has no images, or the output folder holds results of other
        settings or files of another origin. OSError: a file or folder cannot be opened.
    """
    source, output, part = Path(source), Path(output), as_part(part)
    files = find_image_files(source, recursive=recursive, output=output) if files is None else files
    if "latent_source" in options:
        options["source"] = options.pop("latent_source")
    sampler = as_predictor(model, Sampler, options)
    products = samples(output_type, confusion=sampler.confusing) + ([previews(sampler.card.note)] if preview else [])
    settings = {"sample": sampler.settings | {"n": n, "seed": seed}}
    return folder.run(
        plan(list(files), source, output, name_of=lambda path: path.stem, part=part),
        Run(output, tuple(products), settings, sampler.card.note, part=part),
        lambda todo, run: sample_files(todo, sampler, run, n=n, seed=seed),
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def sample_files(todo: list[Job], sampler: Sampler, run: Run, *, n: int, seed: int) -> Iterator[Outcome]:
    """Samples masks for the jobs that `jaxseg.folder_runs.account.begin` returned, and yields Outcomes.

    Every image is processed by itself with the same seed: its samples are those of `jaxseg.sample`, and do not depend
    on the other images in the folder.
    """

    def read(job: Job) -> Prepared:
        image = read_image(job.source)
        try:
            return sampler.prepare(image)
        except ImageError as error:
            raise ImageError(f"{job.source.name}: {error}") from None

    def compute(batch: list[Prepared]) -> list[Samples]:
        return [sampler.draw(prepared, n, seed) for prepared in batch]

    return process(todo, run, read, compute, writer(run), batch_size=1)


def samples(output_type: str, *, confusion: bool) -> list[Product]:
    """Returns the products of samples in a format from `FORMATS`.

    - "npz": `<base>.npz` with the arrays clean, masks, agreement, entropy and, if the model has it, confusion.
    - "npy": `<base>.clean.npy` and so on, one file per array.
    - "png": `<base>.clean.png` and the folder `<base>.samples` with 00.png and so on: 0 and 255 for two classes,
      otherwise the numbers of the classes; `<base>.agreement.png`, where 255 means all samples; `<base>.entropy.png`,
      where 255 is the largest value possible; `<base>.confusion.png`, the matrices as images, where 255 means 1.

    Args:
      output_type: from `FORMATS`.
      confusion: whether the model has confusion matrices.

    Raises:
      ValueError: the format is unknown.
    """
    if output_type not in FORMATS:
        raise ValueError(f"unknown format {output_type!r}; known: {', '.join(FORMATS)}")
    if output_type == "npz":
        return [_product("npz", ".npz", _save_npz)]
    names = ["clean", "masks", "agreement", "entropy", *(["confusion"] if confusion else [])]
    if output_type == "npy":
        return [_product(f"{name}.npy", f".{name}.npy", _npy_writer(name)) for name in names]
    products = [_product(f"{name}.png", f".{name}.png", _png_writer(name)) for name in names if name != "masks"]
    return [*products, _product("samples", ".samples", _save_masks)]


def previews(note: str = "") -> Product:
    """Returns the product `<base>.preview.jpg`: the image, its clean mask, the first samples, the maps, and a note."""

    def write(job: Job, prepared: Prepared, samples: Samples) -> list[str]:
        title = f"{job.source.name}; {note}" if note else job.source.name
        maps = [samples.clean, samples.masks, samples.agreement, samples.entropy]
        named: dict[str, Any] = {"confusion": samples.confusion, "classes": samples.classes, "title": title}
        sheet = samples_sheet(prepared.image, *maps, **named)
        save_picture(sheet, _beside(job.base, PREVIEW))
        return []

    return Product("preview", lambda base: _beside(base, PREVIEW), write)


def _product(kind: str, suffix: str, save: Callable[[Path, Samples], None]) -> Product:
    def write(job: Job, prepared: Prepared, samples: Samples) -> list[str]:
        save(_beside(job.base, suffix), samples)
        return []

    return Product(kind, lambda base: _beside(base, suffix), write)


def _arrays(samples: Samples) -> dict[str, np.ndarray]:
    names = ("clean", "masks", "agreement", "entropy", "confusion")
    return {name: value for name in names if (value := getattr(samples, name)) is not None}


def _save_npz(path: Path, samples: Samples) -> None:
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in _arrays(samples).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _npy_writer(name: str) -> Callable[[Path, Samples], None]:
    def save(path: Path, samples: Samples) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array(file, getattr(samples, name), allow_pickle=False)

    return save


def _png_writer(name: str) -> Callable[[Path, Samples], None]:
    drawings: dict[str, Callable[[Any], np.ndarray]] = {
        "clean": lambda samples: _classes(samples.clean, samples.classes),
        "agreement": lambda samples: grey(samples.agreement),
        "entropy": lambda samples: grey(samples.entropy / math.log2(samples.classes)),
        "confusion": lambda samples: confusion_picture(samples.confusion),
    }

    def save(path: Path, samples: Samples) -> None:
        save_picture(Image.fromarray(drawings[name](samples)), path)

    return save


def _save_masks(path: Path, samples: Samples) -> None:
    digits = max(2, len(str(len(samples.masks) - 1)))
    with atomic_folder(path) as folder:
        for i, mask in enumerate(samples.masks):
            content = io.BytesIO()  # as in `save_picture`; the folder is synced as a whole
            Image.fromarray(_classes(mask, samples.classes)).save(content, "PNG")
            (folder / f"{i:0{digits}d}.png").write_bytes(content.getvalue())


def _classes(mask: np.ndarray, classes: int) -> np.ndarray:
    """A mask as grey values: black and white if there are two classes, so that every viewer shows it."""
    return mask * np.uint8(255) if classes == 2 else mask


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)
