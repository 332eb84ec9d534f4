"""Training from annotators who disagree: data, measures of sampled masks and pictures, shared by two methods.

Source: rCampSemp/learn-vae-noisy-label.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.annotators.augment import Augmentation, with_seed
from jaxseg.annotators.data import MNIST_ANNOTATORS, AnnotatedSlices, lidc_slices, mnist_slices
from jaxseg.annotators.energy import (
    dice_original,
    distances,
    energy_distance_original,
    energy_distance_published,
    matched_iou,
    mean_distances,
)
from jaxseg.comparison.staple import consensus
from jaxseg.draw.sheet import contact_sheet
from jaxseg.settings import Range, pick, section, verify
from jaxseg.text_table import text_table
from jaxseg.training.batches import evaluation_batches
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Examination, Task

FOLDERS = {"train": "train", "val": "validate", "test": "test"}
SHOWN = 4  # sampled masks in a row of a picture
EXAMINED = 16  # images in a batch of an examination
MEASURES = {  # name -> description
    "dice": "Dice of the clean mask",
    "dice_one_sample": "Dice of one sampled mask, the `Test Dice` of the original's confusion-matrix VAE",
    "dice_majority": "Dice of the samples' majority",
    "dice_union": "Dice of the samples' union, as the original measures its probabilistic U-Net",
    "ged_published": "generalised energy distance as published: subtracts the diversities",
    "ged_original": "the original's `GED`: the energy distance that adds the diversities",
    "iou_matched": "mean IoU of pairs of a sample and an annotator, matched so that it is as large as possible "
    "(Hungarian algorithm)",
    "dice_own": "mean Dice of the mask predicted for an annotator and this annotator's own mask",
    "distance_to_annotators": "mean distance of samples and annotators",
    "distance_between_samples": "mean distance between samples",
    "distance_between_annotators": "mean distance between annotators",
    "kl": "KL divergence",
    "baseline_majority": "Dice of the annotators' majority vote",
    "baseline_majority_ged": "generalised energy distance as published, of that vote",
    "baseline_staple": "Dice of STAPLE's consensus of the annotators",
    "baseline_staple_ged": "generalised energy distance as published, of that consensus",
    "baseline_annotator": "mean Dice of single annotators",
}
LOWEST_DICE, FEWEST_STEPS = 0.5, 100  # a model below is barely trained
UNDEFINED = ("ged_original", "distance_between_annotators")  # NaN for an image with one annotator

_AUGMENTATION = section(Augmentation, *(field.name for field in dataclasses.fields(Augmentation)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(_AUGMENTATION, LoadingConfig):
    """The data set and its augmentation, see `jaxseg.annotators.augment.Augmentation`.

    Attributes:
      root: folder of the data set; `-i` of the command.
      layout: "lidc" or "mnist".
      annotators: the largest number of annotators of a slice of LIDC.
      good_annotator: MNIST: whether the truth is one of the annotators; the original's probabilistic U-Net leaves it
        out.
      draw: an annotator is selected at random for every "sample", or one for the whole "batch" as in the original.
      samples: number of masks sampled for every image that is measured.
    """

    root: str
    layout: Literal["lidc", "mnist"] = "lidc"
    annotators: Annotated[int, Range(2, 64)] = 4
    good_annotator: bool = True
    draw: Literal["sample", "batch"] = "sample"
    samples: Annotated[int, Range(2, 1000)] = 16

    def __post_init__(self):
        verify(self)

    def splits(self) -> dict[str, AnnotatedSlices]:
        """Returns the splits of the folder; raises ValueError if there is none for training."""
        root = Path(self.root)
        if not (root / "train").is_dir():
            raise ValueError(f"{root}: has no folder train; the layouts are those of `jaxseg prepare lidc` and `mnist`")
        for layout, name in {"lidc": "scans", "mnist": "Gaussian"}.items():
            if layout != self.layout and (root / "train" / name).is_dir():
                raise ValueError(f"{root}: looks like {layout}, but data.layout is {self.layout}")
        found = {}
        for split, folder in FOLDERS.items():
            if not (root / folder).is_dir():
                continue
            if self.layout == "lidc":
                found[split] = lidc_slices(root, folder, annotators=self.annotators)
            else:
                wanted = MNIST_ANNOTATORS if self.good_annotator else MNIST_ANNOTATORS[:-1]
                found[split] = mnist_slices(root, folder, annotators=wanted)
        return found


class AnnotatorsTask(Task):
    """What the two methods share; a subclass adds the model, the loss, `scores` and `draw`."""

    Data = DataConfig

    def __init__(self, config: Config):
        self.cfg = config.data
        self.splits = self.cfg.splits()
        self.facts = {split: [source.name(i) for i in range(len(source))] for split, source in self.splits.items()}
        self.augment, self.prepare = pick(Augmentation, self.cfg), with_seed

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of the first training image, which all others must have."""
        return self.splits["train"][0]["image"].shape

    def remark(self, step: int, score: float | None) -> str:
        """Returns a warning if the model is barely trained.

        It is if the Dice of its clean mask in the validation is below 0.5. Without a validation, it is if it took fewer
        than 100 steps.
        """
        if score is None or math.isnan(score):
            return f"barely trained ({step} steps): its samples mean little" if step < FEWEST_STEPS else ""
        found = f"after {step} steps the Dice of its clean masks is {score:.2f}"
        return f"barely trained ({found} in the validation): its samples mean little" if score < LOWEST_DICE else ""

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the means over all images; see `means`."""
        return means(found)

    def examine(self, model: nnx.Module, source: Sequence) -> Examination:
        """Returns mean and standard error of every measure on a source, baselines included."""
        measure, found = jax.jit(self.scores), []
        batches = evaluation_batches(source, with_seed, batch_size=EXAMINED, on_error=self.cfg.on_error)
        with contextlib.closing(batches):
            for batch in batches:
                real = batch.pop("weight") > 0
                batch.pop("index", None)
                values = measure(model, batch) | staple_baseline(batch)
                found.append({name: np.asarray(of)[real] for name, of in values.items()})
        every = with_matches({name: np.concatenate([part[name] for part in found]) for name in found[0]})
        values = {name: every[name] for name in MEASURES if name in every}
        rows = {name: _row(name, of) for name, of in values.items()}
        count = len(next(iter(values.values())))
        return Examination({"images": count, "measures": rows}, _table({"mean": rows}, count))

    @staticmethod
    def join(best: tuple[int, Examination], last: tuple[int, Examination]) -> Examination:
        """Returns the measurements of the best and the last checkpoint in one table; the original reports the last.

        Args:
          best, last: the step and what `examine` found.
        """
        found = {"best": (best[0], best[1].numbers["measures"]), "last": (last[0], last[1].numbers["measures"])}
        columns = {f"{which}, step {step}": rows for which, (step, rows) in found.items()}
        if best[0] == last[0]:
            columns = {f"best and last, step {best[0]}": found["best"][1]}
        rows = [
            {"checkpoint": which, "step": step, "measure": name} | row | {"meaning": MEASURES[name]}
            for which, (step, measured) in found.items()
            for name, row in measured.items()
        ]
        numbers = dict(best[1].numbers) | {"last": {"step": last[0], "measures": last[1].numbers["measures"]}}
        return Examination(numbers, _table(columns, numbers["images"]), rows=rows)


def measures(
    clean: jax.Array, samples: jax.Array, batch: dict[str, jax.Array], others: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the measures of every image, (B,) each; see `MEASURES`.

    Args:
      clean: (B, H, W) bool, the segmentation.
      samples: (B, S, H, W) bool, sampled masks.
      batch: "labels" (B, H, W, A), "present" (B, A), "truth" (B, H, W).
      others: (B,) further measures, such as "kl".

    Returns:
      Arrays of shape (B,), except "overlaps" (B, A, S), from which `with_matches` makes one.
    """
    truth, present = batch["truth"] > 0, batch["present"]
    labels = jnp.moveaxis(batch["labels"] > 0, -1, 1)  # (B, A, H, W)
    count = present.sum(-1)
    votes = (labels & present[:, :, None, None]).sum(1)
    majority = 2 * votes >= count[:, None, None]
    overlaps = 1 - distances(labels, samples)
    each = dice_original(labels, jnp.broadcast_to(truth[:, None], labels.shape))
    return {
        "dice": dice_original(clean, truth),
        "dice_one_sample": dice_original(samples[:, 0], truth),
        "dice_majority": dice_original(2 * samples.sum(1) >= samples.shape[1], truth),
        "dice_union": dice_original(samples.any(1), truth),
        "ged_published": energy_distance_published(labels, samples, present=present),
        "ged_original": energy_distance_original(labels, samples, present=present),
        **mean_distances(labels, samples, present=present),
        "overlaps": jnp.where(present[:, :, None], overlaps, jnp.nan),
        "baseline_majority": dice_original(majority, truth),
        "baseline_majority_ged": energy_distance_published(labels, majority[:, None], present=present),
        "baseline_annotator": jnp.where(present, each, 0).sum(-1) / count.astype(each.dtype),
        **others,
    }


