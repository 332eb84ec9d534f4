"""Additions to errors: what to do after Ctrl-C, and the option that a wrong setting came from."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator

import click


class Stopped(click.Abort):
    """Ctrl-C, with a hint what the user can do next."""

    def __init__(self, hint: str):
        super().__init__()
        self.hint = hint


@contextlib.contextmanager
def resumable(hint: Callable[[], str]) -> Iterator[None]:
    """Adds a hint to the message after Ctrl-C; it is made at that moment, and may be empty."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)  # after the ^C of the terminal
        raise Stopped(hint()) from None


@contextlib.contextmanager
def naming_overrides(overrides: Iterable[str]) -> Iterator[None]:
    """Writes `--set` before each line of a ValueError that begins with a setting that the user changed by it."""
    names = [override.partition("=")[0].strip() for override in overrides]
    try:
        yield
    except ValueError as error:
        lines = str(error).split("\n")
        named = [f"--set {line}" if any(map(functools.partial(_is_about, line), names)) else line for line in lines]
        if named == lines:
            raise
        raise ValueError("\n".join(named)) from error


def _is_about(line: str, name: str) -> bool:
    """Returns whether a line begins with a setting or its group."""
    if name and re.match(rf"{re.escape(name)}(?![\w.])", line):
        return True
    return name.startswith(f"{line.partition(':')[0]}.")
