"""The one way to the terminal: messages, results, records of libraries and a progress bar never mix on one line."""

import contextlib
import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence

import click

from jaxseg import programs
from jaxseg.files import printable
from jaxseg.text_table import text_table

_bars: list = []  # the progress bar that is shown now, if there is one


def say(text: str) -> None:
    """Prints a message on stderr, above the progress bar if there is one; each message ends its line.

    Control codes in names of files and tensors cannot steer the terminal. A name that may have a line break goes
    through `jaxseg.files.printable` first.
    """
    _print(text, err=True)


def show(text: str) -> None:
    """Prints a result on stdout, in the same way."""
    _print(text, err=False)


def show_rows(rows: Iterable[Sequence[str]]) -> None:
    """Prints rows on stdout: as a table on a terminal, otherwise with tabs between the cells, for other programs."""
    rows = [list(row) for row in rows]
    if rows and sys.stdout.isatty():
        show(text_table((), rows))
    elif rows:
        show("\n".join("\t".join(row) for row in rows))


def stage(text: str) -> None:
    """Says what the command does now, on a terminal only, so that a long start is not silent.

    Call it before heavy imports.
    """
    if is_terminal():
        say(f"{text} ...")


def is_terminal() -> bool:
    """Returns whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


@contextlib.contextmanager
def bar(*columns, **settings) -> Iterator:
    """Shows a progress bar on the last line of the terminal, and yields rich's Progress.

    Args:
      *columns, **settings: as `rich.progress.Progress` takes them.
    """
    from rich.console import Console
    from rich.progress import Progress

    settings |= {"console": Console(stderr=True), "redirect_stdout": False}  # stdout may be a file
    with Progress(*columns, **settings) as found:
        _bars.append(found)
        try:
            yield found
        finally:
            _bars.remove(found)


def take_over(*, debug: bool) -> None:
    """Makes the log records and warnings of libraries messages of this console.

    Args:
      debug: warnings keep their form, with the place in the source, and the tracebacks of files that fail are shown.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Records()])
    for library in ("absl", "dicomweb_client", "pynetdicom", "retrying", "tifffile"):  # their failures are raised
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if debug:
        logging.getLogger("jaxseg").setLevel(logging.DEBUG)  # the library logs the traceback of each file's failure
    else:
        warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_, **__) -> None:
    """Prints the warning of a library, except those of JAX about kept programs, which cost only time."""
    if not programs.is_about_kept(str(message)):
        say(f"Warning: {message}")


class _Records(logging.Handler):
    """Prints log records as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)


def _wrapped(line: str) -> list[str]:
    """Returns a line as lines that fit the terminal; words, such as paths, stay whole."""
    width = shutil.get_terminal_size().columns
    if len(line.expandtabs()) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
    return textwrap.wrap(line, width, **options)


def _print(text: str, *, err: bool) -> None:
    shown = ["\t".join(map(printable, line.split("\t"))) for line in text.split("\n")]
    terminal = bool(_bars) or sys.stderr.isatty() if err else sys.stdout.isatty()  # a bar replaces sys.stderr
    lines = "\n".join(part for line in shown for part in (_wrapped(line) if terminal else [line]))
    if _bars and terminal:
        from rich.text import Text

        _bars[-1].console.print(Text(lines), soft_wrap=True)
    else:
        click.echo(lines, err=err)
