"""The colours of classes, which are distinct also for readers with red-green colour blindness.

`class_colours` gives every class one colour, which depends only on its name. All pictures, reports and DICOM SEG
objects use it. The organs of a family, such as the ribs, have similar hues and differ in lightness. The hues of
families that overlap in a chest X-ray are far apart. Where a colour-blind reader sees the same hue, their lightness
differs.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from jaxseg.vocabulary.labels import CXAS

# Okabe and Ito 2008, "Color Universal Design", without black, which is invisible on radiographs.
OKABE_ITO = [tuple(bytes.fromhex(c)) for c in ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")]
_LEAST_LIGHT, _LEAST_CHROMA = 0.55, 0.06  # in OKLab: visible on dark lungs, and clearly not grey
_NAMED = 256  # number of colours from which names without a family get one
_TO_CONES = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
_TO_LAB = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])


class _Family(NamedTuple):
    """The ranges of the colours of similar organs, in OKLCh.

    Attributes:
      light: lowest and highest lightness.
      hue: lowest and highest hue in degrees.
      pattern: regular expression that the labels of the family match; the first family that matches is used.
    """

    light: tuple[float, float]
    hue: tuple[float, float]
    pattern: str


# Chosen with a search over families that overlap; tests/test_palette.py measures the result for three kinds of vision.
_FAMILIES = {
    "zones of lungs": _Family((0.57, 0.65), (325, 340), r"zone|lung base"),
    "lobes of lungs": _Family((0.57, 0.63), (282, 298), r"lobe"),
    "lungs": _Family((0.68, 0.81), (230, 255), r"\blungs?$"),
    "posterior ribs": _Family((0.90, 0.95), (92, 108), r"posterior .*rib|\bribs?$"),
    "anterior ribs": _Family((0.80, 0.85), (48, 62), r"anterior .*rib|rib_cartilage"),
    "clavicles": _Family((0.63, 0.72), (8, 20), r"clavicle"),
    "scapulas": _Family((0.57, 0.64), (135, 150), r"scapula"),
    "sternum": _Family((0.57, 0.60), (300, 310), r"sternum"),
    "spine": _Family((0.74, 0.80), (126, 138), r"spine|vertebrae"),
    "heart": _Family((0.56, 0.60), (15, 30), r"heart"),
    "mediastinum": _Family((0.88, 0.93), (165, 180), r"mediastinum"),
    "vessels": _Family((0.64, 0.68), (62, 73), r"aort|artery|vena"),
    "airways": _Family((0.58, 0.62), (230, 240), r"trachea"),
    "esophagus": _Family((0.86, 0.88), (315, 325), r"esophagus"),
    "diaphragm": _Family((0.68, 0.74), (165, 180), r"diaphragm"),
    "abdomen": _Family((0.82, 0.87), (344, 358), r"stomach|bowel|duodenum|liver|pancreas|kidney"),
    "breasts": _Family((0.68, 0.73), (134, 146), r"breast"),
}
_MORE = ("ribs",)  # organs of other models that CXAS has no label for


def class_colours(names: Sequence[str]) -> np.ndarray:
    """Returns the colours of classes. The colour of a class depends only on its name.

    Organs of CXAS have the colours of their families. Case, the order of the words, underscores and the plural do not
    matter, so that "right lung", "lung_right" and "Right Lungs" have one colour. Numbered classes, such as "class_002"
    or "class 2", have the colours of `palette`. Every other name has a colour that is chosen by a hash of the name.

    Args:
      names: K names, in any order.

    Returns:
      (K, 3) uint8.

    >>> class_colours(["heart", "Heart", "class_000"]).tolist()
    [[211, 58, 60], [211, 58, 60], [230, 159, 0]]
    """
    return np.array([_class_colour(str(name)) for name in names], np.uint8).reshape(-1, 3)


@cache
def _class_colour(name: str) -> tuple[int, int, int]:
    found = _anatomy().get(_key(name))
    if found is not None:
        return found
    number = re.fullmatch(r"class[ _-]?0*(\d{1,3})", name.casefold().strip())
    place = (
        int(number[1])
        if number
        else int(hashlib.sha256(_key(name).encode("utf-8", "surrogatepass")).hexdigest(), 16) % _NAMED
    )
    return tuple(palette(_NAMED)[place % _NAMED].tolist())


@cache
def _anatomy() -> dict[str, tuple[int, int, int]]:
    """Returns the colours of all organs by the keys of their names."""
    found = {}
    for family, members in families().items():
        light, hue, _ = _FAMILIES[family]
        for i, name in enumerate(members):
            # The golden ratio makes neighbours, which follow each other in the list, differ clearly.
            shares = (i * 0.6180339887 % 1, i * 0.4142135624 % 1)
            levels = [low + share * (high - low) for share, (low, high) in zip(shares, (light, hue), strict=True)]
            found[_key(name)] = _from_oklch(*levels)
    return found


def families() -> dict[str, list[str]]:
    """Returns the organs of each family: first those on the right, then those on the left, then the others."""
    found: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    for name in sorted((*CXAS, *_MORE), key=lambda name: 0 if "right" in name else 1 if "left" in name else 2):
        found[next(family for family, row in _FAMILIES.items() if re.search(row.pattern, name))].append(name)
    return found


def _key(name: str) -> str:
    """Returns the words of a name in alphabetical order, in lower case and without the "s" of a plural."""
    words = re.split(r"[\W_]+", name.casefold())
    return " ".join(sorted(word.removesuffix("s") or word for word in words if word)) or name


def _from_oklch(light: float, hue: float) -> tuple[int, int, int]:
    """Returns the most colourful sRGB colour of a lightness and hue (degrees) in OKLCh, up to a chroma of 0.19."""
    direction = np.array([np.cos(np.radians(hue)), np.sin(np.radians(hue))])
    chroma = np.arange(0.19, 0, -0.002)
    lab = np.concatenate([np.full((len(chroma), 1), light), chroma[:, None] * direction], axis=1)
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
    fits = ((linear >= 0) & (linear <= 1)).all(axis=1)
    best = linear[np.argmax(fits)]
    srgb = np.where(best <= 0.0031308, 12.92 * best, 1.055 * best ** (1 / 2.4) - 0.055)
    return tuple(np.rint(255 * srgb).astype(int).tolist())


def palette(num_classes: int) -> np.ndarray:
    """Returns colours that differ for normal, red-blind and green-blind vision.

    The first seven colours are those of Okabe and Ito. Each further colour is the bright colour that is farthest from
    all colours before it, where the distance of two colours is the smallest one among the three kinds of vision. A
    shorter palette is the start of a longer one.

    Args:
      num_classes: number K of colours, from 0 to 1000.

    Returns:
      (K, 3) uint8, all rows different.

    Raises:
      ValueError: `num_classes` is out of range.

    >>> palette(2).tolist()
    [[230, 159, 0], [86, 180, 233]]
    """
    if not 0 <= num_classes <= 1000:
        raise ValueError(f"num_classes must be from 0 to 1000, got {num_classes}")
    return np.array(_colours(int(num_classes)), np.uint8).reshape(-1, 3)


@cache
def _colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns the first colours: those of Okabe and Ito, then repeatedly the candidate farthest from all chosen."""
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    light, green_red, blue_yellow = np.moveaxis(_oklab(candidates)[:, 0], -1, 0)
    candidates = candidates[(light > _LEAST_LIGHT) & (np.hypot(green_red, blue_yellow) > _LEAST_CHROMA)]
    seen = _oklab(candidates)
    chosen, nearest = list(OKABE_ITO), np.inf
    for colour in OKABE_ITO:
        nearest = np.minimum(nearest, _distance(seen, _oklab(np.array([colour]))))
    while len(chosen) < count:
        best = int(np.argmax(nearest))
        chosen.append(tuple(candidates[best].tolist()))
        nearest = np.minimum(nearest, _distance(seen, seen[best : best + 1]))
    return tuple(chosen[:count])


def _distance(seen, other) -> np.ndarray:
    """Returns the distances of colours, (N,): for each, the smallest one among the three kinds of vision."""
    return np.linalg.norm(seen - other, axis=-1).min(axis=1)


def _oklab(colours) -> np.ndarray:
    """Returns the OKLab values of (N, 3) sRGB colours for three kinds of vision: normal, red-blind, green-blind.

    Returns:
      (N, 3, 3) floats; the second axis is the kind of vision.

    Source:
      Ottosson 2020 (OKLab); Vienot, Brettel and Mollon 1999 (simulation of colour blindness).
    """
    srgb = np.asarray(colours) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    red_blind = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    green_blind = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    visions = [np.eye(3), *(np.linalg.inv(cones) @ blind @ cones for blind in (red_blind, green_blind))]
    linear = np.clip(np.stack([linear @ vision.T for vision in visions], 1), 0, 1)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
