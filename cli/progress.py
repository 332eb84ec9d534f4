"""Progress: a bar with the rate and the time left on a terminal, otherwise plain lines."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from jaxseg.cli.options import say
from jaxseg.files import printable


@contextlib.contextmanager
def progress(total: int, what: str, *, every: int = 1, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yields `step(text)`, which must be called once for every item that is done.

    Args:
      total: number of items.
      what: name of the items.
      every: print a plain line only for every N-th item.
      done: number of items that were done before.
    """
    if sys.stderr.isatty():
        yield from _bar(total, what, done)
    else:
        yield from _lines(total, what, every, done)


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Yields a callback for `jaxseg.load(progress=...)`; it shows nothing if there is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("weights", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(), transient=True) as bar:
        task = None

        def update(done: int, total: int | None) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("weights", total=total)
            bar.update(task, completed=done, total=total)

        yield update


def _bar(total: int, what: str, before: int) -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate, last = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[text]}", markup=False)
    columns = (what, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), last)
    with Progress(*columns, console=_console()) as bar:
        task = bar.add_task(what, total=total, completed=before, text="", rate="")
        start = time.perf_counter()

        def step(text: str) -> None:
            done = bar.tasks[0].completed + 1
            rate = (done - before) / (time.perf_counter() - start)
            bar.update(task, advance=1, text=printable(text), rate=f"{rate:.2f}/s")

        yield step


def _lines(total: int, what: str, every: int, done: int) -> Iterator[Callable[[str], None]]:
    def step(text: str) -> None:
        nonlocal done
        done += 1
        if done % every == 0 or done == total:
            say(f"{what} {done}/{total}: {printable(text)}")

    yield step


def _console():
    from rich.console import Console

    return Console(stderr=True)
