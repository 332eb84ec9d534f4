"""The command lines of `jaxseg extract` and `jaxseg cxas`, and the extra outputs of `jaxseg segment`."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from dicom_files import write_dicom
from measurements import read_table
from PIL import Image
from small_models import save_tiny

import jaxseg
from jaxseg.anatomy.measure.features import measure
from jaxseg.vocabulary import labels
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture(scope="module")
def tiny_paxray(tiny_plain, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("paxray"), "paxray")


@pytest.fixture
def films(images, kit):
    """Returns a folder with two pictures and a DICOM film that has a pixel spacing."""
    shutil.copy(kit.folder / "files" / "mono2_12bit.dcm", images / "film.dcm")
    return images


@pytest.fixture
def run(jaxseg_command, tiny, tmp_path):
    """Returns a function that runs a command on images with the tiny network and writes to the folder `out`."""

    def command(name, source, *options):
        return jaxseg_command(name, "-i", source, "-o", tmp_path / "out", "--weights", tiny, *options)

    return command


def coarse(path, tiny, **options):
    """Returns the masks of an image at the network's size, computed through the Python API."""
    result = jaxseg.segment(path, jaxseg.load("cxas", tiny), **options)
    return np.unpackbits(result.bits, axis=2).astype(bool)


def test_a_single_score_is_called_score_and_equals_the_measurement_of_the_masks(run, tiny, films, tmp_path):
    code, _, err = run("extract", films, "-f", "Cardio-Thoracic Ratio")
    assert (code, "3 done" in err) == (0, True), err
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["filename", "score", "reason"]
    table = {row["filename"]: row for row in read_table(tmp_path / "out" / "images.csv")}
    assert list(table) == ["film.dcm", "one.png", "two.jpg"]
    for name, row in table.items():
        expected = measure(coarse(films / name, tiny), labels.CXAS, "CTR")
        np.testing.assert_equal(row["score"], expected.values["CTR"])
        assert bool(row["reason"]) == math.isnan(expected.values["CTR"])


def test_each_of_several_features_has_its_own_columns(run, tiny, films, tmp_path):
    code, _, _ = run("extract", films / "one.png", "-f", "CTR", "-f", "SCD", "-f", "area", "-f", "box")
    (row,) = read_table(tmp_path / "out" / "one.csv")
    assert code == 0
    assert {"CTR", "SCD", "heart_area", "left lung_x", "left lung_width"} <= row.keys()
    masks = coarse(films / "one.png", tiny)
    assert row["heart_area"] == masks[labels.CXAS.index("heart")].sum()
    assert len([name for name in row if name.endswith("_area")]) == 159


def test_masks_previews_and_drawings_are_stored_on_request(run, tiny, films, tmp_path):
    options = ["-f", "CTR", "-f", "SCD", "-s", "-ot", "npy", "--draw", "--preview"]
    code, _, err = run("extract", films, *options)
    assert code == 0, err
    for name in ("film", "one", "two"):
        assert np.load(tmp_path / "out" / f"{name}.npy").shape[0] == 159
        for picture in (f"{name}.lines.jpg", f"{name}.preview.jpg"):
            with Image.open(tmp_path / "out" / picture) as shown:
                shown.load()
    entry = json.loads((tmp_path / "out" / "summary.json").read_text())["files"]["film"]
    assert set(entry["outputs"]) == {"measurements", "npy", "preview", "drawing"}
    assert "3 skipped" in run("extract", films, *options)[2]


def test_lengths_in_mm_follow_the_pixel_spacing(run, tiny, films, tmp_path):
    import pydicom

    dataset = pydicom.dcmread(films / "film.dcm")
    dataset.ImagerPixelSpacing = [0.2, 0.4]
    dataset.save_as(films / "film.dcm")
    _, _, err = run("extract", films / "film.dcm", "-f", "area")
    assert "lengths in millimetres are those on the detector (ImagerPixelSpacing), not in the patient" in err
    (row,) = read_table(tmp_path / "out" / "film.csv")
    size = np.array([dataset.Rows, dataset.Columns])
    pixel = np.prod(size * [0.2, 0.4] / 64)  # the network's grid has 64 x 64 pixels
    found = {name.removesuffix("_mm2"): value for name, value in row.items() if name.endswith("_mm2")}
    assert len(found) == 159
    assert any(found.values())
    for name, value in found.items():
        assert value == pytest.approx(row[name] * pixel)


