"""What a person sees on a terminal of 80 columns: messages above the bar, and a sign of life before heavy imports."""

import re
import subprocess
import sys

import pytest
from terminal import on_terminal

# A run over nine files, every third of which fails, while libraries log and warn.
RUN = """
import logging, sys, time, warnings
from pathlib import Path
from types import SimpleNamespace
from jaxseg.cli import console, main
from jaxseg.cli.runs import finish, shown

def run():
    with shown("images") as callbacks:
        callbacks["progress"](0, 9, "")
        for i in range(9):
            source = Path(f"a_folder_with_a_long_name/chest_xray_{i}_with_a_long_name.png")
            error = ValueError(f"{source.name}: damaged, and this is a long reason of \\x1b[2J many words")
            notes = (f"{source.name}: the first note",) if i == 4 else ()
            item = SimpleNamespace(source=source)
            callbacks["report"](SimpleNamespace(item=item, notes=notes, error=None if i % 3 else error, size=None))
            callbacks["progress"](i + 1, 9, source.name)
            time.sleep(0.12)  # the bar is drawn ten times per second
            if i == 5:
                logging.getLogger("jax").warning("a record of jax")
                logging.getLogger("orbax").error("a record of orbax")
                logging.getLogger("absl").warning("absl's records are left out")
                warnings.warn("a warning of a library")
                print("a line that a library prints", file=sys.stderr)
            if i == 6 and sys.argv[1:] == ["interrupted"]:
                console.say("now")
                time.sleep(30)
    finish(SimpleNamespace(done=6, skipped=0, failed=3, summary=Path("out/summary.json"), merged=(Path("out/x.csv"),)))

console.take_over(debug=False)
try:
    run()
except Exception as error:
    sys.exit(main._report(error))
"""
FOREIGN = ["a record of jax", "a record of orbax", "Warning: a warning of a library", "a line that a library prints"]


def test_every_message_stands_on_its_own_line_above_the_bar():
    seen = on_terminal("-c", RUN)
    assert seen.code == 1
    *messages, bar, last = seen.lines
    assert re.fullmatch(r"images ━+ 9/9 \d+\.\d\d/s \d:\d\d:\d\d chest_xray_8_with_a_long_name.png", bar), bar
    assert last == "6 done, 0 skipped, 3 failed; the results are in out (x.csv, summary.json)"
    whole = re.sub(r"\n  (?=\S)", " ", "\n".join(messages)).split("\n")  # wrapped lines are indented
    reason = "damaged, and this is a long reason of \\x1b[2J many words"
    names = [f"a_folder_with_a_long_name/chest_xray_{i}_with_a_long_name.png" for i in (0, 3, 6)]
    failed = [f"Failed: {name}: {reason}" for name in names]
    note = "Warning: chest_xray_4_with_a_long_name.png: the first note"
    assert whole == [*failed[:2], note, *FOREIGN, failed[2]]
    assert seen.text.count("\x1b[2K") > 9  # the bar was drawn again and again


@pytest.mark.parametrize("columns", [40, 65])
def test_on_a_narrow_terminal_the_bar_has_one_line(columns):
    seen = on_terminal("-c", RUN, columns=columns)
    bars = [i for i, line in enumerate(seen.lines) if "━" in line]
    assert len(bars) == 1
    assert "images" in seen.lines[bars[0]]
    assert "…" in seen.lines[bars[0]]
    assert seen.lines[bars[0] + 1].startswith("6 done")


def test_in_a_file_there_is_no_bar_and_no_escape_code(tmp_path):
    path = tmp_path / "log.txt"
    with path.open("w") as file:
        done = subprocess.run([sys.executable, "-c", RUN], stderr=file, stdout=subprocess.PIPE, text=True, timeout=60)
    text = path.read_text()
    assert (done.returncode, done.stdout) == (1, "")
    assert "\x1b" not in text
    assert "━" not in text
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("images ")] == [
        f"images {i + 1}/9: chest_xray_{i}_with_a_long_name.png" for i in range(9)
    ]
    assert [line for line in lines if line in FOREIGN] == FOREIGN
    assert len(lines) == 9 + 3 + 1 + len(FOREIGN) + 1


def test_after_ctrl_c_the_bar_stays_and_the_message_stands_below():
    seen = on_terminal("-c", RUN, "interrupted", interrupt_at="now")
    assert seen.code == 1
    assert "7/9" in seen.lines[-2 if seen.lines[-2] else -3]
    assert seen.lines[-1] == "Stopped. The same command continues where it stopped."


# Ends the process with 42 as soon as it imports JAX or another library that takes long.
HALT = """
import os, sys
class Halt:
    def find_spec(self, name, path=None, target=None):
        if name in ("jax", "flax", "optuna", "scipy", "PIL"):
            os._exit(42)
sys.meta_path.insert(0, Halt())
from jaxseg.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("command", "sign"),
    [
        ("segment -i x.png -o out", "reading weights ..."),
        ("extract -i x.png -o out -f CTR", "reading weights ..."),
        ("register -i x.png -o out", "reading weights ..."),
        ("register -i x.png --build-reference --reference-out x.npz", "reading weights ..."),
        ("denoise -i x.png -o out --weights .", "reading weights ..."),
        ("sample -i x.png -o out --weights .", "reading weights ..."),
        ("score --ct x.npy --mask x.npy --organ liver", "reading weights ..."),
        ("train -t demo -o run", "Reading demo ..."),
        ("tune -t demo -o search --trials 1", "checking settings and data ..."),
        ("evaluate --run .", "reading the run and its data ..."),
        ("export -m cxas -o x.stablehlo", "checking the options ..."),
        ("convert x.npy model", "reading weights ..."),
        ("report -i x.png --masks . -o x.html", "reading images and masks ..."),
        ("pipeline x.yaml -i x.png -o out", "reading weights ..."),
        ("demo -o demo", "starting JAX ..."),
    ],
)
def test_the_first_sign_of_life_comes_before_heavy_imports(tmp_path, command, sign):
    for name in ("x.png", "x.npy"):
        (tmp_path / name).touch()
    seen = on_terminal("-c", HALT, *command.split(), cwd=tmp_path)
    assert (seen.code, seen.lines) == (42, [sign])
