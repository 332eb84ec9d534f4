"""Ctrl-C and SIGTERM while work goes on that must not be cut just anywhere.

Python raises KeyboardInterrupt between any two instructions: within JAX's callbacks, where it is lost and the run goes
on, or within Orbax and its locks, where threads are left to wait for what never comes.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C and SIGTERM wait until the body has ended, and then act as they would have; a second acts at once.

    Signals interrupt the main thread alone, so in others nothing is done; nor in a body within another.

    Yields:
      A function to call where the body may be left: one that has come acts there.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    within = any(getattr(handler, "waits", False) for handler in before.values())
    if within or None in before.values() or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def act() -> None:
        if came:
            restore()
            number = came.pop()
            if callable(before[number]):
                before[number](number, None)  # here and now
            else:
                signal.raise_signal(number)

    def note(number: int, _) -> None:
        came.append(number)
        if len(came) > 1:
            act()

    note.waits = True
    try:
        for number in SIGNALS:
            signal.signal(number, note)
        yield act
    finally:
        restore()
        act()
