"""`jaxseg score`: one mask, a volume of labels, a data set, the written files, and errors."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from scoring_files import box, save, save_cases

from jaxseg.card import read_card
from jaxseg.segae.calibration import Calibration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("segae") / "model")


@pytest.fixture
def root(tmp_path):
    return save_cases(tmp_path / "cases")


@pytest.fixture
def one(root):
    """Returns the arguments for a CT and the mask of its liver."""
    case = root / "s1"
    return ["--ct", case / "ct.npy", "--mask", case / "segmentations" / "liver.npy", "--organ", "liver"]


def read(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_one_mask_is_scored_also_slice_by_slice(jaxseg_command, weights, one):
    code, out, _ = jaxseg_command("score", "--weights", weights, *one, "-g", "cpu")
    name, mean = out.split()
    assert (code, name) == (0, "liver")
    code, out, _ = jaxseg_command("score", "--weights", weights, *one, "--per-slice", "--slices", "all")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [f"slice {z}" for z in range(1, 13)] + ["liver"]
    assert float(lines[-1][1]) == pytest.approx(np.mean([float(line[1]) for line in lines[:-1]]), abs=1e-3)
    assert abs(float(mean)) < 100


def test_an_empty_mask_has_no_score(jaxseg_command, weights, one, root):
    np.save(root / "s1" / "segmentations" / "liver.npy", np.zeros_like(box()))
    code, out, err = jaxseg_command("score", "--weights", weights, *one)
    assert (code, out) == (0, "liver\tn/a\n")
    assert "the mask is empty" in err


def test_a_data_set_is_scored_and_resumed(jaxseg_command, weights, root, tmp_path):
    command = ["score", "--weights", weights, "--dataset", root, "-o", tmp_path / "out" / "r.csv", "-g", "cpu"]
    code, out, err = jaxseg_command(*command, "--worst", "2", "--rank", "annotate", "--per-slice")
    assert code == 0
    assert "2 done, 0 were there, 0 with failures" in err
    assert "s1: no class of the DAP-Atlas: spinal_cord" in err
    head, first, second = read(tmp_path / "out" / "r.csv")
    assert (len(head), head[0], head[-1]) == (106, "CT_Sample", "spinal_cord")
    assert (first[0], second[0]) == ("s1", "s2")
    assert first[head.index("brain")] == first[head.index("spinal_cord")] == second[head.index("spleen")] == "n/a"
    assert first[head.index("liver")] != "n/a"
    heading, *worst = out.splitlines()
    assert (heading, len(worst)) == ("case\torgan\tpredicted_dice", 2)
    with Image.open(tmp_path / "out" / "r.worst.png") as picture:
        assert picture.width > 400
    assert [row[0] for row in read(tmp_path / "out" / "r.annotate.csv")] == ["rank", "1", "2", "3"]
    assert len(read(tmp_path / "out" / "r.slices.csv")) == 1 + 10 + 3 + 4
    before = (tmp_path / "out" / "r.csv").read_bytes()
    code, _, err = jaxseg_command(*command)
    assert "0 done, 2 were there" in err
    assert (tmp_path / "out" / "r.csv").read_bytes() == before
    code, _, err = jaxseg_command(*command, "--slices", "3")
    assert code == 2
    assert "written with other settings: slices" in err
    np.save(root / "s2" / "segmentations" / "spleen.npy", box(1, 2))
    jaxseg_command(*command)  # files beside the table are updated
    assert [row[0] for row in read(tmp_path / "out" / "r.annotate.csv")] == ["rank", "1", "2", "3", "4"]
    assert len(read(tmp_path / "out" / "r.slices.csv")) == 1 + 10 + 3 + 4 + 1
    code, _, err = jaxseg_command(*command, "--slices", "3", "--overwrite")
    assert "2 done" in err
    assert not (tmp_path / "out" / "r.worst.png").exists()


@pytest.mark.parametrize(("columns", "count"), [("v1", 105), ("v2", 118), ("present", 5)])
def test_the_columns_are_those_of_the_option(jaxseg_command, weights, root, tmp_path, columns, count):
    jaxseg_command("score", "--weights", weights, "--dataset", root, "-o", tmp_path / "r.csv", "--organs", columns)
    assert len(read(tmp_path / "r.csv")[0]) == count


def test_bad_masks_are_reported_and_the_others_scored(jaxseg_command, weights, root, tmp_path):
    np.save(root / "s1" / "segmentations" / "spleen.npy", box()[1:])
    code, _, err = jaxseg_command("score", "--weights", weights, "--dataset", root, "-o", tmp_path / "r.csv")
    assert code == 1
    assert "Failed: s1/spleen: spleen.npy: the mask is 13 x 30 x 34" in err
    assert "1 done, 0 were there, 1 with failures" in err
    head, first, _ = read(tmp_path / "r.csv")
    assert first[head.index("spleen")] == "n/a"
    assert first[head.index("liver")] != "n/a"


def test_a_volume_of_labels_is_scored_by_a_table_of_names(jaxseg_command, weights, root, tmp_path):
    labels = np.where(box() > 0, 1, 0).astype(np.uint8)
    labels[3:5, :5, :5] = 2
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "names.json").write_text(json.dumps({"1": "liver", "2": "spleen", "3": "aorta"}))
    words = [
        "--ct",
        root / "s1" / "ct.npy",
        "--label-volume",
        tmp_path / "labels.npy",
        "--label-names",
        tmp_path / "names.json",
    ]
    code, out, _ = jaxseg_command("score", "--weights", weights, *words)
    head, *lines = out.splitlines()
    scores = dict(line.split("\t") for line in lines)
    assert code == 0
    assert head == "organ\tpredicted_dice"
    assert set(scores) == {"liver", "spleen"}
    assert list(scores.values()) == sorted(scores.values(), key=float)
    jaxseg_command("score", "--weights", weights, *words, "-o", tmp_path / "r.csv", "--worst", "1")
    assert read(tmp_path / "r.csv")[0] == ["CT_Sample", "liver", "spleen", "aorta"]
    assert read(tmp_path / "r.csv")[1][3] == "n/a"
    assert (tmp_path / "r.worst.png").is_file()
    words[2] = "--labels"  # the earlier name
    assert jaxseg_command("score", "--weights", weights, *words)[:2] == (0, out)


def test_a_calibrated_model_gives_intervals_unless_they_are_refused(jaxseg_command, one, root, tmp_path):
    folder = save(tmp_path / "model")
    calibration = Calibration((-10.0, 10.0), (0.25, 0.75), margin=0.125, masks=9)
    dataclasses.replace(read_card(folder), calibration=calibration.text()).write(folder)
    code, out, _ = jaxseg_command("score", "--weights", folder, *one)
    name, mean, lower, upper = out.split()
    assert (code, name) == (0, "liver")
    assert float(upper) - float(lower) == pytest.approx(0.25, abs=2e-4)
    assert float(mean) - float(lower) == pytest.approx(0.125, abs=2e-4)
    code, out, _ = jaxseg_command("score", "--weights", folder, *one, "--uncalibrated")
    plain = float(out.split()[1])
    assert (code, len(out.split())) == (0, 2)
    assert float(mean) == pytest.approx(0.5 + plain / 40, abs=2e-4)
    command = ["score", "--weights", folder, "--dataset", root, "-o", tmp_path / "r.csv"]
    _, out, _ = jaxseg_command(*command, "--rank", "annotate", "--worst", "1")
    assert out.splitlines()[0].split() == ["case", "organ", "predicted_dice", "lower", "upper"]
    assert read(tmp_path / "r.annotate.csv")[0] == ["rank", "case", "organ", "predicted_dice", "lower", "upper"]
    code, _, err = jaxseg_command(*command, "--uncalibrated")
    assert code == 2
    assert "other settings: calibration" in err


def test_slices_are_weighted_by_area_on_request(jaxseg_command, weights, one, root):
    mask = box()
    mask[1:8, 8:16] = 0  # one row is left in these slices
    np.save(root / "s1" / "segmentations" / "liver.npy", mask)
    found = []
    for average in ("slices", "area"):
        code, out, _ = jaxseg_command("score", "--weights", weights, *one, "--average", average)
        assert code == 0
        found.append(float(out.split()[1]))
    assert abs(found[0] - found[1]) > 1e-4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--calibrated"], "the model has no calibration; `jaxseg evaluate --run RUN --calibrate` makes one"),
        (["--organ", "lver"], "Error: --organ: unknown organ 'lver'"),
        (["--organ", "lver"], "did you mean 'liver'"),
        (["--weights", "nowhere"], "Error: --weights: nowhere: no such file or folder; name a training run"),
        (["--ct", "nowhere.npy"], "Error: --ct: nowhere.npy: no such file or folder"),
        (["--slices", "none"], "--slices: 'none' is neither a whole number"),
        (["--rank", "trust"], "are for many masks"),
        (["--dataset", "."], "name one of --mask, --label-volume"),
        (["--overwrite"], "--overwrite needs -o"),
        (["--organs", "v2"], "--organs belongs to --dataset"),
        (["--label-names", __file__], "--label-names belongs to --label-volume"),
        (["--mask", "nowhere.npy"], "nowhere.npy"),
    ],
)
def test_wrong_options_are_reported(jaxseg_command, weights, one, changed, words):
    code, out, err = jaxseg_command("score", "--weights", weights, *one, *changed)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("array", "words"),
    [(box()[1:], "the mask is 13 x 30"), (box() * 0.4, "a mask holds 0 and 1"), (box()[3], "not a volume")],
)
def test_a_bad_mask_gives_one_line(jaxseg_command, weights, one, root, array, words):
    np.save(root / "s1" / "segmentations" / "liver.npy", array)
    code, out, err = jaxseg_command("score", "--weights", weights, *one)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_csv_of_another_program_is_not_replaced(jaxseg_command, weights, root, tmp_path):
    (tmp_path / "r.csv").write_text("mine\n")
    code, _, err = jaxseg_command(
        "score", "--weights", weights, "--dataset", root, "-o", tmp_path / "r.csv", "--overwrite"
    )
    assert code == 2
    assert "was not written by `jaxseg score`" in err
    assert (tmp_path / "r.csv").read_text() == "mine\n"


def test_weights_without_embeddings_take_them_from_a_file(jaxseg_command, one, tmp_path):
    import jaxseg
    from jaxseg.weights.store import save_model

    mine = jaxseg.create("segae", backbone="resnet18", width=4)
    save_model(mine, tmp_path / "bare", mine.card)
    code, _, err = jaxseg_command("score", "--weights", tmp_path / "bare", *one)
    assert code == 2
    assert "no text embeddings" in err
    np.savez(tmp_path / "e.npz", embeddings=np.random.default_rng(0).normal(size=(145, 512)).astype(np.float32))
    code, out, _ = jaxseg_command("score", "--weights", tmp_path / "bare", "--embeddings", tmp_path / "e.npz", *one)
    assert code == 0
    assert out.startswith("liver\t")


def test_fidelity_sets_the_options_of_the_original_and_explicit_ones_win(jaxseg_command, weights, root, tmp_path):
    command = ["score", "--weights", weights, "--dataset", root, "--fidelity", "original"]
    jaxseg_command(*command, "-o", tmp_path / "r.csv")
    settings = json.loads((tmp_path / "r.scores.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["names"], settings["canonical"]) == ("original", False)
    assert len(read(tmp_path / "r.csv")[0]) == 105
    jaxseg_command(*command, "-o", tmp_path / "other.csv", "--names", "right", "--organs", "present")
    settings = json.loads((tmp_path / "other.scores.jsonl").read_text().splitlines()[0])["settings"]
    assert settings["names"] == "right"
    assert len(read(tmp_path / "other.csv")[0]) == 5


def test_two_runs_do_not_write_to_one_folder(jaxseg_command, weights, root, tmp_path):
    from jaxseg.files import only_writer

    command = ["score", "--weights", weights, "--dataset", root, "-o", tmp_path / "r.csv"]
    with only_writer(tmp_path):
        code, _, err = jaxseg_command(*command)
    assert (code, "another run is writing" in err) == (1, True)
    assert not (tmp_path / "r.csv").exists()


def test_parts_of_listed_cases_are_merged(jaxseg_command, weights, root, tmp_path):
    (tmp_path / "list.txt").write_text("s2\ns1\n")
    command = ["score", "--weights", weights, "--dataset", root, "-g", "cpu", "-o", tmp_path / "r.csv"]
    for part in ("1/2", "2/2"):
        code, _, err = jaxseg_command(*command, "--part", part, "--files", tmp_path / "list.txt")
        assert code == 0, err
        assert f"r.{part.replace('/', '-of-')}.jsonl" in err
    code, _, err = jaxseg_command("merge", tmp_path / "r.csv")
    assert (code, err) == (0, f"2 parts, 2 done, 0 failed; the results are in {tmp_path / 'r.csv'}\n")
    assert [row[0] for row in read(tmp_path / "r.csv")] == ["CT_Sample", "s1", "s2"]
    code, _, err = jaxseg_command(*command, "--part", "1/2", "--rank", "trust")
    assert code == 2
    assert "need all cases; merge the parts" in err
