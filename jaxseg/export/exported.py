"""Reads exported models and the JSON files that describe them; neither model code nor weights are needed."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from jax.extend.mlir import deserialize_portable_artifact
from jax.interpreters import mlir
from jaxlib.mlir import ir

from jaxseg.files import printable, read_json

FORMAT = "jaxseg exported model 1"
BATCH = "batch"  # in shapes: any number of examples
MAX_BYTES = 2**31 - 1  # largest size of a program; jax.export writes no larger ones
MAX_FACTS_BYTES = 8 * 2**20

_CALLS = {"shape_assertion"}  # call that JAX adds to programs for any batch size; every other one is foreign code
_SHA256_DIGITS = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output. The first entry of `shape` is "batch", any number of examples; `meaning` is for users."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    meaning: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """The description of an exported model: the content of `<file>.json`.

    Attributes:
      model: registry name. This field and all others before `inputs` are those of the model's card, see
        `jaxseg.card.Card`.
      inputs: the arrays that the model takes, in order.
      outputs: the arrays that the model returns.
      platforms: the platforms on which it runs.
      bytes: size of the file.
      sha256: digest of the file.
      calling_convention_version: version of the calling convention of `jax.export`.
      jax: version of JAX that wrote the file.
      jaxseg: version of jaxseg that wrote the file.
    """

    model: str
    architecture: str
    class_names: tuple[str, ...]
    preprocessing: str
    orientation: str
    licence: str
    note: str
    source: str
    source_sha256: str
    params_sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    platforms: tuple[str, ...]
    bytes: int
    sha256: str
    calling_convention_version: int
    jax: str
    jaxseg: str

    def write(self, path: Path) -> None:
        """Writes the JSON file itself."""
        text = json.dumps({"format": FORMAT} | dataclasses.asdict(self), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """An exported model; call it with the arrays that `facts.inputs` describe.

    It is compiled at the first call with each size of batch. It has no derivatives.
    """

    facts: Facts
    run: Callable[..., jax.Array] = dataclasses.field(repr=False)

    def __call__(self, *arrays: np.ndarray | jax.Array) -> jax.Array:
        """Returns what `facts.outputs` describes.

        Raises:
          ValueError: number, shape or dtype of the arrays is not that of the inputs, or the model was not exported for
            the platform that JAX computes on.
        """
        _check_arrays(arrays, self.facts.inputs)
        try:
            return self.run(*arrays)
        except ValueError:
            here = jax.export.default_export_platform()
            if here in self.facts.platforms:
                raise
            raise ValueError(
                f"the model was exported for {', '.join(self.facts.platforms)}, and JAX computes on {here} here; "
                "export it for that too, or set JAX_PLATFORMS to one of those"
            ) from None

    call = __call__


def beside(path: Path) -> Path:
    """Returns the JSON file of an exported model."""
    return path.with_name(path.name + ".json")


def load_exported(path: str | Path) -> ExportedModel:
    """Returns an exported model; neither jaxseg's model code nor the weights are needed.

    Nothing is unpickled, and a program that calls code outside itself is refused. The file still contains a program,
    which JAX reads and compiles without protection against malicious code or unlimited use of memory and time: load
    trusted files only. The digest detects damage, but not manipulation.

    Args:
      path: the `.stablehlo` file, with `<path>.json` beside it.

    Raises:
      ValueError: the file or its JSON file is missing, damaged, of another kind, or not for this JAX; or flatbuffers
        is not installed. OSError: it cannot be read.
    """
    path = Path(path).expanduser()
    facts = read_facts(path)
    need_flatbuffers()
    if not path.is_file() or path.stat().st_size != facts.bytes:
        raise ValueError(f"{path} is missing, or not the file that {beside(path).name} describes; export it again")
    content = bytearray(path.read_bytes())
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not that in {beside(path).name}; export it again")
    exported = _deserialized(content, path)
    described = [(one.shape, one.dtype) for one in (*facts.inputs, *facts.outputs)]
    if [
        *map(shape_of, (*exported.in_avals, *exported.out_avals))
    ] != described or exported.platforms != facts.platforms:
        raise ValueError(f"{path} and {beside(path).name} contradict each other; export it again")
    return ExportedModel(facts, jax.jit(exported.call))


def read_facts(path: Path) -> Facts:
    """Returns the description of the exported model `path`; only its JSON file is read.

    Raises:
      ValueError: there is no such file, it is damaged, or it describes something else.
    """
    path = beside(path)
    if not path.is_file():
        raise ValueError(f"there is no {path}, which `jaxseg export` writes beside an exported model; both are needed")
    try:
        fields = read_json(path, most=MAX_FACTS_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {_line(error)}") from None
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError(f"{path} does not describe an exported model as this jaxseg reads it ({FORMAT!r})")
    return _validated(fields, path)


def shape_of(aval: Any) -> tuple[tuple[int | str, ...], str]:
    """Returns shape and dtype of an array of `jax.export` in the form of `Tensor`."""
    return tuple(n if isinstance(n, int) else str(n) for n in aval.shape), str(aval.dtype)


def need_flatbuffers() -> None:
    """Raises ValueError if flatbuffers, with which `jax.export` reads and writes files, is not installed."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise ValueError("exported models need flatbuffers: pip install 'jaxseg[export]'") from None


