"""`jaxseg download`: downloads the published weights of a model, also for a machine without network."""

import re
from pathlib import Path

import click

from jaxseg import registry
from jaxseg.cli import console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.progress import download_progress
from jaxseg.files import sha256 as digest
from jaxseg.files import user_cache


@click.command(short_help="Download the published weights of a model, also for a machine without network.")
@click.argument("model")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the file.  [default: the cache, where every command finds it]",
)
@click.option(
    "--sha256",
    metavar="DIGEST",
    help="The SHA-256 that the file must have.  [default: any, since the authors publish none]",
)
def download(model, folder, sha256):
    """Download the published weights of MODEL, a name that `jaxseg models` lists.

    A download that was interrupted continues where it stopped. The file must fit the model in the names and shapes of
    all tensors; its SHA-256 is shown. With --to, the last line says where a machine without network expects the file.
    """
    with options.usage_errors("MODEL"):
        entry = registry.find(model)
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise click.UsageError("--sha256: it has 64 hexadecimal digits")
    if entry.weights_file is not None:
        console.say(f"licence of the weights: {entry.licence}")
    console.stage("downloading")
    from jaxseg.devices import select_devices
    from jaxseg.weights.home import download_weights

    select_devices("cpu")  # nothing is computed
    place = folder or _own_folder(entry)
    with resumable(lambda: "The same command continues where it stopped."), download_progress() as update:
        path = download_weights(entry, place, sha256=sha256, progress=update)
    console.show(f"{path}: {path.stat().st_size:,} bytes, sha256 {digest(path)}")
    if folder:
        console.say(
            f"On the other machine, put it at $JAXSEG_HOME/{entry.name}/{path.name} or "
            f"~/.cache/jaxseg/{entry.name}/{path.name}, or name it with --weights"
        )


def _own_folder(entry: registry.Entry) -> Path:
    own = user_cache()
    if own is None:
        raise click.UsageError("there is no cache, because this user has no home directory: name a folder with --to")
    return own / entry.name
