"""The YAML file of a pipeline: sections, wrong keys, the packaged example, and anything else that YAML can hold."""

import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.anatomy.extract import TABLES
from jaxseg.anatomy.orientation import CHECKS
from jaxseg.cli.pipeline import example
from jaxseg.images.read import INTENSITIES
from jaxseg.masks import cohort
from jaxseg.masks.write import WRITERS
from jaxseg.pipeline.config import (
    STAGES,
    MeasureConfig,
    PipelineConfig,
    ReportConfig,
    SegmentConfig,
    make_config,
    read_pipeline,
)
from jaxseg.training.config import yaml_text


def test_a_stage_takes_part_if_its_section_is_there():
    found = make_config({"segment": None, "measure": None, "report": {"most": 3}}, "p.yaml")
    assert [name for name in STAGES if getattr(found, name) is not None] == ["segment", "measure", "report"]
    assert (found.segment.threshold, found.measure.features, found.report.most) == (0.5, "CTR,SCD,area", 3)


def test_segmenting_takes_part_without_its_section():
    assert make_config({"measure": None}, "p.yaml") == make_config({"segment": None, "measure": None}, "p.yaml")


def test_the_settings_for_the_record_name_no_place():
    found = make_config({"segment": {"weights": "w"}, "restore": {"weights": "v"}, "compare": {"truth": "t"}}, "p.yaml")
    assert [*found.without_places()] == ["segment", "restore", "compare"]
    assert not {"weights", "truth"} & {name for section in found.without_places().values() for name in section}
    assert found.without_places()["segment"]["threshold"] == 0.5


def test_the_option_for_true_masks_replaces_the_setting_and_adds_the_section():
    assert make_config({"segment": None}, "p.yaml", truth="other").compare.truth == "other"
    found = make_config({"segment": None, "compare": {"truth": "one", "tolerance": "2mm"}}, "p.yaml", truth="other")
    assert (found.compare.truth, found.compare.tolerance) == ("other", "2mm")


@pytest.mark.parametrize(
    ("sections", "problems"),
    [
        ({"segment": None, "restor": {}}, ["restor: no such setting; did you mean restore?"]),
        ({"segment": {"treshold": 0.4}}, ["segment.treshold: no such setting; did you mean threshold?"]),
        ({"segment": {"threshold": 2}, "restore": None}, ["segment.threshold: must be", "restore.weights: missing"]),
        ({"segment": {"output_type": "jpg"}}, ["segment.output_type: 'jpg' is not one of png, npy"]),
        ({"segment": None, "compare": {"tolerance": "3"}}, ["compare.tolerance: a tolerance is a length in mm or px"]),
        ({"segment": None, "compare": {"labels": ["heart"]}}, ["compare.labels: "]),
        ({"segment": [1]}, ["segment: [1] is not a group of settings"]),
        ({"segment": None, "confidence": {"shape_check": True}}, ["confidence.shape_check: it needs the section"]),
        ({"segment": None, "measure": {"features": 3}}, ["measure.features: 3 is not text"]),
    ],
)
def test_wrong_settings_are_named_with_one_line_per_problem(sections, problems):
    with pytest.raises(ValueError, match=r"^(a problem|\d+ problems) in the settings of p\.yaml:") as error:
        make_config(sections, "p.yaml")
    lines = str(error.value).split("\n")[1:]
    assert len(lines) == len(problems)
    assert all(line.startswith(problem) for line, problem in zip(lines, problems, strict=True)), lines


def test_a_file_is_read_and_its_errors_name_it(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("segment:\nreport: {most: 5}\n")
    assert read_pipeline(path).report.most == 5
    for text, message in (("- 1", "holds no sections"), ("", "holds no sections"), ("a: [", "p.yaml, line 1")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_pipeline(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_pipeline(path)
    with pytest.raises(ValueError, match=r"none\.yaml: no such file"):
        read_pipeline(tmp_path / "none.yaml")


@pytest.mark.parametrize("place", ["packaged", "guide"])
def test_the_examples_have_every_section_and_are_valid(place):
    guide = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "pipeline.md"
    text = example() if place == "packaged" else re.search(r"```yaml\n(.*?)```", guide.read_text(), re.S)[1]
    found = make_config(yaml_text.parse(text, "pipeline.yaml"), "pipeline.yaml")
    assert all(getattr(found, name) is not None for name in STAGES)


def test_the_choices_are_those_of_the_library():
    def choices(cls, name):
        return typing.get_args(typing.get_type_hints(cls)[name])

    for cls in (SegmentConfig, ReportConfig):
        assert choices(cls, "intensity") == INTENSITIES
    assert choices(SegmentConfig, "check_orientation") == CHECKS
    assert choices(MeasureConfig, "table") == TABLES
    lossless = {*WRITERS, *cohort.TYPES} - {"jpg"}  # the masks are read again by the later stages
    assert set(choices(SegmentConfig, "output_type")) == lossless


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*STAGES, "threshold", "weights", "truth", "labels", "tta"]) | st.text(max_size=8)


@given(st.dictionaries(names, values | st.dictionaries(names, values, max_size=4), max_size=6))
def test_any_mapping_is_a_configuration_or_a_readable_error(sections):
    try:
        found = make_config(sections, "p.yaml")
    except ValueError as error:
        lines = str(error).split("\n")
        assert "in the settings of p.yaml:" in lines[0]
        assert all(line.isprintable() for line in lines)
    else:
        assert isinstance(found, PipelineConfig)
