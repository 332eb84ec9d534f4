"""Training runs through the library: folders, resuming, output files and evaluation."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_runs import SHORT, configured, metrics, overrides, train

import jaxseg
from jaxseg.training import run
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.log import read_metrics
from jaxseg.training.task import make_task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain")]


@pytest.fixture(scope="module")
def trained(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, trainer__checkpoint_steps=None, trainer__keep_last=3)
    return folder


def test_a_run_trains_exactly_its_epochs(tmp_path):
    train(tmp_path / "run", trainer__epochs=1, trainer__max_steps=7)
    assert max(entry["step"] for entry in metrics(tmp_path / "run")) == 4


def test_a_run_writes_the_files_that_other_commands_read(trained):
    names = {path.name for path in trained.iterdir()} - {"tensorboard"}
    assert names == {"config.yaml", "versions.json", "metrics.jsonl", "checkpoints", "model"}
    versions = json.loads((trained / "versions.json").read_text())
    assert {"jax", "flax"} <= versions["versions"].keys()
    assert versions["jaxseg"] == jaxseg.__version__
    entry = read_metrics(trained / "metrics.jsonl")[0]
    assert {"loss", "learning_rate", "gradient_norm", "seconds", "examples_per_second"} <= entry.keys()
    card = jaxseg.load(trained).card
    assert card.note.startswith("trained on phantoms")
    assert card.title == card.name == trained.name


def test_the_model_directory_holds_the_best_checkpoint(trained):
    validations = [entry for entry in metrics(trained) if entry["split"] == "val"]
    best = max(validations, key=lambda entry: (entry["dice"], -entry["step"]))
    with Checkpoints(trained / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best() == best["step"]
    found = run.evaluate(trained, "val", devices=jax.devices()[:1])
    assert found["step"] == best["step"]
    assert found["dice"] == pytest.approx(best["dice"], abs=1e-6)
    config = run.open_run(None, trained, resume=True)
    problem = make_task(config)
    examples = [problem.prepare(problem.splits["val"][i], None) for i in range(4)]
    batch = {name: np.stack([example[name] for example in examples]) for name in ("image", "target")}
    model = jaxseg.load(trained)
    scores = problem.summarise({k: np.asarray(v) for k, v in problem.scores(model, batch).items()})
    assert scores["dice"] == pytest.approx(best["dice"], abs=1e-6)


def test_pictures_are_written_at_their_epochs(tmp_path):
    changed = {"trainer__checkpoint_steps": None, "trainer__validate_every": 3, "trainer__checkpoint_every": 3}
    train(tmp_path / "run", **changed, trainer__max_steps=8, trainer__pictures_every=1)
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == ["step_0000004.png", "step_0000008.png"]


def test_evaluation_writes_its_numbers_and_changes_no_other_file(trained):
    before = sorted(path.name for path in (trained / "checkpoints").rglob("*"))
    found = run.evaluate(trained, "train", devices=jax.devices()[:1], step=4)
    assert found["step"] == 4
    assert json.loads((trained / "evaluation_train.json").read_text()) == found
    assert sorted(path.name for path in (trained / "checkpoints").rglob("*")) == before
    (trained / "evaluation_train.json").unlink()


@pytest.mark.parametrize(
    ("split", "step", "message"),
    [
        ("test", None, "the data have no split 'test' with examples; there are: train, val"),
        ("val", 5, "there is no checkpoint of step 5; there are 4, 6"),
    ],
)
def test_the_error_of_an_impossible_evaluation_lists_what_is_available(trained, split, step, message):
    with pytest.raises(ValueError, match=message):
        run.evaluate(trained, split, devices=jax.devices()[:1], step=step)


def test_evaluation_needs_a_run_with_a_checkpoint(tmp_path, trained):
    with pytest.raises(ValueError, match="holds no run"):
        run.evaluate(tmp_path, "val", devices=jax.devices()[:1])
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        run.evaluate(tmp_path, "val", devices=jax.devices()[:1])
    assert not (tmp_path / "checkpoints").exists()


def test_resuming_a_finished_run_returns_its_last_validation_again(trained):
    entries = (trained / "metrics.jsonl").read_bytes()
    scores, told = train(trained, run.open_run(None, trained, resume=True))
    assert told == ["resuming after step 6 of 6"]
    assert (trained / "metrics.jsonl").read_bytes() == entries
    assert scores["dice"] == [entry for entry in metrics(trained) if entry["split"] == "val"][-1]["dice"]


def test_a_folder_is_written_only_after_data_batch_and_devices_are_checked(tmp_path):
    folder = tmp_path / "run"
    for changed, message in (
        ({"trainer__batch_size": 18}, "18 is more than the 16 training examples"),
        ({"trainer__batch_size": 5}, "5 cannot be split evenly over 2 devices"),
    ):
        with pytest.raises(ValueError, match=message):
            run.train(configured(folder, **changed), folder, devices=jax.devices()[:2])
        assert not folder.exists()


def test_a_folder_with_foreign_files_is_refused(tmp_path, trained):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name a new folder$"):
        run.open_run("demo", tmp_path)
    with pytest.raises(ValueError, match="is not empty; name a new folder$"):
        run.open_run("demo", tmp_path, resume=True)
    with pytest.raises(ValueError, match="is not empty; name a new folder, or resume the run in it with --resume"):
        run.open_run("demo", trained)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_folder_of_a_run_that_was_killed_at_its_start_can_be_used(tmp_path):
    (tmp_path / "versions.json").write_text("{}")
    (tmp_path / ".jaxseg-0123-1-x.yaml").write_text("half")
    assert run.open_run("demo", tmp_path, resume=True) == run.open_run("demo", tmp_path)


def test_resuming_needs_the_same_settings(trained):
    config = run.open_run(None, trained, resume=True)
    same = overrides(**SHORT, trainer__checkpoint_steps=None, trainer__keep_last=3)
    assert run.open_run("demo", trained, resume=True, overrides=same) == config
    with pytest.raises(ValueError, match="was started with a different optimizer.learning_rate, trainer.epochs; start"):
        run.open_run(None, trained, resume=True, overrides=["trainer.epochs=9", "optimizer.learning_rate=1"])
    with pytest.raises(ValueError, match="was started with a different .*task"):
        run.open_run("paxray", trained, resume=True)


def test_a_run_resumes_with_another_number_of_workers(trained):
    config = run.open_run(
        "demo",
        trained,
        resume=True,
        overrides=overrides(**SHORT, trainer__checkpoint_steps=None, trainer__keep_last=3, data__workers=2),
    )
    assert config.data.workers == 2
    assert not config.trainer.keep_memory
    assert run.open_run(None, trained, resume=True, overrides=["trainer.keep_memory=true"]).trainer.keep_memory
    assert dataclasses.replace(config.data, workers=0) == run.open_run(None, trained, resume=True).data


def test_evaluation_runs_on_any_number_of_devices(trained):
    one, three = (run.evaluate(trained, "val", devices=jax.devices()[:n]) for n in (1, 3))
    assert three == pytest.approx(one, abs=1e-6, nan_ok=True)


def test_resuming_an_empty_folder_is_an_error_unless_a_configuration_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run to resume; give a configuration with -t"):
        run.open_run(None, tmp_path / "none", resume=True)
    assert run.open_run("demo", tmp_path / "none", resume=True).task == "phantom"


def test_two_runs_cannot_write_into_one_folder(trained):
    from jaxseg.files import only_writer

    with only_writer(trained), pytest.raises(ValueError, match="another run is writing into"):
        train(trained, run.open_run(None, trained, resume=True))


def test_a_task_that_generates_its_data_refuses_a_data_folder(tmp_path, trained):
    with pytest.raises(ValueError, match="^-i: phantom generates its own data; leave -i out$"):
        run.open_run("demo", tmp_path / "run", data=tmp_path)
    with pytest.raises(ValueError, match="^-i: phantom generates its own data"):
        run.evaluate(trained, "val", devices=jax.devices()[:1], data=tmp_path)
    with pytest.raises(ValueError, match="trainer.epochs: must be from 1 to 1000000, got -1"):
        run.open_run("demo", tmp_path / "run", data=tmp_path, overrides=["trainer.epochs=-1"])


@pytest.mark.full
def test_a_run_that_resumes_with_other_versions_names_them(tmp_path):
    config = configured(tmp_path / "run", trainer__max_steps=1)
    train(tmp_path / "run", config)
    path = tmp_path / "run" / "versions.json"
    stored = json.loads(path.read_text())
    now = stored["versions"]["jax"]
    path.write_text(json.dumps(stored | {"versions": stored["versions"] | {"jax": "0.0.1"}}))
    line = "the run was started with other versions, so its results may differ slightly: jax 0.0.1 (now {})"
    assert train(tmp_path / "run", config)[1] == [line.format(now), "resuming after step 1 of 1"]
    path.write_text("half")
    assert "cannot be read" in train(tmp_path / "run", config)[1][0]


@pytest.mark.full
def test_a_run_with_replica_statistics_resumes_only_with_the_same_number_of_replicas(tmp_path):
    folder = tmp_path / "run"
    options = {"trainer__parallel": "pmap", "trainer__batch_norm": "replica"}
    run.train(configured(folder, **options, trainer__max_steps=1), folder, devices=jax.devices()[:2])
    config = run.open_run(None, folder, resume=True)
    with pytest.raises(ValueError, match="on each of 2 devices .* cannot resume with 4: select 2 devices with -g"):
        run.train(config, folder, devices=jax.devices()[:4])
    assert run.train(config, folder, devices=jax.devices()[:2])["dice"] >= 0
