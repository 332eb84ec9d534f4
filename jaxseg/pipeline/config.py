"""The configuration of a pipeline: one YAML file, with one section per stage, read into frozen dataclasses.

A stage takes part if its section is there; a section may be empty. `segment` always takes part, also without section.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxseg.files import printable
from jaxseg.masks.pictures import parse_levels
from jaxseg.settings import Range, build, to_mapping, verify
from jaxseg.training.config import yaml_text

Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 100_000)]
Spacing = Annotated[float, Range(0, 1000, above=True)]
STAGES = ("segment", "restore", "confidence", "measure", "compare", "report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How the X-rays are segmented; the meaning of the settings is that of the options of `jaxseg segment`.

    Attributes:
      weights: a training run, a model directory, a file of weights, or hf://owner/name; null: the published weights.
      model: name of the model, if the weights have no card; null: that of the card, otherwise "cxas".
      classes: labels or groups, separated by commas; null: all.
      threshold: a pixel belongs to a class if its sigmoid exceeds this; in [0, 1].
      preprocessing: how images become the network's input; null: as in the training of the weights.
      intensity: how grey values are read: "original", "cxas-0.0.20" or "clinical".
      groups: version of the groups of classes: "original" or "cxas-0.0.20".
      check_orientation: what to do about images that look inverted or turned: "warn", "fix" or "off".
      output_type: format of all masks of the pipeline. If it is changed, the files in the earlier format stay.
      preview: also write pictures of the masks over the images.
      batch_size: images in one call of the network; null: one per device.
    """

    weights: str | None = None
    model: str | None = None
    classes: str | None = None
    threshold: Share = 0.5
    preprocessing: str | None = None
    intensity: Literal["original", "cxas-0.0.20", "clinical"] = "original"
    groups: Literal["original", "cxas-0.0.20"] = "original"
    check_orientation: Literal["warn", "fix", "off"] = "warn"
    output_type: Literal["png", "npy", "npz", "json", "dicom-seg", "coco-lines", "parquet"] = "png"
    preview: bool = False
    batch_size: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestoreConfig:
    """How masks are restored; the meaning of the settings is that of the options of `jaxseg segment --denoise`.

    Attributes:
      weights: the Post-DAE: a training run, a model directory, a file of weights, or hf://owner/name.
      classes: labels or groups to restore; null: those that the Post-DAE names.
      union: restore the classes as one mask, and assign each pixel of the result to the nearest class.
      largest_component: keep only this number of the largest connected components of a restored mask; null: all.
      threshold: a pixel belongs to a restored mask if its probability exceeds this; in [0, 1].
    """

    weights: str
    classes: str | None = None
    union: bool = False
    largest_component: Count | None = None
    threshold: Share = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceConfig:
    """How sure the network is of each mask, before it is restored, and which masks a person should check.

    Attributes:
      tta: number of changed copies of each image whose masks are compared with the image's; each takes one more call of
        the network.
      shape_check: also compare each mask with the restored one; it needs the section `restore`.
      review_below: masks with a lower confidence are listed in review.csv, and so are empty masks; in [0, 1].
    """

    tta: Annotated[int, Range(0, 64)] = 0
    shape_check: bool = False
    review_below: Share = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured; the meaning of the settings is that of the options of `jaxseg extract`.

    Attributes:
      features: names of what to measure, separated by commas.
      original_values: write the original's -1 if something cannot be measured, not an empty cell.
      table: format of the table: "csv", or "parquet", which needs pyarrow.
    """

    features: str = "CTR,SCD,area"
    original_values: bool = False
    table: Literal["csv", "parquet"] = "csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How the masks are compared with the true ones; the meaning of the settings is that of `jaxseg compare`.

    Attributes:
      truth: folder or file of the true masks; null: that of the option --truth. Without it, the stage is left out.
      tolerance: largest distance at which two surfaces count as equal for NSD, such as "2mm" or "2px".
      spacing_mm: distance of rows and of columns in millimetres; null: that of the files, otherwise pixels.
      classes: labels or groups to compare; null: all that both sides have.
      labels: level and name of each class, such as ["127=heart", "255=lung"], if the true masks are label maps.
    """

    truth: str | None = None
    tolerance: str = "2px"
    spacing_mm: tuple[Spacing, Spacing] | None = None
    classes: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        verify(self, self._problems())

    def _problems(self) -> Iterator[str]:
        from jaxseg.comparison.scores import parse_tolerance

        for name, check in (("tolerance", parse_tolerance), ("labels", parse_levels)):
            try:
                check(getattr(self, name))
            except ValueError as error:
                yield f"{name}: {error}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The page about the results, report.html.

    Attributes:
      title: title of the page; null: the name of the input.
      classes: labels or groups to show; null: all.
      features: what to measure for the page, separated by commas.
      intensity: how grey values are shown: "original", "cxas-0.0.20" or "clinical".
      most: largest number of images on the page. If there are more, those with masks to check come first.
    """

    title: str | None = None
    classes: str | None = None
    features: str = "CTR,SCD,area"
    intensity: Literal["original", "cxas-0.0.20", "clinical"] = "clinical"
    most: Annotated[int, Range(1, 5000)] = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All settings of a pipeline; a stage whose section is None is left out, except for `segment`."""

    segment: SegmentConfig = SegmentConfig()
    restore: RestoreConfig | None = None
    confidence: ConfidenceConfig | None = None
    measure: MeasureConfig | None = None
    compare: CompareConfig | None = None
    report: ReportConfig | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and self.confidence.shape_check and self.restore is None:
            raise ValueError("confidence.shape_check: it needs the section restore, which names the Post-DAE")

    def without_places(self) -> dict[str, dict[str, Any]]:
        """Returns the settings by section, as JSON values, without names of files and folders."""
        sections = {name: to_mapping(getattr(self, name)) for name in STAGES}
        return {
            name: {key: value for key, value in section.items() if key not in ("weights", "truth")}
            for name, section in sections.items()
            if section is not None
        }


def read_pipeline(path: str | Path, *, truth: str | Path | None = None) -> PipelineConfig:
    """Returns the configuration of a YAML file.

    Args:
      path: the file.
      truth: folder or file of the true masks, instead of `compare.truth`; it also adds the section `compare`.

    Raises:
      ValueError: the file cannot be read or is not YAML; or its settings are wrong, with one line per problem.
      OSError: the system cannot read the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the YAML file of a pipeline (--help shows one)")
    raw = yaml_text.parse(yaml_text.read(path), path.name)
    if not isinstance(raw, dict):
        raise ValueError(f"{path.name} holds no sections; it needs lines such as segment: (--help shows one)")
    return make_config(raw, path.name, truth=truth)


def make_config(raw: dict[str, Any], name: str, *, truth: str | Path | None = None) -> PipelineConfig:
    """Returns the configuration of sections as YAML holds them.

    Args:
      raw: name of a section -> its settings; None if the section is empty.
      name: of the file, for messages.
      truth: as in `read_pipeline`.

    Raises:
      ValueError: as `read_pipeline`.
    """
    sections = {key: {} if value is None else value for key, value in raw.items()}
    if truth is not None and isinstance(sections.setdefault("compare", {}), dict):
        sections["compare"] = sections["compare"] | {"truth": str(truth)}
    try:
        return build(PipelineConfig, sections)
    except ValueError as error:
        raise ValueError(yaml_text.all_problems(printable(name), str(error).split("\n"))) from None
