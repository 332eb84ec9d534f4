"""The README and the documentation: links resolve, commands and Python code are valid, and the README stays short."""

import ast
import json
import re
import shlex
from pathlib import Path

import click
import pytest

from jaxseg import registry
from jaxseg.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/*.md", "jaxseg/*/README.md")
    for path in ROOT.glob(pattern)
)
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MAX_README = 160  # lines of the README


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Returns Markdown without code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.S | re.M)


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts and the documentation's theme make them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", without_code(path.read_text(encoding="utf-8")), re.M):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


def code_blocks(path: Path, *languages: str) -> list[str]:
    """Returns the code blocks of a page that are in one of the languages ("" is a block without one)."""
    found = re.findall(r"^ *```(\w*)([^\n]*)\n(.*?)^ *```$", path.read_text(encoding="utf-8"), re.S | re.M)
    return [code for language, _, code in found if language in languages]


def command_lines(path: Path) -> list[str]:
    """Returns the command lines of jaxseg in a page: in code blocks, and in backticks in the text."""
    text = path.read_text(encoding="utf-8")
    lines = [
        line for block in code_blocks(path, "", "bash", "text") for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(jaxseg [^`\n]+)`", without_code(text))
    lines = [re.sub(r"(\w+)\|[\w|]+", r"\1", line).replace(" ...", "") for line in lines]  # a|b means a or b
    found = (re.search(r"(?:^|[\w.]+=\S+ |srun )(jaxseg [a-z].*)$", line.split("  #")[0].strip()) for line in lines)
    return [match[1] for match in found if match and "[OPTIONS]" not in match[1] and "…" not in match[1]]


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README


def test_the_readme_names_every_model_and_its_weights():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for entry in registry.ENTRIES:
        for wanted in (entry.name, entry.weights_file):
            assert wanted is None or f"`{wanted}`" in text, f"README.md: the table of models does not name `{wanted}`"


@pytest.mark.parametrize("path", sorted(ROOT.glob("jaxseg/*/README.md")), ids=name)
def test_the_page_of_a_method_names_exactly_its_files(path):
    named = re.findall(r"`(?:\w+/)*(\w+\.py)`", path.read_text(encoding="utf-8"))
    files = {file.name for file in path.parent.rglob("*.py")} - {"__init__.py"}
    assert set(named) == files


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_between_documents_resolve(path):
    problems = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or not place.is_relative_to(ROOT):
            problems.append(f"{target}: there is no such file")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            problems.append(f"{target}: the page has no such heading")
    assert not problems


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [name(path) for path in PAGES if name(path).startswith("docs/") and name(path)[5:] not in text]
    assert not missing


@pytest.mark.parametrize("path", [page for page in PAGES if command_lines(page)], ids=name)
def test_command_lines_use_options_that_exist(path):
    problems = []
    for line in command_lines(path):
        words, command, context = shlex.split(line)[1:], cli, click.Context(cli)
        while words and isinstance(command, click.Group):
            command = command.get_command(context, words[0])
            if command is None:
                problems.append(f"{line}: there is no command {words[0]}")
                break
            words.pop(0)
        if command is None:
            continue
        known = {flag.replace("_", "-") for parameter in command.params for flag in parameter.opts}
        known |= {flag for parameter in command.params for flag in getattr(parameter, "secondary_opts", ())}
        given = [word.split("=")[0].replace("_", "-") for word in words if re.match(r"--?[a-z]", word)]
        unknown = sorted(set(given) - known - {"--help", "-h"})
        problems += [f"{line}: {command.name} has no option {flag}" for flag in unknown]
    assert not problems


@pytest.mark.parametrize("path", [page for page in PAGES if code_blocks(page, "python", "json")], ids=name)
def test_python_and_json_in_documents_is_valid(path):
    for code in code_blocks(path, "python"):
        ast.parse(code.rstrip().removesuffix(","))
    for code in code_blocks(path, "json"):
        json.loads(code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_are_stored_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_citation_names_the_papers_of_the_registry():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    numbers = [re.search(r"arXiv:[\d.]+|10\.\d{4,}/\S+", entry.citation) for entry in registry.ENTRIES]
    missing = [number[0] for number in numbers if number and number[0] not in text]
    assert not missing
