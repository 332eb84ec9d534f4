"""The temporary folder: it is emptied, also after kill -9, and nothing else is touched."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from jaxseg.service.workspace import MARKER, PREFIX, Workspace, remove_abandoned

PROGRAM = """
import sys, time
from pathlib import Path
from jaxseg.service.workspace import Workspace
found = Workspace(Path(sys.argv[1]))
(found.new() / "upload-image-1").write_bytes(b"patient")
print(found.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process with a workspace in `tmp_path`, and its folder."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        yield process, tmp_path / process.stdout.readline().strip().rpartition("/")[2]
        process.kill()


def test_the_next_start_removes_what_a_killed_process_left(tmp_path, other):
    process, folder = other
    assert remove_abandoned(tmp_path) == []  # it lives
    assert list(folder.rglob("upload-image-1"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.is_dir()
    Workspace(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_foreign_files_are_left_untouched(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    (tmp_path / f"{PREFIX}file").write_bytes(b"x")
    assert remove_abandoned(tmp_path) == []
    assert (precious / "file").exists()
    assert (tmp_path / f"{PREFIX}file").exists()


def test_a_folder_of_the_same_name_that_somebody_made_is_left_untouched(tmp_path):
    foreign = tmp_path / f"{PREFIX}notes"
    foreign.mkdir()
    (foreign / "notes.txt").write_bytes(b"x")
    Workspace(tmp_path).close()
    assert (foreign / "notes.txt").read_bytes() == b"x"


def test_the_marker_goes_last_so_that_a_start_finds_what_a_killed_one_did_not_remove(tmp_path, monkeypatch):
    left, removed, rmtree = tmp_path / f"{PREFIX}left", [], shutil.rmtree
    (left / "request").mkdir(parents=True)
    (left / MARKER).touch()

    def noted(path, **options):
        removed.append((path, (left / MARKER).exists()))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", noted)
    assert remove_abandoned(tmp_path) == [left]
    assert removed == [(left / "request", True), (left, True)]
    assert not left.exists()


def test_only_this_user_reads_it_and_it_is_gone_after_the_end(tmp_path):
    space = Workspace(tmp_path)
    first, second = space.new(), space.new()
    assert first != second
    assert {path.stat().st_mode & 0o777 for path in (space.path, first)} == {0o700}
    space.remove(first)
    assert set(space.path.iterdir()) == {second, space.path / MARKER}
    with pytest.raises(ValueError, match="not a folder of this workspace"):
        space.remove(tmp_path)
    space.close()
    assert list(tmp_path.iterdir()) == []
