"""Other people's programs that the tests use: where they are, and how they are installed.

`python tests/kit/viewer_tools.py` installs what no Debian package holds into the cache of the tests, once: OHIF's
viewer and axe-core, which checks that pages are accessible, with npm; and dcmqi and pydicom-seg with pip, in an
environment of their own because pydicom-seg needs pydicom 2.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

OHIF, AXE, READERS = "3.13.2", "4.14.1", ("dcmqi==1.5.7", "pydicom-seg==0.4.1", "pydicom==2.4.4", "setuptools<81")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxseg-tests"
VIEWER = CACHE / f"ohif-{OHIF}"
CHECKER = CACHE / f"axe-{AXE}"
ENVIRONMENT = CACHE / "-".join(["seg-readers", *(package.split("==")[-1] for package in READERS[:2])])


def dist() -> Path:
    """Returns the folder of OHIF's prebuilt viewer; skips the test if it is not installed."""
    return _installed(VIEWER / ".ready").parent / "package" / "dist"


def axe() -> str:
    """Returns the script of axe-core; skips the test if it is not installed."""
    return (_installed(CHECKER / ".ready").parent / "package" / "axe.min.js").read_text(encoding="utf-8")


def reader(name: str) -> Path:
    """Returns a program of the environment of readers; skips the test if it is not installed."""
    return _installed(ENVIRONMENT / ".ready").parent / "bin" / name


def program(name: str) -> str:
    """Returns the path of a program of Debian; some are in a folder that only administrators have in their PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return _installed(Path(found or name)).as_posix()


def plugin() -> Path:
    """Returns Orthanc's plugin for DICOMweb; skips the test if it is not installed."""
    folders = ("/usr/lib/orthanc", "/usr/share/orthanc/plugins")
    found = [path for folder in folders for path in Path(folder).glob("libOrthancDicomWeb.so*")]
    return found[0] if found else _installed(Path(folders[0], "libOrthancDicomWeb.so"))


def _installed(path: Path) -> Path:
    import pytest  # not at the top: .ci/run installs these programs before it has pytest

    if not path.exists():
        what = path.parent.name if path.name == ".ready" else path.name
        reason = f"{what} is not installed: run tests/kit/viewer_tools.py, and see .ci/run for Debian's packages"
        if os.environ.get("JAXSEG_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def install() -> None:
    """Installs OHIF and the readers unless they are there. An interrupted installation is started again."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for place, make in ((VIEWER, _install_viewer), (CHECKER, _install_checker), (ENVIRONMENT, _install_readers)):
        ready = place / ".ready"
        if not ready.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            make()
            ready.touch()


def _install_viewer() -> None:
    _unpack(f"@ohif/app@{OHIF}", VIEWER)
    for source_map in VIEWER.rglob("*.map"):
        source_map.unlink()


def _install_checker() -> None:
    _unpack(f"axe-core@{AXE}", CHECKER)


def _unpack(package: str, place: Path) -> None:
    """Unpacks a package of npm; nothing in it is run."""
    subprocess.run(["npm", "pack", "--silent", package], cwd=place, check=True, stdout=sys.stderr)
    (archive,) = place.glob("*.tgz")
    with tarfile.open(archive) as content:
        content.extractall(place, filter="data")
    archive.unlink()


def _install_readers() -> None:
    venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "--quiet", *READERS], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    install()
