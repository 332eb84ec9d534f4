"""Freed memory that the process keeps costs no page faults when it is asked for again."""

import subprocess
import sys

import pytest

from jaxseg.memory import keep_freed_memory

PROGRAM = """
import resource, sys
from jaxseg.memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not possible")
def use():
    return len(bytearray(b"1") * 100_000_000)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(ran.stdout)


def has_glibc() -> bool:
    import platform

    return platform.libc_ver()[0] == "glibc"


@pytest.mark.skipif(not has_glibc(), reason="only glibc can be told to")
def test_memory_is_used_again_without_page_faults():
    assert faults("given back") > 1000
    assert faults("kept") < 100


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
