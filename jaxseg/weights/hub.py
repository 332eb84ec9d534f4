"""Weights on the Hugging Face Hub, named `hf://owner/name[@revision][/file]`.

It needs huggingface_hub (extra `hub`), which keeps the files in its cache, and reads HF_HOME, HF_HUB_OFFLINE,
HF_ENDPOINT and HF_TOKEN. Only the one file is downloaded.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg.files import printable

Progress = Callable[[int, int | None], None]
# The kinds of files to choose from if an address names none; the first kind that the repository has decides.
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
PREFERRED = "model.safetensors"
SYNTAX = "hf://owner/name, hf://owner/name/file or hf://owner/name@revision/file"
_START = re.compile(r"hf:/+")
_PART = r"\w[\w.-]*"
_ADDRESS = re.compile(rf"(?P<repository>{_PART}/{_PART})(@(?P<revision>[^/@\s]+))?(/(?P<file>[^@]+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Address:
    """A file on the Hub.

    Attributes:
      repository: owner and name.
      revision: branch, tag or commit; None: the main branch.
      file: path of the file in the repository; None: the only weights in it.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{urllib.parse.quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repository}{revision}{f'/{self.file}' if self.file else ''}"


def is_address(text: str | Path) -> bool:
    """Returns whether a text names something on the Hub; a Path, which merges slashes, does so too.

    >>> is_address("hf://owner/name"), is_address(Path("hf://owner/name")), is_address("owner/name")
    (True, True, False)
    """
    return _START.match(str(text)) is not None


def parse_address(text: str | Path) -> Address:
    """Returns the parts of an address.

    >>> parse_address("hf://owner/name@v1.0/folder/model.safetensors")
    Address(repository='owner/name', revision='v1.0', file='folder/model.safetensors')

    Args:
      text: an address; a slash in a revision is written as %2F.

    Raises:
      ValueError: the text is no such address.
    """
    found = _ADDRESS.fullmatch(_START.sub("", str(text), count=1))
    steps = (found["file"] or "file").split("/") if found else [""]
    if found is None or any(step in ("", ".", "..") for step in steps):
        raise ValueError(f"{printable(str(text))!r} is no address on the Hugging Face Hub: write {SYNTAX}")
    revision = found["revision"]
    return Address(found["repository"], revision and urllib.parse.unquote(revision), found["file"])


def local_path(weights: str | Path, *, progress: Progress | None = None) -> Path:
    """Returns the path of weights: an address on the Hub is downloaded once, and a path stays as it is.

    Args:
      weights: an address, or a path, which may begin with `~`.
      progress: as in `jaxseg.load`.

    Raises:
      ValueError: the address is wrong, huggingface_hub is missing, or several files of the repository may be meant.
      OSError: the file does not exist, may not be downloaded, or the server cannot be reached.
    """
    if not is_address(weights):
        return Path(weights).expanduser()
    address = parse_address(weights)
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"{address} needs huggingface_hub: pip install 'jaxseg[hub]'") from None
    try:
        found = huggingface_hub.hf_hub_download(
            address.repository,
            address.file or _only_weights(address, _names(address)),
            revision=address.revision,
            library_name="jaxseg",
            tqdm_class=_bar(progress),
        )
    except ValueError:
        raise
    except Exception as error:  # of the library, of its HTTP client, or of the disk
        raise OSError(f"{address}: {printable(_reason(address, error))}") from error
    return Path(found)


def _names(address: Address) -> list[str]:
    """Returns the paths of the files in a repository, or without a network of those in the cache."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        try:
            found = HfApi(library_name="jaxseg").model_info(address.repository, revision=address.revision, timeout=10)
            return [file.rfilename for file in found.siblings or []]
        except Exception as error:
            if not _is_of_network(error):
                raise
    folder = Path(snapshot_download(address.repository, revision=address.revision, local_files_only=True))
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _only_weights(address: Address, names: Sequence[str]) -> str:
    """Returns the file of weights in a repository.

    Raises:
      ValueError: there is none, or there are several.
    """
    if PREFERRED in names:
        return PREFERRED
    for suffix in SUFFIXES:
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise ValueError(f"{address} has several files of weights; name one, as in {address}/{found[0]}: {shown}")
    raise ValueError(f"{address} has no file that ends in {', '.join(SUFFIXES)}")


def _bar(progress: Progress | None) -> type:
    """Returns the class of progress bars that huggingface_hub uses; it calls `progress` and shows nothing itself."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any):
            super().__init__(*args, **settings | {"disable": True})
            self.done, self.all = settings.get("initial", 0), settings.get("total")

        def update(self, n: float | None = 1) -> None:
            self.done += n or 0
            if progress is not None:
                progress(int(self.done), self.all)

    return Bar


def _reason(address: Address, error: Exception) -> str:
    """Returns what an error of huggingface_hub means and what to do, in one line."""
    from huggingface_hub import constants, errors

    place = f"{constants.ENDPOINT}/{address.repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner must grant access: ask at {place}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no {place}, or it is private: log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{place} has no revision {address.revision!r}"
    if isinstance(error, errors.LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, and it is not in the cache {constants.HF_HUB_CACHE}"
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_of_network(error):
        return f"{constants.ENDPOINT} cannot be reached: check the network, https_proxy and HF_ENDPOINT"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{place} has no file {address.file}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _is_of_network(error: Exception) -> bool:
    """Returns whether the HTTP client reports that the server does not answer; its package has changed its name."""
    return any(base.__name__ == "TransportError" for base in type(error).__mro__)
