"""Progress: a bar with the rate and the time left on a terminal, otherwise plain lines."""

import contextlib
import time
from collections.abc import Callable, Iterator

from jaxseg.cli import console
from jaxseg.files import printable

FIRST, LONG = 10, 50  # files before the speed is measured; runs with more files have a forecast
MEASURED_S = 2.0  # the speed is measured for at least this time, and over at least FIRST files
COMPILING = "compiling (once, about 20 s)"  # what happens before the first item is done


@contextlib.contextmanager
def progress(total: int, what: str, *, every: int = 1, done: int = 0, first: str = "") -> Iterator[Callable[..., None]]:
    """Yields `step(text, count=1)`, which must be called once for every item, or a number of items, that are done.

    Args:
      total: number of items; nothing is shown if there are none.
      what: name of the items.
      every: print a plain line only for every N-th item.
      done: number of items that were done before.
      first: what the bar says before the first item is done.
    """
    if console.is_terminal() and total:
        yield from _bar(total, what, done, first)
    else:
        yield from _lines(total, what, every, done)


@contextlib.contextmanager
def item_progress(
    what: str, *, every: Callable[[int], int] = lambda total: 1, first: str = ""
) -> Iterator[Callable[[int, int, str], None]]:
    """Yields the argument `progress` of a library function: (number of items done, their total, name of the last).

    Its first call, before any item is done, opens the bar.

    Args:
      what: name of the items.
      every: number of items -> a plain line is printed only for every N-th of them.
      first: as in `progress`.
    """
    with contextlib.ExitStack() as stack:
        step, before = None, 0

        def show(done: int, total: int, name: str) -> None:
            nonlocal step, before
            if step is None:
                step = stack.enter_context(progress(total, what, every=every(total), done=done, first=first))
            else:
                step(name, done - before)
            before = done

        yield show


def step_callbacks(stack: contextlib.ExitStack, what: str, *, every: int) -> dict[str, Callable]:
    """Returns the callbacks of a training that show its progress until the stack is closed.

    Args:
      stack: closes the bar.
      what: name of the steps.
      every: as in `progress`.
    """
    step: Callable[..., None]

    def on_start(done: int, total: int) -> None:
        nonlocal step
        step = stack.enter_context(progress(total, what, every=every, done=done, first=COMPILING))

    return {"on_start": on_start, "on_step": lambda _, __, values: step(f"loss {values['loss']:.4f}")}


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Yields a callback for `jaxseg.load(progress=...)`; it shows nothing if there is no terminal."""
    if not console.is_terminal():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = ("weights", BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with contextlib.ExitStack() as stack:
        bar = task = None

        def update(done: int, total: int | None) -> None:
            nonlocal bar, task
            if bar is None:
                bar = stack.enter_context(console.bar(*columns, transient=True))
                task = bar.add_task("weights", total=total)
            bar.update(task, completed=done, total=total)

        yield update


class Forecast:
    """Says once in a long run how much time it needs, and how large its results will be.

    The first call of `progress` is before the first file, and every other call is about one file.

    Args:
      what: name of the files, such as "images".
      clock: returns the time in seconds.
    """

    def __init__(self, what: str, *, clock: Callable[[], float] = time.monotonic):
        self.what, self.clock = what, clock
        self.sizes: list[int] = []
        self._count, self._start = -1, None
        self._said = False

    def report(self, outcome) -> None:
        """Takes the size of a file's results, if it was measured."""
        if outcome.size is not None:
            self.sizes.append(outcome.size)

    def progress(self, done: int, total: int, _name: str) -> None:
        """Takes the number of files that are done, and says the forecast when the speed is known."""
        self._count += 1  # files of earlier runs count as done, but not for the speed
        count, rest = self._count, total - done
        if self._start is None:
            self._start = self.clock() if count >= FIRST else None
            return
        seconds = self.clock() - self._start
        if self._said or count < 2 * FIRST or seconds < MEASURED_S or rest + count <= LONG or not rest:
            return
        self._said = True
        speed = (count - FIRST) / seconds
        size = f" and {_bytes(rest * sum(self.sizes) / len(self.sizes))}" if self.sizes else ""
        speed_of = f"{speed:.2g} {self.what}/s after the first ten"
        console.say(f"{total:,} {self.what}; {speed_of}: about {_time(rest / speed)}{size} to come")


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _bar(total: int, what: str, before: int, first: str) -> Iterator[Callable[..., None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # one line, even if the text is long
    last = TextColumn("{task.fields[text]}", markup=False, table_column=rest)
    columns = (what, BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with console.bar(*columns, last, expand=True) as bar:
        task = bar.add_task(what, total=total, completed=before, text=first, rate="")

        def step(text: str, count: int = 1) -> None:
            bar.update(task, advance=count, text=printable(text))
            speed = bar.tasks[0].speed  # without the first item, which includes compiling
            bar.update(task, rate=f"{speed:.2f}/s" if speed else "")

        yield step


def _lines(total: int, what: str, every: int, done: int) -> Iterator[Callable[..., None]]:
    def step(text: str, count: int = 1) -> None:
        nonlocal done
        done += count
        if done // every > (done - count) // every or done == total:
            console.say(f"{what} {done}/{total}: {text}")

    yield step
