"""`jaxseg models`, `convert` and `demo`, and the README's table of the original commands."""

import json
import re
import shlex
from pathlib import Path

import annotator_files
import lidc_files
import numpy as np
import pytest
import scoring_files
import segae_runs
from mask_runs import LIGHT, overrides, write_masks
from PIL import Image
from plain_network import PLACE
from torch_writer import save

import jaxseg
from jaxseg import registry
from jaxseg.anatomy.orientation import Reference
from jaxseg.card import Card, read_card
from jaxseg.nn.resnet import VARIANTS
from jaxseg.registry import MODELS

README = Path(__file__).resolve().parents[2] / "docs" / "original-commands.md"


def test_models_lists_every_model_with_its_weights(jaxseg_command, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    code, out, _ = jaxseg_command("models")
    assert code == 0
    for entry in registry.ENTRIES:
        assert f"{entry.name}" in out
    assert "CC BY-NC-SA 4.0" in out
    assert str(tmp_path) in out
    assert "none published; train" in out


def test_models_as_json_and_in_detail(jaxseg_command):
    rows = json.loads(jaxseg_command("models", "--json")[1])
    assert [row["name"] for row in rows] == [entry.name for entry in registry.ENTRIES]
    assert len(rows[0]["classes"]) == rows[0]["num_classes"] == 159
    assert rows[0]["groups"]["lung halves"] == ["right lung", "left lung"]
    available = {row["name"]: row["available"] for row in rows}
    assert all(available.values())
    _, out, _ = jaxseg_command("models", "cxas")
    assert "--groups cxas-0.0.20 adds vertebrae C7 to cervical spine and all vertebrae" in out
    assert "121 heart" in out
    assert "lung lobes: 5 classes" in out
    assert jaxseg_command("models", "cxsa")[0] == 2


@pytest.mark.parametrize("inner", ["", "model"])
def test_models_lists_the_classes_of_a_run_or_a_model_directory(jaxseg_command, tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    about = {"config": (), "preprocessing": "cxas", "note": "trained on little"}
    Card("cxas", "unet", class_names=("heart", "my own class"), name="my run", **about).write(folder)
    code, out, err = jaxseg_command("models", tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "my run: 2 classes, a model of the kind cxas"
    assert [line.split(maxsplit=1) for line in out.splitlines()[-2:]] == [["0", "heart"], ["1", "my own class"]]
    assert "trained with jaxseg" in out
    assert "trained on little" in out
    found = json.loads(jaxseg_command("models", tmp_path, "--json")[1])[0]
    assert (found["name"], found["classes"]) == ("my run", ["heart", "my own class"])


def test_models_of_something_else_is_a_one_line_error(jaxseg_command, tmp_path):
    (tmp_path / "x.pth").touch()
    for path, words in ((tmp_path, "is not a model directory"), (tmp_path / "x.pth", "is a file without a card")):
        code, _, err = jaxseg_command("models", path)
        assert (code, words in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.slow
def test_convert_from_the_command_line(jaxseg_command, kit, tmp_path):
    path = save(tmp_path / "x.pth", kit.weights("scm_tiny"))
    code, out, _ = jaxseg_command("convert", path, tmp_path / "model")
    assert (code, "model cmvae" in out) == (0, True)
    code, _, err = jaxseg_command("convert", path, tmp_path / "other", "--model", "cxas")
    assert (code, "does not fit model 'cxas'" in err) == (1, True)
    assert not (tmp_path / "other").exists()
    odd = save(tmp_path / "odd.pth", {"weight": np.zeros((3, 3), np.float32)})
    code, _, err = jaxseg_command("convert", odd, tmp_path / "other")
    assert (code, "none of the models cxas, paxray" in err) == (1, True)
    code, _, err = jaxseg_command("convert", tmp_path / "none.pth", tmp_path / "other")
    assert (code, "Error: SOURCE: " in err, "no such file or folder; name a training run" in err) == (2, True, True)


@pytest.mark.full
def test_published_weights_convert_with_a_card(jaxseg_command, kit, tmp_path):
    path = save(
        tmp_path / "UNet_ResNet50_default.pth", kit.weights("cxas_unet_resnet50"), under="model", prefix="module."
    )
    code, out, _ = jaxseg_command("convert", path, tmp_path / "model")
    assert (code, "model cxas, 159 classes" in out, "CC BY-NC-SA" in out) == (0, True, True)
    card = read_card(tmp_path / "model")
    assert dict(card.config)["backbone"] == "resnet50"
    assert card.class_names[121] == "heart"


def test_a_malicious_file_is_refused_and_nothing_runs(jaxseg_command, tmp_path):
    marker = tmp_path / "ran"
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    code, _, err = jaxseg_command("convert", evil, tmp_path / "model")
    assert (code, "os.system" in err, err.count("\n")) == (1, True, 1)
    assert not marker.exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.full
@pytest.mark.optimised
def test_the_demo_finds_the_lungs_of_unseen_phantoms(jaxseg_process, tmp_path):
    code, out, err = jaxseg_process("demo", "-o", tmp_path / "demo", "--steps", "60")
    assert code == 0, err
    scores = {name: float(value) for name, value in re.findall(r"^  (\w[\w ]*?)\s+([\d.]+)$", out, re.M)}
    assert min(scores["right lung"], scores["left lung"]) > 0.9
    with Image.open(tmp_path / "demo" / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 500
    assert len(list((tmp_path / "demo" / "masks" / "phantom_00").glob("*.png"))) == 6
    assert (tmp_path / "demo" / "damaged.png").is_file()
    assert "real X-rays mean nothing" in read_card(tmp_path / "demo" / "training" / "model").note
    record = json.loads((tmp_path / "demo" / "pipeline" / "pipeline.json").read_text())
    for table in record["summary"]["tables"]:
        assert f"{table['title']}:\n" in out
    changes = {row[0]: [float(value) for value in row[2:5]] for row in record["summary"]["tables"][1]["rows"][:3]}
    for name in ("right lung", "left lung"):
        _, after, change = changes[name]
        assert change > 0.03, changes
        assert after > 0.85, changes
    assert changes["heart"][2] == 0


def test_the_demo_replaces_only_an_earlier_demo(jaxseg_command, tiny, tmp_path):
    (tmp_path / "work" / "model").mkdir(parents=True)
    (tmp_path / "work" / "model" / "card.json").write_bytes((tiny / "card.json").read_bytes())
    code, _, err = jaxseg_command("demo", "-o", tmp_path / "work", "--steps", "1")
    assert (code, "holds other things than an earlier demo" in err) == (1, True)


def rows() -> list[tuple[str, str]]:
    """Returns the rows (original command, our command) of the README's table for which our command exists."""
    table = re.search(r"<!-- commands -->(.*?)<!-- end -->", README.read_text(), re.S).group(1)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return [(row[0], row[1].strip("`")) for row in cells if row[1].startswith("`jaxseg ")]


def test_the_readme_maps_every_original_command():
    text = README.read_text()
    for command in ("cxas_segment", "cxas_feat_extract", "cxas --mode", "cxas_register", "main.py", "inference.py",
                    "train.py", "inference_TotalSegmentator.py", "Run.py", "Prepare_MNIST.py",
                    "Prepare_LIDC.py"):  # fmt: skip
        assert command in text


def trains_on_masks(words, jaxseg_command, tmp_path):
    """Runs a training command on a few small masks, for two epochs of a narrow network."""
    places = {"MASKS": write_masks(tmp_path / "masks"), "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)) for word in words] + ["-g", "0"]
    code, _, err = jaxseg_command(*words, *[part for setting in overrides(**LIGHT) for part in ("--set", setting)])
    assert code == 0, err


def trains_on_volumes(words, jaxseg_command, tmp_path):
    """Runs SegAE's training command on small volumes, for one step of a narrow network."""
    data = segae_runs.save_data(tmp_path / "data")
    embeddings = segae_runs.save_embeddings(tmp_path / "embeddings.npz")
    places = {"SEGAE_DATA": data, "OUT": tmp_path / "out"}
    small = segae_runs.OVERRIDES | {"trainer.max_steps": 1, "model.width": 4, "data.embeddings": embeddings}
    words = [str(places.get(word, word)) for word in words] + ["-g", "0"]
    code, _, err = jaxseg_command(*words, *[part for k, v in small.items() for part in ("--set", f"{k}={v}")])
    assert code == 0, err
    code, out, _ = jaxseg_command("evaluate", "--run", tmp_path / "out", "-g", "0")
    assert code == 0
    assert "rank_correlation" in out


def trains_on_slices(words, jaxseg_command, tmp_path):
    """Runs a training command on a few slices with several annotators for one step of a narrow network."""
    for split in ("train", "validate"):
        annotator_files.save_lidc(tmp_path / "slices", split, size=16)
    places = {"SLICES": tmp_path / "slices", "OUT": tmp_path / "out"}
    small = {"trainer.max_steps": 1, "trainer.batch_size": 2, "data.samples": 2}
    small |= {"model.width": 4, "model.depth": 2} if "cmvae_lidc" in words else {"model.filters": [4, 8]}
    words = [str(places.get(word, word)) for word in words] + ["-g", "0"]
    code, _, err = jaxseg_command(*words, *[part for k, v in small.items() for part in ("--set", f"{k}={v}")])
    assert code == 0, err
    code, out, _ = jaxseg_command("evaluate", "--run", tmp_path / "out", "-g", "0")
    assert code == 0
    assert "majority vote" in out


def prepares(words, jaxseg_command, tmp_path):
    """Runs a preparation command on artificial raw data."""
    places = {"RAW_MNIST": tmp_path / "raw", "RAW_LIDC": tmp_path / "raw", "OUT": tmp_path / "out"}
    if "RAW_MNIST" in words:
        annotator_files.save_mnist_files(tmp_path / "raw")
        words += ["--train", "6", "--validate", "2", "--test", "2"]
    else:
        text = lidc_files.message(*lidc_files.four_readers())
        lidc_files.save_study(tmp_path / "raw" / "35", text, series="1.2.35", patient="LIDC-IDRI-0035")
    code, _, err = jaxseg_command(*[str(places.get(word, word)) for word in words])
    assert code == 0, err
    assert (tmp_path / "out").is_dir()


def scores(words, jaxseg_command, tmp_path):
    """Runs the scoring command on small cases."""
    weights = scoring_files.save(tmp_path / "model")
    places = {"CASES": scoring_files.save_cases(tmp_path / "cases"), "CSV": tmp_path / "out.csv"}
    code, _, err = jaxseg_command(*[str(places.get(word, word)) for word in words], "--weights", weights)
    assert code == 0, err
    assert places["CSV"].is_file()


def trains(words, jaxseg_command, tmp_path):
    """Runs a training command on a few small pictures, for one step of a plain network."""
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    pairs = [{"image": f"{i}.png", "target": f"{i}.npy"} for i in range(3)]
    for pair in pairs:
        Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)).save(data / pair["image"])
        np.save(data / pair["target"], rng.random((2, 40, 40)) > 0.5)
    lists = {"label_dict": {"0": "heart", "1": "lung"}, "train": pairs, "val": pairs[:1], "test": pairs[1:]}
    (data / "paxray.json").write_text(json.dumps(lists))
    small = {"trainer.max_steps": 1, "model.width": 4, "model.backbone": "resnet18", "data.load_size": 64}
    places = {"DATA": data, "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)) for word in words] + ["-g", "0", "--set", "data.crop_size=64"]
    code, _, err = jaxseg_command(*words, *[part for k, v in small.items() for part in ("--set", f"{k}={v}")])
    assert code == 0, err
    assert jaxseg_command("evaluate", "--run", tmp_path / "out", "-g", "0")[0] == 0


def registers(words, jaxseg_command, tiny, tmp_path):
    """Runs a registration command; the reference, which the published weights have, is made up."""
    if "--build-reference" not in words:
        features = np.random.default_rng(0).random((4, 32), np.float32)
        path = tmp_path / "made_up.npz"
        jaxseg.write_reference(Reference(features[:2], features, ((30.0, 20.0), (32.0, 45.0))), path)
        words = [*words, "--reference", str(path)]
    code, _, err = jaxseg_command(*words)
    assert code == 0, err
    place = "reference.npz" if "--build-reference" in words else "out/one_registered.png"
    assert (tmp_path / place).is_file()


def marked(row: tuple[str, str]):
    """Returns a row as a test parameter. Training commands compile a training step, for up to half a minute each."""
    return pytest.param(row, id=row[0], marks=[pytest.mark.full] if row[1].startswith("jaxseg train") else [])


@pytest.mark.slow
@pytest.mark.parametrize("row", [marked(row) for row in rows()])
def test_every_row_of_the_readme_that_exists_runs(
    row, jaxseg_command, tiny, tiny_paxray, images, tmp_path, monkeypatch
):
    _, ours = row
    paxray = "-m paxray" in ours
    words = shlex.split(ours)[1:]
    if words[0] in ("train", "score", "prepare"):
        special = {"MASKS": trains_on_masks, "SEGAE_DATA": trains_on_volumes, "CASES": scores}
        special |= {"SLICES": trains_on_slices, "RAW_MNIST": prepares, "RAW_LIDC": prepares}
        run = next((run for place, run in special.items() if place in words), trains)
        monkeypatch.setitem(VARIANTS, "resnet18", ((1, 1, 1, 1), False))  # compiles in half the time
        monkeypatch.setitem(MODELS, "unet", PLACE["unet"])
        run(words, jaxseg_command, tmp_path)
        return
    places = {"IMAGES": images, "OUT": tmp_path / "out", "REFERENCE.npz": tmp_path / "reference.npz"}
    words = [str(places.get(word, word)) for word in words] + ["--weights", str(tiny_paxray if paxray else tiny)]
    if words[0] == "register":
        registers(words, jaxseg_command, tiny, tmp_path)
        return
    code, _, err = jaxseg_command(*words)
    assert code == 0, err
    suffix = words[words.index("-ot") + 1] if "-ot" in words else "npy" if paxray else "png"
    measures = "-f" in words
    done = tmp_path / "out" / ("images.csv" if measures else "one" if suffix == "png" else f"one.{suffix}")
    assert done.exists()
    if "-s" in words:
        done = tmp_path / "out" / f"one.{suffix}"
    elif measures:
        return
    if suffix == "npy":
        assert np.load(done).shape == (166 if paxray else 159, 60, 50)
