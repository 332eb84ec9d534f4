"""The base class of every model: the interface with which a model is created, filled, stored and exported.

A new model is a subclass of `Model` in its method's folder and one row in `jaxseg.registry`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from jaxseg.card import Card
from jaxseg.nn.layers import shapes_only

Shapes = Mapping[str, tuple[int, ...]]
Tensor = TypeVar("Tensor")
Modules = Mapping[str, tuple[str, dict[str, object]]]


@dataclasses.dataclass(frozen=True)
class Input:
    """One input array of a model's inference: `shape` is that of one example, without the batch axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str


class Model(nnx.Module):
    """A network with its hyper-parameters, `cfg`.

    A subclass sets `Config`, and calls with (B, H, W, C) arrays. Everything else has a default.

    Attributes:
      cfg: the hyper-parameters, an instance of `Config`.
      card: description of the model and its weights; `jaxseg.load` and `jaxseg.create` set it.
      Config: frozen dataclass of the hyper-parameters, in which every field has a default. It needs `num_classes`
        (field or property), and `OUTPUTS`, the name of the field that counts the outputs.
      INPUT: name and meaning of the first input of `predict`.
      OUTPUT: name and meaning of the result of `predict`.
      SOURCES: what the random numbers of sampled masks can depend on, for a model of annotators; () for other models.
      config_from_modules: completes the result of `config_from_shapes` from the modules that a PyTorch file holds; None
        if the shapes of the tensors are enough.
    """

    Config: ClassVar[Any]
    INPUT: ClassVar[tuple[str, str]] = ("image", "an image as the dataset stores it")
    OUTPUT: ClassVar[tuple[str, str]] = ("logits", "a pixel belongs to every class whose logit is above 0")
    SOURCES: ClassVar[tuple[str, ...]] = ()
    config_from_modules: ClassVar[Any] = None

    cfg: Any
    card: Card

    def __init__(self, cfg: Any, *, rngs: nnx.Rngs):
        raise NotImplementedError(f"{type(self).__name__} builds no layers: define __init__(self, cfg, *, rngs)")

    def __call__(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError(f"{type(self).__name__} computes nothing: define __call__(self, x)")

    @classmethod
    def make_config(cls, **values: Any) -> Any:
        """Returns the hyper-parameters with some values changed.

        Raises:
          ValueError: a name is unknown or a value is not allowed; the message lists what is allowed.
        """
        known = [field.name for field in dataclasses.fields(cls.Config)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown hyper-parameter {', '.join(unknown)}; known: {', '.join(known)}")
        return cls.Config(**values)

    @staticmethod
    def torch_names(cfg: Any) -> dict[str, str]:
        """Returns our module paths -> module names in the original's PyTorch checkpoints; {} without an original."""
        return {}

    @staticmethod
    def torch_unused(cfg: Any) -> tuple[str, ...]:
        """Returns the names of tensors in the original's checkpoints that the network does not use."""
        return ()

    @staticmethod
    def torch_renamed(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the tensors of a checkpoint under the names of `torch_names`, if it has those of another version.

        Args:
          tensors: names, with the prefix of a wrapper if there is one -> anything.
        """
        return tensors

    @staticmethod
    def config_from_shapes(shapes: Shapes) -> Any | None:
        """Returns the hyper-parameters of a PyTorch checkpoint, or None if it is not a checkpoint of this model.

        Args:
          shapes: tensor names (without a wrapper's prefix) -> shapes.

        Raises:
          ValueError: it is a checkpoint of this model, but its hyper-parameters cannot be derived from the shapes.
        """
        return None

    @property
    def name(self) -> str:
        """The registry name, or the name of the class if the model has no card."""
        return self.card.model if hasattr(self, "card") else type(self).__name__

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The only height and width that the network accepts; None if it accepts any."""
        return None

    @property
    def smallest_side(self) -> int:
        """The smallest height and width that the network accepts."""
        return 1

    @property
    def embedding_shape(self) -> tuple[int, int] | None:
        """Shape of the table of text embeddings, (classes, length); None if the model takes no text embeddings."""
        return None

    def with_embeddings(self, table: np.ndarray | jax.Array) -> "Model":
        """Returns a copy of the model with these text embeddings.

        Raises:
          ValueError: the model takes no text embeddings.
        """
        raise ValueError(f"model {self.name!r} takes no text embeddings; leave them out")

    def check_ready(self) -> None:
        """Raises ValueError if something that inference needs is missing, such as text embeddings."""

    def inputs(self, size: tuple[int, int]) -> tuple[Input, ...]:
        """Returns the inputs of `predict` for images of this height and width."""
        name, meaning = self.INPUT
        return (Input(name, (*size, self.cfg.in_channels), "float32", meaning),)

    def predict(self, *arrays: jax.Array) -> jax.Array:
        """Returns the result of inference on arrays as `inputs` describes them, with a leading batch axis."""
        return self(*arrays)


class Opened(NamedTuple):
    """A model whose layers and card are known, and whose numbers are not read yet.

    Attributes:
      model: has the shapes of its arrays, as `describe` makes them.
      read: returns the model with its numbers, which may be read-only views of a file; to be called once, from any
        thread. It raises ValueError if the numbers are damaged.
    """

    model: Any
    read: Callable[[], Any]


class _SameKey(nnx.RngStream):
    """Returns the same key in every call, which is traced faster than a new one."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def describe(model_class: type[Model], cfg: Any) -> Any:
    """Returns the model of hyper-parameters without numbers: each of its arrays is a `jax.ShapeDtypeStruct`."""

    def make() -> Model:
        rngs = nnx.Rngs(0)
        rngs.default = _SameKey(0, tag="default")  # type: ignore[attr-defined]
        return model_class(cfg, rngs=rngs)

    with shapes_only():
        return nnx.eval_shape(make)