def _validated(fields: dict, path: Path) -> Facts:
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Facts)}
    if set(fields) != set(kinds):
        named = ", ".join(sorted(set(fields) ^ set(kinds)))
        raise ValueError(f"{path} lacks fields, or has others: {printable(named)[:200]}")
    right = {
        str: lambda value: isinstance(value, str),
        int: lambda value: type(value) is int and 0 <= value <= MAX_BYTES,
        tuple[str, ...]: lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        tuple[Tensor, ...]: lambda value: isinstance(value, list) and value and all(map(_is_tensor, value)),
    }
    wrong = [name for name, value in fields.items() if not right[kinds[name]](value)]
    if wrong or len(fields["sha256"]) != _SHA256_DIGITS:
        raise ValueError(f"{path}: {', '.join(wrong) or 'sha256'} is not valid in the description of an exported model")
    lists = {name: tuple(fields[name]) for name in ("class_names", "platforms")}
    for name in ("inputs", "outputs"):
        lists[name] = tuple(Tensor(**one | {"shape": tuple(one["shape"])}) for one in fields[name])
    return Facts(**fields | lists)


def _is_tensor(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {field.name for field in dataclasses.fields(Tensor)}:
        return False
    shape = value["shape"]
    sizes = isinstance(shape, list) and all(n == BATCH or (type(n) is int and n > 0) for n in shape)
    return sizes and all(isinstance(value[name], str) for name in ("name", "dtype", "meaning"))


def _deserialized(content: bytearray, path: Path) -> jax.export.Exported:
    """Returns the content of a file after checking that it calls no foreign code."""
    try:
        exported = jax.export.deserialize(content)
        foreign = _foreign_calls(exported)
    except Exception as error:  # for other kinds of files the readers raise many kinds of errors
        raise ValueError(f"{path} holds no exported model that JAX {jax.__version__} reads: {_line(error)}") from None
    version = exported.calling_convention_version
    oldest = jax.export.minimum_supported_calling_convention_version
    newest = jax.export.maximum_supported_calling_convention_version
    if not oldest <= version <= newest:
        raise ValueError(
            f"{path} has version {version} of JAX's calling convention, and JAX {jax.__version__} reads {oldest} to "
            f"{newest}; export it again"
        )
    if foreign:
        named = printable(", ".join(foreign))[:200]
        raise ValueError(
            f"{path} calls code outside itself, {named}, which no model of jaxseg does; refusing to run it"
        )
    return exported


def _foreign_calls(exported: jax.export.Exported) -> list[str]:
    """Returns the names of functions that the program calls outside itself; JAX would run any that jaxlib has."""
    found = set()

    def see(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.custom_call":
            found.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context() as context:
        deserialize_portable_artifact(exported.mlir_module_serialized, context).operation.walk(see)
    return sorted(found - _CALLS)


def _check_arrays(arrays: tuple, inputs: tuple[Tensor, ...]) -> None:
    wanted = ", ".join(f"{one.name} ({', '.join(map(str, one.shape))}) {one.dtype}" for one in inputs)
    given = ", ".join(
        f"{tuple(x.shape)} {x.dtype}" if hasattr(x, "dtype") and hasattr(x, "shape") else type(x).__name__
        for x in arrays
    )
    fits = len(arrays) == len(inputs)
    for x, one in zip(arrays, inputs, strict=False):
        fits = fits and str(getattr(x, "dtype", "")) == one.dtype and len(x.shape) == len(one.shape)
        fits = fits and all(n == m or (m == BATCH and n > 0) for n, m in zip(x.shape, one.shape, strict=True))
        fits = fits and x.shape[0] == arrays[0].shape[0]
    if not fits:
        raise ValueError(f"the model takes {wanted}, the same number of examples each; got {given or 'nothing'}")


def _line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__
