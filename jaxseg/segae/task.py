"""Training of SegAE: how well a mask of an organ overlaps the truth, from the CT slice and the organ's name.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
from PIL import Image

from jaxseg.datasets.degrade import KINDS
from jaxseg.segae.augment import Augmentation
from jaxseg.segae.crop import HU_RANGE
from jaxseg.segae.data import OVERLAP, Example, Item, SegaeData, SegaeSplit, read_segae
from jaxseg.segae.evaluate import quality_examination, summary
from jaxseg.segae.losses import cosine_similarity, optimal_pairs, ranking_loss, weighted_mse
from jaxseg.segae.worst import WorstMask, worst_sheet
from jaxseg.settings import Range, verify
from jaxseg.training.batches import evaluation_batches
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Examination, Problem
from jaxseg.vocabulary import organs
from jaxseg.weights.embeddings import embedded
from jaxseg.weights.home import home
from jaxseg.weights.load import create

Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """The data set, and what training does to it at random; see `jaxseg.segae.augment.Augmentation`.

    Attributes:
      root: folder of the data set; `-i` of the command.
      embeddings: file of the text embeddings, from which a new run starts (`label_embedding.pkl`, .npz or .npy). A run
        that goes on, or is evaluated, has no need of it. Looked for in `root` and beside published weights too.
      size: side of the network's input.
      train_cases, val_cases: names of cases, of either split; null: as the folders say.
      overlap: pixels that mask and truth share in a slice that can be used.
      val_slices: of every mask that validation measures, evenly over it; null: all that can be used.
      canonical: turn volumes to the patient's axes, which the original does not.
      memory_gb: of volumes that are kept in memory.
    """

    root: str
    embeddings: str = "label_embedding.pkl"
    size: Annotated[int, Range(32, 2048)] = 256
    train_cases: tuple[str, ...] | None = None
    val_cases: tuple[str, ...] | None = None
    overlap: Annotated[int, Range(1, 1_000_000)] = OVERLAP
    val_slices: Annotated[int, Range(1, 10_000)] | None = 1
    canonical: bool = False
    memory_gb: Annotated[float, Range(0, 10_000, above=True)] = 4.0
    degrade_share: Share = 0.0
    degrade_dice: tuple[Share, Share] = Augmentation.degrade_dice
    kinds: tuple[str, ...] = tuple(KINDS)
    truth_share: Share = 0.0
    window_jitter: Annotated[float, Range(0, 200, below=True)] = 0.0
    noise: Annotated[float, Range(0, 1000)] = 0.0
    flip_rows: Share = 0.0
    flip_columns: Share = 0.0
    rotate: Annotated[float, Range(0, 180)] = 0.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        try:
            self.augmentation()
        except ValueError as error:
            yield str(error)
        if set(self.train_cases or ()) & set(self.val_cases or ()):
            yield "val_cases: a case of train_cases is among them"

    def augmentation(self) -> Augmentation:
        """Returns the transform of training."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; `jaxseg.segae.model.SegAEConfig` explains it."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    width: Annotated[int, Range(1, 1024)] = 64
    hidden: Annotated[int, Range(1, 65_536)] = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is added.

    Attributes:
      mse: weight of the interval-weighted squared error.
      ranking: weight of the loss of optimal pairs; 0: no pairs are looked for.
      margin: what pairs with equal predictions cost.
    """

    mse: Weight = 1.0
    ranking: Weight = 1.0
    margin: Annotated[float, Range(0, 1)] = 1e-4

    def __post_init__(self):
        verify(self, [] if self.mse or self.ranking else ["mse: 0, and so is ranking; one of them must count"])


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config; opens every volume once."""
    cfg = config.data
    if config.loss.ranking and config.trainer.batch_size // config.trainer.accumulate < 2:
        raise ValueError("trainer.batch_size: 1 example at once has no pairs to rank; take more, or loss.ranking: 0")
    data = read_segae(
        Path(cfg.root),
        memory=int(cfg.memory_gb * 2**30),
        canonical=cfg.canonical,
        overlap=cfg.overlap,
        threads=cfg.threads,
    )
    splits = _splits(data, cfg)
    shown = {split: [source.name(i) for i in range(len(source))] for split, source in splits.items()}
    if "val" in splits:
        splits["val"] = splits["val"].of_slices(cfg.val_slices)
    return Problem(
        _model(config),
        splits,
        cfg.augmentation(),
        Example(cfg.size),
        functools.partial(loss, cfg=config.loss),
        scores,
        lambda found: summary(found["true"], found["predicted"]),
        "correlation",
        functools.partial(draw, prepare=Example(cfg.size)),
        shown,
        data.notes,
        functools.partial(examine, prepare=Example(cfg.size), on_error=cfg.on_error),
        begin=functools.partial(_with_embeddings, path=_found(cfg)),
    )


