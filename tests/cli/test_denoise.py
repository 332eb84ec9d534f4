"""`jaxseg denoise` and `jaxseg segment --denoise`: files, classes, messages and exit codes."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg.anatomy import segment
from jaxseg.masks.segmentation import Segmentation
from jaxseg.post_dae import denoise
from jaxseg.vocabulary import labels
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow

TINY = {"features": (4, 6), "decoder_features": (4, 4), "intermediate": (8, 16), "strides": (2, 2)}


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory):
    """Returns the model directory of an untrained autoencoder for 32 x 32 masks."""
    model = jaxseg.create("post_dae", image_size=(32, 32), **TINY)
    return save_model(model, tmp_path_factory.mktemp("denoiser") / "model", model.card)


@pytest.fixture
def inverted(monkeypatch):
    """Makes every mask model return the inverse of its input."""
    monkeypatch.setattr(denoise, "_forward", lambda model, masks: 1 - jnp.asarray(masks))


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "lungs"
    folder.mkdir()
    mask = np.zeros((48, 40), np.uint8)
    mask[10:30, 8:30] = 255
    Image.fromarray(mask).save(folder / "one.png")
    Image.fromarray(mask.T.copy()).save(folder / "two.png")
    return folder


def test_a_folder_is_restored_and_a_second_run_skips(jaxseg_command, denoiser, masks, tmp_path, inverted):
    words = ["denoise", "-i", masks, "-o", tmp_path / "out", "--weights", denoiser, "--preview"]
    code, out, err = jaxseg_command(*words)
    assert (code, out) == (0, "")
    assert "2 done, 0 skipped, 0 failed" in err
    with Image.open(masks / "one.png") as before, Image.open(tmp_path / "out" / "one.png") as after:
        agree = (np.asarray(before) > 0) != (np.asarray(after) > 0)
        assert agree.mean() > 0.9
    assert (tmp_path / "out" / "two.preview.jpg").is_file()
    assert "0 done, 2 skipped" in jaxseg_command(*words)[2]
    assert "2 done" in jaxseg_command(*words, "--overwrite", "--threshold", "0.4")[2]
    code, _, err = jaxseg_command(*words, "--threshold", "0.3")
    assert code == 1
    assert "made with other settings: denoise" in err


def test_a_bad_mask_is_named_and_the_exit_code_is_1(jaxseg_command, denoiser, masks, tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(masks / "empty.png")
    code, _, err = jaxseg_command("denoise", "-i", masks, "-o", tmp_path / "out", "--weights", denoiser)
    assert code == 1
    assert "empty.png: the mask is empty: there is no shape in it to restore" in err
    assert "2 done, 0 skipped, 1 failed" in err
    assert "Traceback" not in err


def test_classes_of_an_array_are_restored_by_name(jaxseg_command, denoiser, tmp_path, inverted):
    stack = np.random.default_rng(0).random((159, 32, 32)) > 0.5
    np.save(tmp_path / "x.npy", stack)
    words = ["denoise", "-i", tmp_path / "x.npy", "-o", tmp_path / "out", "--weights", denoiser]
    code, _, err = jaxseg_command(*words)
    assert code == 1
    assert "holds 159 masks, the model takes 1: name the classes" in err
    assert jaxseg_command(*words, "--classes", "heart", "--overwrite")[0] == 0
    found, heart = np.load(tmp_path / "out" / "x.npy"), labels.CXAS.index("heart")
    assert np.array_equal(found[heart], ~stack[heart])
    assert np.array_equal(np.delete(found, heart, 0), np.delete(stack, heart, 0))


def test_names_of_other_label_sets_are_read_from_a_file(jaxseg_command, denoiser, tmp_path, inverted):
    stack = np.random.default_rng(0).random((2, 32, 32)) > 0.5
    np.savez(tmp_path / "x.npz", stack)
    (tmp_path / "names.json").write_text(json.dumps(["liver", "spleen"]))
    words = ["denoise", "-i", tmp_path / "x.npz", "-o", tmp_path / "out", "--weights", denoiser, "--classes", "spleen"]
    code, _, err = jaxseg_command(*words)
    assert code == 1
    assert "spleen" in err
    assert jaxseg_command(*words, "--labels", tmp_path / "names.json", "--overwrite")[0] == 0
    with np.load(tmp_path / "out" / "x.npz") as archive:
        assert np.array_equal(archive["arr_0"], np.stack([stack[0], ~stack[1]]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--soft", "--union"], "--soft"),
        (["--largest-component", "0"], "0 is not in the range"),
        (["--threshold", "2"], "2.0 is not in the range"),
        (["--grey", "cut"], "'cut' is not one of"),
        (["-g", "7,8,9"], "no device"),
        (["--weights", "nowhere"], "Error: --weights: nowhere: no such file or folder; name a training run"),
    ],
)
def test_wrong_options_give_a_one_line_error_and_exit_code_2(jaxseg_command, denoiser, masks, tmp_path, words, message):
    code, _, err = jaxseg_command("denoise", "-i", masks, "-o", tmp_path / "out", "--weights", denoiser, *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_image_model_and_the_input_folder_as_output_are_refused(jaxseg_command, tiny, denoiser, masks, tmp_path):
    code, _, err = jaxseg_command("denoise", "-i", masks, "-o", tmp_path / "out", "--weights", tiny)
    assert code == 2
    assert "a model of masks is needed" in err
    code, _, err = jaxseg_command("denoise", "-i", masks, "-o", masks, "--weights", denoiser)
    assert code == 2
    assert "holds the masks themselves" in err
    code, _, err = jaxseg_command("denoise", "-i", masks / "none.png", "-o", tmp_path / "out", "--weights", denoiser)
    assert code == 2
    assert "no such file or folder" in err


@pytest.mark.parametrize("output_type", ["npy", "npz", "png", "jpg", "json"])
def test_segment_writes_restored_masks(jaxseg_command, tiny, denoiser, images, tmp_path, inverted, output_type):
    words = ["segment", "-i", images / "one.png", "--weights", tiny, "-ot", output_type]
    words += ["--classes", "heart,left lung"]
    more = ["--denoise", denoiser, "--denoise-classes", "heart"]
    assert jaxseg_command(*words, "-o", tmp_path / "plain")[0] == 0
    assert jaxseg_command(*words, "-o", tmp_path / "restored", *more)[0] == 0
    from jaxseg.masks.read import find_masks, read_masks

    plain, restored = (
        read_masks(find_masks(tmp_path / name, images / "one.png"), classes="heart,left lung", image="one.png")
        for name in ("plain", "restored")
    )
    heart, lung = (plain.names.index(name) for name in ("heart", "left lung"))
    assert np.array_equal(restored.masks[lung], plain.masks[lung])
    before, after = plain.masks[heart], restored.masks[heart]
    if before.any() and not before.all():
        assert (before != after).mean() > 0.8
    else:
        assert np.array_equal(before, after)


def test_results_with_and_without_denoising_are_not_mixed(jaxseg_command, tiny, denoiser, images, tmp_path):
    words = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "-ot", "npy"]
    assert jaxseg_command(*words)[0] == 0
    more = ["--denoise", denoiser, "--denoise-classes", "heart"]
    code, _, err = jaxseg_command(*words, *more)
    assert code == 1
    assert "made with other settings: denoise" in err
    assert jaxseg_command(*words, *more, "--overwrite")[0] == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["denoise"]["classes"] == ["heart"]
    assert len(summary["settings"]["denoise"]["weights_sha256"]) == 64


@pytest.mark.parametrize(("answer", "said"), [(0, "the restored mask is empty, although the mask is not"), (1, "")])
def test_notes_of_the_denoiser_reach_the_terminal_and_the_summary(
    jaxseg_command, tiny, denoiser, images, tmp_path, monkeypatch, answer, said
):
    def predicted(self, images):  # heart: part of the image; left lung: nothing
        masks = np.zeros((len(self.names), *self.card.input_size), bool)
        masks[0, 10:50, 10:50] = True
        return self.postprocess(
            [
                Segmentation(self.names, self.indices, image.size, np.packbits(masks, axis=2), notes=image.notes)
                for image in images
            ]
        )

    monkeypatch.setattr(segment.Segmenter, "predict", predicted)
    monkeypatch.setattr(denoise, "_forward", lambda model, masks: jnp.full(masks.shape, answer, jnp.float32))
    words = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "--classes", "heart,left lung"]
    code, _, err = jaxseg_command(*words, "--denoise", denoiser, "--denoise-classes", "heart,left lung")
    assert code == 0, err
    kept = "left lung: the mask is empty, and is kept"
    wanted = [kept, *([f"heart: {said}"] if said else [])]
    entries = json.loads((tmp_path / "out" / "summary.json").read_text())["files"].values()
    for entry in entries:
        assert entry["notes"] == [f"{Path(entry['source']).name}: {note}" for note in wanted]
    for note in wanted:  # once with the first file, once for the others
        assert len([line for line in err.splitlines() if line.endswith(note)]) == 2
    assert ("restored mask is empty" in err) == bool(said)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--union"], "name a model with --denoise"),
        (["--denoise", "DENOISER"], "name those classes"),
        (["--denoise", "DENOISER", "--denoise-classes", "hearth"], "hearth"),
        (["--denoise", "TINY", "--denoise-classes", "heart"], "a model of masks is needed"),
    ],
)
def test_segment_reports_wrong_denoising_options(jaxseg_command, tiny, denoiser, images, tmp_path, more, message):
    more = [{"DENOISER": denoiser, "TINY": tiny}.get(word, word) for word in more]
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, *more)
    assert code == 2
    assert message in err


def test_segment_with_a_mask_model_refers_to_denoise(jaxseg_command, denoiser, images, tmp_path):
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", denoiser)
    assert code == 2
    assert "`jaxseg denoise`" in err
