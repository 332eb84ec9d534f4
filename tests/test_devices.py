"""`only_cpus` reports, before JAX starts a device, whether only CPUs will compute."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from child_commands import run_commands
from PIL import Image

from jaxseg.devices import only_cpus, select_devices


@pytest.mark.parametrize(
    ("platforms", "plugins", "spec", "wanted"),
    [
        ("cpu", ["cuda"], "all", True),
        ("", ["cuda"], "cpu", True),
        ("", ["cuda"], "auto", False),
        ("cuda", ["cuda"], "auto", False),
        ("cuda", [], "auto", False),
        ("", [], "all", True),
    ],
)
def test_only_cpus_follows_the_platforms_the_plugins_and_the_option(monkeypatch, platforms, plugins, spec, wanted):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: plugins)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert only_cpus(spec) is wanted
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.full
def test_a_platform_without_its_plugin_is_explained_by_every_command_and_in_python(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / name / "a.png")
    np.save(tmp_path / "ct.npy", np.zeros((2, 8, 8), np.int16))
    (tmp_path / "p.yaml").write_text("segment: {weights: images}\n")
    weights = ["--weights", "images", "-o", "out"]
    commands = {
        "segment": ["-i", "images", *weights],
        "extract": ["-i", "images", "-f", "area", *weights],
        "denoise": ["-i", "masks", *weights],
        "sample": ["-i", "images", *weights],
        "score": ["--weights", "images", "--ct", "ct.npy", "--mask", "ct.npy", "--organ", "liver"],
        "train": ["-t", "demo", "-o", "out"],
        "tune": ["-t", "demo", "-o", "out", "--trials", "1"],
        "evaluate": ["--run", "images"],
        "pipeline": ["p.yaml", "-i", "images", "-o", "out"],
        "demo": ["-o", "out"],
    }
    calls = [[name, *arguments] for name, arguments in commands.items()]
    found = run_commands(*calls, folder=tmp_path, JAX_PLATFORMS="cuda")
    for name, (code, said) in zip(commands, found, strict=True):
        assert code == 2, (name, said)
        said = said.removeprefix("Reading demo ...\n")
        assert said.startswith("Error: --gpus: no gpu found, but JAX_PLATFORMS=cuda selects it; "), (name, said)
        assert "pip install 'jaxseg[cuda12]'" in said, name
    script = "import jaxseg; jaxseg.create('prob_unet', filters=(2, 4))"
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert "ValueError: no gpu found, but JAX_PLATFORMS=cuda selects it" in done.stderr


def test_a_kind_without_devices_names_those_that_jax_sees():
    with pytest.raises(ValueError, match=r"no tpu found; JAX sees 0: cpu.*; pip install 'jaxseg\[tpu\]'"):
        select_devices("tpu")
    with pytest.raises(ValueError, match="no device 99; JAX sees 0: cpu"):
        select_devices("99")
