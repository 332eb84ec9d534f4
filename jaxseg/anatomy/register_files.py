"""Registers the X-rays of a folder, and builds the reference to which they are registered."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.anatomy.forward import Forward
from jaxseg.anatomy.orientation import ANGLES, Point, Reference, check_model, inverted
from jaxseg.anatomy.register import LANDMARKS, Registrar, Registration, landmark_classes, landmarks_of
from jaxseg.anatomy.segment import Prepared, Segmenter
from jaxseg.draw.pictures import save_picture
from jaxseg.draw.visualize import preview as preview_of
from jaxseg.files import atomic_file
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Product, Run
from jaxseg.folder_runs.folder import FolderResult
from jaxseg.folder_runs.inputs import Job, find_images, plan
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.preprocess import of_whole_image
from jaxseg.images.read import read_picture
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.write import PREVIEW, write_npy
from jaxseg.nn.inference import Runner
from jaxseg.weights.load import as_predictor, load


def register_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | nnx.Module | Registrar = "cxas",
    *,
    save_masks: bool = False,
    preview: bool = False,
    files: Sequence[Path] | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> FolderResult:
    """Registers an X-ray or all X-rays of a folder, as `jaxseg.register` does.

    For each image it writes the files of the original: `<image>_registered.png`; `<image>_metadata.json` with the
    orientation, the landmarks and the transform; `<image>_affine.txt`, the matrix. An image in which T4 or T10 is not
    found is written without being moved, with a note. `summary.json` has the matrix, too. Failures, resuming and
    changed settings are as in `jaxseg.segment_folder`.

    Args:
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results; not that of the images.
      model: as for `jaxseg.register`.
      save_masks: also write `<image>_registered_mask.npy`, (K, H, W) bool, the moved masks of all classes.
      preview: also write `<image>_registered.preview.jpg`, the moved masks over the moved image.
      files: the image files to process; None: all of `source`.
      recursive: also search sub-folders; the output mirrors them.
      overwrite: process images again whose results exist, and replace results of other settings.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image.
      **options: of `jaxseg.anatomy.register.Registrar`: reference, correction, and those of `jaxseg.Segmenter`.

    Returns:
      A FolderResult, see `jaxseg.segment_folder`.

    Raises:
      ValueError, OSError: as `jaxseg.segment_folder` and `Registrar`.
    """
    source, output = Path(source), Path(output)
    if source.is_dir() and output.resolve() == source.resolve():
        raise ValueError(f"{output} holds the images themselves; name another folder for the registered images")
    files = find_images(source, recursive=recursive, output=output) if files is None else files
    if isinstance(model, Registrar):
        registrar = as_predictor(model, Registrar, options)
    else:
        registrar = Registrar(model, masks=save_masks, **options)
    settings, made = registrar.settings, _products(save_masks=save_masks, preview=preview)
    if save_masks or preview:
        settings["classes"] = list(registrar.segmenter.names)
    return folder.run(
        plan(list(files), source, output),
        Run(output, tuple(made), settings, registrar.segmenter.card.note),
        lambda todo, run: _register_files(todo, registrar, run),
        prepare=registrar.segmenter.compile,
        source=source,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def build_reference(
    source: str | Path,
    model: str | Path | nnx.Module = "cxas",
    *,
    files: Sequence[Path] | None = None,
    recursive: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    report: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> Reference:
    """Builds the reference to which X-rays are registered, and with which their orientation is checked.

    The features are those of the first image; the landmarks are the means over all images in which they are found. All
    images must be upright, frontal and not inverted.

    Args:
      source: an image, or a folder of images.
      model: as for `jaxseg.segment`.
      files: the image files; None: all of `source`.
      recursive: also search sub-folders.
      progress: called as (number of images processed, their total, name of the last), first with 0 and "".
      report: called with the Outcome of every image; an image that cannot be read is left out.
      **options: of `jaxseg.Segmenter`, such as threshold, preprocessing, intensity, devices, batch_size.

    Returns:
      A Reference; `landmarks` is None if T4 or T10 was found in no image, or if they are at the same place.
      `jaxseg.write_reference` writes it.

    Raises:
      ValueError: no image can be read, or the model lacks T4 or T10. OSError: a file cannot be opened.
    """
    files = find_images(Path(source), recursive=recursive) if files is None else files
    model = load(model) if isinstance(model, (str, Path)) else model
    check_model(model)
    segmenter = as_predictor(model, Segmenter, options | {"classes": landmark_classes, "check_orientation": "off"})
    forward = Forward(segmenter.indices, False, pooled=True)
    runner = Runner(model, forward, devices=segmenter.devices, batch_size=segmenter.batch_size)

    def compute(x: np.ndarray) -> tuple:
        return runner(x, np.full(len(x), segmenter.cutoff))

    first, points = None, []
    if progress is not None:
        progress(0, len(files), "")
    for number, (outcome, image) in enumerate(_prepared(files, segmenter), 1):
        if image is not None:
            bits, *_, pooled = compute(image.x[None])
            first = (image.x, pooled[0]) if first is None else first
            whole, _ = of_whole_image(bits[0], None, image.size, segmenter.preprocessing)
            points.append(landmarks_of(Segmentation(segmenter.names, segmenter.indices, image.size, whole)))
        if report is not None:
            report(outcome)
        if progress is not None:
            progress(number, len(files), outcome.item.source.name)
    if first is None:
        raise ValueError(f"{source}: none of the {len(files)} images can be read")
    card = segmenter.card
    x, features = first
    turned = [compute(np.rot90(x, angle // 90)[None])[-1][0] for angle in ANGLES[1:]]
    opposite = compute(inverted(x, segmenter.preprocessing)[None])[-1][0]
    weights = card.params_sha256 or card.source_sha256
    means = _means(points)
    return Reference(np.stack([features, opposite]), np.stack([features, *turned]), means, weights, len(points))


def _prepared(files: Sequence[Path], segmenter: Segmenter) -> Iterator[tuple[Outcome, Prepared | None]]:
    for path in files:
        outcome = Outcome(Job(path, path, ()))
        try:
            image = segmenter.prepare(path)
            outcome.notes = image.notes
        except (ValueError, OSError) as error:
            image, outcome.error = None, error
        yield outcome, image


def _means(points: list[dict[str, Point | None]]) -> tuple[Point, Point] | None:
    """Returns the mean landmarks of those images in which each is found; None if they are missing or the same."""
    found = [[point[name] for point in points if point[name] is not None] for name in LANDMARKS]
    if not all(found):
        return None
    (t4_x, t4_y), (t10_x, t10_y) = means = [np.mean(places, axis=0).tolist() for places in found]
    return ((t4_x, t4_y), (t10_x, t10_y)) if math.dist(*means) >= 1 else None


def _products(*, save_masks: bool, preview: bool) -> list[Product]:
    """Returns the products of every image, with the names of the original's files."""

    def product(kind: str, end: str, write: Callable[[Registration, Path], object]) -> Product:
        def place(base: Path) -> Path:
            return base.with_name(f"{base.name}_{end}")

        def write_one(job: Job, registration: Registration) -> list[str]:
            write(registration, place(job.base))
            return []

        return Product(kind, place, write_one)

    made = [
        product("registered", "registered.png", _write_image),
        product("metadata", "metadata.json", _write_metadata),
        product("affine", "affine.txt", _write_matrix),
    ]
    if save_masks:
        made.append(product("registered_mask", "registered_mask.npy", _write_masks))
    if preview:
        made.append(product("registered_preview", f"registered{PREVIEW}", _write_preview))
    return made


