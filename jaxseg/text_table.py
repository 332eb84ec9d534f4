"""Tables as text for people: aligned columns of words and numbers."""

import dataclasses
import re
import textwrap
from collections.abc import Sequence

WIDTH = 80  # columns of a usual terminal
_LEAST = 10  # characters of a column of words; if this is not enough, the table is split
_GAP = "  "
_NUMBER = re.compile(r"[-+]* ?[0-9].*|-|n/a|")  # a number, also with a sign, a unit or an error; or its absence


@dataclasses.dataclass(frozen=True)
class Table:
    """A small table that several pages and commands show.

    Attributes:
      title: what it shows, as a heading.
      header: names of the columns.
      rows: cells of each row, as many as there are columns.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = WIDTH) -> str:
    """Returns rows as lines with aligned columns, which fit the width of a terminal.

    A column in which every cell is a number, "-", "n/a" or empty is aligned at the right, all others at the left. If
    the table is too wide, words are wrapped within their column, single words that are still too long are shortened in
    their middle, and if that is not enough, the remaining columns follow below, after the first column again. Numbers
    are never shortened.

    Args:
      header: the names of the columns; an empty sequence leaves the header out.
      rows: cells of each row, as many as there are columns.
      width: number of characters in a line.

    Returns:
      The lines, joined by line breaks, without trailing blanks.

    >>> print(text_table(["name", "Dice"], [["posterior part of the tenth right rib", "0.91"]], width=26))
    name                  Dice
    posterior part of     0.91
    the tenth right rib
    """
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return ""
    columns = list(zip(*lines, strict=True))
    numeric = [all(_NUMBER.fullmatch(cell) for cell in cells) for cells in zip(*rows, strict=True)]
    numeric = numeric or [False] * len(columns)
    widest = [max(map(len, column)) for column in columns]
    words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    body = [max(map(len, column[1 if header else 0 :]), default=0) for column in columns]
    least = [max(body[k], 1) if numeric[k] else min(_LEAST, widest[k]) for k in range(len(columns))]
    blocks = []
    for block in _blocks(least, width):
        floors = [least[k] for k in block]
        unbroken = [max(words[k], least[k]) for k in block]
        widths = _fitted(_fitted([widest[k] for k in block], unbroken, width), floors, width)
        right = [numeric[k] for k in block]
        blocks += ["\n".join(_lines([line[k] for k in block], widths, right)) for line in lines]
    return "\n".join(blocks)


def _blocks(least: list[int], width: int) -> list[list[int]]:
    """Returns the numbers of the columns that stand beside each other; each block begins with the first column."""
    blocks = [[0]]
    for k in range(1, len(least)):
        if len(blocks[-1]) > 1 and _total([least[i] for i in (*blocks[-1], k)]) > width:
            blocks.append([0])
        blocks[-1].append(k)
    return blocks


def _fitted(widest: list[int], least: list[int], width: int) -> list[int]:
    """Returns the widths of columns: the widest one that can be narrower gives way first."""
    widths = list(widest)
    while _total(widths) > width:
        k = max(range(len(widths)), key=lambda i: widths[i] if widths[i] > least[i] else -1)
        if widths[k] <= least[k]:
            break
        widths[k] -= 1
    return widths


def _total(widths: list[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _lines(cells: list[str], widths: list[int], right: list[bool]) -> list[str]:
    """Returns a row as one or more lines."""
    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    found = []
    for i in range(max(map(len, wrapped))):
        parts = [cell[i] if i < len(cell) else "" for cell in wrapped]
        placed = zip(parts, widths, right, strict=True)
        found.append(_GAP.join(part.rjust(w) if at_right else part.ljust(w) for part, w, at_right in placed).rstrip())
    return found


def _wrapped(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    words = " ".join(_shortened(word, width) for word in cell.split())
    return textwrap.wrap(words, width, break_on_hyphens=False) or [""]


def _shortened(word: str, width: int) -> str:
    """Returns a word whose middle is left out if it is too long."""
    if len(word) <= width:
        return word
    kept = max(width - 3, 1)
    start = kept - kept // 2
    return f"{word[:start]}...{word[len(word) - kept // 2 :]}"[:width]
