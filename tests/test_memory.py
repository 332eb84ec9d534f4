"""Freed memory that the process keeps causes no page faults when it is allocated again."""

import platform
import subprocess
import sys

import pytest

from jaxseg.xla import keep_freed_memory

pytestmark = pytest.mark.slow

PROGRAM = """
import resource, sys
from jaxseg.xla import keep_freed_memory
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_memory_is_used_again_without_page_faults():
    assert faults("given back") > 1000
    assert faults("kept") < 100


def test_other_systems_stay_unchanged(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.full
@pytest.mark.optimised
def test_training_keeps_freed_memory_before_the_devices_start(tmp_path):
    program = """
import sys
import jaxseg.xla
from jax._src import xla_bridge
jaxseg.xla.keep_freed_memory = lambda: sys.exit(3 + bool(xla_bridge._backends))
from jaxseg.cli.main import main
main(["train", "-t", "demo", "-o", sys.argv[1], "--set", "trainer.keep_memory=" + sys.argv[2], "-g", sys.argv[3]])
"""

    def ended(*arguments: str) -> int:
        command = [sys.executable, "-c", program, tmp_path / "run", *arguments]
        return subprocess.run(command, capture_output=True).returncode

    assert ended("true", "cpu") == 3
    assert ended("false", "77") != 3  # a run without the setting does not call it
