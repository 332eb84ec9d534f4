"""The demonstration: a small U-Net learns phantoms in a minute, then segments unseen ones, with good contrast and bad.

Phantoms are drawn from formulas. They do not show the anatomy of real X-rays. A small Post-DAE learns the shapes of
their lungs. At the end, the whole pipeline runs on phantoms whose contrast is damaged.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxseg.anatomy.folders import segment_folder
from jaxseg.anatomy.phantom_task import UNSEEN
from jaxseg.anatomy.segment import Segmenter
from jaxseg.datasets import phantom
from jaxseg.draw.overlay import overlay
from jaxseg.draw.pictures import save_picture
from jaxseg.draw.sheet import contact_sheet
from jaxseg.folder_runs.stream import Outcome
from jaxseg.images.read import read_picture
from jaxseg.masks.read import read_masks
from jaxseg.nn.metrics import dice
from jaxseg.palette import class_colours
from jaxseg.pipeline.config import read_pipeline
from jaxseg.pipeline.plan import make_plan
from jaxseg.pipeline.run import PipelineResult, run_pipeline
from jaxseg.training import run
from jaxseg.training.config import yaml_text
from jaxseg.training.config.config import Config
from jaxseg.weights.load import load
from jaxseg.weights.model import Model

TRAINING = "training"  # sub-folder of the training run
SHAPES, RESTORING = "shapes", "restoring"  # sub-folders of the masks and the training run of the Post-DAE
DAMAGED, RESULTS = "damaged", "pipeline"  # sub-folders of the damaged phantoms, and of the results of the pipeline
LUNGS = ("right lung", "left lung")
SHAPE_COUNT = 320  # phantoms whose lungs the Post-DAE learns
COUNT = 12  # phantoms that are segmented after training
SHOWN = 3  # number of phantoms in the contact sheet


def start(output: Path, steps: int | None) -> Config:
    """Creates the folder of a demo and its training run; an earlier demo is replaced.

    Raises:
      ValueError: the folder holds something other than a demo.
    """
    training = output / TRAINING
    if output.exists() and any(output.iterdir()):
        config = training / run.CONFIG_FILE
        if not config.is_file() or "task: phantom" not in config.read_text(encoding="utf-8"):
            raise ValueError(f"{output} holds other things than an earlier demo; name another folder")
        for name in (TRAINING, SHAPES, RESTORING, DAMAGED, RESULTS):
            shutil.rmtree(output / name, ignore_errors=True)
    config = run.open_run("demo", training)
    if steps is None:
        return config
    per_epoch = config.data.train // config.trainer.batch_size
    epochs = max(config.trainer.epochs, -(-steps // per_epoch))  # number of phantoms that these steps need
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, epochs=epochs, max_steps=steps))


def train(config: Config, output: Path, device: jax.Device, **callbacks: Callable) -> Model:
    """Trains on phantoms and returns the model, loaded from its training run; `callbacks` are those of `run.train`."""
    run.train(config, output / TRAINING, devices=[device], name=output.resolve().name, **callbacks)
    return load(output / TRAINING)


def segment_unseen(model: Model, output: Path, device: jax.Device, size: int) -> tuple[list[Path], dict[str, float]]:
    """Segments phantoms that are not in the training set, and draws a contact sheet of the first ones.

    Args:
      model: the trained model.
      output: folder of the demo; it gets "images", "masks" and "contact_sheet.png".
      device: the device to use.
      size: height and width of the phantoms.

    Returns:
      The paths of the phantoms, and the mean Dice of every class.
    """

    def stop(outcome: Outcome) -> None:
        if outcome.error is not None:
            raise outcome.error

    paths, truths = write_unseen(output / "images", size)
    segmenter = Segmenter(model, devices=[device])
    segment_folder(
        output / "images", output / "masks", segmenter, files=paths, output_type="png", overwrite=True, report=stop
    )
    predictions = np.stack([segmenter(path).masks for path in paths])
    means = scores(predictions, truths)
    save_picture(sheet(paths[:SHOWN], predictions, truths, means), output / "contact_sheet.png")
    return paths, means


def write_unseen(folder: Path, size: int) -> tuple[list[Path], np.ndarray]:
    """Draws phantoms that are not in the training set as png files; returns their paths and masks (N, K, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, truths = [], []
    for i in range(COUNT):
        image, truth = phantom.draw(UNSEEN + i, size)
        paths.append(folder / f"phantom_{i:02d}.png")
        save_picture(Image.fromarray(image), paths[-1])
        truths.append(truth)
    return paths, np.stack(truths)


def scores(predictions: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Returns the mean Dice of every class over the images; both arrays are (N, K, H, W) bool."""
    return dict(zip(phantom.CLASSES, np.nanmean(dice(predictions, truths), axis=0).tolist(), strict=True))


def sheet(paths: list[Path], predictions: np.ndarray, truths: np.ndarray, means: dict[str, float]) -> Image.Image:
    """Returns an image with one row per phantom: the phantom, its true masks, and the predicted masks."""
    colours = class_colours(phantom.CLASSES)
    rows = []
    for path, prediction, truth in zip(paths, predictions, truths, strict=False):
        image = read_picture(path).pixels
        rows.append([image, *(overlay(image, masks, colors=colours) for masks in (truth, prediction))])
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(means, colours, strict=True)]
    figures = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
    caption = f"Phantoms drawn from formulas, not seen in training; not real X-rays. Mean Dice: {figures}."
    return contact_sheet(rows, titles=["phantom", "truth", "jaxseg"], legend=legend, caption=caption, sides=True)


def start_restoring(output: Path, steps: int | None) -> Config:
    """Returns the configuration of the Post-DAE, and writes the masks that it learns.

    Args:
      output: folder of the demo; it gets "shapes", with the masks of the lungs of phantoms, (2, H, W) bool each.
      steps: largest number of training steps; None: that of the packaged configuration.
    """
    folder = output / SHAPES
    folder.mkdir()
    config = run.open_run("demo_restoring", output / RESTORING, data=folder)
    for i in range(SHAPE_COUNT):
        _, masks = phantom.draw(config.seed + i, config.data.size)
        np.save(folder / f"{i:03d}.npy", masks[[phantom.CLASSES.index(name) for name in LUNGS]])
    if steps is None or steps >= config.trainer.max_steps:
        return config
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, max_steps=steps))


def train_restorer(config: Config, output: Path, device: jax.Device, **callbacks: Callable) -> Model:
    """Trains the Post-DAE and returns it, loaded from its training run; `callbacks` are those of `run.train`."""
    run.train(config, output / RESTORING, devices=[device], name="lungs of phantoms", **callbacks)
    return load(output / RESTORING)


def run_chain(output: Path, device: jax.Device, models: dict[str, Model], size: int, watch) -> PipelineResult:
    """Runs the pipeline on phantoms with damaged contrast, and draws a contact sheet of the first ones.

    Args:
      output: folder of the demo; it gets "damaged", "pipeline.yaml", "pipeline" and "damaged.png".
      device: the device to use.
      models: "segment" -> the network, "restore" -> the Post-DAE.
      size: height and width of the phantoms.
      watch: as `jaxseg.pipeline.run.run_pipeline` takes it.
    """
    paths, truths = write_damaged(output / DAMAGED, size)
    settings = {
        "segment": {"weights": str(output / TRAINING), "classes": "right lung, left lung, heart"},
        "restore": {"weights": str(output / RESTORING), "classes": ", ".join(LUNGS), "largest_component": 1},
        "confidence": {"shape_check": True, "review_below": 0.65},
        "measure": {"features": "area, centroid"},
        "compare": {"truth": str(output / DAMAGED / "truth")},
        "report": {"title": "Phantoms with damaged contrast, by jaxseg demo", "features": "area"},
    }
    config = output / f"{RESULTS}.yaml"
    config.write_text(yaml_text.dump(settings), encoding="utf-8")
    plan = make_plan(
        read_pipeline(config), output / DAMAGED / "images", output / RESULTS, devices=[device], models=models
    )
    result = run_pipeline(plan, watch=watch)
    save_picture(chain_sheet(output / RESULTS, paths[:SHOWN], truths[:SHOWN]), output / f"{DAMAGED}.png")
    return result


def write_damaged(folder: Path, size: int) -> tuple[list[Path], np.ndarray]:
    """Draws unseen phantoms with damaged contrast in "images", and their true masks, one PNG per class, in "truth".

    Returns:
      The paths of the images, and the masks of the lungs, (N, 2, H, W) bool.
    """
    images, paths, truths = folder / "images", [], []
    images.mkdir(parents=True)
    for i in range(COUNT):
        image, masks = phantom.draw(UNSEEN + COUNT + i, size)
        truth = dict(zip(phantom.CLASSES, masks, strict=True))
        truths.append(np.stack([truth[name] for name in LUNGS]))
        paths.append(images / f"damaged_{i:02d}.png")
        save_picture(Image.fromarray(veiled(image, truths[-1][i % 2], i)), paths[-1])
        own = folder / "truth" / paths[-1].stem
        own.mkdir(parents=True)
        for name in (*LUNGS, "heart"):
            save_picture(Image.fromarray(truth[name]), own / f"{name}.png")
    return paths, np.stack(truths)


def veiled(image: np.ndarray, lung: np.ndarray, seed: int) -> np.ndarray:
    """Returns an image in which a bright veil hides a part of a lung, as an effusion or a bad exposure does.

    Args:
      image: (H, W) uint8.
      lung: (H, W) bool, with some foreground.
      seed: integer >= 0; it determines the place, the size and the brightness of the veil.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(lung)
    (top, height), (left, width) = ((places.min(), np.ptp(places)) for places in (rows, columns))
    centre = top + height * rng.uniform(0.45, 0.85), left + width * rng.uniform(0.25, 0.75)
    radii = height * rng.uniform(0.25, 0.4), width * rng.uniform(0.5, 0.8)
    grid = np.indices(image.shape, np.float32)
    distance = sum(((grid[k] - centre[k]) / radii[k]) ** 2 for k in (0, 1))
    share = np.exp(-(distance**2))
    return np.rint(image * (1 - share) + rng.uniform(190, 230) * share).astype(np.uint8)


def chain_sheet(results: Path, paths: list[Path], truths: np.ndarray) -> Image.Image:
    """Returns an image with one row per damaged phantom: the phantom, true, segmented and restored lungs."""
    colours, rows = class_colours(LUNGS), []
    for path, truth in zip(paths, truths, strict=True):
        image = read_picture(path).pixels
        made = [read_masks(results / name / path.stem, classes=LUNGS).masks for name in ("masks", "restored")]
        rows.append([image, *(overlay(image, masks, colors=colours) for masks in (truth, *made))])
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(LUNGS, colours, strict=True)]
    titles = ["damaged phantom", "truth", "segmented", "restored"]
    caption = "Phantoms drawn from formulas, with a veil over a part of a lung; not real X-rays."
    return contact_sheet(rows, titles=titles, legend=legend, caption=caption, sides=True)
