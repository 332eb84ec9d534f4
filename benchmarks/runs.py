"""What benchmarks of training share: commands of jaxseg that are not repeated, and how long training took."""

import shlex
import subprocess
import sys
import time
from pathlib import Path


def train(folder: Path, config: str, data: Path | None, overrides: list[str]) -> None:
    """Trains a run that is not there yet, and keeps its seconds."""
    arguments = ["train", "-t", config, "-o", folder, *(["-i", data] if data else [])]
    arguments += [word for override in overrides for word in ("--set", override)]
    start = time.perf_counter()
    if jaxseg(*arguments, done=folder / "model"):
        (folder.parent / f"{folder.name}.seconds").write_text(f"{time.perf_counter() - start:.0f}\n")


def training_seconds(folder: Path) -> int:
    """How long a run took to train."""
    return int((folder.parent / f"{folder.name}.seconds").read_text())


def jaxseg(*arguments: object, done: Path) -> bool:
    """Runs a command unless what it makes is there."""
    if done.exists():
        return False
    words = [str(argument) for argument in arguments]
    print("jaxseg " + shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "jaxseg.cli", *words], check=True)
    return True
