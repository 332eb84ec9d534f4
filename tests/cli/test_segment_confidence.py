"""`jaxseg segment` with confidence, several weights, a shape check, probabilities and smooth edges, and its report."""

import csv

import numpy as np
import pytest
from mask_models import saved
from PIL import Image
from report_kit import read_page, values_of
from small_models import save_tiny

import jaxseg
from jaxseg.vocabulary import labels
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture(scope="module")
def second(tiny_plain, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("second"), "cxas", class_names=labels.CXAS, seed=1)


def table(folder) -> list[dict]:
    with (folder / "confidence.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_scores_are_in_the_table_and_the_confidence_in_the_report(jaxseg_command, tiny, second, images, tmp_path):
    out, page = tmp_path / "out", tmp_path / "report.html"
    shape = ["--shape-check", saved(tmp_path / "dae"), "--denoise-classes", "heart,trachea"]
    wanted = ["--classes", "heart,lung halves,trachea", "--weights", tiny, "--weights", second, "--tta", "2", *shape]
    code, _, err = jaxseg_command("segment", "-i", images, "-o", out, "-ot", "npy", *wanted, "--probabilities")
    assert (code, "confidence.csv" in err) == (0, True)
    rows = table(out)
    assert len(rows) == 2 * 5
    for row in rows:
        assert 0 <= float(row["model_agreement"]) <= 1
        assert 0 <= float(row["tta_agreement"]) <= 1
        assert bool(row["shape_agreement"]) == (row["class"] in ("heart", "trachea"))
    with np.load(out / "one.probabilities.npz") as archive:
        mean = archive["probabilities"].astype(np.float32)
    each = [jaxseg.segment(images / "one.png", path, probabilities=True).scores for path in (tiny, second)]
    chosen = [labels.CXAS.index(row["class"]) for row in rows[:5]]
    np.testing.assert_allclose(mean, np.mean(each, axis=0)[chosen], atol=1e-3)
    assert jaxseg_command("report", "-i", images, "--masks", out, "-o", page)[0] == 0
    found, ours = values_of(read_page(page), 0), {row["class"]: row for row in rows if row["filename"] == "one.png"}
    assert found["heart confidence"] == float(ours["heart"]["confidence"])
    assert found["confidence"] == pytest.approx(np.mean([float(row["confidence"]) for row in ours.values()]))


def test_confidence_without_other_options(jaxseg_command, tiny, images, tmp_path):
    wanted = ["--classes", "heart", "--weights", tiny, "--confidence", "--edges", "smooth", "-ot", "npy"]
    assert jaxseg_command("segment", "-i", images / "one.png", "-o", tmp_path / "out", *wanted)[0] == 0
    (row,) = table(tmp_path / "out")
    assert (row["filename"], row["class"], row["tta_agreement"]) == ("one.png", "heart", "")
    smooth = jaxseg.segment(images / "one.png", tiny, classes="heart", edges="smooth").masks
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "one.npy"), smooth)


def test_the_help_names_the_table_that_no_merged_leaves_out(jaxseg_command, tiny, images, tmp_path):
    assert "confidence.csv, and with -ot json" in " ".join(jaxseg_command("segment", "--help")[1].split())
    wanted = ["--classes", "heart", "--weights", tiny, "--confidence", "-ot", "npy", "--no-merged"]
    assert jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", *wanted)[0] == 0
    assert not (tmp_path / "out" / "confidence.csv").exists()
    assert (tmp_path / "out" / "one.confidence.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tta", "0"], "0 is not in the range 1<=x<=64"),
        (["--union"], "name a model with --denoise or --shape-check"),
        (["--denoise", ".", "--tta", "2"], "--tta: this concerns the network's own masks"),
        (["--denoise", ".", "--edges", "smooth"], "--edges smooth: this concerns the network's own masks"),
        (["--denoise", ".", "--shape-check", "."], "--shape-check: this concerns the network's own masks"),
        (["--denoise", ".", "--weights", ".", "--weights", "."], "several --weights: this concerns"),
        (["--shape-check", "missing"], "missing: no such file or folder"),
    ],
)
def test_impossible_options_give_one_line(jaxseg_command, tiny, images, tmp_path, options, words):
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, *options)
    assert (code, words in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "out").exists()


def test_models_of_other_classes_and_the_same_model_twice_are_refused(jaxseg_command, tiny, images, tmp_path):
    lungs = save_tiny(tmp_path / "lungs", "cxas", class_names=("lung",))
    for path, words in ((lungs, "do not have the same class_names"), (tiny, "the same weights")):
        two = ["--weights", tiny, "--weights", path]
        code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", *two)
        assert (code, words in " ".join(err.split())) == (2, True)


def test_smooth_edges_and_several_models_of_exclusive_classes_are_refused(jaxseg_command, tiny, images, tmp_path):
    model = jaxseg.create("paxray_unet", width=4, class_names=labels.CXAS, exclusive=True)
    path = save_model(model, tmp_path / "exclusive", model.card)
    given = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", path]
    for options, words in (
        (["--edges", "smooth"], "edges 'smooth' would leave pixels without a class"),
        (["--weights", tiny], "exclude each other"),
    ):
        code, _, err = jaxseg_command(*given, *options)
        assert (code, words in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "out").exists()


def test_cxas_takes_one_model_as_before(jaxseg_command, tiny, images, tmp_path):
    Image.open(images / "one.png").save(tmp_path / "x.png")
    code, _, _ = jaxseg_command(
        "cxas", "-i", tmp_path / "x.png", "-o", tmp_path / "out", "--weights", tiny, "-ot", "npy"
    )
    assert code == 0
    assert not (tmp_path / "out" / "confidence.csv").exists()
