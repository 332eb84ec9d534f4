"""The demonstration: a small U-Net learns phantoms in a minute, then segments unseen ones.

Phantoms are drawn from formulas. They do not show the anatomy of real X-rays.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
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
from jaxseg.nn.metrics import dice
from jaxseg.palette import class_colours
from jaxseg.training import run
from jaxseg.training.config.config import Config
from jaxseg.weights.load import load

TRAINING = "training"  # sub-folder of the training run
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
        shutil.rmtree(training)
    config = run.open_run("demo", training)
    if steps is None:
        return config
    per_epoch = config.data.train // config.trainer.batch_size
    epochs = max(config.trainer.epochs, -(-steps // per_epoch))  # number of phantoms that these steps need
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, epochs=epochs, max_steps=steps))


def train(config: Config, output: Path, device: jax.Device, **callbacks: Callable) -> nnx.Module:
    """Trains on phantoms and returns the model, loaded from its training run; `callbacks` are those of `run.train`."""
    run.train(config, output / TRAINING, devices=[device], name=output.resolve().name, **callbacks)
    return load(output / TRAINING)


def segment_unseen(
    model: nnx.Module, output: Path, device: jax.Device, size: int
) -> tuple[list[Path], dict[str, float]]:
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
