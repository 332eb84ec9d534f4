"""Options that several commands share, and what stands for a wrong one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from jaxseg.files import printable

gpus = click.option(
    "-g",
    "--gpus",
    default="auto",
    show_default=True,
    metavar="DEVICES",
    help="auto (the first accelerator, else the CPU), cpu, gpu, tpu, or indices such as 0 or 0,1: the batch is "
    "spread over them. The original's default, 0, fails without a GPU.",
)
weights = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A model directory, a training run or a PyTorch file. Default: the published weights, from the caches or "
    "downloaded once.",
)
labels = click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file with the class names (such as paxray.json), where the weights do not say.",
)


def say(text: str) -> None:
    """Prints a line on stderr; names of files and tensors in it cannot steer the terminal."""
    click.echo("\n".join(printable(line) for line in text.split("\n")), err=True)


@contextlib.contextmanager
def usage_errors(option: str) -> Iterator[None]:
    """Turns a ValueError or a path that cannot be into a usage error (exit code 2) that names the option."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise click.UsageError(f"{option}: {error}") from None