def test_an_impossible_measurement_is_an_empty_cell_with_a_reason_or_the_originals_value(run, films, tmp_path):
    code, _, _ = run("extract", films / "one.png", "-f", "perimeter", "--threshold", "1")
    (row,) = read_table(tmp_path / "out" / "one.csv")
    assert code == 0
    assert math.isnan(row["heart_perimeter"])
    assert "empty" in row["reason"]
    run("extract", films / "one.png", "-f", "perimeter", "--threshold", "1", "--original-values", "--overwrite")
    assert read_table(tmp_path / "out" / "one.csv")[0]["heart_perimeter"] == -1


def test_a_bad_file_has_a_row_with_its_reason(run, films, tmp_path):
    (films / "bad.dcm").write_bytes(b"no dicom")
    code, _, err = run("extract", films, "-f", "SCD")
    rows = read_table(tmp_path / "out" / "images.csv")
    assert (code, "1 failed" in err) == (1, True)
    assert [row["filename"] for row in rows] == ["bad.dcm", "film.dcm", "one.png", "two.jpg"]
    assert "not a DICOM file" in rows[0]["reason"]


def test_the_next_run_completes_the_table_of_an_interrupted_one(run, films, tmp_path):
    run("extract", films / "one.png", "-f", "CTR")
    code, _, err = run("extract", films, "-f", "CTR")
    assert (code, "2 done, 1 skipped" in err) == (0, True)
    assert len(read_table(tmp_path / "out" / "images.csv")) == 3


def test_the_table_of_a_moved_folder_is_written_again(run, films, tmp_path):
    run("extract", films, "-f", "CTR")
    (tmp_path / "elsewhere").mkdir()
    films.rename(tmp_path / "elsewhere" / "images")
    code, _, err = run("extract", tmp_path / "elsewhere" / "images", "-f", "CTR")
    assert (code, "3 skipped" in err) == (0, True), err
    shutil.rmtree(tmp_path / "elsewhere" / "images")
    (tmp_path / "elsewhere" / "images").mkdir()
    Image.new("L", (40, 40), 9).save(tmp_path / "elsewhere" / "images" / "other.png")
    other = tmp_path / "other" / "images"
    other.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 40), np.uint8)).save(other / "new.png")
    code, _, err = run("extract", other, "-f", "CTR")
    assert (code, "images.csv is in the way" in err) == (1, True), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract"], "Missing option '-f'"),
        (["extract", "-f", "CTRR"], "did you mean 'CTR'"),
        (["cxas", "--mode", "extract"], "needs -f/--feature"),
        (["cxas", "-f", "CTR"], "-f/--feature: for --mode extract"),
        (["cxas", "--mode", "measure"], "'measure' is not one of"),
    ],
)
def test_wrong_options_give_a_one_line_error(run, films, arguments, words):
    code, _, err = run(arguments[0], films, *arguments[1:])
    assert (code, words in err, err.count("\n")) == (2, True, 1), err


def test_cxas_segments_unless_its_mode_is_extract(run, films, tmp_path):
    code, _, err = run("cxas", films, "-ot", "npy", "-s")
    assert (code, (tmp_path / "out" / "one.npy").is_file()) == (0, True), err
    code, _, err = run("cxas", films, "--mode", "extract", "-f", "CTR", "-s", "-ot", "npy")
    assert (code, (tmp_path / "out" / "images.csv").is_file()) == (0, True), err


def test_dicom_seg_holds_the_masks_and_refuses_pictures(run, films, tmp_path):
    import highdicom

    code, _, err = run("segment", films, "-ot", "dicom-seg", "--classes", "lung halves, heart", "--threshold", "0.4")
    assert code == 1
    assert err.count("a DICOM SEG refers to a DICOM image") == 2
    assert "1 done, 0 skipped, 2 failed" in err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    notes = [note for entry in summary["files"].values() for note in entry["notes"]]
    assert any("the pixel spacing is unknown" in note for note in notes)
    run("segment", films / "film.dcm", "-ot", "npy", "--classes", "lung halves, heart", "--threshold", "0.4")
    masks = np.load(tmp_path / "out" / "film.npy")
    found = highdicom.seg.segread(tmp_path / "out" / "film.seg.dcm")
    names = [found.get_segment_description(i).segment_label for i in found.segment_numbers]
    expected = {
        name: mask for name, mask in zip(("heart", "right lung", "left lung"), masks, strict=True) if mask.any()
    }
    assert set(names) == set(expected)
    frames = found.pixel_array.reshape(-1, *masks.shape[1:])
    for name, frame in zip(names, frames, strict=True):
        np.testing.assert_array_equal(frame, expected[name])


