"""XLA on CPUs computes on all cores. Flags of the user and untested versions of jaxlib stay unchanged."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import cpu
from jaxseg.xla import keeping_barriers, use_all_cores

pytestmark = pytest.mark.slow

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
PROGRAM = """
import jax, jax.numpy as jnp, sys
from jaxseg.xla import use_all_cores
if sys.argv[1] == "all":
    assert use_all_cores()
x, kernel = jnp.ones((2, 32, 32, 24)), jnp.ones((3, 3, 24, 24))
convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
text = jax.jit(convolve).lower(x, kernel).compile().as_text()
print("ynn" in text, float(convolve(x, kernel)[0, 5, 5, 0]))
"""


def run(how: str) -> list[str]:
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, env=variables
    )
    return ran.stdout.split()


def test_convolutions_do_not_use_the_library_that_takes_one_core():
    assert run("all") == ["False", "216.0"]
    assert run("as it is") == ["True", "216.0"]  # otherwise `use_all_cores` is not needed any more


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert use_all_cores()
    assert (
        os.environ["XLA_FLAGS"]
        == f"--xla_cpu_enable_fast_math=false {FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    )
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=")
    assert not use_all_cores()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}="


@pytest.mark.parametrize(("version", "known"), [("0.10.2", True), ("0.12.0.1", True), ("0.13.0", False), ("x", False)])
def test_only_tested_versions_get_the_flag(monkeypatch, version, known):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert use_all_cores() is known
    assert ("XLA_FLAGS" in os.environ) is known
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_commands_use_all_cores():
    code = "import os, sys; from jaxseg.cli.main import main\ntry: main(['models'])\nexcept SystemExit: pass\n"
    code += "print(os.environ.get('XLA_FLAGS'))"
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert FLAG in ran.stdout


@pytest.mark.optimised
def test_barriers_stay_and_change_no_result():
    def chain(x, kept):
        maps = []
        for place in range(3):
            x = x * 1.5 + place
            x = jax.lax.optimization_barrier(x) if kept else x
            maps.append(x.sum())
        return jnp.stack(maps)

    x = np.arange(4096, dtype=np.float32).reshape(64, 64) / 4096
    programs = {}
    for kept in (True, False):
        jitted = jax.jit(chain, static_argnums=1, compiler_options=keeping_barriers("cpu"))
        programs[kept] = jitted.lower(x, kept).compile()
    assert programs[True].as_text().count("opt-barrier(") == 3  # XLA usually removes them
    np.testing.assert_allclose(programs[True](x), programs[False](x), rtol=1e-6)


def test_barriers_are_kept_only_on_cpus_and_by_tested_versions(monkeypatch):
    assert keeping_barriers("gpu") == {}
    assert keeping_barriers("cpu")
    monkeypatch.setattr(cpu, "TESTED", ())
    assert keeping_barriers("cpu") == {}
