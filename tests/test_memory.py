"""Memory that a process keeps, or that comes in huge pages, causes few page faults."""

import os
import platform
import subprocess
import sys

import pytest

import jaxseg.cli.main as main_module
from jaxseg import xla
from jaxseg.xla import keep_freed_memory, restart_with_huge_pages

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
    monkeypatch.setattr(os, "execve", None)  # calling it would be an error
    assert keep_freed_memory() is False
    restart_with_huge_pages()


RESTARTED = """
import os, resource, sys
from jaxseg.xla import restart_with_huge_pages
restart_with_huge_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(b"1") * 100_000_000
print(os.environ.get("GLIBC_TUNABLES"), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, *sys.argv[1:])
sys.exit(len(sys.stdin.read()))
"""


@pytest.mark.skipif(not xla.huge_pages_on_request(), reason="the system gives huge pages to all programs or to none")
@pytest.mark.parametrize("before", [None, "glibc.malloc.perturb=0", "glibc.malloc.hugetlb=0"])
def test_a_program_starts_again_with_huge_pages_unless_the_variable_names_them(before):
    variables = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    variables |= {"GLIBC_TUNABLES": before} if before else {}
    command = [sys.executable, "-c", RESTARTED, "a b", "--c"]
    ran = subprocess.run(command, capture_output=True, text=True, input="four", env=variables)
    found, faults, *arguments = ran.stdout.strip().split(" ", 2)
    assert (ran.returncode, ran.stderr, arguments) == (4, "", ["a b --c"])
    if before == "glibc.malloc.hugetlb=0":
        assert (found, int(faults) > 10_000) == (before, True)
    else:
        assert found == ":".join(filter(None, (before, xla.HUGE_PAGES)))
        assert int(faults) < 5000


@pytest.mark.parametrize(
    ("modes", "libc"),
    [("[always] madvise never", ("glibc", "2.36")), ("always madvise [never]", ("glibc", "2.36"))]
    + [("always [madvise] never", ("glibc", "2.34")), ("always [madvise] never", ("", "")), (None, ("glibc", "2.36"))],
)
def test_no_program_starts_again_without_need(modes, libc, monkeypatch, tmp_path):
    if modes is not None:
        (tmp_path / "enabled").write_text(modes)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("JAXSEG_RESTARTED", raising=False)
    monkeypatch.setattr(xla, "_HUGE_PAGES_FILE", tmp_path / "enabled")
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(os, "execve", None)
    restart_with_huge_pages()


@pytest.fixture
def huge_pages(monkeypatch):
    """Lets a restart seem useful, and returns the list of the programs that were started again."""
    started = []
    for name in ("GLIBC_TUNABLES", "JAXSEG_RESTARTED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(xla, "huge_pages_on_request", lambda: True)
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    return started


def test_a_program_is_started_again_once_even_if_the_c_library_deletes_its_variable(huge_pages, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxseg", "train", "-t", "demo"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "jaxseg", "train", "-t", "demo"])
    restart_with_huge_pages()
    ((program, words, variables),) = huge_pages
    assert (program, words) == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    monkeypatch.setenv("JAXSEG_RESTARTED", variables["JAXSEG_RESTARTED"])
    restart_with_huge_pages()
    assert len(huge_pages) == 1


@pytest.mark.parametrize(
    ("arguments", "original"),
    [
        (["-", "train"], ["python", "-", "train"]),  # the program came from standard input, which is read by now
        (["", "train"], ["python"]),
        (["jaxseg", "train", "-t", "demo"], ["ipython", "--pylab"]),  # `%run` in a notebook
    ],
)
def test_what_cannot_be_started_in_the_same_way_continues(huge_pages, monkeypatch, arguments, original):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", original)
    restart_with_huge_pages()
    assert huge_pages == []


def test_a_program_that_cannot_be_started_continues(huge_pages, monkeypatch):
    def refuse(*given):
        huge_pages.append(given)
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(sys, "argv", ["jaxseg", "train"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "jaxseg", "train"])
    restart_with_huge_pages()
    assert len(huge_pages) == 1


def test_the_command_that_trains_asks_for_huge_pages_and_others_do_not(monkeypatch):
    asked = []
    monkeypatch.setattr(main_module, "restart_with_huge_pages", lambda: asked.append(sys.argv[1]))
    monkeypatch.setattr(main_module.cli, "main", lambda *given, **options: 0)
    for words in (["train"], ["--debug", "tune"], ["segment"], ["train", "--help"]):
        monkeypatch.setattr(sys, "argv", ["jaxseg", *words])
        with pytest.raises(SystemExit):
            main_module.main()
    assert asked == ["train", "--debug"]


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