def test_results_beside_the_images_are_not_read_as_images(jaxseg_command, tiny, films):
    arguments = ["segment", "-i", films, "-o", films, "--weights", tiny, "--preview", "-ot", "npy"]
    assert "3 done" in jaxseg_command(*arguments)[2]
    assert "3 skipped" in jaxseg_command(*arguments)[2]


@pytest.mark.parametrize("option", ["labelmap", "strict-projection"])
def test_the_form_of_a_dicom_seg_is_a_setting_only_of_dicom_seg(run, films, tmp_path, option):
    import pydicom

    film = ["segment", films / "film.dcm", "--classes", "heart", "--threshold", "0.1"]
    assert run(*film, "-ot", "npy")[0] == 0
    assert run(*film, "-ot", "dicom-seg", f"--{option}")[0] == 0
    found = pydicom.dcmread(tmp_path / "out" / "film.seg.dcm")
    assert (found.SegmentationType == "LABELMAP") == (option == "labelmap")
    assert ("FrameOfReferenceUID" in found) == (option == "labelmap")
    code, _, err = run(*film, "-ot", "dicom-seg")
    assert (code, f"made with other settings: {option.replace('-', '_')}" in err) == (1, True)
    assert "1 skipped" in run(*film, "-ot", "npy")[2]
    for command in (["segment", films, "-ot", "npy"], ["extract", films, "-ot", "dicom-seg", "-f", "CTR"]):
        code, _, err = run(*command, f"--{option}")
        assert (code, "choose the output type dicom-seg" in err) == (2, True)


def test_masks_of_some_classes_and_measurements_of_all_share_a_folder(run, films, tmp_path):
    assert run("segment", films, "-ot", "npy", "--classes", "heart")[0] == 0
    assert run("extract", films, "-f", "CTR,area")[0] == 0
    assert run("extract", films, "-f", "SCD", "--overwrite")[0] == 0
    assert "3 skipped" in run("segment", films, "-ot", "npy", "--classes", "heart")[2]


def test_other_class_names_count_as_other_settings(jaxseg_command, films, tmp_path):
    model = jaxseg.create("paxray", backbone="resnet18", width=4)
    weights, size = save_model(model, tmp_path / "model", model.card), len(model.card.class_names)
    for shift, code in ((0, 0), (1, 1)):
        names = tmp_path / f"{shift}.json"
        names.write_text(json.dumps(["lung", "heart", *map(str, range(size - 2))][:: -1 if shift else 1]))
        common = ["-i", films / "one.png", "-o", tmp_path / "out", "--weights", weights, "--labels", names]
        done = jaxseg_command("segment", *common, "-ot", "npy", "--classes", "heart")
        assert (done[0], "made with other settings: labels_sha256" in done[2]) == (code, bool(code)), done[2]


def test_the_masks_of_a_folder_are_also_written_as_one_coco_file(run, films, tmp_path):
    assert run("extract", films, "-f", "CTR", "-s", "-ot", "json")[0] == 0
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 3


def test_a_model_without_the_classes_is_refused(jaxseg_command, tiny_paxray, films, tmp_path):
    common = ["-i", films / "one.png", "-o", tmp_path / "out", "--weights", tiny_paxray]
    code, _, err = jaxseg_command("extract", *common, "-f", "CTR")
    assert (code, "--feature: CTR cannot be measured with this model" in err, err.count("\n")) == (2, True, 1), err
    with pytest.raises(ValueError, match="it has no class 'right hemidiaphragm', 'heart', 'lung'"):
        jaxseg.extract(films / "one.png", "CTR", model=jaxseg.load("paxray", tiny_paxray))


