"""`jaxseg sample`: files, formats, resuming, messages and exit codes."""

import json

import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow

TINY = {
    "cmvae": {"image_size": (32, 32), "width": 4, "depth": 2, "latent": 4},
    "prob_unet": {"filters": (4, 6), "latent": 3},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Returns the model directories of untrained annotator models."""
    found = {}
    for name, config in TINY.items():
        model = jaxseg.create(name, **config)
        found[name] = save_model(model, tmp_path_factory.mktemp(name) / "model", model.card)
    return found


@pytest.fixture
def slices(tmp_path):
    """Returns a folder with the images of two array files, and a picture in a sub-folder."""
    folder = tmp_path / "slices"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "one.npy", rng.normal(size=(32, 32)))
    np.savez(folder / "two.npz", image=rng.normal(size=(32, 32, 1)))
    Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(folder / "deep" / "three.png")
    return folder


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", list(TINY))
def test_a_folder_is_sampled_as_in_python_and_a_second_run_skips(jaxseg_command, models, slices, tmp_path, name):
    out = tmp_path / "out"
    words = ["sample", "-i", slices, "-o", out, "--weights", models[name], "-n", "5", "--seed", "3", "--preview"]
    code, text, err = jaxseg_command(*words)
    assert (code, text) == (0, "")
    assert "2 done, 0 skipped, 0 failed" in err
    assert names(out) == ["one.npz", "one.preview.jpg", "summary.json", "two.npz", "two.preview.jpg"]
    expected = jaxseg.sample(slices / "one.npy", models[name], 5, 3)
    with np.load(out / "one.npz") as archive:
        assert set(archive) == {"clean", "masks", "agreement", "entropy"} | (
            {"confusion"} if name == "cmvae" else set()
        )
        for key in archive:
            assert np.array_equal(archive[key], getattr(expected, key))
    assert "0 done, 2 skipped" in jaxseg_command(*words)[2]
    (out / "two.npz").unlink()
    assert "1 done, 1 skipped" in jaxseg_command(*words)[2]
    np.save(slices / "one.npy", np.zeros((32, 32)))
    assert "1 done, 1 skipped" in jaxseg_command(*words)[2]
    code, _, err = jaxseg_command(*words, "-n", "6")
    assert code == 1
    assert "made with other settings: sample" in err
    assert "2 done" in jaxseg_command(*words, "-n", "6", "--overwrite")[2]
    with np.load(out / "two.npz") as archive:
        assert archive["masks"].shape == (6, 32, 32)


def test_a_single_image_gets_the_same_samples_as_within_its_folder(jaxseg_command, models, slices, tmp_path):
    words = ["--weights", models["prob_unet"], "-n", "4"]
    assert jaxseg_command("sample", "-i", slices, "-o", tmp_path / "all", "--recursive", *words)[0] == 0
    assert jaxseg_command("sample", "-i", slices / "two.npz", "-o", tmp_path / "one", *words)[0] == 0
    assert names(tmp_path / "all") == ["deep/three.npz", "one.npz", "summary.json", "two.npz"]
    with np.load(tmp_path / "all" / "two.npz") as first, np.load(tmp_path / "one" / "two.npz") as second:
        assert np.array_equal(first["masks"], second["masks"])


def test_arrays_and_pictures_hold_the_same(jaxseg_command, models, slices, tmp_path):
    out, words = tmp_path / "out", ["-i", slices / "one.npy", "--weights", models["cmvae"], "-n", "12"]
    for kind in ("npz", "npy", "png"):
        assert jaxseg_command("sample", "-o", out, "-ot", kind, *words)[0] == 0
    arrays = {path.name.split(".")[1]: np.load(path) for path in out.glob("*.npy")}
    assert set(arrays) == {"clean", "masks", "agreement", "entropy", "confusion"}
    with np.load(out / "one.npz") as archive:
        assert all(np.array_equal(archive[name], array) for name, array in arrays.items())
    pictures = {path.name: np.asarray(Image.open(path)) for path in out.glob("*.png")}
    assert np.array_equal(pictures["one.clean.png"], 255 * arrays["clean"])
    assert np.array_equal(pictures["one.agreement.png"], np.rint(255 * arrays["agreement"]))
    assert np.array_equal(pictures["one.entropy.png"], np.rint(255 * arrays["entropy"]))
    assert pictures["one.confusion.png"].shape == (66, 66)
    assert names(out / "one.samples") == [f"{i:02d}.png" for i in range(12)]
    assert np.array_equal(np.asarray(Image.open(out / "one.samples" / "11.png")), 255 * arrays["masks"][11])


def test_several_classes_are_written_as_class_numbers(jaxseg_command, slices, tmp_path):
    model = jaxseg.create("cmvae", num_classes=4, **TINY["cmvae"])
    save_model(model, tmp_path / "model", model.card)
    words = ["-i", slices / "one.npy", "--weights", tmp_path / "model", "-n", "2", "--format", "png", "--preview"]
    assert jaxseg_command("sample", "-o", tmp_path / "out", *words)[0] == 0
    expected = jaxseg.sample(slices / "one.npy", model, 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one.clean.png")), expected.clean)
    assert expected.clean.max() > 1


def test_bad_files_are_listed_and_skipped(jaxseg_command, models, slices, tmp_path):
    np.save(slices / "nan.npy", np.full((32, 32), np.nan))
    np.save(slices / "small.npy", np.zeros((20, 32)))
    np.save(slices / "colour.npy", np.zeros((32, 32, 3)))
    (slices / "cut.tif").write_bytes(b"II*\0damaged")
    (slices / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    words = ["sample", "-i", slices, "-o", out, "--weights", models["cmvae"]]
    code, _, err = jaxseg_command(*words)
    assert code == 1
    assert "nan.npy: the image has values that are not finite" in err
    assert "small.npy: the image is 20 x 32, the model takes 32 x 32" in err
    assert "colour.npy: images of the model have 1 channel(s), (H, W); got (32, 32, 3)" in err
    assert "cut.tif: " in err
    assert "2 done, 0 skipped, 4 failed" in err
    assert "Traceback" not in err
    assert names(out) == ["one.npz", "summary.json", "two.npz"]
    entries = json.loads((out / "summary.json").read_text())["files"]
    assert "20 x 32" in entries["small"]["reason"]
    code, _, err = jaxseg_command(*words, "--resize", "--overwrite")
    assert "3 done, 0 skipped, 3 failed" in err
    with np.load(out / "small.npz") as archive:
        assert archive["masks"].shape == (16, 20, 32)


def test_files_that_jaxseg_did_not_write_are_kept(jaxseg_command, models, slices, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.npz").write_text("mine")
    words = ["sample", "-i", slices, "-o", out, "--weights", models["cmvae"], "--overwrite"]
    code, _, err = jaxseg_command(*words)
    assert code == 1
    assert "one.npz is in the way" in err
    assert (out / "one.npz").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], "Error: --samples: 0 is not in the range"),
        (["--format", "tif"], "Error: --output_type: 'tif' is not one of"),
        (["--weights", "nowhere"], "Error: --weights: nowhere: no such file or folder; name a training run"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["-ot", "tif"], "'tif' is not one of"),
        (["--source", "posterior"], "'posterior' is not one of"),
        (["-g", "7,8,9"], "no device"),
    ],
)
def test_wrong_options_give_a_one_line_error_and_exit_code_2(jaxseg_command, models, slices, tmp_path, words, message):
    given = ["sample", "-i", slices, "-o", tmp_path / "out", "--weights", models["cmvae"], *words]
    code, _, err = jaxseg_command(*given)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_wrong_models_and_folders_give_exit_code_2(jaxseg_command, tiny, models, slices, tmp_path):
    words = ["sample", "-i", slices, "-o", tmp_path / "out", "--weights"]
    code, _, err = jaxseg_command(*words, tiny)
    assert code == 2
    assert "a model of annotators is needed" in err
    code, _, err = jaxseg_command(*words, models["prob_unet"], "--source", "image")
    assert code == 2
    assert "is for a cmvae" in err
    code, _, err = jaxseg_command("sample", "-i", slices, "-o", slices, "--weights", models["cmvae"])
    assert code == 2
    assert "holds the images themselves" in err
    (tmp_path / "empty").mkdir()
    for source, message in ((tmp_path / "empty", "no .tif, .tiff, .npy"), (tmp_path / "none", "no such file")):
        code, _, err = jaxseg_command("sample", "-i", source, "-o", tmp_path / "out", "--weights", models["cmvae"])
        assert code == 2
        assert message in err


def test_the_help_names_every_option(jaxseg_command):
    code, out, _ = jaxseg_command("sample", "--help")
    assert code == 0
    for option in ("--input", "--output", "--weights", "--seed", "--output_type", "--source", "--resize", "--preview"):
        assert option in out
    assert "sample" in jaxseg_command("--help")[1]


def test_parts_of_listed_images_are_merged(jaxseg_command, models, slices, tmp_path):
    (tmp_path / "list.txt").write_text("one.npy\ntwo.npz\ndeep/three.png\n")
    words = ["sample", "-i", slices, "--weights", models["prob_unet"], "-n", "2", "-g", "cpu"]
    for part in ("1/2", "2/2"):
        code, _, err = jaxseg_command(*words, "-o", tmp_path / "out", "--files", tmp_path / "list.txt", "--part", part)
        assert code == 0, err
    code, _, err = jaxseg_command("merge", tmp_path / "out")
    assert (code, "2 parts, 3 done, 0 failed" in err) == (0, True)
    jaxseg_command(*words, "-o", tmp_path / "whole", "--recursive")
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    for name in names(tmp_path / "whole"):
        if name.endswith(".npz"):
            with np.load(tmp_path / "out" / name) as one, np.load(tmp_path / "whole" / name) as other:
                assert all(np.array_equal(one[key], other[key]) for key in other)
