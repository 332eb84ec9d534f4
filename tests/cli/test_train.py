"""`jaxseg train` and `jaxseg evaluate`: settings, messages, exit codes, progress, and the trained model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from jaxseg.cli.main import main
from jaxseg.cli.progress import progress
from jaxseg.training import run
from jaxseg.training.config.config import packaged, read_config
from jaxseg.training.task import make_task

pytestmark = pytest.mark.usefixtures("plain")
TINY = ("data.size=32", "data.train=16", "data.val=4", "model.width=4", "trainer.batch_size=4", "trainer.max_steps=4")


def words(folder, *rest, settings=(), config="demo") -> list[str]:
    sets = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return ["train", "-t", config, "-o", str(folder), "-g", "0", *sets, *rest]


def says(err: str, *parts: str) -> None:
    assert all(part in err for part in parts), err
    assert "Traceback" not in err


@pytest.mark.slow
def test_training_evaluates_at_the_end_on_request(jaxseg_command, tmp_path):
    folder = tmp_path / "run"
    code, out, err = jaxseg_command(*words(folder, "--evaluate", "val"))
    assert code == 0
    measured = json.loads((folder / "evaluation_val.json").read_text())
    assert f"dice\t{measured['dice']:.4f}" in out
    says(err, "evaluation_val.json", "The run is in")


def test_a_split_that_the_data_lack_is_refused_before_the_training(jaxseg_command, tmp_path):
    code, _, err = jaxseg_command(*words(tmp_path / "run", "--evaluate", "test"))
    assert code == 2
    says(err, "--evaluate: the data have no split 'test' with examples; there are: train, val")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(plain, tmp_path_factory):
    """Returns the folder of a run that the command trained."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.raises(SystemExit) as stop:
        main(words(folder, settings=("trainer.checkpoint_steps=2", "trainer.log_every=2")))
    assert not stop.value.code
    return folder


@pytest.mark.slow
def test_training_prints_the_scores_and_where_the_model_is(jaxseg_command, tmp_path):
    code, out, err = jaxseg_command(*words(tmp_path / "run", settings=("trainer.log_every=2",)))
    assert code == 0
    scores = dict(line.split("\t") for line in out.splitlines())
    assert list(scores)[0] == "dice"
    assert len(scores) == 4  # the mean and the three lowest classes
    assert all(0 <= float(value) <= 1 or value == "nan" for value in scores.values())
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "Reading demo ...",
        "steps 2/4",
        "steps 4/4",
        "step 4",
        err.splitlines()[4],
    ]
    says(err, "The run is in", "its model in")


@pytest.mark.slow
def test_the_trained_model_segments(jaxseg_command, trained, tmp_path):
    picture = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)).save(picture)
    code, _, err = jaxseg_command("segment", "-i", picture, "-o", tmp_path / "out", "--weights", trained, "-ot", "npy")
    assert code == 0, err
    assert np.load(next((tmp_path / "out").glob("*.npy"))).shape == (6, 40, 50)


@pytest.mark.slow
def test_evaluation_uses_the_best_checkpoint_or_that_of_a_step(jaxseg_command, trained):
    code, out, _ = jaxseg_command("evaluate", "--run", trained, "--split", "val", "-g", "0")
    assert code == 0
    assert out.splitlines()[0] == "step\t4"
    stored = json.loads((trained / "evaluation_val.json").read_text())
    assert out.splitlines()[1] == f"dice\t{stored['dice']:.4f}"
    code, out, _ = jaxseg_command("evaluate", "--run", trained, "--split", "val", "--step", 2, "-g", "0")
    assert (code, out.splitlines()[0]) == (0, "step\t2")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (["--split", "test"], "the data have no split 'test' with examples; there are: train, val"),
        (["--split", "val", "--step", "3"], "there is no checkpoint of step 3; there are 2, 4"),
        (["--split", "val", "-g", "99"], "no device 99"),
    ],
)
def test_a_wrong_evaluation_is_a_usage_error(jaxseg_command, trained, rest, message):
    code, _, err = jaxseg_command("evaluate", "--run", trained, *rest)
    assert code == 2
    says(err, message, "'jaxseg evaluate --help' explains")
    assert len(err.splitlines()) == 1


