"""Samples of image files: what is written of each, and the run over a folder."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.annotators.images import read_image
from jaxseg.annotators.sample import Prepared, Sampler, Samples
from jaxseg.annotators.sheet import confusion_picture, grey, samples_sheet
from jaxseg.draw.save import save_picture
from jaxseg.files import atomic_file, atomic_folder
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import process
from jaxseg.folder_runs.inputs import Job
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.picture import ImageError
from jaxseg.masks.write import PREVIEW

FORMATS = ("npz", "npy", "png")


def sample_files(todo: list[Job], sampler: Sampler, run: Run, *, n: int, seed: int) -> Iterator[Outcome]:
    """Samples the images of the jobs that `jaxseg.folder_runs.folder.begin` returned, and yields Outcomes.

    Every image is sampled by itself with the same seed: its samples are those of `jaxseg.sample`, whatever else is in
    the folder.
    """

    def read(job: Job) -> Prepared:
        image = read_image(job.source)
        try:
            return sampler.prepare(image)
        except ImageError as error:
            raise ImageError(f"{job.source.name}: {error}") from None

    def compute(batch: list[Prepared]) -> list[Samples]:
        return [sampler.draw(prepared, n, seed) for prepared in batch]

    def write(job: Job, prepared: Prepared, samples: Samples) -> list[str]:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return [note for product in run.products for note in product.write(job, prepared, samples)]

    return process(todo, run, read, compute, write, batch_size=1)


def files(output_type: str, *, confusion: bool) -> list[Product]:
    """What is written of an image in a format of `FORMATS`.

    - "npz": `<base>.npz` with the arrays clean, masks, agreement, entropy and, where the model has it, confusion.
    - "npy": `<base>.clean.npy` and so on, an array a file.
    - "png": `<base>.clean.png` and the folder `<base>.samples` with 00.png and so on: of two classes 0 and 255, of more
      the classes' numbers; `<base>.agreement.png`, 255 is all samples; `<base>.entropy.png`, 255 is the most that the
      classes can have; `<base>.confusion.png`, the matrices' pictures, 255 is 1.

    Args:
      output_type: of `FORMATS`.
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


def previews() -> Product:
    """`<base>.preview.jpg`: the image, its clean mask, the first samples, and the maps."""

    def write(job: Job, prepared: Prepared, samples: Samples) -> list[str]:
        maps = [samples.clean, samples.masks, samples.agreement, samples.entropy, samples.confusion]
        sheet = samples_sheet(prepared.image, *maps, classes=samples.classes, title=job.source.name)
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
    def save(path: Path, samples: Samples) -> None:
        drawn = {
            "clean": lambda: _classes(samples.clean, samples.classes),
            "agreement": lambda: grey(samples.agreement),
            "entropy": lambda: grey(samples.entropy / math.log2(samples.classes)),
            "confusion": lambda: confusion_picture(samples.confusion),
        }
        save_picture(Image.fromarray(drawn[name]()), path)

    return save


def _save_masks(path: Path, samples: Samples) -> None:
    digits = max(2, len(str(len(samples.masks) - 1)))
    with atomic_folder(path) as folder:
        for i, mask in enumerate(samples.masks):
            content = io.BytesIO()  # as in `save_picture`; the folder is synced as a whole
            Image.fromarray(_classes(mask, samples.classes)).save(content, "PNG")
            (folder / f"{i:0{digits}d}.png").write_bytes(content.getvalue())


def _classes(mask: np.ndarray, classes: int) -> np.ndarray:
    """A mask as grey values: black and white where there are two classes, so that every viewer shows it."""
    return mask * np.uint8(255) if classes == 2 else mask


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)
