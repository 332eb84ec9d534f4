"""Search spaces: reading them, refusing bad ones, and the default space."""

import pytest
from tiny_runs import SHORT, overrides

from jaxseg.training.config.config import read_config
from jaxseg.tuning.space import default_space, make_space, read_space

RATE = "optimizer.learning_rate"
RATES = f"{RATE}=1e-4..1e-2 log"
SETTINGS = overrides(**SHORT)


def accept(override: str):
    return read_config("demo", [*SETTINGS, override])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the search space is empty"),
        (
            ["optimizer.rate=1..2"],
            "optimizer.rate: no such setting",
        ),
        ([f"{RATE}=-1..1"], f"{RATE}: must be above 0"),
        ([f"{RATE}=1..1e9"], f"{RATE}: must be above 0 and at most 1000000, got 1000000000.0"),
        ([f"{RATE}=1e-2..1e-4 log"], "the lowest, 0.01, must be below its highest, 0.0001"),
        (["optimizer.weight_decay=0..1 log"], "must be above 0 for log"),
        ([f"{RATE}=low..high"], "'low' is not a finite number"),
        ([f"{RATE}=true..2"], "true is not a finite number"),
        ([f"{RATE}=1e-3"], "neither a range nor choices"),
        ([f"{RATE}=1e-3..1e-2 linear"], "neither a range nor choices"),
        ([RATE], "not a parameter; it has the form"),
        (["=1|2"], "not a parameter; it has the form"),
        ([RATES, RATES], f"{RATE}: given twice"),
        (["trainer.batch_size=1.5..4"], "trainer.batch_size: 1.5 is not a whole number"),
        (["trainer.batch_size=4|4.0"], "a choice is given twice"),
        (["trainer.batch_size=4|"], "a choice is empty"),
        (["trainer.batch_size=4|[5"], "trainer.batch_size"),
        (["optimizer.name=adam|adamx"], "adamx"),
        (["optimizer.name=a..b"], "'a' is not a finite number"),
        (["task=phantom|paxray"], "task: it must stay the same during a search"),
        (["trainer=1|2"], "trainer: 1 is not a group of settings"),
        (["seed=" + "|".join(map(str, range(101)))], "101 choices; at most 100"),
        ([f"seed.{i}=1|2" for i in range(33)], "has 33 parameters; at most 32"),
    ],
)
def test_a_bad_space_is_refused(lines, message):
    with pytest.raises(ValueError, match=message):
        make_space(lines, accept)


def test_a_space_is_read_from_a_file_and_written_back_equal(tmp_path):
    lines = [RATES, "trainer.batch_size=2..8", "optimizer.name=adam|sgd", "trainer.ema=0.5..0.9"]
    (tmp_path / "space.txt").write_text("# rates\n\n" + "\n".join(lines[1:]) + "\n")
    assert read_space([lines[0], str(tmp_path / "space.txt")]) == lines
    space = make_space(lines, accept)
    assert [parameter.whole for parameter in space] == [False, True, False, False]
    assert make_space([str(parameter) for parameter in space], accept) == space
    with pytest.raises(ValueError, match="no such file, and it is not a parameter"):
        read_space(["missing.txt"])
    (tmp_path / "long.txt").write_bytes(b"#" * 100_001)
    with pytest.raises(ValueError, match="longer than a search space"):
        read_space([str(tmp_path / "long.txt")])
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe=")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_space([str(tmp_path / "bytes.txt")])


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ([], [f"{RATE}=0.0003..0.03 log", "trainer.batch_size=2|4|8"]),
        (
            ["optimizer.name=adamw", "trainer.accumulate=4", "schedule.final=1e-3"],
            [f"{RATE}=0.001..0.03 log", "optimizer.weight_decay=0|1e-6|1e-5|1e-4|1e-3", "trainer.batch_size=4|8"],
        ),
        (
            ["optimizer.name=adamw", "optimizer.weight_decay=0.02"],
            [f"{RATE}=0.0003..0.03 log", "optimizer.weight_decay=0.002..0.2 log", "trainer.batch_size=2|4|8"],
        ),
    ],
)
def test_the_default_space_surrounds_the_values_of_the_configuration(changed, lines):
    config = read_config("demo", [*SETTINGS, *changed])
    assert default_space(config) == lines
    make_space(lines, lambda one: read_config("demo", [*SETTINGS, *changed, one]))
