"""Post-DAE on the command line: the original configuration; evaluation by level and on a segmenter's masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from mask_runs import LIGHT, overrides, write_masks
from PIL import Image

from jaxseg.cli.main import main
from jaxseg.masks.cohort import mask_file
from jaxseg.masks.segmentation import Segmentation

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks") / "masks")


@pytest.fixture(scope="module")
def trained(masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    sets = [word for setting in overrides(**LIGHT) for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        main(["train", "-t", "post_dae", "-i", str(masks), "-o", str(folder), "-g", "0", *sets])
    assert not stop.value.code
    return folder


def test_evaluation_writes_a_table_a_plot_and_numbers(jaxseg_command, trained):
    code, out, err = jaxseg_command("evaluate", "--run", trained, "-g", "0")
    assert code == 0
    assert "the split is val" in err
    lines = out.splitlines()
    assert lines[0].startswith("corruption")
    levels = ["clean", "light", "original", "strong", "heavy"]
    named = [line.split()[0] for line in lines if line.startswith(tuple(levels))]
    assert named == levels * 2  # the network's table, and that of the baselines
    numbers = json.loads((trained / "evaluation_val.json").read_text())
    assert numbers["corruption"]["clean"]["before"]["dice"]["mean"] == 1
    assert f"dice\t{numbers['dice']:.4f}" in lines
    with Image.open(trained / "evaluation_val.png") as plot:
        assert plot.width > 900
    assert jaxseg_command("evaluate", "--run", trained, "--split", "train", "-g", "0")[0] == 0
    code, _, err = jaxseg_command("evaluate", "--run", trained, "--split", "test", "-g", "0")
    assert code == 2
    assert "there are: train, val" in err


def test_masks_of_a_segmenter_are_evaluated(jaxseg_command, trained, masks, tmp_path):
    shutil.copytree(masks, tmp_path / "early")
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "early" / "mask_00.png")
    words = ["evaluate", "--run", trained, "--masks", tmp_path / "early", "--masks", masks, "--truth", masks]
    code, out, _ = jaxseg_command(*words)
    assert code == 0
    assert out.splitlines()[0].startswith("masks")
    early = next(line for line in out.splitlines() if line.startswith("early"))
    assert "1 -> " in early
    run = mask_file("coco-lines", tmp_path, {0: "lung"})
    run.open()
    for path in masks.glob("*.png"):
        with Image.open(path) as image:
            bits = np.packbits(np.asarray(image)[None] > 127, axis=2)
        run.add(path.stem, path.name, Segmentation(("lung",), (0,), (48, 48), bits))
    words = ["evaluate", "--run", trained, "--masks", run.path, "--truth", masks]
    code, _, err = jaxseg_command(*words, "-o", tmp_path)
    assert code == 0, err
    numbers = json.loads((tmp_path / "evaluation_masks.json").read_text())
    assert numbers["masks"]["masks.jsonl"]["before"]["dice"]["mean"] == 1
    numbers = json.loads((trained / "evaluation_masks.json").read_text())
    assert list(numbers["masks"]) == ["early", "masks"]
    assert numbers["masks"]["masks"]["before"]["dice"]["mean"] == 1
    assert (trained / "evaluation_masks.png").is_file()


def test_label_maps_and_masks_in_alpha_channels_are_refused_or_read_by_their_levels(
    jaxseg_command, trained, masks, tmp_path
):
    for folder, change in (("maps", lambda mask: mask // 255 * 127), ("alpha", lambda mask: mask)):
        (tmp_path / folder).mkdir()
        for path in masks.iterdir():
            with Image.open(path) as picture:
                pixels = change(np.asarray(picture.convert("L")) // 255 * 255)
            if folder == "maps":
                pixels = np.where(np.eye(*pixels.shape, 1, bool) & (pixels == 0), 255, pixels)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{path.stem}.png")
            else:
                stack = np.dstack([np.zeros_like(pixels), pixels])
                Image.fromarray(stack, "LA").save(tmp_path / folder / f"{path.stem}.png")
    words = ["evaluate", "--run", trained, "--truth", masks]
    code, _, err = jaxseg_command(*words, "--masks", tmp_path / "maps")
    assert code == 2
    assert "is a label map with the grey levels 0, 127, 255" in err
    code, _, err = jaxseg_command(*words, "--masks", tmp_path / "alpha")
    assert code == 2
    assert "only the alpha channel carries a shape" in err
    maps = ["--masks", tmp_path / "maps", "--truth", tmp_path / "maps", "--label", "127=lungs"]
    code, out, _ = jaxseg_command("evaluate", "--run", trained, *maps)
    assert code == 0
    assert ["maps", "1.0000"] in [line.split()[:2] for line in out.splitlines()]
    code, _, err = jaxseg_command("evaluate", "--run", trained, "--label", "127=lungs")
    assert code == 2
    assert "--label belongs to --masks and --truth" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--masks", "MASKS"], "--masks and --truth belong together"),
        (["--masks", "MASKS", "--truth", "MASKS", "--split", "val"], "leave them out"),
        (["--masks", "MASKS", "--masks", "MASKS", "--truth", "MASKS"], "named twice"),
        (["--masks", "MISSING", "--truth", "MASKS"], "missing"),
        (["--calibrate"], "a run of post_dae has no calibration; runs of segae do"),
        (["--calibrate", "--step", "1"], "--calibrate: it cannot be combined with --masks and --step"),
    ],
)
def test_a_wrong_evaluation_gives_a_one_line_error(jaxseg_command, trained, masks, words, message):
    words = [{"MASKS": masks, "MISSING": masks.parent / "missing"}.get(word, word) for word in words]
    code, _, err = jaxseg_command("evaluate", "--run", trained, *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_original_configuration_file_trains_unchanged(jaxseg_command, masks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"random_seed": 1, "img_size": [32, 32], "features": [4, 6], "decoder_features": [4, 4], "gpus": 1}
    given |= {"intermediate": [8, 16], "batch_size": 4, "max_epochs": 1, "learning_rate": 0.001, "strategy": None}
    content = {"training_configuration": given, "store_model_to": "stored/lungs"}
    Path("example_config.yml").write_text(yaml.safe_dump(content))
    code, out, err = jaxseg_command("train", "-t", "example_config.yml", "-i", masks, "-g", "0")
    assert code == 0, err
    assert "gpus: 1 has no effect" in err
    assert out.startswith("dice\t")
    assert Path("stored/lungs/model/card.json").is_file()
    card = json.loads(Path("stored/lungs/model/card.json").read_text())
    assert card["config"]["decoder_activation"] == "sigmoid"
    given["img_size"] = [32, 64]
    Path("example_config.yml").write_text(yaml.safe_dump(content))
    code, _, err = jaxseg_command("train", "-t", "example_config.yml", "-i", masks, "-o", "other", "-g", "0")
    assert code == 2
    assert "img_size" in err
