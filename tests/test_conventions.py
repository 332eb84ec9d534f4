"""The house rules that a machine can check."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "jaxseg").rglob("*.py"))
SOURCES = LIBRARY + sorted((ROOT / "cli").glob("*.py"))
ALL = SOURCES + sorted((ROOT / "benchmarks").rglob("*.py")) + sorted((ROOT / "tests").rglob("test_*.py"))
MAX_LINES, MAX_FUNCTION = 300, 45

# package -> what it may import of ours; files directly in jaxseg/ count as "jaxseg"
ALLOWED = {
    "ops": {"ops"},
    "models": {"models", "ops"},
    "weights": {"weights", "models", "jaxseg"},
    "images": {"images", "ops", "jaxseg"},
    "masks": {"masks", "images", "jaxseg"},
    "draw": {"draw", "masks", "images", "jaxseg"},
    "measure": {"measure", "draw", "jaxseg"},
    "report": {"report", "images", "masks", "draw", "measure", "jaxseg"},
    "volumes": {"volumes", "images", "ops", "jaxseg"},
    "data": {"data", "images", "volumes", "masks", "ops", "jaxseg"},
    "train": {"train", "models", "ops", "data", "weights", "images", "volumes", "draw", "jaxseg"},
    "predict": {"predict", "models", "ops", "weights", "images", "volumes", "masks", "draw", "measure", "jaxseg"},
}
ONLY_IN = {
    "orbax": {"train/checkpoint.py", "weights/store.py"},
    "grain": {"data/pipeline.py"},
    "optuna": {"train/study.py"},
    "mlflow": {"train/tracking.py"},
    "pydicom": {"images", "masks"},
    "highdicom": {"masks/dicom_seg.py"},
    "flax": {"models", "weights", "train", "predict", "demo.py"},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", ALL, ids=name)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES, f"{name(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and path in SOURCES:
            assert node.end_lineno - node.lineno < MAX_FUNCTION + _docstring_lines(node), node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_banned_things_are_absent(path):
    tree, text = ast.parse(path.read_text()), path.read_text()
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], "assert belongs in tests"
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"print", "eval", "exec", "pickle.load", "pickle.loads", "nnx.jit", "jax.image.resize"}
    assert "flax.linen" not in text
    assert "warnings.filterwarnings" not in text
    if "train/mesh.py" not in name(path):
        assert "jax.pmap" not in calls


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_imports_point_one_way(path):
    parts = path.relative_to(ROOT / "jaxseg").parts
    package = parts[0] if len(parts) > 1 else "jaxseg"
    where = "/".join(parts)
    for module in imports(path):
        words = module.split(".")
        assert module.split(".")[:2] not in (["jaxseg", "cli"], ["jaxseg", "configs"])
        assert words[0] not in ("benchmarks", "tests")
        if words[0] in ONLY_IN:
            assert where in ONLY_IN[words[0]] or package in ONLY_IN[words[0]], f"{where} imports {module}"
        if words[0] == "jaxseg" and len(words) > 1 and package in ALLOWED:
            target = words[1] if (ROOT / "jaxseg" / words[1]).is_dir() else "jaxseg"
            assert target in ALLOWED[package], f"{where} imports {module}"


def test_no_absolute_path_or_host_of_a_registry_is_in_the_repository():
    pattern = re.compile(r"""(?<![\w.<:/}])/(work|root|home|Users|mnt)/|pypi\.org|files\.pythonhosted""")
    texts = [
        p for p in ROOT.rglob("*") if p.suffix in {".py", ".cfg", ".toml", ".md", ".yaml"} and "." not in p.parts[-2]
    ]
    ours = [p for p in texts if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    assert len(ours) > 40
    hits = [name(p) for p in ours if p.name != "test_conventions.py" and pattern.search(p.read_text())]
    assert hits == []


def public_functions():
    for path in LIBRARY:
        module = importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
        for key, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_"):
                yield f"{module.__name__}.{key}", value


def test_public_functions_have_docstrings_and_keyword_only_options():
    functions = dict(public_functions())
    assert len(functions) > 60
    undocumented = [key for key, value in functions.items() if not inspect.getdoc(value)]
    assert undocumented == []
    flags = [
        f"{key}({p.name})"
        for key, value in functions.items()
        for p in inspect.signature(inspect.unwrap(value)).parameters.values()
        if isinstance(p.default, bool) and p.kind is not p.KEYWORD_ONLY
    ]
    assert flags == [], "true-or-false options must be named where they are given"


def _docstring_lines(node: ast.FunctionDef) -> int:
    return (ast.get_docstring(node) or "").count("\n") + 2
