"""Pictures of predictions while a segmentation network is trained."""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.draw.overlay import overlay
from jaxseg.draw.sheet import contact_sheet
from jaxseg.palette import palette

SHOWN = 12  # classes; more hide each other


def predictions_sheet(model: nnx.Module, examples: Sequence[dict], class_names: Sequence[str]) -> Image.Image:
    """Returns a sheet with a row an example: the image, its true masks, those of the model.

    Args:
      model: in evaluation mode.
      examples: of a transform: "image" (H, W, 3) float32 and "target" (H, W, K) of 0 and 1.
      class_names: K names; the first dozen is drawn.
    """
    logits = np.asarray(jax.jit(type(model).__call__)(model, np.stack([example["image"] for example in examples])))
    rows = []
    for example, values in zip(examples, logits, strict=True):
        grey = example["image"].mean(axis=2)
        image = np.rint(255 * (grey - grey.min()) / max(np.ptp(grey), 1e-6)).astype(np.uint8)
        masks = [np.moveaxis(m[..., :SHOWN], -1, 0) for m in (example["target"] > 0, values > 0)]
        rows.append([image, *(overlay(image, np.ascontiguousarray(mask)) for mask in masks)])
    names = class_names[:SHOWN]
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(names, palette(len(names)), strict=True)]
    return contact_sheet(rows, titles=["image", "truth", "prediction"], legend=legend, sides=True)
