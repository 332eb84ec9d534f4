"""Commands in a new process with another environment: without a package, without a home, on a small disk.

Run as a program, this file runs `jaxseg` commands, one after the other, with a shallow ResNet-18.
"""

import contextlib
import importlib.abc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest


def run_commands(
    *commands: list, folder: Path, prefix: tuple = (), without: tuple = (), homeless: bool = False, **environment: str
) -> list[tuple[int, str]]:
    """Runs commands in one new process; returns the exit code and the output of each.

    Args:
      *commands: the arguments of each call of `jaxseg`.
      folder: working directory.
      prefix: words before the interpreter, such as those of `small_disk`.
      without: names of packages that cannot be imported.
      homeless: whether the user has neither a home nor a name.
      **environment: further variables; an empty one is removed.
    """
    task = json.dumps([[list(map(str, command)) for command in commands], list(without), homeless])
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    variables = {name: value for name, value in variables.items() if value}
    command = [*prefix, sys.executable, __file__]
    done = subprocess.run(
        command, input=task, capture_output=True, text=True, cwd=folder, env=variables, timeout=900, check=False
    )
    try:
        return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError):
        raise AssertionError(f"the process ended with {done.returncode}: {done.stdout}{done.stderr}") from None


def small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """Returns the words before a command that give it a file system of this size at `folder`."""
    return _mounted(folder, f"mount -t tmpfs -o size={size} tmpfs")


def read_only(folder: Path) -> tuple[str, ...]:
    """Returns the words before a command for which `folder` is read-only."""
    return _mounted(folder, 'mount --bind "$0" "$0" && mount -o remount,bind,ro')


def _mounted(folder: Path, mount: str) -> tuple[str, ...]:
    words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mount} "$0" && exec "$@"', str(folder))
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `unshare --user --mount`, which this machine does not allow")
    return words


class _Without(importlib.abc.MetaPathFinder):
    """Makes packages impossible to import."""

    def __init__(self, packages: list[str]):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _call(arguments: list[str]) -> tuple[int, str]:
    """Runs one command; returns its exit code, and what it and the threads below Python wrote."""
    from jaxseg.cli.main import main

    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(1), os.dup(2)
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        code = 0
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
        file.seek(0)
        return code, file.read()


def _serve() -> None:
    commands, without, homeless = json.loads(sys.stdin.read())
    sys.meta_path.insert(0, _Without(without))
    if homeless:
        import pwd

        def nobody(number):
            raise KeyError(f"getpwuid(): uid not found: {number}")

        pwd.getpwuid = nobody
        os.environ.pop("HOME", None)

    from jaxseg.nn.resnet import VARIANTS

    VARIANTS["resnet18"] = ((1, 1, 1, 1), False)  # one block per stage
    sys.stdout.write("\n" + json.dumps([_call(arguments) for arguments in commands]) + "\n")


if __name__ == "__main__":
    _serve()