def with_matches(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the measures with "iou_matched" (N,) instead of the "overlaps" (N, A, S) of `measures`."""
    if "overlaps" not in found:
        return found
    others = {name: of for name, of in found.items() if name != "overlaps"}
    return others | {"iou_matched": matched_iou(found["overlaps"])}


def staple_baseline(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns "baseline_staple" and "baseline_staple_ged" of every image, (B,) float64 each; see `MEASURES`.

    Args:
      batch: "labels" (B, H, W, A), "present" (B, A), "truth" (B, H, W).
    """
    found = np.zeros((2, len(batch["truth"])))
    for i, (labels, present, truth) in enumerate(zip(*(batch[k] for k in ("labels", "present", "truth")), strict=True)):
        masks = np.moveaxis(np.asarray(labels)[..., np.asarray(present)] > 0, -1, 0)
        if not len(masks):
            continue  # an image that only fills the batch
        mask = consensus(masks, "staple")
        found[:, i] = dice_original(mask, np.asarray(truth) > 0), energy_distance_published(masks, mask[None])
    return {"baseline_staple": found[0], "baseline_staple_ged": found[1]}


def means(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of every measure over all images, without the baselines.

    Images for which a measure is undefined are left out, and so are measures that are undefined for all images. The
    overlaps of samples and annotators are dropped: only `AnnotatorsTask.examine` matches them.
    """
    names = [name for name in MEASURES if name in found and not name.startswith("baseline")]
    rows = {name: _row(name, found[name]) for name in names}
    return {name: row["mean"] for name, row in rows.items() if row["count"]}


def sheet(
    records: Sequence[dict], clean: np.ndarray, samples: np.ndarray, more: Mapping[str, np.ndarray] | None = None
) -> Image.Image:
    """Returns a picture with one row per image.

    A row shows the image, the mean of its annotators, the truth, the clean mask, samples, their mean, and `more`.

    Args:
      records: N.
      clean: (N, H, W) bool.
      samples: (N, S, H, W) bool.
      more: titles -> (N, H, W) in [0, 1], such as the probability that an annotator misses the object.
    """
    titles = ["image", "annotators", "truth", "clean", *(f"sample {i + 1}" for i in range(SHOWN)), "mean of samples"]
    rows, more = [], more or {}
    for i, record in enumerate(records):
        labels = record["labels"][..., record["present"]].mean(-1)
        planes = [_grey(record["image"].mean(-1)), labels, record["truth"], clean[i], *samples[i, :SHOWN]]
        planes += [samples[i].mean(0), *(plane[i] for plane in more.values())]
        rows.append([np.rint(255 * np.asarray(plane, np.float32)).astype(np.uint8) for plane in planes])
    return contact_sheet(rows, titles=[*titles, *more], legend=[], cell=128)


def _grey(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def _row(name: str, values: np.ndarray) -> dict[str, float | int]:
    """Returns mean, standard error (of the population deviation, as in the original) and the number of values."""
    values = values.astype(np.float64)
    if name in UNDEFINED:
        values = values[~np.isnan(values)]
    if not values.size:
        return {"mean": math.nan, "standard_error": math.nan, "count": 0}
    error = values.std() / math.sqrt(values.size)
    return {"mean": float(values.mean()), "standard_error": float(error), "count": int(values.size)}


def _table(columns: Mapping[str, Mapping[str, dict]], count: int) -> str:
    """Returns the means of every column of measures as text, and what the measures mean."""
    first, *others = columns.values()
    lines = []
    for name, row in first.items():
        again = ["" if name.startswith("baseline") else _cell(rows[name], count) for rows in others]
        lines.append([name, _cell(row, count), *again])
    table = [text_table(("", *columns), lines), "", text_table((), [[name, MEASURES[name]] for name in first])]
    table.append(f"means of {count} images with their standard errors; distances are 1 - intersection over union")
    if first["baseline_majority"]["mean"] == 1:
        table.append("the truth is the annotators' majority vote")
    return "\n".join(table)


def _cell(row: Mapping, count: int) -> str:
    if not row["count"]:
        return "n/a"
    of = "" if row["count"] == count else f" of {row['count']} images"
    return f"{row['mean']:.4f} +- {row['standard_error']:.4f}{of}"
