"""The examples in the docstrings of the library run and print what they show."""

import doctest
import importlib
import io
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules_with_examples() -> list[str]:
    paths = [path for path in sorted((ROOT / "jaxseg").rglob("*.py")) if ">>> " in path.read_text()]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


@pytest.mark.slow
def test_every_example_prints_what_its_docstring_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=OPTIONS)
    report = io.StringIO()
    for name in modules_with_examples():
        for example in finder.find(importlib.import_module(name), name):
            runner.run(example, out=report.write)
    assert not runner.failures, report.getvalue()
