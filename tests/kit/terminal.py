"""Runs a process on a pseudo-terminal, and returns what a person would see on it."""

import dataclasses
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte

ROWS = 100  # enough for all that a test prints


@dataclasses.dataclass(frozen=True)
class Seen:
    """The end of a process on a terminal.

    Attributes:
      lines: what stands on the screen, without blanks at the ends of lines and without empty lines at the end.
      code: exit code.
      text: everything that was written, with its escape codes.
    """

    lines: list[str]
    code: int
    text: str


def on_terminal(*arguments: object, columns: int = 80, interrupt_at: str = "", cwd: Path | None = None) -> Seen:
    """Runs Python with arguments on a pseudo-terminal until it ends.

    Args:
      *arguments: of the interpreter, such as "-m", "jaxseg.cli", "models".
      columns: width of the terminal.
      interrupt_at: the process gets SIGINT when it has written this text; empty: it gets none.
      cwd: the working directory.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    places = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command, ends = [sys.executable, *map(str, arguments)], {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, env=places | {"TERM": "xterm"}, cwd=cwd, start_new_session=True, **ends)
    os.close(theirs)
    screen = pyte.Screen(columns, ROWS)
    stream, written = pyte.ByteStream(screen), b""
    try:
        while data := _read(ours):
            written += data
            stream.feed(data)
            if interrupt_at and interrupt_at.encode() in written:
                process.send_signal(signal.SIGINT)
                interrupt_at = ""
        code = process.wait(60)
    finally:
        process.kill()
        os.close(ours)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return Seen(lines, code, written.decode())


def _read(end: int) -> bytes:
    """Returns what was written; nothing if the process has ended."""
    try:
        return os.read(end, 65536)
    except OSError:
        return b""
