"""Progress: a bar with the rate and the time left on a terminal, otherwise plain lines."""

import contextlib
from collections.abc import Callable, Iterator

from jaxseg.cli import console
from jaxseg.files import printable

COMPILING = "compiling (once, about 20 s)"  # what happens before the first item is done


@contextlib.contextmanager
def progress(
    total: int, what: str, *, every: int = 1, done: int = 0, first: str = ""
) -> Iterator[Callable[[str], None]]:
    """Yields `step(text)`, which must be called once for every item that is done.

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


def step_callbacks(stack: contextlib.ExitStack, what: str, *, every: int) -> dict[str, Callable]:
    """Returns the callbacks of a training that show its progress until the stack is closed.

    Args:
      stack: closes the bar.
      what: name of the steps.
      every: as in `progress`.
    """
    step: Callable[[str], None]

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


def _bar(total: int, what: str, before: int, first: str) -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # one line, even if the text is long
    last = TextColumn("{task.fields[text]}", markup=False, table_column=rest)
    columns = (what, BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with console.bar(*columns, last, expand=True) as bar:
        task = bar.add_task(what, total=total, completed=before, text=first, rate="")

        def step(text: str) -> None:
            bar.update(task, advance=1, text=printable(text))
            speed = bar.tasks[0].speed  # without the first item, which includes compiling
            bar.update(task, rate=f"{speed:.2f}/s" if speed else "")

        yield step


def _lines(total: int, what: str, every: int, done: int) -> Iterator[Callable[[str], None]]:
    def step(text: str) -> None:
        nonlocal done
        done += 1
        if done % every == 0 or done == total:
            console.say(f"{what} {done}/{total}: {text}")

    yield step
