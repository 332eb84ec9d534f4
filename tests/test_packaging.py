"""The wheel, the editable install, and what importing costs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {".html", ".css", ".js"}
HEAVY = ("flax", "grain", "orbax", "pydicom")


def copy_sources(tree: Path) -> Path:
    """Copies what a build needs into a new folder, since building leaves files beside the sources."""
    tree.mkdir()
    for name in ("jaxseg", "cli", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_sources(folder / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


@pytest.mark.full
def test_the_wheel_adds_only_jaxseg_and_holds_every_module(wheel):
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"jaxseg"}
    ours = {f"jaxseg/{p.relative_to(ROOT / 'jaxseg').as_posix()}" for p in (ROOT / "jaxseg").rglob("*.py")}
    ours |= {f"jaxseg/{folder}/{p.name}" for folder in ("cli", "configs") for p in (ROOT / folder).glob("*.py")}
    ours |= {f"jaxseg/configs/{p.name}" for p in (ROOT / "configs").glob("*.yaml")}
    ours |= {"jaxseg/anatomy/cxas_reference.npz"}
    ours |= {"jaxseg/py.typed"} | {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "jaxseg").rglob("*.*") if p.suffix in PAGES
    }
    assert ours == {name for name in names if ".dist-info/" not in name}


@pytest.mark.full
def test_the_installed_wheel_runs(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = "import jaxseg, jaxseg.cli, jaxseg.configs; print(jaxseg.__file__, jaxseg.cli.__file__)"
    out = run(code, tmp_path, path=tmp_path / "site")
    assert out.split() == [
        str(tmp_path / "site" / "jaxseg" / "__init__.py"),
        str(tmp_path / "site/jaxseg/cli/__init__.py"),
    ]
    help_text = run("from jaxseg.cli.main import main; main(['models'])", tmp_path, path=tmp_path / "site")
    assert "cxas" in help_text


def test_the_editable_install_has_the_same_names():
    out = run("import jaxseg.cli, jaxseg.configs; print(jaxseg.cli.__file__)", ROOT.parent)
    assert Path(out.strip()).resolve() == ROOT / "cli" / "__init__.py"


@pytest.mark.full
def test_a_clone_called_jaxseg_is_imported_from_anywhere(tmp_path):
    """With the default editable mode, Python in the parent folder takes the clone itself for the package."""
    clone = copy_sources(tmp_path / "jaxseg")
    environment, python = tmp_path / "environment", tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (install,) = re.findall(r"^EDITABLE := -m (.*)$", (ROOT / "Makefile").read_text(), re.M)
    command = [sys.executable, "-m", "pip", "--python", python, *install.split()[1:], clone, "--no-deps"]
    subprocess.run(command, check=True, capture_output=True)
    code = "import jaxseg, jaxseg.cli, jaxseg.configs; print(jaxseg.__file__, jaxseg.cli.__file__)"
    for folder in (clone, tmp_path, ROOT.parent.parent):
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-c", code], cwd=folder, env=variables, capture_output=True, text=True, check=True
        )
        found = [Path(word).resolve() for word in done.stdout.split()]
        assert found == [clone / "jaxseg" / "__init__.py", clone / "cli" / "__init__.py"]


@pytest.mark.parametrize("code", ["import jaxseg", "from jaxseg.cli.main import main; main(['segment', '--help'])"])
def test_importing_and_help_load_nothing_heavy_and_take_no_device(code):
    probe = (
        "import atexit, sys, json\n"
        "def show():\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    taken = 'jax' in sys.modules and bool(sys.modules['jax']._src.xla_bridge._backends)\n"
        "    print(json.dumps({'heavy': heavy, 'taken': taken}))\n"
        "atexit.register(show)\n"
    )
    out = run(probe + code, ROOT.parent)
    assert json.loads(out.strip().splitlines()[-1]) == {"heavy": [], "taken": False}


def test_public_names_resolve_and_others_do_not():
    import jaxseg

    for name in jaxseg.__all__:
        assert getattr(jaxseg, name) is not None
    assert set(jaxseg.__all__) <= set(dir(jaxseg))
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = jaxseg.segmnt


def run(code: str, folder: Path, path: Path | None = None) -> str:
    options = ["-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"] if path else ["-c", code]
    done = subprocess.run([sys.executable, *options], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_type_checkers_see_all_public_names():
    """The block `if TYPE_CHECKING` of jaxseg/__init__.py imports every public name from its module."""
    import jaxseg

    tree = ast.parse(Path(jaxseg.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == jaxseg._PUBLIC
