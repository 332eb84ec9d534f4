"""A missing extra is reported once, before the first file, with the line that installs it."""

import json

import numpy as np
import pydicom
import pytest
from child_commands import run_commands
from dicom_files import RAMP, write_dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

import jaxseg
from jaxseg.weights.store import save_model

EXTRAS = {
    "highdicom": "dicom-seg",
    "nibabel": "nifti",
    "tifffile": "tiff",
    "optuna": "tune",
    "flatbuffers": "export",
    "huggingface_hub": "hub",
    "pyarrow": "parquet",
    "ray": "ray",
    "starlette": "serve",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory, shallow):
    """Returns a folder with one input for each command; only their names matter."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("slices", "images", "cts", "labels", "raw", *(f"cases/{i}/segmentations" for i in range(3))):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        (folder / f"slices/{i}.tif").write_bytes(b"x")
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / f"images/{i}.png")
        for name in (f"cts/{i}", f"labels/{i}", f"cases/{i}/ct", f"cases/{i}/segmentations/liver"):
            (folder / f"{name}.nii.gz").write_bytes(b"x")
    for name, settings in {"prob_unet": {"filters": (2, 4)}, "cxas": {"backbone": "resnet18", "width": 4}}.items():
        model = jaxseg.create(name, **settings)
        save_model(model, folder / f"tiny_{name}", model.card)
    return folder


COMMANDS = {
    "segment": ("highdicom", ["-i", "images", "-o", "o1", "--weights", "tiny_cxas", "-ot", "dicom-seg"]),
    "extract": (
        "highdicom",
        ["-i", "images", "-o", "o2", "--weights", "tiny_cxas", "-ot", "dicom-seg", "-s", "-f", "area"],
    ),
    "segment --ray": ("ray", ["-i", "images", "-o", "o0", "--weights", "tiny_cxas"]),
    "sample": ("tifffile", ["-i", "slices", "-o", "o3", "--weights", "tiny_prob_unet"]),
    "prepare phantom": ("tifffile", ["--kind", "annotators", "-o", "o4"]),
    "prepare lidc": ("tifffile", ["raw", "-o", "o5"]),
    "prepare mnist": ("tifffile", ["raw", "-o", "o6"]),
    "prepare segae": ("nibabel", ["cts", "labels", "-o", "o7"]),
    "score": ("nibabel", ["--dataset", "cases", "-o", "o8.csv", "--weights", "tiny_prob_unet"]),
    "segment -ot parquet": ("pyarrow", ["-i", "images", "-o", "o11", "--weights", "tiny_cxas"]),
    "extract --table parquet": ("pyarrow", ["-i", "images", "-o", "o12", "--weights", "tiny_cxas", "-f", "area"]),
    "score -o o13.parquet": ("pyarrow", ["--dataset", "cases", "--weights", "tiny_prob_unet"]),
    "compare": ("nibabel", ["--prediction", "labels", "--truth", "labels", "-o", "o14.csv"]),
    "tune": ("optuna", ["-t", "demo", "-o", "o9", "--trials", "1"]),
    "export": ("flatbuffers", ["--weights", "tiny_cxas", "-o", "o10.stablehlo"]),
    "serve": ("starlette", ["--weights", "tiny_cxas"]),
    "convert": ("huggingface_hub", ["hf://owner/name", "o11.safetensors"]),
}


@pytest.mark.full
def test_a_missing_extra_is_reported_once_before_the_first_file(work):
    commands = [[*name.split(), *arguments] for name, (_, arguments) in COMMANDS.items()]
    found = run_commands(*commands, folder=work, without=tuple(EXTRAS))
    for (name, (package, _)), (code, said) in zip(COMMANDS.items(), found, strict=True):
        lines = said.splitlines()
        assert code in (1, 2), (name, said)
        assert len(lines) == 1, (name, said)
        assert f"need {package}: pip install 'jaxseg[{EXTRAS[package]}]'" in lines[0].replace("needs", "need"), name
    assert not list(work.glob("o*"))  # nothing was started


@pytest.mark.full
def test_a_missing_decoder_is_a_reason_of_every_file_and_one_advice(work):
    scans = work / "scans"
    scans.mkdir()
    for i in range(3):
        path = write_dicom(scans / f"{i}.dcm", RAMP + i, Modality="CR")
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.PixelData = encapsulate([b"\xff\xd8"])
        dataset.save_as(path)
    command = ["segment", "-i", "scans", "-o", "decoded", "--weights", "tiny_cxas"]
    ((code, said),) = run_commands(command, folder=work, without=("jpeg_ls", "pylibjpeg", "libjpeg", "gdcm"))
    failed = [line for line in said.splitlines() if line.startswith("Failed: ")]
    assert (code, len(failed)) == (1, 3), said
    assert all("the pixels are stored as JPEG-LS Lossless" in line for line in failed)
    advice = "pip install 'jaxseg[dicom]' brings a decoder"
    assert [advice in line for line in failed] == [True, False, False]
    entries = json.loads((work / "decoded" / "summary.json").read_text())["files"].values()
    assert [advice in entry["reason"] for entry in entries] == [True] * 3


def test_every_extra_for_users_is_one_of_setup_cfg():
    import configparser
    from pathlib import Path

    settings = configparser.ConfigParser()
    settings.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    extras = settings["options.extras_require"]
    for package, extra in EXTRAS.items():
        assert package in extras[extra]
    development = {"bench", "all", "docs", "test", "cuda12", "cuda13", "tpu"}
    without_error = {"dicom", "tensorboard", "plot"}  # see the test above; events; a warning instead of a plot
    assert set(extras) - development - without_error == set(EXTRAS.values())
