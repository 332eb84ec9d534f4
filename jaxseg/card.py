"""The card of a model: what the model is, where its weights come from, what its outputs mean. This is pure data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxseg.files import parse_json, printable, read_json

CARD_FILE = "card.json"
FORMAT = 1
MAX_CARD_BYTES = 8 * 2**20
MAX_NUMBERS = 64  # in one hyper-parameter, such as the channels of every level


@dataclasses.dataclass(frozen=True)
class Card:
    """Describes a model directory, and every model that `jaxseg.load` and `jaxseg.create` return (`model.card`).

    Attributes:
      model: registry name, such as "cxas".
      architecture: name of the model class, a key of `jaxseg.registry.MODELS`.
      config: hyper-parameters as sorted (name, value) pairs.
      class_names: one name per output channel.
      preprocessing: how an image becomes the network's input, see `jaxseg.images.preprocess`.
      input_size: height and width that images are resized to.
      source: name of the file that the weights come from; empty if they were trained with jaxseg.
      source_sha256: digest of that file.
      params_sha256: digest of the parameters that belong to the card; it is checked when they are loaded.
      licence: licence of the weights.
      orientation: orientation of the volumes that the model was trained on: "canonical" (turned to the patient's axes)
        or "" (as the files store them).
      calibration: map from the model's outputs to calibrated ones as JSON text, of a method that has one; "" otherwise.
      note: anything that a user must know, such as "trained on phantoms"; commands print it, and results repeat it.
      name: name of a model that was trained with jaxseg: that of its run. Empty for published weights.
      jaxseg: version of jaxseg that wrote the card.
    """

    model: str
    architecture: str
    config: tuple[tuple[str, object], ...]
    class_names: tuple[str, ...]
    preprocessing: str
    input_size: tuple[int, int] = (512, 512)
    source: str = ""
    source_sha256: str = ""
    params_sha256: str = ""
    licence: str = ""
    orientation: str = ""
    calibration: str = ""
    note: str = ""
    name: str = ""
    jaxseg: str = ""

    @property
    def title(self) -> str:
        """The name under which results list the model: its own, or that in the registry."""
        return self.name or self.model

    def text(self) -> str:
        """Returns the card as JSON."""
        fields = dataclasses.asdict(self) | {"format": FORMAT, "config": dict(self.config)}
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `card.json` into an existing folder."""
        (folder / CARD_FILE).write_text(self.text(), encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Reads the card of a model directory.

    Raises:
      ValueError: there is no card, or it is damaged or has a newer format.
    """
    path = folder / CARD_FILE
    try:
        fields = read_json(path, most=MAX_CARD_BYTES)
    except FileNotFoundError:
        if (folder / "checkpoints").is_dir():
            raise ValueError(f"{folder}: the training run has no model yet: its first validation writes one") from None
        raise ValueError(
            f"{folder} is not a model directory: it has no {CARD_FILE} (`jaxseg convert` writes one)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return _validated(fields, path)


def parse_card(text: str, path: Path) -> Card:
    """Returns the card that `Card.text` wrote.

    Args:
      text: JSON of unknown origin.
      path: the file that holds it, for errors.

    Raises:
      ValueError: the text is no card, is too long, or has a newer format.
    """
    try:
        if len(text) > MAX_CARD_BYTES:
            raise ValueError(f"it has more than {MAX_CARD_BYTES:,} characters")
        fields = parse_json(text.encode())
    except ValueError as error:
        raise ValueError(f"the card in {path} is damaged: {error}") from None
    return _validated(fields, path)


def _validated(fields: object, path: Path) -> Card:
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError(f"{path} has no card of format {FORMAT}, the one this jaxseg reads")
    known = {field.name for field in dataclasses.fields(Card)}
    required = {"model", "architecture", "config", "class_names", "preprocessing"}
    problems = [f"{name}: unknown field" for name in sorted(set(fields) - known)]
    problems += [f"{name}: missing" for name in sorted(required - set(fields))]
    config: Any = fields.get("config")
    names: Any = fields.get("class_names")
    size = fields.get("input_size", [512, 512])
    if not isinstance(config, dict) or not all(map(_is_setting, config.values())):
        problems.append("config: must map names to words, numbers and lists of whole numbers")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        problems.append("class_names: must be a list of names")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 8 <= n <= 8192 for n in size):
        problems.append("input_size: must be two whole numbers from 8 to 8192")
    texts = known - {"config", "class_names", "input_size"}
    problems += [f"{name}: must be text" for name in sorted(texts & set(fields)) if not isinstance(fields[name], str)]
    if isinstance(names, list) and len({str(name) for name in names}) != len(names):
        problems.append("class_names: a name occurs twice")
    if problems:
        raise ValueError(f"{path}: " + printable("; ".join(problems)))
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    typed = {"config": tuple(sorted(config.items())), "class_names": tuple(names), "input_size": tuple(size)}
    return Card(**fields | typed)


def _is_setting(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_NUMBERS and all(type(number) is int for number in value)
    return isinstance(value, (str, int, float, bool))
