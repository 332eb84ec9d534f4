"""A search: trials are runs, an interrupted search resumes unchanged, bad trials stop early, bad spaces are refused."""

import jax
import pytest
from PIL import Image
from tiny_runs import configured, metrics, steps
from tune_runs import RATE, RATES, SETTINGS, rows, score_of, search

from jaxseg.training import loop, run
from jaxseg.training.config.config import read_config, write_config
from jaxseg.tuning import study
from jaxseg.tuning.trials import COMPLETE, FAILED, PRUNED, table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain")]


@pytest.fixture(scope="module")
def searched(plain, tmp_path_factory):
    """Returns a search with two trained trials."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    told = []
    return folder, search(folder, 2, RATES, told=told), told


def test_trials_are_runs_and_their_value_is_that_of_the_best_validation(searched):
    folder, found, told = searched
    assert found.target == "dice"
    assert [row["state"] for row in rows(folder)] == ["complete", "complete"]
    assert rows(folder)[0][RATE] == "0.003"  # the configuration unchanged
    for row in rows(folder):
        place = folder / "trials" / row["trial"]
        assert read_config(place / "config.yaml").optimizer.learning_rate == float(row[RATE])
        values = [entry["dice"] for entry in metrics(place) if entry["split"] == "val"]
        assert len(values) == 2
        assert float(row["dice"]) == max(values)
    assert found.best.value == max(float(row["dice"]) for row in rows(folder))
    assert f"trial 0000 is complete: dice {float(rows(folder)[0]['dice']):.4f}" in told


def test_the_best_trial_is_written_as_a_configuration_and_only_its_model_is_kept(searched):
    folder, found, _ = searched
    best = read_config(folder / "best.yaml")
    assert best.optimizer.learning_rate == found.best.values[RATE]
    assert best == read_config(folder / "trials" / found.best.name / "config.yaml")
    other = next(trial for trial in found.trials if trial != found.best)
    assert (folder / "trials" / found.best.name / "model").is_dir()
    assert steps(folder / "trials" / found.best.name)
    assert {"config.yaml", "metrics.jsonl"} <= {path.name for path in (folder / "trials" / other.name).iterdir()}
    assert not (folder / "trials" / other.name / "model").exists()
    assert not (folder / "trials" / other.name / "checkpoints").exists()
    with Image.open(folder / "coordinates.png") as picture:
        assert picture.mode == "RGB"


@pytest.mark.full
def test_an_interrupted_search_resumes_with_the_same_trials(searched, tmp_path):
    folder = tmp_path / "search"

    class Killing(list):
        def append(self, text):
            super().append(text)
            if text.startswith("step 4"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(folder, 1, RATES, told=Killing())
    assert steps(folder / "trials" / "0000")
    assert not (folder / "trials.csv").exists()
    with (folder / study.JOURNAL).open("ab") as file:
        file.write(b'{"op_code":5,"wor')  # a partial line and a lock, as kill -9 may leave them
    (folder / study.LOCK).touch()
    told = []
    found = search(folder, 1, source=None, told=told)
    assert any(line.startswith("trial 0000 (1 of 1) resumes") for line in told)
    assert any(line.startswith("resuming after step") for line in told)
    assert found.best in searched[1].trials
    assert metrics(folder / "trials" / "0000") == metrics(searched[0] / "trials" / "0000")


@pytest.mark.full
def test_a_run_reports_all_validations_except_the_last_and_ends_if_the_callback_raises(tmp_path):
    calls = []

    def on_validation(epoch, score):
        calls.append((epoch, score))
        if len(calls) == 2:
            raise InterruptedError("enough")

    folder = tmp_path / "run"
    config = configured(folder, trainer__max_steps=12)
    with pytest.raises(InterruptedError, match="enough"):
        run.train(config, folder, devices=jax.devices()[:1], on_validation=on_validation)
    values = [(entry["epoch"], entry["dice"]) for entry in metrics(folder) if entry["split"] == "val"]
    assert calls == values
    assert [epoch for epoch, _ in calls] == [1, 2]
    assert steps(folder)[-1] == 8  # stored before the callback
    calls.append(None)
    run.train(run.open_run(None, folder, resume=True), folder, devices=jax.devices()[:1], on_validation=on_validation)
    assert len(calls) == 3  # the last of 3 validations is not followed by a step


def test_a_trial_that_falls_behind_is_stopped_early(quick, tmp_path):
    found = search(tmp_path / "search", 4, f"{RATE}=3e-3|1000000", full_trials=1)
    behind = [trial for trial in found.trials if trial.state == PRUNED]
    assert len(behind) >= 1
    assert behind[0].values == {RATE: "1000000"}
    assert behind[0].note == "behind the median after 1 epochs"
    assert behind[0].value == pytest.approx(score_of(quick[1]) / 2)  # its last validation only
    assert found.best.values == {RATE: "3e-3"}
    assert len(quick) == 2  # values that were tried before are not trained again
    assert {row["note"] for row in rows(tmp_path / "search")} - {""} <= {behind[0].note, "same values as 0000"}


def test_no_trial_is_stopped_early_before_enough_are_complete(quick, tmp_path):
    found = search(tmp_path / "search", 4, f"{RATE}=3e-3|1000000", full_trials=5)
    assert {trial.state for trial in found.trials} == {COMPLETE}


@pytest.mark.full
def test_values_depend_on_the_seed_and_not_on_how_often_a_search_was_resumed(quick, tmp_path):
    space = (RATES, "trainer.batch_size=2..8", "optimizer.name=adam|sgd")
    whole = search(tmp_path / "whole", 13, *space)
    for count in (2, 9, 13):
        parts = search(tmp_path / "parts", count, *space)
    assert parts == whole
    other = search(tmp_path / "other", 3, *space, seed=1)
    first, second = ({t.number: t.values for t in found.trials} for found in (whole, other))
    assert first[0] == second[0] == {RATE: 3e-3, "trainer.batch_size": 4, "optimizer.name": "adam"}
    assert first[1] != second[1]
    assert all(1e-4 <= t.values[RATE] <= 1e-2 and t.values["trainer.batch_size"] in range(2, 9) for t in whole.trials)
    assert table(whole, 5).count("\n") == 6


def test_a_loss_that_is_not_finite_or_invalid_settings_end_only_that_trial(quick, tmp_path, monkeypatch):
    train = run.train

    def failing(config, folder, **calls):
        if config.trainer.batch_size == 8:
            raise ValueError("trainer.batch_size: 8 is more than the 4 training examples")
        if config.trainer.batch_size == 2:
            folder.mkdir(parents=True)
            write_config(config, folder / "config.yaml")
            raise loop.TrainingError("the loss is nan at step 1")
        train(config, folder, **calls)

    monkeypatch.setattr(run, "train", failing)
    found = search(tmp_path / "search", 12, "trainer.batch_size=2|4|8")
    notes = {trial.values["trainer.batch_size"]: (trial.state, trial.note) for trial in reversed(found.trials)}
    assert notes["2"] == (PRUNED, "the loss is nan at step 1")
    assert notes["8"] == (FAILED, "trainer.batch_size: 8 is more than the 4 training examples")
    assert notes["4"] == (COMPLETE, "")


def test_any_other_error_stops_the_search_and_the_trial_resumes_later(quick, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(run, "train", full)
        with pytest.raises(OSError, match="No space left"):
            search(tmp_path / "search", 2, RATES)
    found = search(tmp_path / "search", 2, RATES)
    assert [trial.number for trial in sorted(found.trials, key=lambda t: t.number)] == [0, 1]


def test_a_search_without_a_complete_trial_is_an_error(quick, tmp_path, monkeypatch):
    def nan(*_, **__):
        raise loop.TrainingError("the loss is nan at step 1")

    monkeypatch.setattr(run, "train", nan)
    with pytest.raises(ValueError, match="none of 2 trials is complete; the last: the loss is nan at step 1"):
        search(tmp_path / "search", 2, RATES)


def test_a_folder_with_another_search_is_refused(quick, tmp_path):
    folder = tmp_path / "search"
    search(folder, 1, RATES)
    before = sorted(path.name for path in folder.rglob("*"))
    for options, names in (
        ({"space": (f"{RATE}=1e-4..1e-1 log",)}, r"search \(optimizer.learning_rate=0.0001..0.01 log\)"),
        ({"space": (RATES,), "seed": 3}, r"seed \(0\)"),
        ({"space": (RATES,), "overrides": [*SETTINGS, "trainer.epochs=7"]}, "trainer.epochs"),
    ):
        space = options.pop("space")
        with pytest.raises(ValueError, match=f"started with a different {names}; name a new folder"):
            search(folder, 2, *space, **options)
    assert sorted(path.name for path in folder.rglob("*")) == before
    # The place of the data and the way they are read may change.
    search(folder, 2, source=None, overrides=["data.threads=1"])
    assert len(rows(folder)) == 2


def test_a_folder_with_foreign_files_and_a_damaged_study_are_refused(quick, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no search"):
        search(tmp_path, 1, RATES)
    with pytest.raises(ValueError, match="no search to continue"):
        search(tmp_path / "none", 1, source=None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    for content in (b"hello\nworld\n", b"[1]\n", b'{"op_code":99}\n{}\n', bytes(range(256)) + b"\n\n"):
        folder = tmp_path / f"{len(content)}"
        folder.mkdir()
        (folder / study.JOURNAL).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or is not a study"):
            search(folder, 1, RATES)


def test_a_search_killed_at_its_start_resumes_and_a_foreign_one_is_refused(quick, tmp_path):
    for name in ("bare", "other"):
        (tmp_path / name).mkdir()
        opened = study.open_study(tmp_path / name, 5)
    search(tmp_path / "bare", 1, RATES)
    opened.study.set_user_attr("plan", {"config": 1})
    with pytest.raises(ValueError, match="does not contain the settings of its search"):
        search(tmp_path / "other", 1, RATES)


def test_the_path_of_the_data_may_change_and_cannot_be_searched(quick, tmp_path):
    options = {"source": "paxray_sample", "overrides": ()}
    search(tmp_path / "search", 1, RATES, data=tmp_path / "here", **options)
    search(tmp_path / "search", 2, RATES, data=tmp_path / "there", **options)
    assert [config.data.root for config in quick] == [str(tmp_path / "here"), str(tmp_path / "there")]
    with pytest.raises(ValueError, match="data.root: it must stay the same during a search"):
        search(tmp_path / "other", 1, "data.root=a|b", data=tmp_path / "here", **options)


def test_a_device_out_of_memory_ends_only_that_trial(quick, tmp_path, monkeypatch):
    train = run.train

    def full(config, *args, **calls):
        if config.trainer.batch_size == 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        train(config, *args, **calls)

    monkeypatch.setattr(run, "train", full)
    found = search(tmp_path / "search", 6, "trainer.batch_size=4|8")
    assert (FAILED, "it needs more memory than the device has") in {(t.state, t.note) for t in found.trials}


def test_the_models_of_all_trials_are_kept_on_request(quick, tmp_path):
    search(tmp_path / "search", 3, RATES, keep_all=True)
    assert len(list((tmp_path / "search" / "trials").glob("*/model"))) == 3


def test_all_problems_of_a_space_are_reported_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="the search space:") as error:
        search(tmp_path / "search", 1, f"{RATE}=-1..1", "trainer.epoch=1..2")
    assert [line.split(":")[0] for line in str(error.value).split("\n")] == ["the search space", RATE, "trainer.epoch"]
    assert not (tmp_path / "search").exists()
