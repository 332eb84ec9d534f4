"""Training of Post-DAE: an autoencoder that makes plausible masks of corrupted ones, from masks alone.

Masks are deformed and corrupted on the device, within the step, by draws from the run's seed.

Source: Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297; balazsborsos/dae_postprocessing.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxseg.draw.sheet import contact_sheet
from jaxseg.nn.losses import binary_cross_entropy, probability_dice_loss
from jaxseg.post_dae import evaluate as restoration
from jaxseg.post_dae.corrupt import HEAVY, SIDE, Corruption, corrupt
from jaxseg.post_dae.data import MaskFolder, as_read
from jaxseg.post_dae.warp import warp
from jaxseg.settings import Range, verify
from jaxseg.training.config.config import Config
from jaxseg.training.config.sections import LoadingConfig
from jaxseg.training.task import Examination, Problem
from jaxseg.weights.load import create

Share = Annotated[float, Range(0, 1)]
Strength = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0, 100_000)]
Length = Annotated[int, Range(1, 8192)]
Spacing = Annotated[float, Range(0, 1000, above=True)]
Widths = tuple[Annotated[int, Range(1, 65_536)], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """`jaxseg.post_dae.corrupt.Corruption`, and `scaled`: its lengths are those at 512 pixels, scaled to the size."""

    swaps: Count = Corruption.swaps
    max_distance: Length = Corruption.max_distance
    patch: Length = Corruption.patch
    max_patches: Count = Corruption.max_patches
    radius: Annotated[float, Range(0, 8192)] = Corruption.radius
    max_discs: Annotated[int, Range(0, 1000)] = Corruption.max_discs
    as_original: bool = True
    scaled: bool = False

    def __post_init__(self):
        verify(self)

    def at(self, size: int) -> Corruption:
        """Returns the corruption of masks with sides of `size` pixels."""
        values = dataclasses.asdict(self)
        scaled = values.pop("scaled")
        found = Corruption(**values)
        return found.scaled(size / SIDE) if scaled else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """The masks, and what is done to them.

    Attributes:
      root: folder of the masks: png, jpg or npy.
      size: side that masks are resized to, the only one that the network takes.
      channels: of every mask; more than one where files are (C, H, W).
      grey: "soft" keeps values between black and white, "threshold" cuts pictures at 127; see `MaskFolder`.
      split: "disjoint", or "original", which validates with masks that are trained on.
      train_fraction: share of the masks that is trained on.
      split_seed: of that choice.
      spacing_mm: distance of rows and of columns at `size`, for distances in millimetres; null: pixels.
      corruption: of training and validation.
      heavy_share: share of the examples that get a heavy corruption in place of it.
      clean_share: share of the examples that stay as they are.
      warp: strength of a random affine deformation before the corruption; see `jaxseg.post_dae.warp.warp`.
      elastic: the same of an elastic one.
    """

    root: str
    size: Annotated[int, Range(8, 8192)] = 512
    channels: Annotated[int, Range(1, 1000)] = 1
    grey: Literal["soft", "threshold"] = "soft"
    split: Literal["disjoint", "original"] = "disjoint"
    train_fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.8
    split_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    spacing_mm: tuple[Spacing, Spacing] | None = None
    corruption: CorruptionConfig = CorruptionConfig()
    heavy_share: Share = 0.0
    clean_share: Share = 0.0
    warp: Strength = 0.0
    elastic: Strength = 0.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        if self.heavy_share + self.clean_share > 1:
            yield f"heavy_share: {self.heavy_share:g} and clean_share, {self.clean_share:g}, are more than 1 together"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; `jaxseg.post_dae.model.DAEConfig` explains it. `strides`: null means 2 at every level."""

    features: Widths = (16, 32, 32, 32, 32)
    decoder_features: Widths = (16, 16, 16, 16, 16)
    intermediate: Widths = (512, 1024)
    strides: Widths | None = None
    decoder_activation: Literal["sigmoid", "relu"] = "sigmoid"
    norm: Literal["none", "batch"] = "none"

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        if self.strides is not None and set(self.strides) - {2}:
            yield f"strides: {list(self.strides)}: only 2 can be trained, with others the answer has another size"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Attributes: `parts` are added. "dice": the original's; "ce": binary cross-entropy."""

    parts: tuple[Literal["dice", "ce"], ...] = ("dice",)

    def __post_init__(self):
        repeated = len(set(self.parts)) < len(self.parts)
        verify(self, [] if self.parts and not repeated else ["parts: name dice, ce or both, each once"])


SECTIONS = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig}


def make_problem(config: Config) -> Problem:
    """Returns the problem of a config; lists the folder of masks."""
    cfg, model = config.data, _model(config)
    masks = MaskFolder(Path(cfg.root), (cfg.size,) * 2, cfg.channels, cfg.grey)
    options = {"train_fraction": cfg.train_fraction, "seed": cfg.split_seed, "split": cfg.split}
    splits = dict(zip(("train", "val"), masks.split(**options), strict=True))
    facts = {split: [source.name(i) for i in range(len(source))] for split, source in splits.items()}
    notes = [f"{masks.ignored} of the entries of {masks.root} are no masks (png, jpg, npy), and are left out"]

    def examine(model, source) -> Examination:
        return restoration.examine_levels(model, source, spacing=cfg.spacing_mm, on_error=cfg.on_error)

    return Problem(
        model,
        splits,
        as_read,
        with_seed,
        functools.partial(loss, cfg=cfg, parts=config.loss.parts),
        functools.partial(scores, cfg=cfg),
        summarise,
        "dice",
        functools.partial(draw, cfg=cfg),
        facts,
        notes if masks.ignored else (),
        examine,
    )


