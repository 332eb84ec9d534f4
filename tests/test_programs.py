"""Kept programs: where they are, what turns them off, and that no trouble with them changes a result."""

import json
import os
import subprocess
import sys

import pytest

from jaxseg import programs
from jaxseg.cli.main import main

# Keeps programs, compiles one, and prints the folder, the result, and how many programs were found and kept.
COMPILE = """
import json, sys
from jaxseg import programs
from jaxseg.cli import console
folder = programs.keep()
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/")[-1]))
console.take_over(debug=False)
found = float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + 41)(jnp.zeros((2, 2)))[0, 0])
print(json.dumps([folder and str(folder), found, events.count("cache_hits"), events.count("cache_misses")]))
"""


def compiled(home, **variables) -> tuple:
    """Returns the folder, the result, the number of programs read and written, and stderr of a new process."""
    names = (programs.VARIABLE, "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    environment = kept | {"JAXSEG_HOME": str(home)} | variables
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=True)
    return (*json.loads(done.stdout), done.stderr)


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """Lets this process think that nothing is set, and puts the user's cache into a temporary folder."""
    for name in (programs.VARIABLE, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it, after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    return tmp_path


def test_the_second_process_reads_what_the_first_compiled(tmp_path):
    folder, result, _, written, _ = compiled(tmp_path)
    assert folder.startswith(str(tmp_path / "programs"))
    assert written >= 1
    assert compiled(tmp_path) == (folder, result, written, 0, "")


def test_a_damaged_program_is_compiled_and_kept_again_without_a_word(tmp_path):
    folder, result, _, written, _ = compiled(tmp_path)
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "r+b") as file:
            file.truncate(100)
    assert compiled(tmp_path) == (folder, result, 0, written, "")
    assert compiled(tmp_path) == (folder, result, written, 0, "")


def test_a_place_for_the_folder_that_cannot_be_used_costs_only_time(tmp_path):
    (tmp_path / "programs").write_text("a file where the folder should be")
    folder, result, read, written, err = compiled(tmp_path)
    assert (folder, result, read, written, err) == (None, 41.0, 0, 0, "")


def test_a_folder_that_vanishes_costs_only_time(tmp_path):
    """JAX warns that it cannot use the folder; jaxseg leaves that out."""
    script = COMPILE.replace("import jax, ", "import shutil; shutil.rmtree(folder); folder.write_text('');import jax, ")
    environment = {name: value for name, value in os.environ.items() if name != programs.VARIABLE}
    environment |= {"JAXSEG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert (json.loads(done.stdout)[1], done.stderr) == (41.0, "")


def test_a_folder_of_the_user_wins_and_is_not_cleaned(clean, monkeypatch):
    monkeypatch.setenv(programs.VARIABLE, str(clean / "mine"))
    assert programs.keep() is None
    (clean / "mine").mkdir()
    (clean / "mine" / "jit_f-1-cache").write_text("damaged")
    assert programs.is_about_kept("Error reading persistent compilation cache entry for 'jit_f': ValueError: x")
    assert (clean / "mine" / "jit_f-1-cache").exists()
    assert not (clean / "programs").exists()


def test_folders_differ_between_versions_and_processors(clean, monkeypatch):
    folders = {programs.keep()}
    monkeypatch.delenv(programs.VARIABLE)
    monkeypatch.setattr(programs.cpu, "signature", lambda: "another processor")
    folders.add(programs.keep())
    monkeypatch.delenv(programs.VARIABLE)
    monkeypatch.setattr(programs.importlib.metadata, "version", lambda name: "99.1")
    folders.add(programs.keep())
    assert {folder.name.rpartition("-")[0] for folder in folders} >= {"99.1-99.1"}
    assert len(folders) == 3


def test_other_users_cannot_write_into_the_folder(clean):
    assert not programs.keep().stat().st_mode & 0o077


@pytest.mark.parametrize("place", ["programs", "programs/*"])
def test_nothing_is_kept_where_others_can_write(clean, monkeypatch, place):
    programs.keep()
    monkeypatch.delenv(programs.VARIABLE)
    (folder,) = clean.glob(place)
    folder.chmod(0o777)
    assert programs.keep() is None
    assert programs.VARIABLE not in os.environ


def test_programs_that_were_not_used_for_the_longest_time_are_removed(clean, monkeypatch):
    folder = programs.keep()
    for age, name in enumerate(("new", "middle", "old")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    (folder.parent / "earlier version").mkdir()
    (folder.parent / "earlier version" / "oldest").write_bytes(bytes(100))
    os.utime(folder.parent / "earlier version" / "oldest", (1, 1))
    monkeypatch.delenv(programs.VARIABLE)
    monkeypatch.setattr(programs, "MOST_BYTES", 250)
    programs.keep()
    assert sorted(path.name for path in folder.parent.rglob("*") if path.is_file()) == ["middle", "new"]


@pytest.mark.parametrize("warning", ["something else", "Error reading the file"])
def test_other_warnings_are_shown(clean, warning):
    assert not programs.is_about_kept(warning)


SEGMENT = ["segment", "-i", "x.png", "-o", "out"]
TRAIN = ["train", "-t", "nothing"]
SAMPLE = ["sample", "-i", "x.tif", "-o", "out", "--weights", __file__]
DENOISE = ["denoise", "-i", "x.png", "-o", "out", "--weights", __file__]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (SEGMENT, True),
        ([*SEGMENT, "--dtype", "float32"], True),
        ([*SEGMENT, "--no-cache"], False),
        ([*SEGMENT, "--dtype", "bfloat16"], False),
        ([*SEGMENT, "--dtype", "bfloat16", "--cache"], True),
        (SAMPLE, True),
        (TRAIN, False),
        ([*TRAIN, "--cache"], True),
        (DENOISE, False),
        ([*DENOISE, "--cache"], True),
    ],
)
def test_programs_are_kept_where_a_command_gains_from_it(clean, words, kept):
    with pytest.raises(SystemExit):
        main(words)
    assert (os.environ.pop("JAX_ENABLE_COMPILATION_CACHE", None) == "0") is not kept
    assert os.environ.pop(programs.VARIABLE, "").startswith(str(clean)) is kept


@pytest.mark.parametrize("words", [SEGMENT, TRAIN])
def test_a_folder_of_the_user_is_used_by_every_command(clean, monkeypatch, words):
    monkeypatch.setenv(programs.VARIABLE, "mine")
    with pytest.raises(SystemExit):
        main(words)
    assert os.environ[programs.VARIABLE] == "mine"
    assert "JAX_ENABLE_COMPILATION_CACHE" not in os.environ


def test_commands_that_do_not_compute_make_no_folder(clean):
    for words in (["models"], ["segment", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    assert not (clean / "programs").exists()
