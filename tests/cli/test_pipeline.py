"""`jaxseg pipeline`: the help with its example, messages, exit codes, and what is printed."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner
from pipeline_runs import invert, sections, write_models, write_phantoms

from jaxseg.cli.main import cli
from jaxseg.cli.pipeline import example
from jaxseg.post_dae import denoise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture
def work(models, tmp_path, monkeypatch):
    """Returns a folder with phantoms and `p.yaml`."""
    monkeypatch.setattr(denoise, "_forward", invert)
    write_phantoms(tmp_path, 2)
    found = sections(tmp_path)
    found["segment"]["weights"], found["restore"]["weights"] = str(models / "network"), str(models / "shapes")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(found))
    return tmp_path


def words(work, *more):
    return ["pipeline", work / "p.yaml", "-i", work / "images", "-o", work / "out", "-g", "cpu", *more]


def test_the_help_ends_with_a_whole_example():
    shown = CliRunner().invoke(cli, ["pipeline", "--help"]).output
    text = shown.split("Example of CONFIG.yaml:\n")[1]
    lines = [line.removeprefix("  ") for line in text.rstrip("\n").split("\n")]
    assert "\n".join(lines) == example().rstrip("\n")
    assert [*yaml.safe_load("\n".join(lines))] == ["segment", "restore", "confidence", "measure", "compare", "report"]


def test_a_pipeline_prints_its_summary_and_a_second_run_skips(jaxseg_command, work):
    code, out, err = jaxseg_command(*words(work))
    assert code == 0, err
    assert [*re.findall(r"^(\w[\w ]*) \.\.\.$", err, re.M)] == [
        "Segmenting",
        "Restoring masks",
        "Measuring",
        "Comparing the masks with the true ones",
        "Comparing the restored masks with the true ones",
        "Writing the report",
    ]
    assert "6 results made, 0 up to date, 0 failed; the results are in " in err
    record = json.loads((work / "out" / "pipeline.json").read_text())
    for table in record["summary"]["tables"]:
        assert f"{table['title']}:\n" in out
        for row in (table["header"], *table["rows"]):
            assert "\t".join(row) + "\n" in out
    code, again, err = jaxseg_command(*words(work))
    assert (code, again) == (0, out)
    assert "0 results made, 6 up to date" in err


def test_all_wrong_settings_are_errors_of_the_command_line(jaxseg_command, work):
    (work / "p.yaml").write_text("segment: {treshold: 0.4}\nmeasure: {table: xls}\nother:\n")
    code, _, err = jaxseg_command(*words(work))
    first, *lines, hint = err.splitlines()
    assert (code, first) == (2, "Error: 3 problems in the settings of p.yaml:")
    assert [line.split(":")[0] for line in lines] == ["other", "segment.treshold", "measure.table"]
    assert hint == "('jaxseg pipeline --help' explains)"
    code, _, err = jaxseg_command("pipeline", work / "none.yaml", "-i", work / "images", "-o", work / "out")
    assert (code, "none.yaml: no such file; name the YAML file" in err) == (2, True)
    assert not (work / "out").exists()


def test_true_masks_may_be_named_on_the_command_line(jaxseg_command, work):
    text = (work / "p.yaml").read_text()
    (work / "p.yaml").write_text(text.replace(str(work / "truth"), "nowhere"))
    code, _, err = jaxseg_command(*words(work))
    assert (code, "Error: compare.truth: nowhere: no such file or folder" in err) == (2, True)
    code, out, err = jaxseg_command(*words(work, "--truth", work / "truth"))
    assert (code, "2 images with true masks" in out) == (0, True), err


def test_changed_settings_stop_the_command_and_overwrite_redoes_them(jaxseg_command, work):
    assert jaxseg_command(*words(work))[0] == 0
    (work / "p.yaml").write_text((work / "p.yaml").read_text().replace("features: area", "features: area, centroid"))
    code, out, err = jaxseg_command(*words(work))
    assert (code, out) == (1, "")
    assert "other settings (measure: features); name another folder, or redo these stages" in err
    code, _, err = jaxseg_command(*words(work, "--overwrite"))
    assert (code, "2 results made, 4 up to date" in err) == (0, True)


def test_a_failed_image_is_said_once_and_the_exit_code_is_1(jaxseg_command, work):
    (work / "images" / "bad.png").write_bytes(b"x")
    code, _, err = jaxseg_command(*words(work))
    assert code == 1
    assert err.count("Failed: ") == 1
    assert "not a png or jpg file" in err
    assert "6 results made, 0 up to date, 1 failed; " in err


def test_a_pipeline_continues_with_the_parts_of_its_stages(jaxseg_command, work):
    """The guide says so: the single commands with --part fill the folders, and the pipeline does the rest."""
    settings, out = sections(work), work / "out"
    config = yaml.safe_load((work / "p.yaml").read_text())
    network, shapes = config["segment"]["weights"], config["restore"]["weights"]
    segment = ["segment", "-i", work / "images", "-g", "cpu", "--weights", network, "-ot", "png"]
    segment += ["--classes", settings["segment"]["classes"], "--denoise-classes", settings["restore"]["classes"]]
    extract = ["extract", "-i", work / "images", "--masks", out / "restored", "-f", settings["measure"]["features"]]
    stages = {
        "masks": [*segment, "--shape-check", shapes],
        "restored": [*segment, "--denoise", shapes],
        "measurements": extract,
    }
    for folder, command in stages.items():
        for part in ("1/2", "2/2"):
            code, _, err = jaxseg_command(*command, "-o", out / folder, "--part", part)
            assert code == 0, err
        assert jaxseg_command("merge", out / folder)[0] == 0
    code, shown, err = jaxseg_command(*words(work))
    assert code == 0, err
    assert "0 results made, 6 up to date" in err
    assert (
        jaxseg_command("pipeline", work / "p.yaml", "-i", work / "images", "-o", work / "one", "-g", "cpu")[1] == shown
    )
