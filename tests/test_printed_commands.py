"""The command lines of the documents run as printed, one after the other, from an empty folder.

Lines that need data, weights or machines of the reader are not run; `NEEDED` says which words mark them.
"""

import re
import shlex
from pathlib import Path

import pytest
from child_commands import run_commands
from test_documents import ROOT, code_blocks, name

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("guides/*.md")), *sorted((ROOT / "docs").glob("how-to/*.md"))]
# What a line needs -> words by which it is recognised.
NEEDED = {
    "X-rays and the published weights": r"chest\.(dcm|npy)|xrays/?",
    "data sets to download": r"PAXRAY|SAMPLE|LIDC-IDRI|MNIST|lidc|mnist|FOLDER",
    "masks, CTs or runs of the reader": r"MASKS|[ABT]|CASES|CTS|RUN|SEGAE_DATA|ct\.nii\.gz|\w+\.ya?ml",
    "a PACS": r"pacs",
    "somebody who ends it": r"serve",
    "files of weights": r"\S+\.pth|\S+\.safetensors",
    "several hosts": r"--hosts|--coordinator",
    "a choice of the reader": r"COMMAND|CONFIG",
}


def lines(path: Path) -> list[str]:
    """Returns the lines of jaxseg in the shell blocks of a page, in order."""
    found = [line for block in code_blocks(path, "") for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("  #")[0].strip() for line in found if re.match(r" *jaxseg [a-z]", line)]


def need(line: str) -> str:
    """Returns what a line needs that an empty folder lacks; "" if it needs nothing."""
    words = shlex.split(line)[1:]
    return next((what for what, marks in NEEDED.items() if any(re.fullmatch(marks, word) for word in words)), "")


def runnable(path: Path) -> list[str]:
    """Returns the lines of a page that can run: they need nothing, and no run of a line that is not run."""
    found, made = [], set()
    for line in lines(path):
        options = dict(re.findall(r"(--run|--weights|-o|--resume)(?: ([^-\s]\S*))?", line))
        used = [options[name] for name in ("--run", "--weights") if name in options]
        used += [options["-o"]] if "--resume" in options else []
        if need(line) or any(place.split("/")[0] not in made for place in used):
            continue
        made.add(options.get("-o", "demo").strip("/"))
        found.append(line)
    return found


def test_most_methods_have_a_sequence_that_needs_no_data():
    found = {name(path): len(runnable(path)) for path in PAGES if runnable(path)}
    assert found["README.md"] >= 3
    assert found["docs/guides/anatomy.md"] >= 6
    assert found["docs/guides/training.md"] >= 3
    assert found["docs/guides/annotators.md"] >= 4
    assert found["docs/guides/post_dae.md"] >= 3
    assert sum(len(lines(path)) for path in PAGES) > 40


@pytest.mark.full
@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=name)
def test_the_commands_of_a_page_run_as_printed(path, tmp_path):
    commands = runnable(path)
    found = run_commands(*(shlex.split(line)[1:] for line in commands), folder=tmp_path)
    for line, (code, said) in zip(commands, found, strict=True):
        assert code == 0, f"{line}\n{said}"
        assert "Traceback" not in said
