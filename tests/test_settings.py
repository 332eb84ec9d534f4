"""Dataclasses from mappings: no value is guessed, no problem is ignored, every problem is reported with its path."""

import dataclasses
import datetime
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.anatomy.unet import UNetConfig
from jaxseg.settings import Range, build, to_mapping
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig


@dataclasses.dataclass(frozen=True)
class Part:
    size: tuple[int, int] = (8, 8)
    share: Annotated[float, Range(0, 1)] = 0.5


@dataclasses.dataclass(frozen=True)
class Example:
    count: int = 1
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    mode: Literal["a", "b", 2] = "a"
    most: Annotated[int, Range(1, 9)] | None = None
    flag: bool = False

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count: below 0; mode: so; that; parts[0].size: small")


def test_nested_values_are_converted_by_their_types():
    found = build(Example, {"part": {"size": [1, 2], "share": 1}, "parts": [{}, {"share": 0}], "mode": 2, "most": None})
    assert found == Example(part=Part((1, 2), 1.0), parts=(Part(), Part(share=0.0)), mode=2)
    assert isinstance(found.part.share, float)
    assert isinstance(found.part.size, tuple)


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"count": True}, "top.count: true is not a whole number"),
        ({"count": 1.0}, "top.count: 1.0 is not a whole number"),
        ({"flag": 0}, "top.flag: 0 is not true or false"),
        ({"mode": 2.0}, "top.mode: 2.0 is not one of a, b, 2"),
        ({"mode": ["a"]}, "top.mode: ['a'] is not one of a, b, 2"),
        ({"most": 10}, "top.most: must be from 1 to 9, got 10"),
        ({"parts": [{}, {"share": 2}]}, "top.parts[1].share: must be from 0 to 1, got 2"),
        ({"parts": [{"shares": 2}]}, "top.parts[0].shares: no such setting; did you mean share?"),
        ({"parts": "ab"}, "top.parts: 'ab' is not a list"),
        ({"part": {"share": 10**400}}, "top.part.share: 1000"),
        ({"part": None}, "top.part: null is not a group of settings (name: value)"),
    ],
)
def test_invalid_values_are_refused_and_named_by_their_path(mapping, line):
    with pytest.raises(ValueError, match=r"\S") as error:
        build(Example, mapping, "top")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_dataclass_refuses_several_fields_in_one_message():
    with pytest.raises(ValueError, match=r"\S") as error:
        build(Example, {"count": -1}, "top")
    assert str(error.value).splitlines() == ["top.count: below 0", "top.mode: so; that", "top.parts[0].size: small"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*Example.__dataclass_fields__, *TrainerConfig.__dataclass_fields__])


@settings(max_examples=150, deadline=None)
@given(
    cls=st.sampled_from([Example, TrainerConfig, ScheduleConfig, UNetConfig]), mapping=st.dictionaries(names, anything)
)
def test_any_mapping_gives_an_instance_or_printable_problems_with_a_path(cls, mapping):
    try:
        found = build(cls, mapping, "here")
    except ValueError as error:
        for line in str(error).splitlines():
            assert line.startswith(("here.", "here:"))
            assert line.isprintable()
    else:
        assert build(cls, to_mapping(found)) == found


def test_a_dataclass_created_in_python_is_checked_too():
    with pytest.raises(ValueError, match="precision: 'fp8' is not one of float32, bfloat16"):
        TrainerConfig(epochs=1, batch_size=1, precision="fp8")
    with pytest.raises(ValueError, match="epochs: '3' is not a whole number"):
        TrainerConfig(epochs="3", batch_size=1)
    with pytest.raises(ValueError, match="learning_rate: datetime.date"):
        OptimizerConfig("sgd", datetime.date(2024, 1, 1))


def test_a_setting_of_a_type_that_yaml_does_not_have_is_a_programming_error():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        value: complex = 1j

    with pytest.raises(TypeError, match="settings cannot be of type"):
        build(Odd, {"value": 1})
