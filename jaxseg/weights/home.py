"""Finds published weights: in jaxseg's cache, in the caches of other projects, or by a download."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from jaxseg import files
from jaxseg.files import user_cache
from jaxseg.registry import Entry
from jaxseg.weights.download import DownloadError, download, google_drive_url
from jaxseg.weights.torch_file import TorchFileError, read_torch_file

Progress = Callable[[int, int | None], None]
logger = logging.getLogger(__name__)


def places(entry: Entry) -> list[Path]:
    """Returns the paths at which the published weights may be, in the order in which they are tried.

    Returns an empty list if nothing was published, or if no folder is known because the user has no home directory.
    """
    if entry.weights_file is None:
        return []
    own = user_cache()
    names = [name for name in (entry.weights_file, entry.release_file) if name]
    found = [] if own is None else [own / entry.name / name for name in names]
    for caches, name in ((entry.original_cache, entry.weights_file), (entry.release_cache, entry.release_file)):
        for variable, folder in caches:
            root = os.path.expanduser("~") if variable == "~" else os.environ.get(variable)
            if name and root and not root.startswith("~"):
                found.append(Path(root) / folder / name)
    return found


def default_weights(entry: Entry, *, url: str | None = None, progress: Progress | None = None) -> Path:
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
    _refuse_unpublished(entry)
    for path in places(entry):
        if path.is_file():
            return path
    own = user_cache()
    if own is None:
        raise FileNotFoundError(
            f"there is no folder for the weights of {entry.name!r}, because this user has no home directory: set "
            f"JAXSEG_HOME to a folder, or name {entry.weights_file} with --weights (Python: weights=)"
        )
    if _sources(entry, url):
        logger.warning("weights of %s: %s", entry.name, entry.licence)
    return download_weights(entry, own / entry.name, url=url, progress=progress)


def download_weights(
    entry: Entry,
    folder: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Downloads the published weights of a model into a folder, and returns the path of the file.

    A download that was interrupted is resumed. A file that is in the folder already is only checked: it must fit the
    model in the names and shapes of all tensors.

    Args:
      entry: the model.
      folder: the folder; it is created.
      url: download from this address (a mirror) instead of the registry's.
      sha256: the SHA-256 that the file must have, in hexadecimal; None: it is not checked, since the authors publish
        none.
      progress: as in `default_weights`.

    Raises:
      ValueError: no weights were published for this model.
      OSError: no source could be downloaded, or the file in the folder is another; the message says what to do.
    """
    _refuse_unpublished(entry)
    sources = [(address, folder / name) for address, name in _sources(entry, url)]
    if not sources:
        raise FileNotFoundError(
            f"the weights of {entry.name!r} cannot be fetched directly: fetch {entry.weights_file} from "
            f"{entry.weights_page} and put it at {folder / str(entry.weights_file)}, or name it with --weights "
            "(Python: weights=)"
        )
    for _, path in sources:
        if path.is_file():
            if reason := _misfit(entry, path, sha256):
                raise OSError(f"{path} is not the weights of {entry.name!r} ({reason}); move it away")
            return path
    problems = []
    for address, path in sources:
        try:
            download(address, path, sha256=sha256, progress=progress)
        except DownloadError as error:
            problems.append(str(error))
            continue
        reason = _misfit(entry, path)
        if not reason:
            return path
        path.unlink()
        problems.append(f"{address} is not the weights of {entry.name!r} and was removed ({reason})")
    if len(problems) > 1:
        problems = [f"{len(problems)} sources of the weights of {entry.name!r} failed:", *problems]
    text = "\n".join(problems)
    raise OSError(f"{text} (from {entry.weights_page}), or name it with --weights (Python: weights=)")


def _refuse_unpublished(entry: Entry) -> None:
    if entry.weights_file is None:
        raise ValueError(
            f"model {entry.name!r} has no published weights: train it, or name trained weights with --weights "
            "(Python: weights=)"
        )


def _sources(entry: Entry, url: str | None) -> list[tuple[str, str]]:
    """Returns the addresses of the published weights with the names of their files; they are tried in this order."""
    file = str(entry.weights_file)
    if not url and os.environ.get("JAXSEG_WEIGHTS_URL"):
        url = f"{os.environ['JAXSEG_WEIGHTS_URL'].rstrip('/')}/{file}"
    if url:
        return [(url, file)]
    found = [(entry.release_url, entry.release_file)] if entry.release_url and entry.release_file else []
    return found + ([(google_drive_url(entry.drive_file), file)] if entry.drive_file else [])


def _misfit(entry: Entry, path: Path, sha256: str | None = None) -> str:
    """Returns why a file is not the published weights of a model; "" if it fits."""
    from jaxseg.devices import all_devices
    from jaxseg.weights.fill import misfits
    from jaxseg.weights.model import describe

    if sha256 and files.sha256(path) != sha256.lower():
        return f"its sha256 is not {sha256}"
    model_class = entry.model_class
    config = model_class.make_config(**dict(entry.config))
    all_devices()  # an error of JAX about missing devices would not say what to do
    try:
        tensors = model_class.torch_renamed(read_torch_file(path))
    except TorchFileError as error:
        return f"it is not a weights file: {error}"
    ignored = model_class.torch_unused(config)
    found = misfits(describe(model_class, config), tensors, model_class.torch_names(config), ignored=ignored)
    return f"{len(found)} tensors do not fit, such as: {' '.join(found[0].split())}" if found else ""