def loss(model, batch: dict, key: jax.Array, *, cfg: LossConfig) -> tuple:
    """The squared error weighted by the true Dice, and the pairs in the wrong order; `key` is not needed."""
    embedding = model.embeddings[...][batch["label"]]  # (B, E)
    predicted, parts = model(batch["image"], embedding), {}
    if cfg.mse:
        parts["mse"] = cfg.mse * weighted_mse(predicted, batch["dice"])
    if cfg.ranking:
        partner = optimal_pairs(cosine_similarity(embedding))
        parts["ranking"] = cfg.ranking * ranking_loss(predicted, batch["dice"], partner, margin=cfg.margin)
    return sum(parts.values()), parts


def scores(model, batch: dict) -> dict:
    """Predicted and true Dice and the class of every example, (B,)."""
    predicted = model(batch["image"], model.embeddings[...][batch["label"]])
    return {"predicted": predicted, "true": batch["dice"], "label": batch["label"]}


def examine(model, source: Sequence, *, prepare: Callable, on_error: str = "stop", batch_size: int = 32) -> Examination:
    """Returns how predicted and true Dice of the slices of a source agree, for all organs and for each.

    Args:
      model: in evaluation mode.
      source: of records, as `SegaeSplit`.
      prepare: (record, generator) -> example.
      on_error: "stop" raises where a record is bad, "skip" leaves it out.
      batch_size: slices at once.

    Raises:
      RecordError: a record is bad; or with "skip", all are.
    """
    measure, found = jax.jit(scores), []
    with contextlib.closing(evaluation_batches(source, prepare, batch_size=batch_size, on_error=on_error)) as batches:
        for batch in batches:
            real = batch.pop("weight") > 0
            found.append({name: np.asarray(values)[real] for name, values in measure(model, batch).items()})
    true, predicted, label = (np.concatenate([part[name] for part in found]) for name in ("true", "predicted", "label"))
    return quality_examination(true, predicted, [organs.NAMES[i] for i in label])


def draw(model, records: Sequence[dict], *, prepare: Callable) -> Image.Image:
    """A sheet of masks on their slices with predicted and true Dice; `prepare` makes examples of records."""
    examples = [prepare(record) for record in records]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    predicted = np.asarray(jax.jit(scores)(model, batch)["predicted"])
    low, high = HU_RANGE
    rows = []
    for example, score in zip(examples, predicted, strict=True):
        ct, mask = example["image"][..., 0], example["image"][..., 1]
        title = f"{organs.NAMES[example['label']]}, slice {example['slice']}"
        rows.append(WorstMask((ct + 2) / 4 * (high - low) + low, mask > 0, title, float(score), float(example["dice"])))
    return worst_sheet(rows)


def _splits(data: SegaeData, cfg: DataConfig) -> dict[str, SegaeSplit]:
    """The splits of the folders, or those that the config makes of their cases."""
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
        if items:
            splits[split] = dataclasses.replace(next(iter(data.splits.values())), items=tuple(items))
    if "train" not in splits:
        raise ValueError(f"{cfg.root} holds nothing to train on; cases: {', '.join(known)}")
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
    model = create("segae", seed=config.seed, **options)
    known = {"note": f"text embeddings: {Path(config.data.embeddings).name}"}
    known |= {"orientation": "canonical" if config.data.canonical else ""}
    model.card = dataclasses.replace(model.card, input_size=(config.data.size,) * 2, **known)
    return model


def _found(cfg: DataConfig) -> Path:
    """The file of embeddings: as named, or of that name in the data or where published weights are looked for."""
    path = Path(cfg.embeddings).expanduser()
    places = [path, Path(cfg.root) / path.name, home() / "segae" / path.name]
    return next((place for place in places if place.is_file()), path)


def _with_embeddings(model, path: Path):
    """Gives a model the text embeddings of a file."""
    card = model.card
    try:
        model = embedded(model, path)
    except FileNotFoundError:
        hint = "name the original project's label_embedding.pkl, or an .npz or .npy, or put it beside the data"
        raise ValueError(f"data.embeddings: {path}: no such file; {hint}") from None
    except ValueError as error:
        raise ValueError(f"data.embeddings: {error}") from None
    model.card = card  # which names the file in any run, also where the file has gone
    return model
