"""Tables as text for people: aligned columns of words and numbers."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[-+]* ?[0-9].*|-|n/a|")  # a number, also with a sign, a unit or an error; or its absence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as lines with aligned columns.

    A column in which every cell is a number, "-", "n/a" or empty is aligned at the right, all others at the left.

    Args:
      header: the names of the columns; an empty sequence leaves the header out.
      rows: cells of each row, as many as there are columns.

    Returns:
      The lines, joined by line breaks, without trailing blanks.
    """
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows, strict=True)]
    numeric = numeric or [False] * len(widths)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )
