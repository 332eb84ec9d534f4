"""`jaxseg tune`: printed output, written files, resuming, and errors of a wrong command line."""

import sys

import pytest

TINY = ("data.size=32", "data.train=16", "data.val=4", "model.width=4", "trainer.batch_size=4", "trainer.max_steps=2")


def words(folder, *rest, settings=(), trials=2) -> list[str]:
    sets = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return ["tune", "-t", "demo", "-o", str(folder), "-g", "0", "--trials", str(trials), *sets, *rest]


@pytest.mark.full
def test_a_search_prints_the_best_trial_and_resumes_without_its_settings(jaxseg_command, tmp_path):
    folder = tmp_path / "search"
    code, out, err = jaxseg_command(*words(folder, "--search", "optimizer.learning_rate=1e-4..1e-2 log", trials=1))
    assert code == 0, err
    head, first, count = out.splitlines()
    assert head.split() == ["trial", "dice", "optimizer.learning_rate"]
    assert (first.split()[0], first.split()[2], count) == ("0000", "0.003", "1 complete")
    assert f"The best settings are in {folder / 'best.yaml'}" in err
    assert {"trials.csv", "best.yaml", "coordinates.png", "study.journal", "base.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    code, again, err = jaxseg_command("tune", "-o", folder, "--trials", 1, "-g", "0")
    assert (code, again) == (0, out), err


def test_help_names_the_extra_and_the_forms(jaxseg_command):
    code, out, _ = jaxseg_command("tune", "--help")
    assert code == 0
    text = " ".join(out.split())
    assert all(part in text for part in ("jaxseg[tune]", "1e-5..1e-2 log", "adam|sgd", "MLFLOW_TRACKING_URI"))


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--trials", "2"], "name a configuration with -t, or a search to continue", 2),
        (["-t", "demo"], "Missing option '--trials'", 2),
        (["-t", "demo", "--trials", "0"], "--trials", 2),
        (["-t", "demo", "--trials", "2", "-g", "99"], "no device 99", 2),
        (["-t", "demo", "--trials", "2", "--search", "optimizer.rate=1..2"], "optimizer.rate: no such setting", 2),
        (["-t", "nonsense", "--trials", "2"], "no configuration nonsense", 2),
        (["-o", "none", "--trials", "2"], "no search to continue; name a configuration with -t", 2),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_writes_nothing(
    jaxseg_command, tmp_path, monkeypatch, arguments, message, status
):
    monkeypatch.chdir(tmp_path)
    code, _, err = jaxseg_command("tune", *arguments)
    assert code == status, err
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_extra_is_named(jaxseg_command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = jaxseg_command(*words(tmp_path / "search"))
    assert code == 1
    assert err.strip() == "Error: jaxseg tune needs optuna: pip install 'jaxseg[tune]'"
    assert not (tmp_path / "search").exists()