def test_evaluation_of_a_folder_without_a_run_is_a_usage_error(jaxseg_command, tmp_path):
    code, _, err = jaxseg_command("evaluate", "--run", tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    says(err, "holds no run: it has no config.yaml")


def test_several_wrong_settings_are_reported_in_one_line_each(jaxseg_command, tmp_path):
    wrong = ("trainer.precision=fp8", "trainer.epoch=3", "data.size=7")
    code, _, err = jaxseg_command(*words(tmp_path / "run", settings=wrong))
    assert code == 2
    _, first, *lines = err.splitlines()
    says(first, "3 problems in the settings of demo.yaml")
    *problems, hint = lines
    names = ["--set data.size", "--set trainer.epoch", "--set trainer.precision"]
    assert sorted(line.split(":")[0] for line in problems) == names
    assert hint == "('jaxseg train --help' explains)"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a configuration with -t, or a run to resume: -o RUN --resume"),
        (["-t", "nonsense"], "no configuration nonsense: give a YAML file or one of"),
        (["-t", "demo", "--set", "trainer.epochs"], "--set trainer.epochs: an override has the form trainer.epochs=2"),
        (["-t", "demo", "-g", "tpu"], "no tpu found"),
        (["-t", "demo", "--num-processes", "2"], "belong together: give all three, or none"),
        (["-o", "none", "--resume"], "none: no run to resume; give a configuration with -t"),
    ],
)
def test_a_wrong_command_line_gives_a_one_line_error(jaxseg_command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = jaxseg_command("train", *arguments)
    assert code == 2
    says(err, message)
    assert len(err.splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_users_file_is_a_configuration_and_is_stored_with_all_defaults(jaxseg_command, tmp_path):
    (tmp_path / "mine.yaml").write_text(packaged()["demo"])
    folder = tmp_path / "run"
    code, _, err = jaxseg_command(*words(folder, config=tmp_path / "mine.yaml", settings=("trainer.max_steps=1",)))
    assert code == 0, err
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["data"]["size"] == 32
    assert stored["trainer"]["max_steps"] == 1
    assert stored["trainer"]["keep_last"] == 2  # a default


@pytest.mark.slow
def test_resuming_with_other_settings_or_without_the_option_is_refused(jaxseg_command, trained):
    code, _, err = jaxseg_command(*words(trained, "--resume", settings=("trainer.epochs=99",)))
    assert code == 2
    says(err, "was started with a different trainer.checkpoint_steps, trainer.epochs, trainer.log_every")
    code, _, err = jaxseg_command(*words(trained))
    assert code == 2
    says(err, "is not empty", "--resume")
    code, out, err = jaxseg_command("train", "-o", trained, "--resume", "-g", "0")
    assert code == 0, err
    says(err, "resuming after step 4 of 4")
    assert out.startswith("dice\t")


@pytest.mark.full
def test_a_damaged_checkpoint_is_reported(jaxseg_command, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "checkpoints" / "4" / "data" / "metadata").unlink()
    code, _, err = jaxseg_command("train", "-o", folder, "--resume", "-g", "0")
    assert code == 0
    says(err, "the checkpoint of step 4 is damaged", "damaged-4", "resuming after step 2 of 4")
    assert len([line for line in err.splitlines() if "is damaged" in line]) == 1
    for step in ("2", "4"):
        (folder / "checkpoints" / step / "data" / "metadata").write_text("")
    code, _, err = jaxseg_command("train", "-o", folder, "--resume", "-g", "0")
    assert (code, len(err.splitlines())) == (1, 2)  # the first line is "Reading ..."
    says(err, "Error: no checkpoint in", "can be read")


def test_missing_data_give_a_one_line_error_and_no_run_folder(jaxseg_command, tmp_path):
    missing, folder = tmp_path / "none", tmp_path / "run"
    code, _, err = jaxseg_command("train", "-t", "paxray_sample", "-i", missing, "-o", folder, "-g", "0")
    assert (code, len(err.splitlines())) == (1, 2)  # the first line is "Reading ..."
    says(err, f"{missing / 'paxray.json'}: No such file or directory")
    assert not folder.exists()


@pytest.mark.full
def test_a_loss_that_is_not_finite_gives_a_one_line_error_and_exit_code_1(jaxseg_command, tmp_path, monkeypatch):
    def with_bad_loss(config):
        task = make_task(config)
        loss = task.loss
        task.loss = lambda *args: (loss(*args)[0] * np.float32(np.nan), {})
        return task

    monkeypatch.setattr(run, "make_task", with_bad_loss)
    code, _, err = jaxseg_command(*words(tmp_path / "run"))
    assert (code, len(err.splitlines())) == (1, 2)  # the first line is "Reading ..."
    says(err, "Error: the loss is nan at step 1; its examples: phantom ", "lower optimizer.learning_rate")


def test_training_says_at_once_what_it_reads_also_into_a_file(tmp_path):
    """The line comes before the heavy imports, which fail here."""
    code = "import sys; sys.modules['jax'] = None; from jaxseg.cli.main import main; main(sys.argv[1:])"
    for words, first in ((["-t", "demo"], "Reading demo ..."), (["-o", "none", "--resume"], "Reading none ...")):
        command = [sys.executable, "-c", code, "train", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stderr.splitlines()[0]) == (1, first)


def test_ctrl_c_prints_stopped_and_gives_exit_code_1(jaxseg_command, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", interrupted)
    code, _, err = jaxseg_command(*words(tmp_path / "run"))
    assert (code, err.split()) == (1, ["Reading", "demo", "...", "Stopped."])  # nothing was written to be resumed
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "config.yaml").write_text("task: phantom")
    monkeypatch.setattr("jaxseg.training.config.config.open_run", lambda *_, **__: read_config("demo"))
    code, _, err = jaxseg_command("train", "-o", folder, "--resume", "-g", "0")
    assert code == 1
    assert err.replace("\n\n", "\n").splitlines() == [
        f"Reading {folder} ...",
        "Stopped. Resume the run at step 1, without a checkpoint:",
        f"  jaxseg train -o '{folder}' --resume",
    ]
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "checkpoints" / "4" / "_CHECKPOINT_METADATA").touch()
    assert "Resume the run after its newest checkpoint" in jaxseg_command("train", "-o", folder, "--resume")[2]


class Terminal:
    """A stand-in for the stderr of a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_bar_starts_where_the_run_resumes(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress(10, "steps", done=4) as step:
        for i in range(5, 11):
            step(f"loss {i}\x1b[2J")
    assert "10/10" in sys.stderr.text
    assert "loss 10\\x1b[2J" in sys.stderr.text  # control codes in foreign text do not reach the terminal


def test_without_a_terminal_a_line_is_printed_at_regular_steps(capsys):
    with progress(10, "steps", every=4, done=3) as step:
        for i in range(4, 11):
            step(f"loss {i}")
    assert capsys.readouterr().err.splitlines() == ["steps 4/10: loss 4", "steps 8/10: loss 8", "steps 10/10: loss 10"]


def test_the_name_of_the_configuration_names_the_folder(jaxseg_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(run, "train", lambda config, folder, **_: seen.append(folder) or {})
    assert jaxseg_command("train", "-t", "demo", "-g", "0")[0] == 0
    assert seen == [Path("runs") / "demo"]
