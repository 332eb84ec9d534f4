"""The features that can be measured, with the names of CXAS, and the measurement of masks.

A score is one number per image; the other features are measured for every class. Values are in pixels of the masks,
(K, H, W) bool, and also in mm if the size of a pixel is known.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxseg.anatomy.measure import ratios, shapes
from jaxseg.anatomy.measure.shapes import Line, Region, Unmeasurable
from jaxseg.vocabulary.labels import check_groups


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature that can be measured.

    Attributes:
      name: the original's name.
      aliases: other names.
      kind: "score" or "per class".
      classes: the labels that it needs; None: it is measured for every given class.
      columns: the column names of a score; for other features their endings, as in <label>_<ending>.
      columns_mm: likewise, the columns that are added if the size of a pixel is known.
      function: the function that measures it.
      original: the original's value for what it cannot measure.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    columns_mm: tuple[str, ...]
    function: Callable
    original: int = -1


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The measurements of one image.

    Attributes:
      values: values by column name, in the order of the columns; NaN for what could not be measured.
      reasons: for every column that is NaN, the reason.
      features: the names of the features.
      lines: the measured lines, for drawing.
      size: height and width of the lines' pixel grid.
      notes: remarks on the image that concern all values, such as that it looks upside down.
    """

    values: dict[str, float]
    reasons: dict[str, str]
    features: tuple[str, ...]
    lines: tuple[Line, ...] = dataclasses.field(default=(), compare=False, repr=False)
    size: tuple[int, int] = dataclasses.field(default=(0, 0), compare=False)
    notes: tuple[str, ...] = ()


def _score(name, alias, classes, columns_mm, function) -> Feature:
    return Feature(name, (alias,), "score", classes, (name,), columns_mm, function)


def _per_class(function, columns=None, columns_mm=(), original=-1) -> Feature:
    name = function.__name__
    return Feature(name, (), "per class", None, columns or (name,), columns_mm, function, original)


FEATURES = (
    _score(
        ratios.CTR,
        "Cardio-Thoracic Ratio",
        ratios.CTR_CLASSES,
        ("CTR_heart_width_mm", "CTR_thorax_width_mm"),
        ratios.measure_ctr,
    ),
    _score(ratios.SCD, "Spine-Center Distance", ratios.SCD_CLASSES, ("SCD_mm",), ratios.measure_scd),
    _per_class(shapes.area, columns_mm=("area_mm2",)),
    _per_class(shapes.perimeter, columns_mm=("perimeter_mm",)),
    _per_class(shapes.compactness),
    _per_class(shapes.centroid, ("cx", "cy"), ("centroid_x_mm", "centroid_y_mm")),
    _per_class(shapes.box, ("x", "y", "width", "height"), ("width_mm", "height_mm"), original=0),
    _per_class(shapes.convexity),
)
_NAMES = {name.casefold(): feature for feature in FEATURES for name in (feature.name, *feature.aliases)}


def find(name: str) -> Feature:
    """Returns the feature with a name or alias; case does not matter.

    Raises:
      ValueError: there is no such feature; the message suggests the nearest name.
    """
    feature = _NAMES.get(name.strip().casefold())
    if feature is None:
        near = difflib.get_close_matches(name.strip().casefold(), _NAMES, 1, 0.5)
        hint = f"; did you mean {_NAMES[near[0]].name!r}?" if near else "."
        known = ", ".join(f.name for f in FEATURES)
        raise ValueError(f"unknown feature {name.strip()!r}{hint} Known features: {known}")
    return feature


def find_all(features: str | Sequence[str], *, groups: str = "original") -> tuple[Feature, ...]:
    """Returns the features in a list of names or in one comma-separated string, each once, in the given order.

    Args:
      features: the names.
      groups: a key of `jaxseg.vocabulary.labels.GROUP_VERSIONS`. With "cxas-0.0.20", SCD uses the vertebra C7 too.

    Raises:
      ValueError: a name or the version of the groups is unknown, or there is no name.
    """
    names = features.split(",") if isinstance(features, str) else features
    found = tuple(dict.fromkeys(find(name) for name in names if name.strip()))
    if not found:
        raise ValueError(f"no feature was named; give one or more of {', '.join(f.name for f in FEATURES)}")
    if check_groups(groups) == "original":
        return found
    return tuple(
        dataclasses.replace(feature, classes=ratios.SCD_CLASSES_WITH_C7) if feature.name == ratios.SCD else feature
        for feature in found
    )


def classes_for(features: Sequence[Feature], names: Sequence[str]) -> list[str] | None:
    """Returns the labels that must be segmented for features, among those of a model; None: all of them.

    Args:
      features: the wanted features.
      names: the labels of the model.

    Raises:
      ValueError: every feature needs labels that the model does not have.
    """
    if any(feature.classes is None for feature in features):
        return None
    missing = {f.name: [label for label in f.classes if label not in names] for f in features}
    if all(missing.values()):
        name, labels = next(iter(missing.items()))
        raise ValueError(f"{name} cannot be measured with this model: it has no class {_listed(labels)}")
    return [label for feature in features for label in feature.classes if label in names]


