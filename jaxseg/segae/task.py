"""Training of SegAE: predicts how well an organ's mask overlaps the truth, from the CT slice and the organ's name.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.files import user_cache
from jaxseg.nn.losses import binary_cross_entropy
from jaxseg.nn.resize import bilinear
from jaxseg.segae.augment import Augmentation, Share
from jaxseg.segae.crop import HU_RANGE
from jaxseg.segae.data import OVERLAP, Example, Item, SegaeData, SegaeSplit, read_segae
from jaxseg.segae.evaluate import quality_examination, summary
from jaxseg.segae.losses import cosine_similarity, optimal_pairs, ranking_loss, weighted_mse
from jaxseg.segae.model import SegAEConfig
from jaxseg.segae.truth_map import shares
from jaxseg.segae.worst import WorstMask, worst_sheet
from jaxseg.settings import Range, pick, problems_of, section, verify
from jaxseg.training.batches import evaluation_batches
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Examination, Task
from jaxseg.vocabulary import organs
from jaxseg.weights.embeddings import embedded
from jaxseg.weights.load import create

Weight = Annotated[float, Range(0, 1000)]
EXAMINED = 32  # number of slices in a batch of an evaluation

_SETTINGS = [field.name for field in dataclasses.fields(Augmentation) if field.name != "with_truth"]
_AUGMENTATION = section(Augmentation, *_SETTINGS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(_AUGMENTATION, LoadingConfig):
    """The data set and its augmentation, see `jaxseg.segae.augment.Augmentation`.

    Attributes:
      root: folder of the data set; `-i` of the command.
      embeddings: file of the text embeddings, which a new run needs (`label_embedding.pkl`, .npz or .npy). A file of
        this name is also looked for in `root` and beside published weights. Resuming or evaluating a run does not need
        it.
      train_cases, val_cases: names of cases, of either split; null: as the folders say.
      val_organs: names of organs that are left out of the training; only they are validated with. A case may then be
        among train_cases and val_cases, so that settings can be chosen with the CTs of a single patient. null: all
        organs are trained and validated with.
      unnamed_share: fraction of the training examples without the text embedding of their organ, so that the network
        also learns to judge organs that it does not know.
      overlap: number of pixels that mask and truth must share in a slice.
      val_slices: number of slices of each mask to validate with, evenly spaced; null: all slices with enough overlap.
      canonical: whether to reorient volumes to the patient's axes, which the original does not.
      memory_gb: largest size in GB of the volumes that are kept in memory.
    """

    root: str
    embeddings: str = "label_embedding.pkl"
    train_cases: tuple[str, ...] | None = None
    val_cases: tuple[str, ...] | None = None
    val_organs: tuple[str, ...] | None = None
    unnamed_share: Share = 0.0
    overlap: Annotated[int, Range(1, 1_000_000)] = OVERLAP
    val_slices: Annotated[int, Range(1, 10_000)] | None = 1
    canonical: bool = False
    memory_gb: Annotated[float, Range(0, 10_000, above=True)] = 4.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        yield from problems_of(Augmentation, self)
        if set(self.train_cases or ()) & set(self.val_cases or ()) and not self.val_organs:
            yield "val_cases: a case of train_cases is among them, which is only possible with val_organs"
        for name in self.val_organs or ():
            try:
                organs.find(name)
            except ValueError as error:
                yield f"val_organs: {error}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(SegAEConfig, "backbone", "width", "hidden", "truth_map")):
    """The network, see `jaxseg.segae.model.SegAEConfig`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The parts of the loss, which are added.

    Attributes:
      mse: weight of the interval-weighted squared error.
      ranking: weight of the ranking loss of optimal pairs; 0: pairs are not computed.
      margin: the loss of pairs with equal predictions.
      truth: weight of the binary cross-entropy of the predicted truth, if the model has a `truth_map`.
    """

    mse: Weight = 1.0
    ranking: Weight = 1.0
    margin: Annotated[float, Range(0, 1)] = 1e-4
    truth: Weight = 1.0

    def __post_init__(self):
        verify(self, [] if self.mse or self.ranking else ["mse: 0, and ranking is 0 too; one of them must be above 0"])


class SegAETask(Task):
    """Trains SegAE with CTs and masks of known Dice; making the task opens every volume once."""

    Data, Model, Loss = DataConfig, ModelConfig, LossConfig
    target = "correlation"
    calibrates = True

    def __init__(self, config: Config):
        cfg = config.data
        if config.loss.ranking and config.trainer.batch_size // config.trainer.accumulate < 2:
            raise ValueError(
                "trainer.batch_size: a single example has no pairs to rank; use a larger batch, or loss.ranking: 0"
            )
        data = read_segae(
            Path(cfg.root),
            memory=int(cfg.memory_gb * 2**30),
            canonical=cfg.canonical,
            overlap=cfg.overlap,
            threads=cfg.threads,
        )
        self.cfg, self.weights = cfg, config.loss
        self.splits, self.notes = _splits(data, cfg), data.notes
        self.facts = {split: [source.name(i) for i in range(len(source))] for split, source in self.splits.items()}
        if "val" in self.splits:
            self.splits["val"] = self.splits["val"].of_slices(cfg.val_slices)
        with_truth = config.model.truth_map
        self.augment = dataclasses.replace(pick(Augmentation, cfg), with_truth=with_truth)
        self.prepare = Example(cfg.size, with_truth)
        self.model = _model(config)

    def initialise(self, model: nnx.Module) -> nnx.Module:
        """Returns the model with the text embeddings of the file that the configuration names."""
        path, card = _found(self.cfg), model.card
        try:
            model = embedded(model, path)
        except FileNotFoundError:
            hint = "name the original project's label_embedding.pkl, or an .npz or .npy, or put it beside the data"
            raise ValueError(f"data.embeddings: {path}: no such file; {hint}") from None
        except ValueError as error:
            raise ValueError(f"data.embeddings: {error}") from None
        model.card = card  # the card of `_model` names the file in any run, even if it no longer exists
        return model

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the sum of the squared error, weighted by the true Dice, the ranking loss, and that of the truth."""
        embedding = model.embeddings[...][batch["label"]]  # (B, E)
        if self.cfg.unnamed_share:
            unnamed = jax.random.bernoulli(key, self.cfg.unnamed_share, (len(embedding), 1))
            embedding = jnp.where(unnamed, 0, embedding)
        found, parts, cfg = model.features(batch["image"], embedding), {}, self.weights
        predicted = found["dice"][:, 0]
        if cfg.mse:
            parts["mse"] = cfg.mse * weighted_mse(predicted, batch["dice"])
        if cfg.ranking:
            partner = optimal_pairs(cosine_similarity(embedding))
            parts["ranking"] = cfg.ranking * ranking_loss(predicted, batch["dice"], partner, margin=cfg.margin)
        if "truth" in found and cfg.truth:
            truth = shares(batch["truth"] / 255, found["truth"].shape[1:])
            parts["truth"] = cfg.truth * binary_cross_entropy(found["truth"][..., None], truth[..., None])
        return sum(parts.values()), parts

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns predicted and true Dice and the class of every example, (B,)."""
        predicted = model(batch["image"], model.embeddings[...][batch["label"]])
        return {"predicted": predicted, "true": batch["dice"], "label": batch["label"]}

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the correlations of predicted and true Dice and their mean absolute error."""
        return summary(found["true"], found["predicted"])

    def examine(self, model: nnx.Module, source: Sequence) -> Examination:
        """Measures how predicted and true Dice agree, for all organs together and for each organ, and calibrates."""
        measured = self.measured(model, source)
        return quality_examination(measured.pop("true"), measured.pop("predicted"), **measured)

    def measured(self, model: nnx.Module, source: Sequence) -> dict:
        """Returns the predictions for a source of slices: "true" and "predicted" (N,), "organs", "cases" and "masks".

        Args:
          model: in evaluation mode.
          source: one of `splits`. Records that cannot be read are left out, if `data.on_error` is "skip".
        """
        measure, found, weights = jax.jit(self.scores), [], []
        batches = evaluation_batches(source, self.prepare, batch_size=EXAMINED, on_error=self.cfg.on_error)
        with contextlib.closing(batches):
            for batch in batches:
                real = batch.pop("weight") > 0
                weights.append(real)
                found.append({name: np.asarray(values)[real] for name, values in measure(model, batch).items()})
        values = {name: np.concatenate([part[name] for part in found]) for name in ("true", "predicted", "label")}
        places = np.flatnonzero(np.concatenate(weights))
        names = {"masks": [source.name(i) for i in places], "cases": [source.items[i].case.name for i in places]}
        names |= {"organs": [organs.NAMES[i] for i in values.pop("label")]}
        return values | names

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet of masks on their slices with predicted and true Dice, and the predicted truth if any."""
        examples = [self.prepare(record) for record in records]
        batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        embedding = model.embeddings[...][batch["label"]]
        found = jax.jit(lambda model, *given: model.features(*given))(model, batch["image"], embedding)
        expected: Sequence = [None] * len(examples)
        if "truth" in found:
            expected = np.asarray(bilinear(found["truth"][..., None], (self.cfg.size,) * 2))[..., 0] > 0
        low, high = HU_RANGE
        rows = []
        for example, score, place in zip(examples, found["dice"][:, 0], expected, strict=True):
            ct, mask = example["image"][..., 0], example["image"][..., 1]
            title = f"{organs.NAMES[example['label']]}, slice {example['slice']}"
            ct = (ct + 2) / 4 * (high - low) + low
            rows.append(WorstMask(ct, mask > 0, title, float(score), float(example["dice"]), expected=place))
        return worst_sheet(rows)


def _splits(data: SegaeData, cfg: DataConfig) -> dict[str, SegaeSplit]:
    """Returns the splits of the folders, or those that the configuration selects from their cases."""
    wanted = {"train": cfg.train_cases, "val": cfg.val_cases}
    every = [item for split in data.splits.values() for item in split.items]
    known = sorted({item.case.name for item in every})
    splits = {}
    for split, names in wanted.items():
        if names is None:
            taken = set(cfg.train_cases or ()) | set(cfg.val_cases or ())
            items = [i for i in (data.splits[split].items if split in data.splits else ()) if i.case.name not in taken]
        else:
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"data.{split}_cases: no case {', '.join(unknown)}; there are: {', '.join(known)}")
            items = [item for item in every if item.case.name in names]
        if cfg.val_organs:
            kept_out = {organs.find(name).id for name in cfg.val_organs}
            items = [item for item in items if (item.label in kept_out) == (split == "val")]
        if items:
            splits[split] = dataclasses.replace(next(iter(data.splits.values())), items=tuple(items))
    if "train" not in splits:
        raise ValueError(f"{cfg.root} has no training cases; cases: {', '.join(known)}")
    if cfg.val_organs and "val" not in splits:
        named = ", ".join(cfg.val_organs)
        raise ValueError(f"data.val_organs: the cases for validation have no usable mask of {named}")
    _refuse_unknown_classes([item for split in splits.values() for item in split.items])
    return splits


def _refuse_unknown_classes(items: Sequence[Item]) -> None:
    wrong = sorted({f"{item.organ}_{item.label}" for item in items if item.label >= len(organs.NAMES)})
    if wrong:
        last = len(organs.NAMES) - 1
        raise ValueError(f"classes without a text embedding: {', '.join(wrong[:5])}; they go from 1 to {last}")


def _model(config: Config):
    cfg = config.model
    options = {"backbone": cfg.backbone, "width": cfg.width, "hidden": cfg.hidden, "dtype": config.trainer.precision}
    options |= {"truth_map": cfg.truth_map}
    model = create("segae", seed=config.seed, **options)
    known = {"note": f"text embeddings: {Path(config.data.embeddings).name}"}
    known |= {"orientation": "canonical" if config.data.canonical else ""}
    model.card = dataclasses.replace(model.card, input_size=(config.data.size,) * 2, **known)
    return model


def _found(cfg: DataConfig) -> Path:
    """Returns the file of text embeddings: the named one, or that name beside the data or the published weights."""
    path = Path(cfg.embeddings).expanduser()
    places = [path, Path(cfg.root) / path.name, *(folder / "segae" / path.name for folder in [user_cache()] if folder)]
    return next((place for place in places if place.is_file()), path)
