"""Configurations are read from YAML into frozen dataclasses and written back; every problem is named with its path."""

import dataclasses
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import registry
from jaxseg.anatomy.unet import UNetConfig
from jaxseg.settings import build, to_mapping
from jaxseg.training import task
from jaxseg.training.config import config, yaml_text
from jaxseg.training.config.config import Config, read_config, write_config
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig
from jaxseg.training.task import Task


@dataclasses.dataclass(frozen=True)
class Crop:
    size: tuple[int, int] = (8, 8)
    chance: float = 0.5


@dataclasses.dataclass(frozen=True)
class Data:
    root: str
    names: tuple[str, ...] = ()
    mode: Literal["resize", "pad"] = "resize"
    fraction: float | None = None
    crop: Crop = Crop()
    flip: bool = False


@dataclasses.dataclass(frozen=True)
class Loss:
    dice: float = 1.0

    def __post_init__(self):
        if self.dice < 0:
            raise ValueError("weights below zero; take them away instead")


class Sections(Task):
    """A task; these tests use only its sections."""

    Data, Model, Loss = Data, UNetConfig, Loss


@pytest.fixture(scope="module")
def sections():
    """Registers `Sections` as the only task."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (config, task):
            patch.setattr(module, "TASKS", {"paxray": f"{__name__}:Sections"})
        yield


pytestmark = pytest.mark.usefixtures("sections")


SMALL = """
task: paxray
seed: 3
data:
  root: some/where
  crop: {size: [4, 6]}
