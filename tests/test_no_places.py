"""Files that are passed on name no path, no user and no host of the machine that made them."""

import getpass
import gzip
import io
import platform
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from fake_segmenter import finish, statuses
from PIL import Image

import jaxseg
from jaxseg.datasets.phantom_sets import prepare_phantoms
from jaxseg.export.export import export_model
from jaxseg.weights.store import save_model

ROOT = Path(__file__).resolve().parents[1]


def contents(path: Path):
    """Yields the name and the bytes of every file below a path, also of the members of archives."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        yield file.name, file.name.encode()
        if not file.is_file():
            continue
        raw = file.read_bytes()
        yield file.name, raw
        if zipfile.is_zipfile(io.BytesIO(raw)):
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                yield from ((f"{file.name}: {member}", archive.read(member)) for member in archive.namelist())
        if raw[:2] == b"\x1f\x8b":
            yield file.name, gzip.decompress(raw)


def places(path: Path, work: Path) -> list[str]:
    """Returns the files that name the working folder, the program's folder, the home, the user or the host."""
    words = {str(work), work.parent.name, str(ROOT), jaxseg.__file__.rpartition("/")[0], str(Path.home())}
    words |= {np.__file__.rpartition("/numpy/")[0]}
    words |= {word for word in (platform.node(), getpass.getuser()) if len(word) > 5}  # short words occur by accident
    marks = re.compile("|".join(re.escape(word) for word in words if len(word) > 5).encode())
    return sorted({f"{name}: {mark[0].decode()}" for name, raw in contents(path) if (mark := marks.search(raw))})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work_of_the_maker") / "images"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(images, plain):
    """Returns the folder of a run."""
    folder = images.parent / "run"
    tiny_runs.train(folder, trainer__max_steps=2)
    return folder


def test_a_place_is_found_in_archives_and_names(tmp_path):
    secret = str(tmp_path).encode()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", secret)
    (tmp_path / "b.gz").write_bytes(gzip.compress(secret))
    (tmp_path / "c.txt").write_bytes(secret)
    assert [found.split(": ")[0] for found in places(tmp_path, tmp_path)] == ["a.npz", "b.gz", "c.txt"]


@pytest.mark.slow
def test_a_run_names_no_place_except_that_of_its_data(run):
    assert places(run, run.parent) == []  # phantoms have no place; otherwise config.yaml has the path of the data
    names = [path.name for path in run.rglob("events.out*")]
    assert all(re.fullmatch(r"events\.out\.tfevents\.\d+\.jaxseg", name) for name in names)


@pytest.mark.slow
def test_a_model_directory_names_no_place(tmp_path):
    model = jaxseg.create("prob_unet", filters=(2, 4))
    save_model(model, tmp_path / "model", model.card)
    assert places(tmp_path / "model", tmp_path) == []
    assert jaxseg.load(tmp_path / "model").card.model == "prob_unet"


@pytest.mark.slow
def test_an_exported_model_names_no_place(tmp_path):
    model = jaxseg.create("prob_unet", filters=(2, 4))
    model.eval()
    export_model(model, tmp_path / "model.stablehlo", platforms=("cpu",))
    assert b".py" not in (tmp_path / "model.stablehlo").read_bytes()
    assert places(tmp_path, tmp_path) == []


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "json", "coco-lines"])
def test_results_of_a_folder_name_no_place(images, kind, monkeypatch):
    """COCO json has the images' paths as the user gave them, as in the original: here relative ones."""
    monkeypatch.chdir(images.parent)
    output = images.parent / f"masks_{kind}"
    for status in ("done", "skipped"):  # the second run finds the images by their relative paths
        finish(images.name, output, kind)
        assert set(statuses(output).values()) == {status}
        assert places(output, images.parent) == []


def test_a_prepared_data_set_names_no_place(tmp_path):
    for kind in ("annotators", "xray"):
        prepare_phantoms(kind, tmp_path / kind, train=1, validate=1, test=1)
        assert places(tmp_path / kind, tmp_path) == []
