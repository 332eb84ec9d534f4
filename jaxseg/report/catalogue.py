"""The classes and columns of a page. They are added while images are read; their numbers never change."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from jaxseg.draw.visualize import preview_classes
from jaxseg.files import printable
from jaxseg.palette import class_colours
from jaxseg.report.reading import IMAGE, Column, unit
from jaxseg.vocabulary import labels

MAX_CLASSES = 2000  # in all images together
_TABLE_CLASSES = ("heart", "right lung", "left lung")  # the table shows their measurements by default


@dataclasses.dataclass
class Catalogue:
    """The classes and columns of all images of a page.

    Attributes:
      classes: maps the name of a class to its number.
      shown: names of the classes that are shown by default.
      columns: maps a column to its number.
    """

    classes: dict[str, int] = dataclasses.field(default_factory=dict)
    shown: set[str] = dataclasses.field(default_factory=set)
    columns: dict[Column, int] = dataclasses.field(default_factory=dict)

    def add(self, names: Sequence[str], columns: Iterable[Column]) -> None:
        """Adds the classes and columns of an image.

        Raises:
          ValueError: the page would have too many classes; in this case nothing was added.
        """
        new = [name for name in names if name not in self.classes]
        if len(self.classes) + len(new) > MAX_CLASSES:
            raise ValueError(f"the page would have more than {MAX_CLASSES:,} classes; choose some with classes")
        self.shown.update(name for name in preview_classes(names) if name not in self.classes)
        for name in new:
            self.classes[name] = len(self.classes)
        for column in columns:
            self.columns.setdefault(column, len(self.columns))

    def content(self) -> dict:
        """Returns the classes, groups and columns in the form that the script of the page reads."""
        names = list(self.classes)
        colours = [f"#{bytes(colour).hex()}" for colour in class_colours(names)] if names else []
        classes = [
            {"name": printable(name), "colour": colour, "on": name in self.shown}
            for name, colour in zip(names, colours, strict=True)
        ]
        grids = {column.grid for column in self.columns if column.grid}
        kinds = {(column.ending, column.grid): column.feature for column in self.columns}
        listed = [
            {"ending": ending, "feature": feature, "unit": unit(ending), "grid": grid if len(grids) > 1 else ""}
            for (ending, grid), feature in kinds.items()
        ]
        return {"classes": classes, "groups": self._groups(), "kinds": listed, "columns": self._columns(list(kinds))}

    def _groups(self) -> list[dict]:
        """Returns the groups of CXAS with two or more classes in the page; none if the page has other classes."""
        if not set(self.classes) <= set(labels.CXAS):
            return []
        groups = []
        for name, members in labels.CXAS_GROUPS.items():
            present = {self.classes[labels.CXAS[k]] for k in members if labels.CXAS[k] in self.classes}
            if len(present) > 1:
                groups.append({"name": name, "members": sorted(present)})
        return groups

    def _columns(self, kinds: list[tuple[str, str]]) -> list[tuple[int, int, bool]]:
        """Returns per column: index of its kind, number of its class or -1, whether the table shows it by default."""
        first = next((column.ending for column in self.columns if column.class_name), "")
        shown = (first, f"{first}_mm", f"{first}_mm2")
        preferred = [name for name in _TABLE_CLASSES if name in self.classes]
        in_table = preferred or [name for name in self.classes if name in self.shown][:3]
        places = {kind: place for place, kind in enumerate(kinds)}
        return [
            (
                places[column.ending, column.grid],
                self.classes[column.class_name] if column.class_name else -1,
                not column.class_name or (column.ending in shown and column.class_name in in_table),
            )
            for column in self.columns
        ]


def pixel_notes(grids: Counter) -> list[str]:
    """Returns sentences that say on which pixels the masks were measured; `grids` counts the images of each grid."""
    of_runs = sorted(grid for grid in grids if grid != IMAGE)
    found = [
        f"Pixels (px) are those of the network's {grid}, on which jaxseg extract measures: it gives the same values."
        for grid in of_runs
    ]
    if grids[IMAGE]:
        which = f"The masks of {grids[IMAGE]:,} of {grids.total():,} images" if of_runs else "The masks"
        found.append(
            f"{which} are measured as they are stored, in pixels (px) of the image. jaxseg extract measures on the "
            "grid of its network, so its values in pixels differ from these; values in mm are comparable."
        )
    return found