model: {width: 8}
loss:    # all defaults
optimizer: {name: adamw, learning_rate: 1e-3, weight_decay: 1.0E-4}
schedule: {name: multistep, milestones: [60, 90, 100]}
trainer: {epochs: 110, batch_size: 3}
"""


def read(text: str, tmp_path, *overrides: str) -> Config:
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, overrides)


def problems(text: str, tmp_path, *overrides: str) -> list[str]:
    with pytest.raises(ValueError, match=r"\S") as error:
        read(text, tmp_path, *overrides)
    return str(error.value).splitlines()


def test_a_file_is_read_into_dataclasses(tmp_path):
    found = read(SMALL, tmp_path)
    assert found == Config(
        task="paxray",
        seed=3,
        data=Data("some/where", crop=Crop((4, 6))),
        model=UNetConfig(width=8),
        loss=Loss(),
        optimizer=OptimizerConfig("adamw", 1e-3, weight_decay=1e-4),
        schedule=ScheduleConfig("multistep", milestones=(60, 90, 100)),
        trainer=TrainerConfig(epochs=110, batch_size=3),
    )
    assert isinstance(found.loss.dice, float)
    assert hash(found) == hash(read(SMALL, tmp_path))


def test_every_problem_is_reported_in_one_line_with_its_path(tmp_path):
    text = (
        SMALL.replace("seed: 3", "seed: -1\nextra: 1")
        .replace("size: [4, 6]", "size: [4, x, 6], chance: yes")
        .replace("width: 8", "width: 0, backbone: resnet9")
        .replace("epochs: 110, batch_size: 3", "epoch: 110, batch_size: 3.5, precision: fp8, remat: 1")
    )
    assert problems(text, tmp_path) == [
        "11 problems in the settings of some.yaml:",
        "extra: no such setting; there are task, seed, data, model, loss, optimizer, schedule, trainer",
        "seed: must be from 0 to 4294967295, got -1",
        "data.crop.size: [4, 'x', 6] has 3 entries, it needs 2",
        "data.crop.chance: 'yes' is not a finite number",
        "model.backbone: 'resnet9' is not one of resnet18, resnet34, resnet50, resnet101, resnet152",
        "model.width: must be from 1 to 1024, got 0",
        "trainer.epoch: no such setting; did you mean epochs?",
        "trainer.batch_size: 3.5 is not a whole number",
        "trainer.precision: 'fp8' is not one of float32, bfloat16",
        "trainer.remat: 1 is not true or false",
        "trainer.epochs: missing",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.precision=fp8", "trainer.precision: 'fp8' is not one of float32, bfloat16"),
        ("trainer.epochs=0", "trainer.epochs: must be from 1 to 1000000, got 0"),
        ("trainer.epochs=true", "trainer.epochs: true is not a whole number"),
        ("trainer.epochs=010", "trainer.epochs: '010' is not a whole number"),
        ("trainer.epochs=1:30", "trainer.epochs: '1:30' is not a whole number"),
        ("trainer.accumulate=2", "trainer.accumulate: a batch of 3 cannot be divided into 2 equal parts"),
        ("trainer.ema=1", "trainer.ema: must be above 0 and below 1, got 1"),
        ("trainer.clip_norm=-1", "trainer.clip_norm: must be above 0 and at most 1000000, got -1"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate: '.nan' is not a finite number"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate: inf is not a finite number"),
        ("optimizer.beta2=1", "optimizer.beta2: must be at least 0 and below 1, got 1"),
        ("optimizer.name=adam", "optimizer.weight_decay: adam does not have it; choose adamw"),
        ("optimizer.momentum=0.9", "optimizer.momentum: adamw does not have it; it belongs to sgd"),
        ("schedule.milestones=[90, 60]", "schedule.milestones: [90, 60] do not increase"),
        ("schedule.milestones=60", "schedule.milestones: 60 is not a list"),
        ("schedule.name=cosine", "schedule.milestones: cosine does not have it; it belongs to multistep"),
        ("schedule={name: step}", "schedule.step_size: the schedule step needs it"),
        ("schedule={name: cosine, final: 0.1}", "schedule.final: 0.1 is above optimizer.learning_rate, 0.001"),
        ("data=3", "data: 3 is not a group of settings (name: value)"),
        ("data.root=2024-01-01 ", None),
        ("data.root=no", None),
        ("data.root=7", "data.root: 7 is not text (put it in quotes if it is meant as text)"),
        ("data.fraction=null", None),
        ("data.names=[a, 1]", "data.names[1]: 1 is not text"),
        ("loss.dice=-1", "loss: weights below zero; take them away instead"),
        ("task=other", "task: 'other' is not one of paxray"),
        ("task=7", "task: 7 is not text"),
        ("seed=null", "seed: null is not a whole number"),
        ("trainer.epochs", "trainer.epochs: an override has the form trainer.epochs=2"),
        ("trainer..epochs=2", "trainer..epochs=2: an override has the form trainer.epochs=2"),
        ("seed.a=2", "seed.a: seed is not a group of settings"),
        ("data.root=@x", "data.root, line 1, column 1: found character '@' that cannot start any token"),
    ],
)
def test_an_override_replaces_a_setting_or_is_refused_by_name(override, line, tmp_path):
    if line is None:
        read(SMALL, tmp_path, override)
        return
    heading, found, *more = problems(SMALL, tmp_path, override)
    assert heading == "a problem in the settings of some.yaml:"
    assert found.startswith(line)
    assert not more


def test_overrides_are_yaml_and_the_last_one_wins(tmp_path):
    found = read(
        SMALL,
        tmp_path,
        "trainer.epochs=2",
        "trainer.epochs=4",
        "data.root=a=b",
        "data.crop={size: [1, 2]}",
        "optimizer.learning_rate=2e-4",
        "trainer.clip_norm=",
    )
    assert (found.trainer.epochs, found.trainer.clip_norm, found.data.root) == (4, None, "a=b")
    assert found.data.crop == Crop((1, 2))
    assert found.optimizer.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "some.yaml holds nothing"),
        ("- a\n- b", "some.yaml holds no settings"),
        ("just text", "some.yaml holds no settings"),
        ("seed: 1\nseed: 2", "some.yaml, line 2, column 1: 'seed' is given twice"),
        ("data: {a: 1, a: 1}", "some.yaml, line 1, column 14: 'a' is given twice"),
        ("1: 2", "some.yaml, line 1, column 1: a name must be text"),
        ("a: &x [1]\nb: [*x, *x]", "some.yaml, line 2, column 5: aliases"),
        ("<<: {seed: 1}", "no such setting"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "[" * 5000, "nested deeper than 20 levels"),
        ("a: b: c", "some.yaml, line 1, column 5: mapping values are not allowed here"),
        ("a: [1", "some.yaml, line 1"),
        ("a: 1\n---\nb: 2", "some.yaml, line 2"),
        ("a: \x07", "some.yaml: unacceptable character"),
        ("a: " + "9" * 5000, "some.yaml: "),
        ("? [a]\n: 1", "a name must be text"),
        ("a: !!binary é", "some.yaml"),
        ("#" * (yaml_text.MAX_CHARACTERS + 1), "has more than 200000 characters"),
        ("\x1b[31m: 1", "some.yaml"),
    ],
)
def test_a_file_that_is_not_plain_yaml_is_one_clear_error(text, message, tmp_path):
    found = problems(text, tmp_path)
    assert any(message in line for line in found), found
    assert all(line.isprintable() for line in found)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes(b"\xff\xfe\x00task")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_config(path)


def test_a_packaged_configuration_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "packaged", lambda: {"paxray": SMALL})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paxray").mkdir()  # a folder of that name does not hide it
    for name in ("paxray", "paxray.yaml", "configs/paxray.yaml"):
        assert read_config(name).seed == 3
    (tmp_path / "paxray.yaml").write_text(SMALL.replace("seed: 3", "seed: 4"))
    assert read_config("paxray.yaml").seed == 4
    for name in ("other", "../paxray", "a/configs/paxray.yaml", "x\x1b[2J"):
        with pytest.raises(ValueError, match="give a YAML file or one of paxray") as error:
            read_config(name)
        assert str(error.value).isprintable()


def test_every_packaged_configuration_is_valid(monkeypatch):
    for module in (config, task):
        monkeypatch.setattr(module, "TASKS", registry.TASKS)
    names = config.packaged()
    assert {"demo", "paxray", "paxray_half", "paxray_quarter", "paxray_sample"} <= names.keys()
    for name in names:
        assert config.read_config(name).trainer.epochs > 0
    assert config.read_config("paxray_half").data.train_fraction == 0.5


positive = st.floats(1e-9, 1e3)
optional = st.none() | st.integers(1, 10**8)
optimizers = st.builds(
    OptimizerConfig,
    st.just("adamw"),
    positive,
    beta1=st.floats(0, 0.999),
    epsilon=positive,
    weight_decay=st.floats(0, 1),
    bias_weight_decay=st.booleans(),
) | st.builds(OptimizerConfig, st.just("sgd"), positive, momentum=st.floats(0, 0.99))
schedules = st.builds(
    ScheduleConfig, st.just("step"), step_size=st.integers(1, 9), gamma=positive.filter(lambda g: g <= 1)
)
schedules |= st.builds(
    ScheduleConfig, st.just("multistep"), milestones=st.sets(st.integers(1, 10**6), min_size=1).map(sorted).map(tuple)
)
trainers = st.builds(
    TrainerConfig,
    st.integers(1, 10**6),
    st.integers(1, 999),
    max_steps=optional,
    parallel=st.sampled_from(["jit", "pmap"]),
    clip_norm=st.none() | positive,
    remat=st.booleans(),
    ema=st.none() | st.floats(0.1, 0.999),
)
texts = st.text(max_size=30) | st.sampled_from(
    ["no", "1e-3", "1:30", "010", "null", "~", "=", "<<", "2024-01-01", "x: y"]
)
configs = st.builds(
    Config,
    st.just("paxray"),
    st.integers(0, 2**32 - 1),
    st.builds(Data, texts, names=st.lists(texts, max_size=3).map(tuple), fraction=st.none() | st.floats(-1e300, 1e300)),
    st.builds(UNetConfig, num_classes=st.integers(1, 999)),
    st.builds(Loss, positive),
    optimizers,
    schedules,
    trainers,
)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(made=configs)
def test_a_written_configuration_is_read_back_equal(made, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    write_config(made, path)
    assert read_config(path) == made
    for name, cls in {"data": Data, "model": UNetConfig, "loss": Loss}.items():
        part = getattr(made, name)
        assert build(cls, to_mapping(part)) == part
    # Valid YAML for any reader.
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["root"] == made.data.root
