"""Help texts: commands grouped by purpose, options under headings, and `--fidelity`."""

import click
import pytest
from click.testing import CliRunner

from jaxseg.cli import options
from jaxseg.cli.headings import HEADINGS
from jaxseg.cli.main import COMMANDS, cli


def shown(*words: str) -> str:
    return CliRunner().invoke(cli, [*words, "--help"], terminal_width=100).output


def test_commands_are_grouped_by_purpose_with_complete_summaries():
    text = shown()
    places = [text.index(f"{heading} (commands):") for heading in COMMANDS]
    assert places == sorted(places)
    assert "..." not in text.replace("[ARGS]...", "")
    assert {command.name for commands in COMMANDS.values() for command in commands} == set(cli.commands)


@pytest.mark.parametrize("name", ["segment", "extract", "denoise", "sample", "cxas"])
def test_options_are_grouped_under_headings_in_one_order(name):
    text = shown(name)
    headings = [heading for heading in HEADINGS if f"\n{heading}:\n" in text]
    places = [text.index(f"\n{heading}:\n") for heading in headings]
    assert places == sorted(places)
    assert {"Input", "Output", "Model", "Speed", "Help"} <= set(headings)
    assert text.index("--input") < text.index("--output") < text.index("--weights") < text.index("--gpus")
    assert text.index("--debug") > text.index("\nHelp:\n")


def test_every_option_is_shown_once_for_every_command():
    for name, command in cli.commands.items():
        text = shown(name)
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                long = next(word for word in option.opts if word.startswith("--"))
                assert text.count(f"{long} ") + text.count(f"{long}\n") + text.count(f"{long} /") >= 1, (name, long)


def test_every_option_has_a_heading():
    known = {name.replace("_", "-") for names in HEADINGS.values() for name in names}
    commands = [
        one for command in cli.commands.values() for one in (command, *getattr(command, "commands", {}).values())
    ]
    found = {
        next(name for name in option.opts if name.startswith("--")).replace("_", "-")
        for command in commands
        for option in command.params
        if isinstance(option, click.Option)
    }
    assert found <= known, found - known
    assert known <= found | {"--version", "--help"}, known - found


def test_earlier_names_of_options_work_and_are_not_shown():
    found = []

    @click.command()
    @click.option("--label-volume", cls=options.RenamedOption, earlier=("--labels",))
    def command(label_volume):
        found.append(label_volume)

    for name in ("--label-volume", "--labels"):
        assert CliRunner().invoke(command, [name, name]).exit_code == 0
    assert found == ["--label-volume", "--labels"]
    assert "--labels" not in CliRunner().invoke(command, ["--help"]).output


def test_options_of_several_commands_have_one_text():
    texts = {}
    for name, command in cli.commands.items():
        for option in command.params:
            if option.name in ("overrides", "dtype", "source", "weights") and "--source" not in option.opts:
                texts.setdefault((option.name, tuple(option.opts)), {})[name] = getattr(option, "help", None)
    for shared in (("source", ("-t", "--config")), ("overrides", ("--set",)), ("dtype", ("--dtype",))):
        assert len(texts[shared]) > 1
        assert len(set(texts[shared].values())) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("original", False)),
        (["--fidelity", "original"], ("original", True)),
        (["--fidelity", "better"], ("clinical", False)),
        (["--fidelity", "better", "--intensity", "original"], ("original", False)),
        (["--intensity", "clinical", "--fidelity", "original"], ("clinical", True)),
    ],
)
def test_fidelity_chooses_the_options_that_are_not_given(words, expected):
    found = []

    @click.command()
    @options.fidelity(intensity=("original", "clinical"), original_values=(True, False))
    @options.intensity
    @click.option("--original-values", is_flag=True)
    def command(intensity, original_values):
        found.append((intensity, original_values))

    result = CliRunner().invoke(command, words)
    assert (result.exit_code, found) == (0, [expected]), result.output
