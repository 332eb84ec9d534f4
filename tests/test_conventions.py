"""The house rules that a machine can check. Each test reads all files and lists every offender in one message."""

import ast
import configparser
import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

from jaxseg.registry import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "jaxseg").rglob("*.py"))
SOURCES = LIBRARY + sorted((ROOT / "cli").glob("*.py"))
ALL = SOURCES + sorted((ROOT / "benchmarks").rglob("*.py")) + sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES, MAX_FUNCTION = 450, 45
CRUMB, CRUMB_OF_METHOD = 60, 30  # the fewest lines of a file; a new method starts with short files
# Files with fewer lines that stay: each holds one idea that has no neighbour to merge into.
SHORT_FILES = {"__main__.py", "interrupts.py"}

METHODS = {entry.model.split(".")[1] for entry in ENTRIES}  # the folders in jaxseg/ that hold a model
# What each shared room may import of jaxseg besides itself. "jaxseg" means the files directly in jaxseg/.
ROOMS = {
    "jaxseg": {"vocabulary"},
    "vocabulary": set(),
    "nn": {"settings", "devices", "cpu"},
    "images": {"nn.indices", "vocabulary", "jaxseg"},
    "volumes": {"images", "nn.indices", "vocabulary", "jaxseg"},
    "masks": {"images", "nn.indices", "vocabulary", "jaxseg"},
    "draw": {"images", "masks", "vocabulary", "jaxseg"},
    "comparison": {"images", "masks", "volumes", "draw", "vocabulary", "jaxseg"},
    "weights": {"nn", "vocabulary", "jaxseg"},
    "datasets": {"nn", "images", "masks", "volumes", "vocabulary", "jaxseg"},
    "folder_runs": {"nn", "images", "masks", "volumes", "vocabulary", "jaxseg"},
    "training": {"nn", "weights", "datasets", "draw", "jaxseg"},
    "tuning": {"training", "draw", "jaxseg"},
}
SHARED = {*ROOMS} - {"tuning"}
USERS_OF_METHODS = ("report", "export", "pacs")
ALLOWED = ROOMS | dict.fromkeys(METHODS, SHARED) | {room: {*ROOMS, *METHODS} for room in USERS_OF_METHODS}
ALLOWED["service"] = ALLOWED["pipeline"] = ALLOWED["report"] | {"report"}
ONLY_IN = {
    "orbax": {"training/checkpoint.py", "weights/orbax_limits.py", "weights/store.py"},
    "grain": {"training"},
    "optuna": {"tuning"},
    "mlflow": {"tuning/trials.py"},
    "tensorboardX": {"training/log.py"},
    "pydicom": {"images", "masks", "volumes", "pacs"},
    "highdicom": {"masks/dicom_seg.py", "pacs/objects.py"},
    "dicomweb_client": {"pacs/dicomweb.py"},
    "requests": {"pacs/dicomweb.py"},
    "pynetdicom": {"pacs/listen.py", "pacs/send.py"},
    "ray": {"folder_runs/on_ray.py"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "pyarrow": {"parquet.py"},
    "pandas": {"masks/save.py"},
    "matplotlib": {"draw/figures.py", "draw/plots.py"},
    "flax": {"nn", "weights", "training", "datasets", "export", *METHODS},
}
BANNED_CALLS = {"print", "eval", "exec", "pickle.load", "pickle.loads", "nnx.jit", "jax.image.resize"}
BANNED_CALLS |= {"warnings.filterwarnings", "jax.pmap"}
CROSS_CUTTING = {"benchmarks", "conventions", "doctests", "documents", "extras", "file_systems", "golden_steps"}
CROSS_CUTTING |= {"benchmarks_gpu", "benchmarks_page", "memory", "no_places", "packaging", "printed_commands"}
MAY_CALL = {"training/mesh.py": {"jax.pmap"}}

# Folders whose text must be plain English, besides the files at the top of the repository.
PLAIN_ENGLISH = {"jaxseg", "cli", "configs", "docs", "examples", "tests", "benchmarks"}
# The old private dialect, and names that it left in the code. STYLE.md 4.9 has the plain words.
DIALECT = [
    r"\b(a|one) (picture|row|line|file|segment|mask|class|image|device|block) an? (?!time\b)\w+",
    r"(?<!there )\b(is|are|was|were) no \w+ of\b",
    r"\bbut for\b",
    r"\bhangs? on\b",
    r"\bso many\b",
    r"\blooked at\b",
    r"\b(is|are|was|were) told\b",
    r"\btells\b",
    r"(?<!left )(?<!leave )(?<!leaves )(?<!stand-)\balone\b",
    r"\bwhole_set\b",
    r"\bspoil(s|t|ed|ing)?\b",
    r"\bbegun\b",
    r"\bwhat (was|is) not read\b",
    r"\bpays\b",
    r"\bgo(es|ing)? on\b(?! the\b)",
    r"\bwent on\b",
    r"\btold of\b",
    r"\bof (its|one's) own\b",
    r"\bstands? for\b",
    r"\bnothing but\b",
    r"\bin turn\b",
    r"\bby chance\b",
    r"\b(is|are) what\b",
    r"\bwhere (that|this|it) is (asked|wanted|needed|known)\b",
    r"\bwhatever\b",
    r"\bgot around\b",
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def inside(path: Path) -> str:
    """Returns the path inside jaxseg/ or cli/, as the tables above write it."""
    return "/".join(path.relative_to(ROOT).parts[1:])


def room_of(module: str) -> str:
    """Returns the room of a module `jaxseg.x.y`: `x`, or `jaxseg` for files directly in jaxseg/."""
    words = module.split(".")
    return words[1] if len(words) > 1 and (ROOT / "jaxseg" / words[1]).is_dir() else "jaxseg"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_module(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(nodes) -> set[str]:
    """Returns the modules that import statements name; `from a import b` counts as a.b if that is a module, else a."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if is_module(module) else node.module for module in full}
    return found


def run_time_nodes(tree: ast.Module):
    """Yields the nodes of a module, except those below `if TYPE_CHECKING`, which only type checkers read."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            waiting += ast.iter_child_nodes(node)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstring_lines(node: ast.FunctionDef) -> int:
    return (ast.get_docstring(node) or "").count("\n") + 2


def texts() -> list[Path]:
    """Returns every text file of the repository except this one."""
    suffixes = {".py", ".cfg", ".toml", ".md", ".yaml", ".yml", ".ipynb", ".cff"}
    top = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in ("build", "site")]
    files = [file for path in top for file in (path.rglob("*") if path.is_dir() else [path])]
    this = Path(__file__).resolve()
    ours = [path for path in files if (path.suffix in suffixes or path.name == "NOTICE") and path != this]
    assert len(ours) > 100
    return sorted(ours)


def test_files_and_functions_are_short_and_no_file_is_a_crumb():
    found = []
    for path in ALL:
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_LINES:
            found.append(f"{name(path)} has {lines} lines, more than {MAX_LINES}")
        fewest = CRUMB_OF_METHOD if inside(path).split("/")[0] in METHODS else CRUMB
        stays = path not in LIBRARY or path.name == "__init__.py" or inside(path) in SHORT_FILES
        if lines < fewest and not stays:
            found.append(f"{name(path)} has {lines} lines, fewer than {fewest}: merge it into a neighbour")
        if path not in SOURCES:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno - docstring_lines(node)
                if length >= MAX_FUNCTION:
                    found.append(f"{name(path)}: {node.name} has {length} lines, more than {MAX_FUNCTION}")
    short = {inside(path) for path in LIBRARY if path.read_text().count("\n") < CRUMB}
    found += [f"SHORT_FILES names {file}, which is absent or not short" for file in sorted(SHORT_FILES - short)]
    assert not found, "\n".join(found)


def test_a_test_file_lies_where_its_module_does_and_its_name_begins_with_it():
    """tests/x/test_y.py or test_y_and_more.py tests jaxseg/x/y.py; CROSS_CUTTING lists those of several modules."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder, subject = path.parent.relative_to(ROOT / "tests").as_posix(), path.stem.removeprefix("test_")
        if folder == "parity_torch" or subject in CROSS_CUTTING:
            continue
        modules = {other.stem for other in (ROOT if folder == "cli" else ROOT / "jaxseg").joinpath(folder).glob("*.py")}
        if not any(subject == module or subject.startswith(f"{module}_") for module in modules):
            found.append(f"{name(path)}: its name must begin with test_ and one of {', '.join(sorted(modules))}")
    assert not found, "\n".join(found)


def test_banned_things_are_absent():
    found = []
    for path in SOURCES:
        text = path.read_text()
        tree = parsed(path)
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found += [f"{name(path)} calls {call}" for call in calls & BANNED_CALLS - MAY_CALL.get(inside(path), set())]
        if any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
            found.append(f"{name(path)} has an assert, which belongs in tests")
        if "flax.linen" in text:
            found.append(f"{name(path)} mentions flax.linen")
        if path.stem in {"utils", "helpers", "common", "misc", "base"}:
            found.append(f"{name(path)}: the name does not say what the file holds")
        if tree.body and not ast.get_docstring(tree):
            found.append(f"{name(path)} has no docstring")
    absolute = re.compile(r"""(?<![\w.<:/}])/(work|root|home|Users|mnt)/|pypi\.org|files\.pythonhosted""")
    found += [f"{name(p)} names an absolute path or a registry" for p in texts() if absolute.search(p.read_text())]
    assert not found, "\n".join(found)


def test_imports_point_one_way():
    found, graph = [], {}
    for path in LIBRARY:
        tree, here = parsed(path), module_of(path)
        graph[here] = imports(tree.body) & {module_of(other) for other in LIBRARY}
        room = room_of(here)
        for module in sorted(imports(run_time_nodes(tree))):
            top, *rest = module.split(".")
            places = ONLY_IN.get(top)
            if places and not {inside(path), room} & places:
                found.append(f"{name(path)} imports {module}, which only {', '.join(sorted(places))} may")
            outer = top in ("benchmarks", "tests", "cli") or module.startswith(("jaxseg.cli", "jaxseg.configs"))
            if outer and path.name != "__main__.py":
                found.append(f"{name(path)} imports {module}")
            ours = top == "jaxseg" and rest and room != room_of(module) and path.name != "__main__.py"
            if ours and not {room_of(module), ".".join(rest)} & ALLOWED[room]:
                found.append(f"{name(path)} imports {module}: {room} may import {sorted(ALLOWED[room])}")
    found += [f"import circle: {' -> '.join(circle)}" for circle in circles(graph)]
    assert not found, "\n".join(found)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the import circles that a depth-first search meets."""
    found, state = [], {}

    def visit(module: str, trail: list[str]) -> None:
        state[module] = "open"
        for target in sorted(graph.get(module, ())):
            if state.get(target) == "open":
                found.append([*trail[trail.index(target) :], target])
            elif target not in state:
                visit(target, [*trail, target])
        state[module] = "done"

    for module in graph:
        if module not in state:
            visit(module, [module])
    return found


def test_setup_cfg_lists_every_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split()) - {"jaxseg.cli", "jaxseg.configs"}
    assert listed == {module_of(path) for path in LIBRARY if path.name == "__init__.py"}


