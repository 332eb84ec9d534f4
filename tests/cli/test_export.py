"""The command line of `jaxseg export`."""

import json

import numpy as np
import pytest
from mask_models import saved

import jaxseg
from jaxseg.weights.store import save_model


@pytest.mark.full
def test_the_exported_file_runs_in_another_process_and_the_output_describes_it(jaxseg_process, tiny, tmp_path):
    path = tmp_path / "new" / "model.stablehlo"
    code, out, err = jaxseg_process("export", "-m", "cxas", "--weights", tiny, "-o", path, "--image-size", "32, 40")
    assert (code, err) == (0, "")
    assert "model cxas, image (batch, 32, 40, 3) float32 to logits (batch, 32, 40, 159) float32, for cpu, cuda" in out
    model, x = jaxseg.load_exported(path), np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)
    wanted = np.asarray(jaxseg.load(tiny)(x))
    np.testing.assert_allclose(np.asarray(model(x)), wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))
    facts = json.loads((tmp_path / "new" / "model.stablehlo.json").read_text())
    assert facts["class_names"] == list(jaxseg.load(tiny).card.class_names)
    assert facts["preprocessing"] == "cxas"


@pytest.mark.slow
def test_a_run_is_exported_without_naming_its_model_and_replaced_on_request(jaxseg_command, tmp_path):
    saved(tmp_path / "run" / "model")
    arguments = ["export", "--weights", tmp_path / "run", "-o", tmp_path / "m.stablehlo", "--platforms", "CPU"]
    code, out, err = jaxseg_command(*arguments)
    assert (code, err, "mask (batch, 32, 32, 1)" in out) == (0, "", True)
    code, _, err = jaxseg_command(*arguments)
    assert (code, err.count("\n"), "m.stablehlo exists" in err) == (1, 1, True), err
    assert jaxseg_command(*arguments, "--overwrite")[0] == 0


@pytest.mark.slow
def test_a_segae_needs_its_embeddings(jaxseg_command, tmp_path):
    model = jaxseg.create("segae", backbone="resnet18", width=4, num_labels=3, embedding_size=4)
    card, table = model.card, np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    weights = save_model(model, tmp_path / "bare", card)
    arguments = ["export", "-o", tmp_path / "m.stablehlo", "--platforms", "cpu", "--image-size", "16,16", "--weights"]
    code, _, err = jaxseg_command(*arguments, weights)
    assert (code, "has no text embeddings" in err, err.count("\n")) == (1, True, 1), err
    weights = save_model(model.with_embeddings(table), tmp_path / "whole", card)
    code, out, err = jaxseg_command(*arguments, weights)
    assert (code, "organ (batch) int32" in out) == (0, True), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "name a model with --model, or weights with --weights"),
        (["-m", "cxass"], 2, "did you mean 'cxas'"),
        (["--weights", "TINY", "--platforms", "cpu,gpu"], 2, "--platforms: platforms must be one or more of cpu, cuda"),
        (["--weights", "TINY", "--platforms", ""], 2, "--platforms: platforms must be"),
        (["--weights", "TINY", "--image-size", "512"], 2, "--image-size: '512' must be height and width"),
        (["--weights", "TINY", "--image-size", "5,99999"], 1, "image_size must be height and width from 8 to 8192"),
        (["--weights", "nowhere"], 2, "--weights: nowhere: no such file or folder; name a training run"),
        (["-m", "cxas", "--weights", "nowhere.pth"], 2, "--weights: nowhere.pth: no such file or folder"),
        (["-m", "post_dae", "--weights", "TINY"], 1, "holds a 'cxas' model, not 'post_dae'"),
        (["--weights", "TINY", "-o", "model.bin"], 2, "--output: model.bin must end in .stablehlo"),
    ],
)
def test_wrong_options_give_a_one_line_error(jaxseg_command, tiny, tmp_path, arguments, code, words):
    given = [tiny if word == "TINY" else word for word in arguments]
    found, _, err = jaxseg_command("export", "-o", tmp_path / "m.stablehlo", *given)
    assert (found, words in err, err.count("\n")) == (code, True, 1), err
    assert not list(tmp_path.iterdir())
