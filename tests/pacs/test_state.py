"""The state file remembers every step, belongs to one worker at a time, and says what is wrong with a bad file."""

import dataclasses
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from jaxseg.files import Locked
from jaxseg.pacs.exchange import Image
from jaxseg.pacs.state import State

A, B, C = (Image(f"1.{k}", f"2.{k}", f"3.{k}") for k in range(3))
KILLED = """
import os, pathlib, signal, sys
from jaxseg.pacs.exchange import Image
from jaxseg.pacs.state import State
state, image = State(pathlib.Path(sys.argv[1])), Image(*sys.argv[2:])
state.add(image)
state.move(image, "segmented")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_survive_and_go_through_their_states(tmp_path):
    path = tmp_path / "new" / "state"
    with State(path) as state:
        assert [state.add(A), state.add(A), state.add(B), state.add(C, "fetched")] == [True, False, True, True]
        state.move(A, "stored")
        state.fail(B, "no pixels")
        assert [row.image for row in state.due(10)] == [C]
    with State(path) as state:
        assert state.counts() == {"seen": 0, "fetched": 1, "segmented": 0, "stored": 1, "failed": 1}
        assert [(row.image, row.reason) for row in state.failed()] == [(B, "no pixels")]
        assert not state.add(A)
        assert state.find(A.sop_uid).state == "stored"
        assert state.find("9.9") is None


def test_a_postponed_row_waits_until_it_is_due(tmp_path):
    with State(tmp_path / "state") as state:
        state.add(A)
        state.begin(A)
        state.postpone(A, "HTTP status 503", time.time() + 60)
        assert state.due(1) == []
        assert state.next_due() == pytest.approx(time.time() + 60, abs=5)
        (row,) = state.waiting()
        assert (row.tries, row.reason, row.state) == (1, "HTTP status 503", "seen")
        state.uncount(A)
        state.uncount(A)
        assert state.find(A.sop_uid).tries == 0


def test_retry_sets_failed_rows_back_while_a_worker_runs(tmp_path):
    with State(tmp_path / "state") as state:
        for image in (A, B):
            state.add(image)
            state.begin(image)
            state.fail(image, "refused")
        with State(tmp_path / "state", read_only=True) as other:
            assert other.retry(A.sop_uid) == 1
            assert other.retry() == 1
            assert other.retry() == 0
        assert [(row.tries, row.state) for row in state.due(5)] == [(0, "seen")] * 2


def test_two_workers_cannot_use_one_file(tmp_path):
    with State(tmp_path / "state"):
        with pytest.raises(Locked, match="another worker uses .*state"):
            State(tmp_path / "state")
        with State(tmp_path / "state", read_only=True) as reader:
            assert sum(reader.counts().values()) == 0
    State(tmp_path / "state").close()


def test_a_file_of_other_settings_is_refused(tmp_path):
    with State(tmp_path / "state") as state:
        state.bind(PACS="http://a")
        state.bind(PACS="http://a")
        with pytest.raises(ValueError, match="belongs to another PACS; name a new file with --state"):
            state.bind(PACS="http://b")
        assert state.about() == {"PACS": "http://a"}


def test_files_that_are_no_state_are_refused_and_stay(tmp_path):
    (tmp_path / "text").write_bytes(b"no database " * 100)
    with pytest.raises(ValueError, match="cannot be used as a state file"):
        State(tmp_path / "text")
    assert (tmp_path / "text").read_bytes() == b"no database " * 100
    base = sqlite3.connect(tmp_path / "other")
    base.execute("CREATE TABLE things (name TEXT)")
    base.close()
    with pytest.raises(ValueError, match="a database of another program"):
        State(tmp_path / "other")
    State(tmp_path / "newer").close()
    base = sqlite3.connect(tmp_path / "newer")
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(ValueError, match="made by a newer jaxseg"):
        State(tmp_path / "newer")
    with pytest.raises(FileNotFoundError, match="there is no such state file"):
        State(tmp_path / "missing", read_only=True)


def test_what_a_method_has_returned_survives_a_kill(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "state", *dataclasses.astuple(A)])
    assert killed.returncode == -signal.SIGKILL
    with State(tmp_path / "state") as state:  # the lock went with the process
        assert state.find(A.sop_uid).state == "segmented"


def test_only_the_user_may_read_the_files(tmp_path):
    with State(tmp_path / "state") as state:
        assert state.files.stat().st_mode & 0o777 == 0o700
        assert state.path.stat().st_mode & 0o777 == 0o600
