"""How sure a network is of its masks: the scores of one image, their JSON file, the table of a run, and probabilities.

`confidence.csv` has one row per mask, with the columns `COLUMNS`. A cell is empty if its score was not requested or is
not defined, such as the mean probability inside an empty mask.
"""

import csv
import dataclasses
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.files import atomic_file, read_json

SUFFIX, TABLE = ".confidence.json", "confidence.csv"
PROBABILITIES = ".probabilities.npz"
SCORES = ("mean_probability", "border_entropy", "tta_agreement", "model_agreement", "shape_agreement")
COLUMNS = ("filename", "class", "pixels", "confidence", *SCORES)
MAX_BYTES = 2**26  # largest size of one image's JSON
_FORMULA = tuple("=+-@\t\r\n'＝＋－＠")  # starts of text that spreadsheets would evaluate
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How sure a network is of the K masks of an image. All scores are (K,) float32 in [0, 1], and NaN if unknown.

    Attributes:
      names: (K,) labels of the masks.
      pixels: (K,) number of pixels of each mask on the network's grid.
      mean_probability: mean probability of the pixels in the mask.
      border_entropy: mean entropy in bits of the pixels within two pixels of the mask's border: 0 is sure, 1 is not.
      tta_agreement: mean Dice of the mask and those of changed copies of the image.
      model_agreement: mean Dice of the masks of each two models.
      shape_agreement: Dice of the mask and what a Post-DAE makes of it.

    >>> sure = np.array([0.9], np.float32)
    >>> found = Confidence(("heart",), np.array([120]), sure, 1 - sure, sure)
    >>> round(float(found.confidence[0]), 3)
    0.9
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    mean_probability: np.ndarray
    border_entropy: np.ndarray
    tta_agreement: np.ndarray | None = None
    model_agreement: np.ndarray | None = None
    shape_agreement: np.ndarray | None = None

    def __post_init__(self) -> None:
        unknown = np.full(len(self.names), np.nan, np.float32)
        for name in SCORES:
            if getattr(self, name) is None:
                object.__setattr__(self, name, unknown)

    @property
    def confidence(self) -> np.ndarray:
        """(K,) float32: the mean of the known scores, with 1 - `border_entropy` for the entropy; NaN if none is known.

        The lower it is, the earlier a mask should be checked.
        """
        scores = np.stack([getattr(self, name) for name in SCORES])
        scores[SCORES.index("border_entropy")] = 1 - self.border_entropy
        known = ~np.isnan(scores)
        count = known.sum(0)
        total = np.where(known, scores, 0).sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per mask, by the names of `COLUMNS` without the first; unknown scores are None."""
        scores = {name: getattr(self, name).tolist() for name in ("confidence", *SCORES)}
        return [
            {"class": name, "pixels": int(self.pixels[k])}
            | {score: _rounded(values[k]) for score, values in scores.items()}
            for k, name in enumerate(self.names)
        ]


def write_confidence(found: Confidence, filename: str, path: Path) -> None:
    """Writes the scores of one image as JSON: {"filename", "masks": one row per mask}, from which `write_table` reads.

    Args:
      found: the scores.
      filename: name of the image in the table.
      path: of the file.
    """
    with atomic_file(path) as temporary:
        text = json.dumps({"filename": filename, "masks": found.rows()}, separators=(",", ":"))
        temporary.write_text(text, encoding="utf-8")


def read_confidence(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Returns the name of an image and one row per mask, from a file of `write_confidence`.

    Raises:
      ValueError: the file holds something else.
      OSError: it cannot be read.
    """
    try:
        content = read_json(path, most=MAX_BYTES)
        if not (isinstance(content, dict) and isinstance(content.get("filename"), str)):
            raise ValueError("it names no image")
        rows = content.get("masks")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
            raise ValueError("`masks` must be rows of a class and numbers")
    except ValueError as error:
        raise ValueError(f"{path} holds no confidence of masks: {error}") from None
    return content["filename"], rows


def write_table(parts: Iterable[Path], path: Path) -> None:
    """Writes one CSV table of the scores of many images, atomically; a file at `path` is replaced.

    Only one image's scores are in memory at a time.

    Args:
      parts: files of `write_confidence`, one per image.
      path: the table: UTF-8, comma-separated, RFC 4180.

    Raises:
      ValueError: a file does not hold scores.
      OSError: a file cannot be read or written.
    """
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for part in parts:
            filename, rows = read_confidence(part)
            writer.writerows(
                [spreadsheet_text(filename), *map(_cell, (row[name] for name in COLUMNS[1:]))] for row in rows
            )


def merge_rows(rows: Sequence[tuple[str, Path | str]], path: Path) -> None:
    """Writes the table of a run, as `write_table` does.

    Args:
      rows: name of an image, and the file of its scores, or a sentence that says why there is none.
      path: the table.
    """
    write_table((place for _, place in rows if isinstance(place, Path) and place.is_file()), path)


def write_probabilities(scores: np.ndarray, names: Sequence[str], size: tuple[int, int], path: Path) -> None:
    """Writes probabilities as .npz: `probabilities` (K, h, w) float16, `names` (K,), `size` (2,) of the image.

    Args:
      scores: (K, h, w) in [0, 1], at the network's size; one class at a time is converted.
      names: (K,) labels.
      size: height and width of the image.
      path: of the file.
    """
    header = {"descr": "<f2", "fortran_order": False, "shape": scores.shape}
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        with archive.open("probabilities.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for plane in scores:
                file.write(plane.astype("<f2").tobytes())
        for name, array in (("names", np.array(names, dtype=str)), ("size", np.array(size))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _is_row(row: dict) -> bool:
    numbers = [row.get(name, "") for name in COLUMNS[2:]]
    good = (value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers)
    return isinstance(row.get("class"), str) and all(good)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, _DIGITS)


def _cell(value: str | float | None) -> str:
    return "" if value is None else spreadsheet_text(value) if isinstance(value, str) else repr(value)


def spreadsheet_text(text: str) -> str:
    """Returns a text as a cell that no spreadsheet evaluates as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
