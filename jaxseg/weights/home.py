"""Finds published weights: in jaxseg's cache, in the original's cache, or by a download."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from jaxseg.files import user_cache
from jaxseg.registry import Entry
from jaxseg.weights.download import DownloadError, download, google_drive_url
from jaxseg.weights.torch_file import TorchFileError, read_torch_file

logger = logging.getLogger(__name__)


def places(entry: Entry) -> list[Path]:
    """Returns the paths at which the published weights may be, in the order in which they are tried.

    Returns an empty list if nothing was published, or if no folder is known because the user has no home directory.
    """
    if entry.weights_file is None:
        return []
    own = user_cache()
    found = [] if own is None else [own / entry.name / entry.weights_file]
    for variable, folder in entry.original_cache:
        root = os.path.expanduser("~") if variable == "~" else os.environ.get(variable)
        if root and not root.startswith("~"):
            found.append(Path(root) / folder / entry.weights_file)
    return found


def default_weights(
    entry: Entry, *, url: str | None = None, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Returns the path of the published weights, and downloads them once if there is a direct link.

    Args:
      entry: the model.
      url: download from this address (a mirror) instead of the registry's.
      progress: called with the number of bytes done and the total, or None if the total is unknown.

    Raises:
      ValueError: no weights were published for this model.
      OSError: the weights are not in the caches and could not be downloaded; the message says what to fetch and where
        to put it.
    """
    if entry.weights_file is None:
        raise ValueError(
            f"model {entry.name!r} has no published weights: train it, or name trained weights with --weights "
            "(Python: weights=)"
        )
    candidates = places(entry)
    for path in candidates:
        if path.is_file():
            return path
    if user_cache() is None:
        raise FileNotFoundError(
            f"there is no folder for the weights of {entry.name!r}, because this user has no home directory: set "
            f"JAXSEG_HOME to a folder, or name {entry.weights_file} with --weights (Python: weights=)"
        )
    if not url and os.environ.get("JAXSEG_WEIGHTS_URL"):
        url = f"{os.environ['JAXSEG_WEIGHTS_URL'].rstrip('/')}/{entry.weights_file}"
    if not url and entry.drive_file:
        url = google_drive_url(entry.drive_file)
    if not url:
        raise FileNotFoundError(
            f"the weights of {entry.name!r} cannot be fetched directly: fetch {entry.weights_file} from "
            f"{entry.weights_page} and put it at {candidates[0]}, or name it with --weights (Python: weights=)"
        )
    logger.warning("weights of %s: %s", entry.name, entry.licence)
    try:
        path = download(url, candidates[0], progress=progress)
        _refuse_damaged(path)
        return path
    except DownloadError as error:
        raise OSError(f"{error} (from {entry.weights_page}), or name it with --weights (Python: weights=)") from error


def _refuse_damaged(path: Path) -> None:
    """Raises DownloadError if a download is not a weights file, and removes it so that it is downloaded again."""
    try:
        read_torch_file(path)
    except TorchFileError as error:
        path.unlink()
        raise DownloadError(f"the downloaded file is not a weights file and was removed: {error}") from None