def test_intensity_is_a_setting_of_the_masks(run, films):
    run("segment", films / "film.dcm", "-ot", "npy")
    code, _, err = run("segment", films / "film.dcm", "-ot", "npy", "--intensity", "clinical")
    assert (code, "made with other settings: intensity" in err) == (1, True)


def test_python_measures_images_results_and_masks(tiny, films):
    model = jaxseg.load("cxas", tiny)
    path = films / "one.png"
    masks = coarse(path, tiny)
    whole = jaxseg.extract(jaxseg.segment(path, model), "area, CTR")
    np.testing.assert_equal(whole.values, jaxseg.extract(masks, ["area", "CTR"]).values)
    np.testing.assert_equal(jaxseg.extract(path, "CTR", model=model).values["CTR"], whole.values["CTR"])
    assert (
        jaxseg.extract(masks[:2], "area", names=("a", "b"), pixel_mm=(2, 3)).values["b_area_mm2"] == 6 * masks[1].sum()
    )
    for bad, words in (((path, "CTR"), "measured with a model"), ((masks[:3], "area"), "give names, or a model")):
        with pytest.raises(ValueError, match=words):
            jaxseg.extract(*bad)


def test_groups_of_version_0_0_20_put_c7_into_masks_and_scd(jaxseg_command, tiny, images, tmp_path):
    out = tmp_path / "out"
    words = ("-i", images, "--weights", tiny)
    chosen = ("--classes", "cervical spine", "--groups", "cxas-0.0.20", "-ot", "npy")
    assert jaxseg_command("segment", *words, "-o", out, *chosen)[0] == 0
    assert np.load(out / "one.npy").shape[0] == 7
    assert json.loads((out / "summary.json").read_text())["settings"]["classes"][-1] == "vertebrae C7"
    words = (*words, "-o", tmp_path / "table", "-f", "SCD")
    code, _, err = jaxseg_command("extract", *words, "--groups", "cxas-0.0.20")
    assert code == 0, err
    found = jaxseg.extract(images / "one.png", "SCD", model=jaxseg.load("cxas", tiny), groups="cxas-0.0.20")
    with (tmp_path / "table" / "images.csv").open(newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    assert rows["one.png"]["score"] == repr(found.values["SCD"])
    code, _, err = jaxseg_command("extract", *words)
    assert (code, "made with other settings: groups" in err) == (1, True), err
    assert len(labels.CXAS_GROUPS["cervical spine"]) == 6


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_masks_of_an_earlier_run_are_measured_without_the_network(run, jaxseg_command, films, tmp_path, kind):
    for name in ("one.png", "two.jpg"):  # with more pixels than the network's grid
        with Image.open(films / name) as image:
            image.resize((130, 110)).save(films / name)
    stored = np.random.default_rng(0).integers(0, 4096, (90, 120), np.uint16)
    write_dicom(films / "film.dcm", stored, bits=12, Modality="CR", PixelSpacing=[0.2, 0.3])
    assert run("extract", films, "-f", "area", "-f", "CTR")[0] == 0
    code, _, err = run("segment", films, "-ot", kind, "-o", tmp_path / "masks")
    assert code == 0, err
    words = ("extract", "-i", films, "-o", tmp_path / "again", "-f", "area", "-f", "CTR", "--masks", tmp_path / "masks")
    code, _, err = jaxseg_command(*words)
    assert (code, "3 done" in err) == (0, True), err
    assert (tmp_path / "again" / "images.csv").read_text() == (tmp_path / "out" / "images.csv").read_text()
    code, _, err = jaxseg_command(*words, "--table", "parquet")
    assert (code, "3 skipped" in err, "images.parquet" in err) == (0, True, True), err
    code, _, err = jaxseg_command(*words, "--draw", "--batch-size", "2", "-ot", "npy", "--ray")
    assert (code, err.count("\n")) == (2, 1), err
    assert "--masks: it cannot be combined with --batch-size, --draw, --output_type, --ray; leave them out" in err
    (tmp_path / "list.txt").write_text("one.png\n")
    code, _, err = jaxseg_command(*words, "--files", tmp_path / "list.txt", "--overwrite")
    assert (code, "1 done" in err) == (0, True), err
    code, _, err = jaxseg_command(*words[:-1], tmp_path / "again")
    assert (code, "name another folder for the table" in err) == (1, True), err
