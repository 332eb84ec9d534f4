"""Ctrl-C and SIGTERM during work that must not be interrupted at an arbitrary point.

Python raises KeyboardInterrupt between any two instructions. Within JAX's callbacks it is lost and the run continues;
within Orbax and its locks it leaves threads waiting forever.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], None]]:
    """Delays Ctrl-C and SIGTERM until the body has ended; a second one takes effect at once.

    Signals interrupt only the main thread, so this has no effect in other threads, or inside the body of another call.

    Yields:
      A function to call at the points where the body may be left: a delayed signal takes effect there.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    within = any(getattr(handler, "waits", False) for handler in before.values())
    if within or None in before.values() or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def act() -> None:
        if received:
            restore()
            number = received.pop()
            if callable(before[number]):
                before[number](number, None)  # called directly, at this point
            else:
                signal.raise_signal(number)

    def note(number: int, _) -> None:
        received.append(number)
        if len(received) > 1:
            act()

    note.waits = True
    try:
        for number in SIGNALS:
            signal.signal(number, note)
        yield act
    finally:
        restore()
        act()
