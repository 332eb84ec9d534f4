"""The partial file of a download: resumed, claimed by one process, taken over from a killed one."""

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from file_server import BODY, HALF, HASH, interrupted, left

from jaxseg.weights import part as part_module
from jaxseg.weights.download import CHUNK, download

ROOT = Path(__file__).resolve().parents[2]


def test_a_complete_part_is_moved_without_a_request(site, target):
    interrupted(site, target, size=len(BODY))
    download(site.url, target, sha256=HASH)
    assert target.read_bytes() == BODY
    assert site.asked == []


@pytest.mark.parametrize(
    "notes", ["", "{", "[]", "{}", '{"url": 1}', '{"url": "http://other/", "total": 9, "validator": ""}']
)
def test_a_part_without_usable_notes_starts_again(site, target, notes):
    interrupted(site, target)
    target.with_name("weights.pth.part.json").write_text(notes)
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [None]


def process(site, target):
    """Starts a second Python that downloads; returns it once it has received the first half."""
    code = f"import jaxseg.weights.download as d; d.download({site.url!r}, d.Path({str(target)!r}))"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    part, end = target.with_name("weights.pth.part"), time.monotonic() + 10
    while not (part.exists() and part.stat().st_size >= HALF - CHUNK):
        assert time.monotonic() < end, "the second process did not start"
        time.sleep(0.01)
    return child


def test_after_a_kill_the_next_process_resumes(site, target):
    site.hold, site.cuts = threading.Event(), [HALF]
    with process(site, target) as child:
        child.kill()
    site.hold.set()
    assert not target.exists()
    download(site.url, target, sha256=HASH)
    assert target.read_bytes() == BODY
    assert int(site.ranges_asked()[1].removeprefix("bytes=").removesuffix("-")) >= HALF - CHUNK
    assert left(target) == ["weights.pth"]


@pytest.mark.parametrize("killed", [False, True], ids=["finishes", "is_killed"])
def test_a_second_process_waits_for_the_first_one(site, target, monkeypatch, killed):
    site.hold, site.cuts = threading.Event(), [HALF]
    waiting, sleep = threading.Event(), time.sleep
    with process(site, target) as child:
        monkeypatch.setattr(part_module.time, "sleep", lambda seconds: (waiting.set(), sleep(seconds)))
        thread = threading.Thread(target=download, args=(site.url, target), kwargs={"sha256": HASH})
        thread.start()
        assert waiting.wait(5)
        if killed:
            child.kill()
        site.hold.set()
    thread.join(10)
    assert target.read_bytes() == BODY
    assert left(target) == ["weights.pth"]
    assert len(site.asked) == 2  # the first half and the rest, whoever fetched them


def test_without_locks_every_process_has_its_own_part(site, target, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(part_module.fcntl, "flock", no_locks)
    site.cuts = [HALF]
    names = []
    download(site.url, target, progress=lambda *call: names.append(left(target)))
    assert target.read_bytes() == BODY
    assert len(names[-1]) == 2
    assert "weights.pth.part" not in names[-1]
    assert left(target) == ["weights.pth"]