def compare(config: Config, model, masks: Mapping[str, Path], truth: Path) -> Examination:
    """Returns what becomes of folders of masks, such as a segmenter's, against the true ones of the same names.

    Args:
      config: of the run that the model is of.
      model: in evaluation mode.
      masks: folders by the names of their rows.
      truth: the folder of the true masks.
    """
    cfg = config.data
    options = {"channels": cfg.channels, "grey": cfg.grey, "spacing": cfg.spacing_mm}
    return restoration.compare_folders(model, masks, truth, **options)


def with_seed(record: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The transform of evaluation: adds the "seed" of a mask's corruption, always the same of one mask."""
    return record | {"seed": rng.integers(2**32, dtype=np.uint32)}


def spoil(keys: jax.Array, masks: jax.Array, cfg: DataConfig) -> jax.Array:
    """Returns masks corrupted as the section `data` says, by a key for each.

    Args:
      keys: (B,).
      masks: (B, H, W, C) in [0, 1].
      cfg: which corruption, and the shares of heavily corrupted and of clean masks.
    """

    def one(key: jax.Array, mask: jax.Array) -> jax.Array:
        for_choice, for_usual, for_heavy = jax.random.split(key, 3)
        choice, found = jax.random.uniform(for_choice), corrupt(for_usual, mask[None], cfg.corruption.at(cfg.size))
        if cfg.heavy_share:
            heavy = corrupt(for_heavy, mask[None], HEAVY.scaled(cfg.size / SIDE))
            found = jnp.where(choice < cfg.heavy_share, heavy, found)
        return jnp.where(choice >= 1 - cfg.clean_share, mask, found[0])

    return jax.vmap(one)(keys, masks)


def loss(model, batch: dict, key: jax.Array, *, cfg: DataConfig, parts: Sequence[str]) -> tuple:
    """The parts of the loss, added, of masks that are deformed and corrupted by draws from `key`."""
    for_warp, for_spoiling = jax.random.split(key)
    truth = warp(for_warp, batch["mask"], affine=cfg.warp, elastic=cfg.elastic)
    logits = model.logits(spoil(jax.random.split(for_spoiling, len(truth)), truth, cfg))
    losses = {
        "dice": lambda: probability_dice_loss(jax.nn.sigmoid(logits), truth),
        "ce": lambda: binary_cross_entropy(logits, truth),
    }
    values = {part: losses[part]() for part in parts}
    return sum(values.values()), {f"{part}_loss": value for part, value in values.items()}


def scores(model, batch: dict, *, cfg: DataConfig) -> dict:
    """Pixels of every mask, (B, C): that restored and truth share, and in both together; of the given mask too."""
    truth = batch["mask"] > 0.5
    given = spoil(jax.vmap(jax.random.key)(batch["seed"]), batch["mask"], cfg)
    found = {}
    for name, masks in (("restored", model(given) > 0.5), ("given", given > 0.5)):
        found[f"{name}_overlap"] = jnp.sum(masks & truth, (1, 2), dtype=jnp.int32)
        found[f"{name}_total"] = jnp.sum(masks, (1, 2), dtype=jnp.int32) + jnp.sum(truth, (1, 2), dtype=jnp.int32)
    return found


def summarise(found: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean Dice of the restored masks, and that of the corrupted ones that they were made of."""
    return {
        label: restoration.mean(2 * found[f"{name}_overlap"] / np.where(total > 0, total, np.nan))
        for label, name in (("dice", "restored"), ("dice_before", "given"))
        for total in [found[f"{name}_total"]]
    }


def draw(model, records: Sequence[dict], *, cfg: DataConfig) -> Image.Image:
    """A sheet with a row an example: the corrupted mask, what the model makes of it, the truth."""
    truth = jnp.asarray(np.stack([record["mask"] for record in records]))
    given = spoil(jax.random.split(jax.random.key(0), len(truth)), truth, cfg)
    columns = [given, jax.jit(type(model).__call__)(model, given), truth]
    rows = zip(*(np.rint(255 * np.asarray(masks).max(-1)).astype(np.uint8) for masks in columns), strict=True)
    return contact_sheet([list(row) for row in rows], titles=["corrupted", "restored", "truth"], legend=[])


def _model(config: Config):
    cfg, size, channels = config.model, config.data.size, config.data.channels
    factor = 2 ** len(cfg.features)
    if size % factor:
        levels = f"model.features with {len(cfg.features)} levels"
        raise ValueError(f"data.size: {size} is not a multiple of {factor}, which {levels} needs")
    options = dataclasses.asdict(cfg) | {"strides": cfg.strides or (2,) * len(cfg.features)}
    options |= {"image_size": (size, size), "in_channels": channels, "out_channels": channels}
    try:
        return create("post_dae", seed=config.seed, dtype=config.trainer.precision, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
