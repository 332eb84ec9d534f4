"""Mask quality regression, SegAE / Quality Sentinel (Chen et al. 2024, arXiv:2406.00327). Arrays are NHWC."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.nn import resnet
from jaxseg.nn.layers import Dtype, EmbeddingTable, Init, linear
from jaxseg.segae.truth_map import TruthMap, map_dice, shares
from jaxseg.settings import Range, verify
from jaxseg.weights.model import Input, Model, Shapes

NO_EMBEDDINGS = (
    "give the file of the text embeddings (--embeddings), such as `embeddings='label_embedding.pkl'` of the original "
    "project (Schuture/Quality-Sentinel; it states no licence, so the file is not part of jaxseg)"
)


@dataclasses.dataclass(frozen=True)
class SegAEConfig:
    """Hyper-parameters; the defaults are the published network.

    Attributes:
      backbone: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
      hidden: width of the second conditioned layer.
      embedding_size: length of a text embedding.
      num_labels: number of rows of the table of text embeddings; no parameter depends on it.
      width: number of channels of the stem; all others of the backbone are multiples of it.
      init: initial parameters, "torch" (PyTorch's defaults; torchvision's for the backbone) or "lecun" (flax's).
      truth_map: whether a second head predicts the truth, see `jaxseg.segae.truth_map`. The Dice of the mask and this
        truth is added to that of the first head. The original has one head.
      dtype: dtype of the backbone's arithmetic, "float32" or "bfloat16"; parameters and the first head are
        always float32.
    """

    OUTPUTS: ClassVar[str] = "num_labels"
    image_size: ClassVar[tuple[int, int]] = (256, 256)  # that of the published weights; the network accepts any

    backbone: resnet.Backbone = "resnet50"
    hidden: Annotated[int, Range(1, 65_536)] = 50
    embedding_size: Annotated[int, Range(1, 65_536)] = 512
    num_labels: Annotated[int, Range(1, 65_536)] = 145
    width: Annotated[int, Range(1, 1024)] = 64
    truth_map: bool = False
    init: Init = "torch"
    dtype: Dtype = "float32"

    def __post_init__(self):
        verify(self)

    @property
    def num_classes(self) -> int:
        """Number of classes in the table of text embeddings."""
        return self.num_labels

    @property
    def trunk(self) -> resnet.ResNetConfig:
        """Hyper-parameters of the backbone."""
        return resnet.ResNetConfig(self.backbone, 2, self.width, self.init, self.dtype, stem_bias=True)


class SegAE(Model):
    """Predicts the Dice of a mask: (B, H, W, 2) CT slice and mask, (B, E) text embedding -> (B,) float32.

    The prediction is not bounded, as in the original: it may be outside [0, 1]. Any H and W work. The text embedding of
    the organ's name conditions two layers by multiplication. `embeddings` is the table of the text embeddings of all
    classes, see `with_embeddings`.

    Max |difference| from the original (PyTorch 2.13, float32, CPU, (2, 2, 256, 256)) with the parity kit's weights:
    7e-7 for a Dice of 0.7, and 1.1e-5 for the intermediate layers.
    """

    Config = SegAEConfig
    INPUT = ("slice_and_mask", "a CT slice in [-2, 2] and its mask of -1 and 1; jaxseg.segae.crop makes them")
    OUTPUT = ("dice", "the mask's predicted Dice; NaN if the model has no text embedding of the organ")

    def __init__(self, cfg: SegAEConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.backbone = resnet.ResNet(cfg.trunk, rngs=rngs)
        size = cfg.trunk.channels[-1]
        options: dict[str, Any] = {"init": cfg.init}
        self.attention_pooled = linear(size + cfg.embedding_size, size, **options, rngs=rngs)
        self.attention_hidden = linear(size + cfg.embedding_size, cfg.hidden, **options, rngs=rngs)
        self.hidden = linear(size, cfg.hidden, **options, rngs=rngs)
        self.dice = linear(cfg.hidden, 1, **options, rngs=rngs)
        options |= {"dtype": jnp.dtype(cfg.dtype)}
        self.truth_map = nnx.data(
            TruthMap(cfg.trunk, cfg.embedding_size, options=options, rngs=rngs) if cfg.truth_map else None
        )
        self.embeddings = EmbeddingTable(jnp.zeros((cfg.num_labels, cfg.embedding_size), jnp.float32))

    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Returns the (B,) float32 predicted Dice.

        Args:
          x: (B, H, W, 2), the CT slice in [-2, 2] and the mask in [-1, 1].
          embedding: (B, E), rows of the table of text embeddings.
        """
        return self.features(x, embedding)["dice"][:, 0]

    def features(self, x: jax.Array, embedding: jax.Array) -> dict[str, jax.Array]:
        """Returns the named intermediates: f1 to f5 (NHWC), pooled, the two attentions, hidden, and dice (B, 1).

        With `truth_map` also "truth", (B, ceil(H / 4), ceil(W / 4)) logits that a place belongs to the organ.
        """
        if x.ndim != 4 or x.shape[-1] != 2:
            raise ValueError(f"slices with masks must be (B, H, W, 2), got {x.shape}")
        if embedding.shape != (x.shape[0], self.cfg.embedding_size):
            raise ValueError(
                f"text embeddings must be ({x.shape[0]}, {self.cfg.embedding_size}), one per slice, "
                f"got {embedding.shape}"
            )
        maps = self.backbone(x.astype(self.cfg.dtype))
        named = {f"f{i + 1}": m for i, m in enumerate(maps)}
        named["pooled"] = pooled = maps[-1].astype(jnp.float32).mean((1, 2))
        both = jnp.concatenate([pooled, embedding.astype(jnp.float32)], axis=-1)
        named["attention_pooled"] = self.attention_pooled(both)
        named["attention_hidden"] = self.attention_hidden(both)
        named["hidden"] = self.hidden(named["attention_pooled"] * pooled)
        named["dice"] = self.dice(named["attention_hidden"] * named["hidden"])
        if self.truth_map is not None:
            named["truth"] = self.truth_map(maps[1:], embedding)
            given = shares((x[..., 1] + 1) / 2, named["truth"].shape[1:])
            named["dice"] += map_dice(given, named["truth"])[:, None]
        return named

    @property
    def embedding_shape(self) -> tuple[int, int]:
        return self.cfg.num_labels, self.cfg.embedding_size

    def with_embeddings(self, table: np.ndarray | jax.Array) -> "SegAE":
        """Returns a copy of the model with these text embeddings, which are stored with it; it shares all other arrays.

        Args:
          table: (num_labels, embedding_size), one row per class; `jaxseg.weights.embeddings.read_embeddings` reads one.

        Raises:
          ValueError: the table has another shape, contains values that are not finite, or only zeros.
        """
        table = np.asarray(table)
        if table.shape != self.embedding_shape or not np.issubdtype(table.dtype, np.floating):
            raise ValueError(
                f"text embeddings must be {self.embedding_shape} decimals, got {table.shape} {table.dtype}"
            )
        if not np.isfinite(table).all() or not table.any():
            raise ValueError("text embeddings must be finite, and not all zeros")
        graphdef, state = nnx.split(self)
        model = nnx.merge(graphdef, jax.tree.map(lambda a: a, state))  # new variables that hold the same arrays
        model.embeddings.set_value(jnp.asarray(table, jnp.float32))
        return model

    def check_ready(self) -> None:
        if not np.asarray(self.embeddings[...]).any():
            raise ValueError(f"the model has no text embeddings: {NO_EMBEDDINGS}")

    def inputs(self, size: tuple[int, int]) -> tuple[Input, ...]:
        name, meaning = self.INPUT
        organ = Input("organ", (), "int32", "place of its name in class_names, from 0")
        return Input(name, (*size, 2), "float32", meaning), organ

    def predict(self, x: jax.Array, organ: jax.Array) -> jax.Array:
        """Returns the (B,) float32 predicted Dice; NaN if the model has no text embedding of the organ.

        Args:
          x: (B, H, W, 2), as in `__call__`.
          organ: (B,) int32 class numbers.
        """
        table = self.embeddings[...]
        row = table[jnp.clip(organ, 0, len(table) - 1)]
        known = (organ >= 0) & (organ < len(table)) & (row != 0).any(-1)
        return jnp.where(known, self(x, row), jnp.nan)

    @staticmethod
    def torch_names(cfg: SegAEConfig) -> dict[str, str]:
        """Returns our module paths -> module names in the original's checkpoints."""
        names = {
            "attention_pooled": "attention1",  # first: `wrapper_prefix` searches for it; no other name ends in it
            "attention_hidden": "attention2",
            "hidden": "fc1",
            "dice": "fc2",
        }
        trunk = resnet.torch_names(cfg.trunk, prefix="net.") | {"stem.conv": "conv1", "stem.norm": "bn1"}
        return names | {f"backbone.{ours}": theirs for ours, theirs in trunk.items()}

    @staticmethod
    def torch_unused(cfg: SegAEConfig) -> tuple[str, ...]:
        """Returns the tensors in the original's checkpoints that it does not use: torchvision's stem and classifier."""
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return ("net.conv1.weight", *(f"net.bn1.{leaf}" for leaf in norm), "net.fc.weight", "net.fc.bias")

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> SegAEConfig | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not a checkpoint of a SegAE.

        Args:
          shapes: tensor names (without a wrapper's prefix) and shapes of the checkpoint.
        """
        stem, hidden = shapes.get("conv1.weight", ()), shapes.get("attention2.weight", ())
        backbone = resnet.variant_of(shapes, "net.")
        if backbone is None or len(stem) != 4 or len(hidden) != 2 or "attention1.weight" not in shapes:
            return None
        pooled = resnet.ResNetConfig(backbone, width=stem[0]).channels[-1]
        return SegAEConfig(backbone=backbone, hidden=hidden[0], embedding_size=hidden[1] - pooled, width=stem[0])


def embedding_of(table: np.ndarray | jax.Array, organ_id: int) -> np.ndarray:
    """Returns the (embedding_size,) float32 text embedding of a class; it does not work under jit.

    Args:
      table: (num_labels, embedding_size), the text embeddings of a model, `model.embeddings[...]`.
      organ_id: the class.

    Raises:
      ValueError: there is no such class, or the model has no text embedding of it.
    """
    table = np.asarray(table)
    if not 0 <= organ_id < len(table):
        raise ValueError(f"class {organ_id} is not in 0..{len(table) - 1}")
    row = table[organ_id]
    if not row.any():
        whole = f"class {organ_id}" if table.any() else "any class"
        raise ValueError(f"the model has no text embedding of {whole}: {NO_EMBEDDINGS}")
    return row
