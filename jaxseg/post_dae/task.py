"""Training of Post-DAE: an autoencoder that restores corrupted masks and is trained with masks only.

Masks are deformed and corrupted on the device, within the step, by random numbers that depend only on the run's seed.

Source: Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297; balazsborsos/dae_postprocessing.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxseg.draw.sheet import contact_sheet
from jaxseg.masks.pictures import parse_levels
from jaxseg.nn.losses import binary_cross_entropy, probability_dice_loss
from jaxseg.post_dae import original_config
from jaxseg.post_dae.corrupt import HEAVY, SIDE, Corruption, corrupt
from jaxseg.post_dae.damage import damaged
from jaxseg.post_dae.data import MaskFolder, as_read, parse_classes
from jaxseg.post_dae.evaluate import compare_folders, examine_levels, mean
from jaxseg.post_dae.model import DAEConfig, Stride
from jaxseg.post_dae.warp import warp
from jaxseg.settings import Range, pick, section, verify
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Examination, Task
from jaxseg.weights.load import create

Share = Annotated[float, Range(0, 1)]
Spacing = Annotated[float, Range(0, 1000, above=True)]

_CORRUPTION = section(Corruption, *(field.name for field in dataclasses.fields(Corruption)))
_NETWORK = section(DAEConfig, "features", "decoder_features", "intermediate", "decoder_activation", "norm", "skips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig(_CORRUPTION):
    """The corruption of masks, see `jaxseg.post_dae.corrupt.Corruption`.

    Attributes:
      scaled: whether the lengths are meant for 512 pixels and are scaled to the size of the masks.
    """

    scaled: bool = False

    def at(self, size: int) -> Corruption:
        """Returns the corruption of masks with sides of `size` pixels."""
        found = pick(Corruption, self)
        return found.scaled(size / SIDE) if self.scaled else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """The masks and their corruption.

    Attributes:
      root: folder of the masks, as png, jpg or npy files; `-i` of the command.
      size: side in pixels to which masks are resized, and the only one that the network accepts.
      channels: number of channels of every mask; more than one if the files are (C, H, W).
      labels: level and name of each channel, such as ["127=heart", "255=lung"], if the files are label maps with one
        value per class; []: they are masks.
      classes: folder and name of each channel, such as ["lung_masks=lungs", "heart_masks=heart"], if every class has a
        separate folder in `root`, with equal file names; []: there is one folder.
      grey: "soft" keeps values between black and white, "threshold" cuts images at 127; see `MaskFolder`.
      split: "disjoint", or "original", which also trains with the masks for validation.
      train_fraction: share of the masks for training, in (0, 1).
      split_seed: random seed of that selection.
      spacing_mm: distance of rows and of columns at `size`, for distances in millimetres; null: pixels.
      corruption: the corruption in training and validation.
      heavy_share: share of the examples that get a heavy corruption instead, in [0, 1].
      broad_share: share of the examples with damages of many kinds instead, in [0, 1]; see `jaxseg.post_dae.damage`.
      clean_share: share of the examples that are not corrupted, in [0, 1].
      warp: strength of a random affine deformation before the corruption; see `jaxseg.post_dae.warp.warp`.
      elastic: strength of a random elastic deformation before the corruption.
    """

    root: str
    size: Annotated[int, Range(8, 8192)] = 512
    channels: Annotated[int, Range(1, 1000)] = 1
    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    grey: Literal["soft", "threshold"] = "soft"
    split: Literal["disjoint", "original"] = "disjoint"
    train_fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.8
    split_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    spacing_mm: tuple[Spacing, Spacing] | None = None
    corruption: CorruptionConfig = CorruptionConfig()
    heavy_share: Share = 0.0
    broad_share: Share = 0.0
    clean_share: Share = 0.0
    warp: Share = 0.0
    elastic: Share = 0.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        for name, texts, parse in (("labels", self.labels, parse_levels), ("classes", self.classes, parse_classes)):
            try:
                found = parse(texts)
            except ValueError as error:
                yield f"{name}: {error}"
            else:
                if found and len(found) != self.channels:
                    yield f"{name}: {len(found)} are named, but channels is {self.channels}"
        if self.labels and self.classes:
            yield "classes: a folder for each class and label maps (labels) exclude each other"
        if self.heavy_share + self.broad_share + self.clean_share > 1 + 1e-6:
            shares = f"{self.heavy_share:g}, broad_share, {self.broad_share:g}, and clean_share, {self.clean_share:g}"
            yield f"heavy_share: {shares}, add up to more than 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(_NETWORK):
    """The network, see `jaxseg.post_dae.model.DAEConfig`.

    Attributes:
      strides: strides of the levels; null: 2 at every level, the only stride that can be trained.
    """

    strides: tuple[Stride, ...] | None = None

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        if self.strides is not None and set(self.strides) - {2}:
            yield f"strides: {list(self.strides)}: only 2 can be trained; other strides change the size of the mask"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss.

    Attributes:
      parts: the parts to add: "dice" is the original's, "ce" is the binary cross-entropy.
    """

    parts: tuple[Literal["dice", "ce"], ...] = ("dice",)

    def __post_init__(self):
        repeated = len(set(self.parts)) < len(self.parts)
        verify(self, [] if self.parts and not repeated else ["parts: name dice, ce or both, each once"])


