"""How a picture lies on the network's grid, often a square: stretched to it, inside it, or beyond its edges."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from jaxseg.images.picture import ImageError
from jaxseg.nn.indices import nearest_indices

Fit = Literal["stretch", "pad", "crop"]
MAX_RATIO = 16
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclasses.dataclass(frozen=True)
class Placement:
    """The place of a resized picture on a grid.

    Attributes:
      grid: height and width of the grid.
      content: height and width to which the picture is resized.
      corner: row and column of the grid at which the resized picture begins; negative if its edges are cut off.
    """

    grid: tuple[int, int]
    content: tuple[int, int]
    corner: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], grid: tuple[int, int], fit: Fit) -> "Placement":
        """Returns the placement of a picture.

        Args:
          size: height and width of the picture.
          grid: height and width of the grid.
          fit: one of `FITS`. "stretch": the picture fills the grid and loses its aspect ratio. "pad": its longer side
            fits the grid; it lies in the middle. "crop": its shorter side fits the grid; the middle of the longer side
            is kept.

        Raises:
          ImageError: one side of the picture is more than `MAX_RATIO` times as long as the other, and `fit` is "crop".

        >>> Placement.of((100, 50), (32, 32), "pad")
        Placement(grid=(32, 32), content=(32, 16), corner=(0, 8))
        >>> Placement.of((100, 50), (32, 32), "crop")
        Placement(grid=(32, 32), content=(64, 32), corner=(-16, 0))
        """
        if fit == "stretch":
            return cls(grid, grid, (0, 0))
        scales = grid[0] / size[0], grid[1] / size[1]
        if fit == "crop" and max(scales) > MAX_RATIO * min(scales):
            raise ImageError(f"the picture is {size[0]} x {size[1]}, which is too long to keep only its middle")
        scale = min(scales) if fit == "pad" else max(scales)
        height, width = (  # rounded down, as in the original of PAX-Ray
            grid[i] if scales[i] == scale else max(1, int(size[i] * scale)) for i in (0, 1)
        )
        return cls(grid, (height, width), (_middle(height, grid[0]), _middle(width, grid[1])))

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the grid that show the picture."""
        found = [slice(max(0, at), min(to, at + side)) for to, side, at in self._axes]
        return found[0], found[1]

    @property
    def visible(self) -> tuple[slice, slice]:
        """The rows and columns of the resized picture that the grid shows."""
        found = [slice(max(0, -at), min(side, to - at)) for to, side, at in self._axes]
        return found[0], found[1]

    def sources(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows and columns of masks of this size that are sampled at `inside`, by nearest neighbour."""
        rows, columns = (
            nearest_indices(side, to)[part] for side, to, part in zip(size, self.content, self.visible, strict=True)
        )
        return rows, columns

    def placed(self, values: np.ndarray, background: np.ndarray | float) -> np.ndarray:
        """Returns the values of the grid.

        Args:
          values: (*content, ...), those of the resized picture.
          background: the value outside of the picture.
        """
        found = np.empty((*self.grid, *values.shape[2:]), values.dtype)
        found[...] = background
        found[self.inside] = values[self.visible]
        return found

    def stretched(self, values: np.ndarray) -> np.ndarray:
        """Returns values on the grid as if the picture had been stretched to it; what the grid does not show is 0.

        Args:
          values: (..., *grid), such as masks of the network.
        """
        chosen = [nearest_indices(side, to) + at for to, side, at in self._axes]
        shown = [(index >= 0) & (index < to) for index, to in zip(chosen, self.grid, strict=True)]
        rows, columns = (np.clip(index, 0, to - 1) for index, to in zip(chosen, self.grid, strict=True))
        found = values.take(rows, -2).take(columns, -1)
        found[..., ~(shown[0][:, None] & shown[1])] = 0
        return found

    @property
    def _axes(self) -> list[tuple[int, int, int]]:
        return list(zip(self.grid, self.content, self.corner, strict=True))


def _middle(side: int, to: int) -> int:
    """Returns where something begins that lies in the middle of `to` pixels; negative if it is longer."""
    return (to - side) // 2 if side <= to else -((side - to) // 2)