def _write_image(found: Registration, path: Path) -> None:
    save_picture(Image.fromarray(found.image), path)


def _write_masks(found: Registration, path: Path) -> None:
    write_npy(found.masks, path.with_suffix(""))


def _write_preview(found: Registration, path: Path) -> None:
    save_picture(preview_of(found.image, found.masks), path)


def _write_metadata(found: Registration, path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(found.metadata, indent=2) + "\n", encoding="utf-8")


def _write_matrix(found: Registration, path: Path) -> None:
    with atomic_file(path) as temporary:
        np.savetxt(temporary, found.matrix)


def _register_files(todo: list[Job], registrar: Registrar, run: Run) -> Iterator[Outcome]:
    write_products, segmenter = folder.writer(run), registrar.segmenter
    compute, fetch = segmenter.stages

    def write(job: Job, image: Prepared, segmentation: Segmentation) -> list[str | dict]:
        picture = read_picture(job.source, intensity=segmenter.intensity)
        found = registrar.registered(picture, segmentation)
        write_products(job, found)
        facts: dict[str, Any] = {"registration": {"matrix": found.matrix.tolist(), "reason": found.reason}}
        if found.orientation is not None and found.orientation.note:
            facts["orientation"] = dataclasses.asdict(found.orientation)
        told = [note for note in found.notes if note not in image.notes]
        return [*(f"{job.source.name}: {note}" for note in told), facts]

    return folder.process(
        todo,
        run,
        lambda job: segmenter.prepare(job.source),
        compute,
        write,
        fetch=fetch,
        batch_size=segmenter.batch_size,
    )
