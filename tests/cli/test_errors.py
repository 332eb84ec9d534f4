"""Errors about settings name `--set` if the user changed the setting by it, and hints stand at the end."""

import pytest

from jaxseg.cli.errors import naming_overrides
from jaxseg.cli.main import MAX_LINES


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("trainer.epochs: must be at least 1", True),
        ("trainer.epochs, trainer.max_steps: too long together", True),
        ("trainer: is not a group", True),  # --set trainer.epochs=1 changed a part of it
        ("trainer.epochs_of_another: no such setting", False),
        ("trainer.max_steps: must be at least 1", False),
        ("the loss is nan; lower trainer.epochs", False),
    ],
)
def test_a_line_about_a_changed_setting_names_the_option(line, named):
    with pytest.raises(ValueError, match="2 problems") as error, naming_overrides(["trainer.epochs=0", "=3", ""]):
        raise ValueError(f"2 problems in demo.yaml:\n{line}\ndata.size: 3")
    assert str(error.value).split("\n")[1:] == [f"--set {line}" if named else line, "data.size: 3"]


def test_the_kind_of_an_error_without_a_changed_setting_stays():
    class OtherError(ValueError):
        pass

    with pytest.raises(OtherError, match=r"^trainer\.epochs: 3$"), naming_overrides([]):
        raise OtherError("trainer.epochs: 3")


def test_a_hint_stands_after_all_problems(jaxseg_command, tmp_path):
    wrong = [word for i in range(MAX_LINES + 5) for word in ("--set", f"trainer.wrong{i}=1")]
    code, _, err = jaxseg_command("train", "-t", "demo", "-o", tmp_path / "run", *wrong)
    reading, first, *lines, more, hint = err.splitlines()
    assert reading == "Reading demo ..."
    assert (code, first) == (2, f"Error: {MAX_LINES + 5} problems in the settings of demo.yaml:")
    assert all(line.startswith("--set trainer.wrong") for line in lines)
    assert len(lines) == MAX_LINES
    assert more == "... and 5 more (--debug shows all)"
    assert hint == "('jaxseg train --help' explains)"
