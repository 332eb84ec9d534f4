"""Fixtures of the commands: tiny model directories, a folder of images, and two ways to run `jaxseg`."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_models import save_tiny

from jaxseg.vocabulary import labels


@pytest.fixture(scope="session")
def tiny_unet(tmp_path_factory):
    """Returns the folder of a narrow U-Net with the 159 classes of CXAS, for 64 x 64 inputs."""
    return save_tiny(tmp_path_factory.mktemp("tiny"), "cxas", class_names=labels.CXAS)


@pytest.fixture
def tiny(tiny_unet):
    """Returns the folder of a narrow model; modules that test no network replace it by `tiny_plain`."""
    return tiny_unet


@pytest.fixture(scope="module")
def tiny_plain(tiny_unet, plain, tmp_path_factory):
    """Returns the folder of a plain network with the classes of CXAS, and makes it the network of the module."""
    return save_tiny(tmp_path_factory.mktemp("plain"), "cxas", class_names=labels.CXAS)


@pytest.fixture(scope="session")
def tiny_paxray(tmp_path_factory):
    """Returns the folder of a narrow PAX-Ray model: 166 classes without names."""
    return save_tiny(tmp_path_factory.mktemp("paxray"), "paxray")


@pytest.fixture
def images(tmp_path):
    """Returns a folder with two X-rays of different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (60, 50)), ("two.jpg", (33, 70))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def jaxseg_command(capsys):
    """Returns a function that runs the command in this process: (arguments) -> (exit code, stdout, stderr)."""
    from jaxseg.cli.main import main

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture
def jaxseg_process():
    """Returns a function that runs the command in a new process: (arguments) -> (exit code, stdout, stderr)."""

    def run(*arguments):
        command = [sys.executable, "-m", "jaxseg.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return run