class PostDAETask(Task):
    """Trains a denoising autoencoder with a folder of masks."""

    Data, Model, Loss = DataConfig, ModelConfig, LossConfig
    augment = staticmethod(as_read)

    def __init__(self, config: Config):
        cfg = config.data
        self.cfg, self.parts, self.prepare = cfg, config.loss.parts, with_seed
        self.model = _model(config)
        masks, self.splits = _masks_of(cfg)
        self.facts = {split: [source.name(i) for i in range(len(source))] for split, source in self.splits.items()}
        if masks.ignored and cfg.classes:
            self.notes = [f"{masks.ignored} images of {masks.root} do not have a mask of every class and are left out"]
        elif masks.ignored:
            self.notes = [f"{masks.ignored} entries of {masks.root} are not masks (png, jpg, npy) and are ignored"]

    def loss(self, model: nnx.Module, batch: dict, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        """Returns the sum of the parts of the loss for masks that are deformed and corrupted at random."""
        for_warp, for_corruption = jax.random.split(key)
        truth = warp(for_warp, batch["mask"], affine=self.cfg.warp, elastic=self.cfg.elastic)
        logits = model.logits(corrupt_each(jax.random.split(for_corruption, len(truth)), truth, self.cfg))
        losses = {
            "dice": lambda: probability_dice_loss(jax.nn.sigmoid(logits), truth),
            "ce": lambda: binary_cross_entropy(logits, truth),
        }
        values = {part: losses[part]() for part in self.parts}
        return sum(values.values()), {f"{part}_loss": value for part, value in values.items()}

    def scores(self, model: nnx.Module, batch: dict) -> dict[str, jax.Array]:
        """Returns pixel counts of every mask, (B, C).

        They are the pixels that the true mask shares with the restored and with the corrupted mask, and the pixels of
        both masks together.
        """
        truth = batch["mask"] > 0.5
        given = corrupt_each(jax.vmap(jax.random.key)(batch["seed"]), batch["mask"], self.cfg)
        found = {}
        for name, masks in (("restored", model(given) > 0.5), ("given", given > 0.5)):
            found[f"{name}_overlap"] = jnp.sum(masks & truth, (1, 2), dtype=jnp.int32)
            found[f"{name}_total"] = jnp.sum(masks, (1, 2), dtype=jnp.int32) + jnp.sum(truth, (1, 2), dtype=jnp.int32)
        return found

    def summarise(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the mean Dice of the restored masks ("dice") and of the corrupted ones ("dice_before")."""
        return {
            label: mean(2 * found[f"{name}_overlap"] / np.where(total > 0, total, np.nan))
            for label, name in (("dice", "restored"), ("dice_before", "given"))
            for total in [found[f"{name}_total"]]
        }

    def draw(self, model: nnx.Module, records: Sequence[dict]) -> Image.Image:
        """Returns a sheet with one row per example: the corrupted mask, the restored mask, the truth."""
        truth = jnp.asarray(np.stack([record["mask"] for record in records]))
        given = corrupt_each(jax.random.split(jax.random.key(0), len(truth)), truth, self.cfg)
        columns = [given, jax.jit(type(model).__call__)(model, given), truth]
        rows = zip(*(np.rint(255 * np.asarray(masks).max(-1)).astype(np.uint8) for masks in columns), strict=True)
        return contact_sheet([list(row) for row in rows], titles=["corrupted", "restored", "truth"], legend=[])

    def examine(self, model: nnx.Module, source: Sequence) -> Examination:
        """Measures how the model restores the masks of a source with several kinds and levels of damage."""
        options = {"spacing": self.cfg.spacing_mm, "on_error": self.cfg.on_error}
        return examine_levels(model, source, known=self.splits["train"], **options)

    @classmethod
    def compare(cls, config: Config, model: nnx.Module, masks: Mapping[str, Path], truth: Path) -> Examination:
        """Measures how the model restores masks in folders, such as those of a segmenter.

        If the training masks are still where they were, the baselines are measured as well, unless none can be read.
        """
        cfg, names = config.data, tuple(parse_levels(config.data.labels).values())
        if {*names} & {*model.card.class_names} and names != model.card.class_names:
            trained = ", ".join(model.card.class_names)
            raise ValueError(f"the levels name {', '.join(names)} in this order, but the model has {trained}")
        options = {"channels": cfg.channels, "grey": cfg.grey, "labels": cfg.labels, "spacing": cfg.spacing_mm}
        options["classes"] = cfg.classes
        with contextlib.suppress(OSError, ValueError):
            options["known"] = _masks_of(cfg)[1]["train"]
        return compare_folders(model, masks, truth, **options)

    @staticmethod
    def translate(raw: dict, tell: Callable[[str], None]) -> dict | None:
        """Returns the settings of the original program's configuration as those of jaxseg."""
        return original_config.translated(raw, tell) if original_config.is_original(raw) else None

    @staticmethod
    def original_folder(raw: dict) -> Path | None:
        """Returns the folder that the original program's configuration stores its model in."""
        return original_config.run_folder(raw)


def with_seed(record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The transform for evaluation: adds the "seed" of the corruption, which is constant for each mask."""
    return record | {"seed": rng.integers(2**32, dtype=np.uint32)}


def corrupt_each(keys: jax.Array, masks: jax.Array, cfg: DataConfig) -> jax.Array:
    """Returns masks, each corrupted at random as the section `data` defines it.

    Args:
      keys: (B,) random keys.
      masks: (B, H, W, C) in [0, 1].
      cfg: the corruption, and the shares of heavily corrupted and of clean masks.
    """

    def one(key: jax.Array, mask: jax.Array) -> jax.Array:
        for_choice, for_usual, for_heavy = jax.random.split(key, 3)
        for_broad = jax.random.fold_in(key, 3)
        choice, found = jax.random.uniform(for_choice), corrupt(for_usual, mask[None], cfg.corruption.at(cfg.size))
        if cfg.heavy_share:
            heavy = corrupt(for_heavy, mask[None], HEAVY.scaled(cfg.size / SIDE))
            found = jnp.where(choice < cfg.heavy_share, heavy, found)
        if cfg.broad_share:
            broad = (choice >= cfg.heavy_share) & (choice < cfg.heavy_share + cfg.broad_share)
            found = jnp.where(broad, damaged(for_broad, mask)[None], found)
        return jnp.where(choice >= 1 - cfg.clean_share, mask, found[0])

    return jax.vmap(one)(keys, masks)


def _masks_of(cfg: DataConfig) -> tuple[MaskFolder, dict[str, MaskFolder]]:
    """Returns the masks of the data, and their splits."""
    kinds = {"labels": cfg.labels, "classes": cfg.classes}
    masks = MaskFolder(Path(cfg.root), (cfg.size,) * 2, cfg.channels, cfg.grey, **kinds)
    parts = masks.split(train_fraction=cfg.train_fraction, seed=cfg.split_seed, split=cfg.split)
    return masks, dict(zip(("train", "val"), parts, strict=True))


def _model(config: Config):
    cfg, size, channels = config.model, config.data.size, config.data.channels
    factor = 2 ** len(cfg.features)
    if size % factor:
        levels = f"model.features with {len(cfg.features)} levels"
        raise ValueError(f"data.size: {size} is not a multiple of {factor}, as {levels} requires")
    options = dataclasses.asdict(cfg) | {"strides": cfg.strides or (2,) * len(cfg.features)}
    options |= {"image_size": (size, size), "in_channels": channels, "out_channels": channels}
    names = [*parse_levels(config.data.labels).values(), *parse_classes(config.data.classes).values()]
    try:
        return create(
            "post_dae", seed=config.seed, dtype=config.trainer.precision, class_names=names or None, **options
        )
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