def test_a_circle_of_imports_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_text_is_plain_english():
    phrases = re.compile("|".join(f"(?:{phrase})" for phrase in DIALECT))
    found = []
    for path in texts():
        parts = path.relative_to(ROOT).parts
        if parts[0] in PLAIN_ENGLISH or len(parts) == 1:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                line = line.replace("_", " ") if line.startswith("def test_") else line  # names of tests are sentences
                found += [f"{name(path)}:{number}: {hit.group()!r}" for hit in phrases.finditer(line)]
    assert not found, f"{len(found)} phrases of the old dialect:\n" + "\n".join(found)


def public_functions():
    """Yields (name, function) of every public function of the library."""
    for path in LIBRARY:
        module = importlib.import_module(module_of(path))
        for key, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_"):
                yield f"{module.__name__}.{key}", value


@pytest.mark.slow
def test_public_functions_have_docstrings_and_keyword_only_options():
    functions = dict(public_functions())
    assert len(functions) > 60
    found = [f"{key} has no docstring" for key, value in functions.items() if not inspect.getdoc(value)]
    for key, value in functions.items():
        for parameter in inspect.signature(inspect.unwrap(value)).parameters.values():
            if isinstance(parameter.default, bool) and parameter.kind is not parameter.KEYWORD_ONLY:
                found.append(f"{key}: the true-or-false option {parameter.name} must be keyword-only")
    assert not found, "\n".join(found)
