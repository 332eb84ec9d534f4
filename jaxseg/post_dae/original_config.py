"""Translates the configuration file of the original Post-DAE program into the settings of jaxseg.

Source: balazsborsos/dae_postprocessing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxseg.files import printable
from jaxseg.settings import shown, unknown_setting

MARK, FOLDER = "training_configuration", "store_model_to"

# theirs -> ours; None: the command line or another setting replaces it
_NAMES = {
    "random_seed": "seed",
    "in_channels": "data.channels",
    "out_channels": None,
    "img_size": "data.size",
    "features": "model.features",
    "decoder_features": "model.decoder_features",
    "intermediate": "model.intermediate",
    "strides": "model.strides",
    "batch_size": "trainer.batch_size",
    "max_epochs": "trainer.epochs",
    "learning_rate": "optimizer.learning_rate",
    "num_workers": "data.threads",
    "gpus": None,
    "strategy": None,
}


def is_original(raw: Any) -> bool:
    """Returns whether a parsed YAML file is one of the original program."""
    return isinstance(raw, dict) and MARK in raw


def translated(raw: dict, tell: Callable[[str], None]) -> dict:
    """Returns the settings of a file of the original program as a jaxseg file would hold them.

    Settings that the file does not contain are as in `post_dae_original.yaml`. There are two differences from the
    original: `img_size` has an effect (the original's network always has 512), and training does not use the masks for
    validation (`data.split`).

    Args:
      raw: the parsed file.
      tell: called with a message for each setting that has no effect.

    Raises:
      ValueError: settings are unknown or impossible; one line per problem.
    """
    given = raw[MARK]
    problems = [unknown_setting(name, (MARK, FOLDER), "") for name in raw if name not in (MARK, FOLDER)]
    if not isinstance(given, dict):
        raise ValueError("\n".join([*problems, f"{MARK}: {shown(given)} is not a group of settings"]))
    problems += [unknown_setting(name, list(_NAMES), MARK) for name in given if name not in _NAMES]
    channels = [given.get(name, 1) for name in ("in_channels", "out_channels")]
    if channels[0] != channels[1]:
        both = f"{shown(channels[1])} output channels for {shown(channels[0])} input channels"
        problems.append(f"{MARK}.out_channels: {both}; the numbers must be equal")
    size = _side(given.get("img_size", 512), problems)
    if problems:
        raise ValueError("\n".join(problems))
    found: dict[str, Any] = {
        "task": "post_dae",
        "optimizer": {"name": "adam", "learning_rate": 1e-4},
        "trainer": {"epochs": 200, "batch_size": 8, "clip_norm": 0.5},
    }
    values = given | {"img_size": size}
    if type(values.get("num_workers")) is int:
        values["num_workers"] = max(values["num_workers"], 1)
    for name, ours in _NAMES.items():
        if name in values and ours is not None:
            *group, last = ours.split(".")
            (found.setdefault(group[0], {}) if group else found)[last] = values[name]
    for name, instead in (("gpus", "-g"), ("strategy", "trainer.parallel")):
        if given.get(name) is not None:
            tell(f"{name}: {printable(str(given[name]))} has no effect; use {instead} instead")
    return found


def run_folder(raw: Any) -> Path | None:
    """Returns the folder in which a file of the original program stores its run; None if it names none."""
    value = raw.get(FOLDER) if is_original(raw) else None
    return Path(value) if isinstance(value, str) and value.strip() else None


def _side(size: Any, problems: list[str]) -> Any:
    """Returns the side of the images; the original program takes a list of two."""
    if not isinstance(size, list):
        return size
    if len(size) != 2 or size[0] != size[1]:
        problems.append(f"{MARK}.img_size: {shown(size)} must be one number, or the same one twice")
        return 512
    return size[0]
