"""Tests of the decision whether oneDNN is used, and of what is known about the processor."""

import json
import platform
import subprocess
import sys

import pytest

from jaxseg import cpu


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Forgets the answer, and gives every test an empty cache folder and an unknown jaxlib."""
    monkeypatch.delenv(cpu.VARIABLE, raising=False)
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "TESTED", ())
    cpu.onednn.cache_clear()
    yield
    cpu.onednn.cache_clear()


@pytest.mark.parametrize(("value", "used"), [("0", False), ("1", True)])
def test_the_variable_overrules(monkeypatch, value, used):
    monkeypatch.setenv(cpu.VARIABLE, value)
    monkeypatch.setattr(cpu, "_trial", None)
    assert cpu.onednn() == (used, f"JAXSEG_ONEDNN={value}")


def test_tested_versions_need_no_trial(monkeypatch):
    monkeypatch.setattr(cpu, "_trial", None)
    monkeypatch.setattr(cpu, "TESTED", ("9.9.9",))
    monkeypatch.setattr(cpu.importlib.metadata, "version", lambda name: "9.9.9")
    assert cpu.onednn() == (True, "tested with jaxlib 9.9.9")


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_systems_do_not_have_it(monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    used, reason = cpu.onednn()
    assert not used
    assert f"not for {system} on {machine}" in reason


@pytest.mark.parametrize("usable", [True, False])
def test_the_answer_of_a_trial_is_kept(monkeypatch, tmp_path, usable):
    calls = []
    monkeypatch.setattr(cpu, "_trial", lambda: calls.append(1) or usable)
    assert cpu.onednn().used is usable
    cpu.onednn.cache_clear()
    assert cpu.onednn().used is usable
    (kept,) = tmp_path.iterdir()
    assert (len(calls), json.loads(kept.read_text())) == (1, {"usable": usable})
    kept.write_text("{")  # damaged: tried again
    cpu.onednn.cache_clear()
    assert cpu.onednn().used is usable
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_trial(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cpu, "_trial", lambda: True)
    assert cpu.onednn().used


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "import os; os.abort()", "import time; time.sleep(60)"])
def test_a_trial_that_fails_dies_or_hangs_means_no(monkeypatch, program):
    start = subprocess.run
    monkeypatch.setattr(cpu, "_SECONDS", 1)
    monkeypatch.setattr(subprocess, "run", lambda command, **given: start([command[0], "-c", program], **given))
    assert not cpu.onednn().used


def test_a_trial_that_was_not_finished_is_not_kept(monkeypatch, tmp_path):
    start = subprocess.run
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(subprocess, "run", lambda command, **given: start([command[0], "-c", program], **given))
    assert not cpu.onednn().used
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_trial_does_not_import_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert cpu.onednn().used


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.machine() != "x86_64", reason="has no oneDNN")
def test_the_real_trial_succeeds_with_this_jaxlib():
    assert cpu.onednn().used


@pytest.mark.parametrize(
    ("flags", "limit", "computes"),
    [("avx2 avx512_bf16", None, True), ("amx_bf16", None, True), ("avx2", None, False), ("amx_bf16", "AVX2", False)],
)
def test_bfloat16_needs_instructions_that_are_not_turned_off(monkeypatch, flags, limit, computes):
    monkeypatch.setattr(cpu, "_described", lambda: {"flags": flags})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    cpu.computes_bfloat16.cache_clear()
    assert cpu.computes_bfloat16() is computes
    cpu.computes_bfloat16.cache_clear()


def test_the_signature_depends_on_the_processor(monkeypatch):
    first = cpu.signature()
    monkeypatch.setattr(cpu, "_described", lambda: {"flags": "other"})
    assert len(first) == 16
    assert cpu.signature() != first
