"""What a report says of the run that made the masks."""

from pathlib import Path

from jaxseg import journal
from jaxseg.files import printable
from jaxseg.masks.results import SUMMARY_FILE, read_summary

_SHOWN = ("model", "weights_sha256", "threshold", "preprocessing", "intensity", "dtype")


def read_settings(folder: Path) -> dict[str, str]:
    """Returns the settings in a folder's `summary.json` by name; none where there is no summary of jaxseg.

    Raises:
      ValueError: the summary is damaged.
    """
    if not folder.is_dir() or read_summary(folder) is None:
        return {}
    content = journal.read_document(folder / SUMMARY_FILE)
    found = {name: content["settings"].get(name) for name in _SHOWN} | {"jaxseg": content["jaxseg"]}
    texts = {name: printable(str(value))[:100] for name, value in found.items() if isinstance(value, str | int | float)}
    return {name.replace("_", " "): text for name, text in texts.items()}