def measure(
    masks: np.ndarray,
    names: Sequence[str],
    features: str | Sequence[str],
    *,
    pixel_mm: tuple[float, float] | None = None,
    original_values: bool = False,
    groups: str = "original",
) -> Measurements:
    """Measures features of masks.

    Args:
      masks: (K, H, W) bool; they may overlap.
      names: K different labels of the masks.
      features: names or aliases of `FEATURES`, as a list or one comma-separated string.
      pixel_mm: height and width of a pixel in mm; adds columns in mm.
      original_values: use the original's values, -1 (0 for boxes), instead of NaN for what it cannot measure. NaN
        stays where the original stops with an error, and in columns in mm, which it does not have.
      groups: as in `find_all`.

    Returns:
      The measurements. Columns are in the order of the features: the name of a score, or <label>_<ending> by label;
      columns in mm follow those in pixels.

    Raises:
      ValueError: a feature is unknown, or the masks, names or sizes do not have the described form.
    """
    found = find_all(features, groups=groups)
    masks, names = np.asarray(masks), names if isinstance(names, str) else tuple(names)
    _check(masks, names, pixel_mm)
    if masks.view(np.uint8).max() > 1:
        masks = masks.view(np.uint8) > 0  # in arrays from Pillow, True is the byte 255
    regions = {name: Region(mask, pixel_mm) for name, mask in zip(names, masks, strict=True)}
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    lines: dict[tuple, Line] = {}
    for feature in found:
        for label in [""] if feature.kind == "score" else names:
            got, reason, drawn = _attempt(feature, label, masks, regions, original_values)
            columns = {column: f"{label}_{column}" if label else column for column in got}
            if taken := values.keys() & columns.values():
                raise ValueError(f"two classes lead to the column {min(taken)!r}; rename one of them")
            values |= {columns[column]: value for column, value in got.items()}
            reasons |= {columns[column]: reason for column, value in got.items() if math.isnan(value)}
            # Perimeter, compactness and convexity share a contour, which is drawn once.
            lines |= {(line.kind, line.label, line.points.tobytes()): line for line in drawn}
    return Measurements(values, reasons, tuple(f.name for f in found), tuple(lines.values()), masks.shape[1:])


def _attempt(feature, label, masks, regions, original_values) -> tuple[dict, str, list[Line]]:
    """Returns values by column or ending, the reason if they are missing, and the lines to draw."""
    region = next(iter(regions.values())) if feature.kind == "score" else regions[label]
    missing = [name for name in feature.classes or () if name not in regions]
    if missing:
        return _absent(feature, region.pixel_mm, math.nan), _not_segmented(missing), []
    try:
        if feature.kind == "score":
            places = {name: i for i, name in enumerate(regions)}
            chosen = masks[[places[name] for name in feature.classes]]
            values, lines = feature.function(chosen, region.pixel_mm)
            return values, "", lines
        return feature.function(region), "", _outlines(feature.name, region, label)
    except Unmeasurable as error:
        original = feature.original if original_values and not error.crashes else math.nan
        return _absent(feature, region.pixel_mm, original), str(error), []


def _absent(feature: Feature, pixel_mm, original: float) -> dict[str, float]:
    values = dict.fromkeys(feature.columns, original)
    return values | dict.fromkeys(feature.columns_mm if pixel_mm else (), math.nan)


def _not_segmented(missing: list[str]) -> str:
    one = len(missing) == 1
    return f"{'class' if one else 'classes'} {_listed(missing)} {'was' if one else 'were'} not segmented"


def _listed(missing: list[str]) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{', '.join(map(repr, missing[:3]))}{more}"


def _outlines(name: str, region: Region, label: str) -> list[Line]:
    """Returns the lines that show a feature of one class."""
    if not region.area:
        return []
    if name == "box":
        x, y, width, height = region.box
        right, bottom = x + width - 0.5, y + height - 0.5  # the edges of pixels
        corners = [(x - 0.5, y - 0.5), (right, y - 0.5), (right, bottom), (x - 0.5, bottom)]
        return [Line(name, "box", np.array(corners), label)]
    if name == "centroid":
        values = shapes.centroid(region)
        return [Line(name, "centroid", np.array([(values["cx"], values["cy"])]), label)]
    lines = []
    if name in ("perimeter", "compactness", "convexity"):
        lines.append(Line(name, "contour", region.contour, label))
    if name == "convexity":
        lines.append(Line(name, "hull", region.hull, label))
    return lines


def _check(masks, names, pixel_mm) -> None:
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; threshold probabilities first, as in probs > 0.5")
    if masks.ndim != 3 or not masks.size:
        raise ValueError(f"masks must be (K, H, W) with pixels, got {masks.shape}")
    if isinstance(names, str):
        raise ValueError(f"names must be a list of names, got the text {names!r}")
    if len(names) != len(masks):
        raise ValueError(f"there must be one name for each of the {len(masks)} masks, got {len(names)} names")
    unfit = next((name for name in names if not name or names.count(name) > 1), None)
    if unfit is not None:
        raise ValueError(f"every class needs a unique name, got {unfit!r} {names.count(unfit)} times")
    if pixel_mm is not None and not (len(pixel_mm) == 2 and all(math.isfinite(s) and s > 0 for s in pixel_mm)):
        raise ValueError(f"pixel_mm must be the height and width of a pixel in mm, above 0, got {pixel_mm}")
