"""Runs by the library: losses that are not finite, bad records, folders, what a run leaves and how it is evaluated."""

import dataclasses
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import metrics, overrides, steps

import jaxseg
from jaxseg.data.pipeline import training_batches
from jaxseg.data.reader import RecordError
from jaxseg.train import loop, run, task
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.log import read_metrics

SHORT = {"trainer__max_steps": 6, "trainer__pictures_every": 0, "trainer__ema": None}


def configured(folder, **changed):
    return run.open_run("demo", folder, overrides=overrides(**SHORT | changed))


def train(folder, config=None, **changed):
    """Trains a tiny model on one device; returns the last validation and what was told."""
    told = []
    config = config or configured(folder, **changed)
    return run.train(config, folder, devices=jax.devices()[:1], tell=told.append), told


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, trainer__checkpoint_steps=None, trainer__keep_last=3)
    return folder


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A source some records of which are bad: they raise, or are marked."""

    source: object
    bad: frozenset
    error: Exception | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i):
        if i in self.bad and self.error is not None:
            raise self.error
        return self.source[i] | {"bad": i in self.bad}

    def name(self, i) -> str:
        return self.source.name(i)


@pytest.fixture
def spoil(monkeypatch):
    """Makes records of the training split bad, and changes the loss at will."""
    make = task.make_problem

    def change(bad=(), error=None, loss=None):
        def changed(config):
            problem = make(config)
            splits = {**problem.splits, "train": Spoilt(problem.splits["train"], frozenset(bad), error)}

            def augment(record, rng):
                example = problem.augment(record, rng)
                return example | {"image": example["image"] * np.float32(np.nan if record["bad"] else 1)}

            return dataclasses.replace(problem, splits=splits, augment=augment, loss=loss or problem.loss)

        monkeypatch.setattr(task, "make_problem", changed)

    return change


def order(config) -> list[list[int]]:
    """The records of every batch of the first epoch."""
    source = Spoilt(task.make_problem(config).splits["train"], frozenset())
    batches = training_batches(source, lambda record, rng: {}, batch_size=4, seed=config.seed)
    found = [next(batches)["index"].tolist() for _ in range(4)]
    batches.close()
    return found


def test_a_loss_that_is_not_finite_stops_before_its_step_is_stored(tmp_path, spoil):
    config = configured(tmp_path / "run")
    batch = order(config)[2]
    spoil(batch[1:2])
    with pytest.raises(loop.TrainingError, match="the loss is nan at step 3; its examples: ") as caught:
        train(tmp_path / "run", config)
    assert all(f"phantom {i}" in str(caught.value) for i in batch)
    assert "\n" not in str(caught.value)
    assert steps(tmp_path / "run") == [1, 2]
    assert [entry["step"] for entry in metrics(tmp_path / "run")] == [1, 2]


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, spoil):
    """Else the loss is finite, and the parameters of the next checkpoint are not."""

    def loss(model, batch, key):
        value = jnp.mean(model(batch["image"]))
        return jnp.sqrt(value * 0.0), {}

    spoil(loss=loss)
    with pytest.raises(loop.TrainingError, match="the gradient norm is nan at step 1"):
        train(tmp_path / "run")
    assert steps(tmp_path / "run") == []


def test_many_examples_are_not_all_named(tmp_path, spoil):
    spoil(range(16))
    with pytest.raises(loop.TrainingError, match="and 8 more. The checkpoints before it are kept"):
        train(tmp_path / "run", trainer__batch_size=16)


def test_a_bad_record_stops_the_run_with_its_name(tmp_path, spoil):
    config = configured(tmp_path / "run")
    bad = order(config)[2][0]
    spoil([bad], ValueError("not a picture"))
    with pytest.raises(RecordError, match=f"record {bad}, phantom {bad}: not a picture"):
        train(tmp_path / "run", config)
    assert steps(tmp_path / "run") == [1, 2]


def test_bad_records_are_skipped_counted_and_told_of_on_request(tmp_path, spoil):
    config = configured(tmp_path / "run", data__on_error="skip", trainer__max_steps=8, trainer__checkpoint_steps=None)
    bad = order(config)[1][:2]
    spoil(bad, ValueError("not a picture"))
    _, told = train(tmp_path / "run", config)
    assert told[-1].startswith("2 bad records were skipped, others taken in their place: phantom ")
    assert all(f"phantom {i} (2 times)" in told[-1] for i in bad)  # in two epochs


def test_threads_are_ended_when_a_run_ends_or_fails(tmp_path, spoil):
    spoil([0, 1, 2, 3, 4, 5], ValueError("x"))
    with pytest.raises(RecordError):
        train(tmp_path / "run")
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("jaxseg-read")]
    for thread in ours:
        thread.join(5)
    assert not any(thread.is_alive() for thread in ours)


def test_a_run_leaves_what_others_read(trained):
    names = {path.name for path in trained.iterdir()} - {"tensorboard"}
    assert names == {"config.yaml", "versions.json", "metrics.jsonl", "checkpoints", "model"}
    versions = json.loads((trained / "versions.json").read_text())
    assert {"jax", "flax"} <= versions["versions"].keys()
    assert versions["jaxseg"] == jaxseg.__version__
    entry = read_metrics(trained / "metrics.jsonl")[0]
    assert {"loss", "learning_rate", "gradient_norm", "seconds", "examples_per_second"} <= entry.keys()
    assert jaxseg.load(trained).card.note.startswith("trained on phantoms")


def test_the_model_directory_is_that_of_the_best_checkpoint(trained):
    validations = [entry for entry in metrics(trained) if entry["split"] == "val"]
    best = max(validations, key=lambda entry: (entry["dice"], -entry["step"]))
    with Checkpoints(trained / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best() == best["step"]
    found = run.evaluate(trained, "val", devices=jax.devices()[:1])
    assert found["step"] == best["step"]
    assert found["dice"] == pytest.approx(best["dice"], abs=1e-6)
    config = run.open_run(None, trained, resume=True)
    problem = task.make_problem(config)
    examples = [problem.prepare(problem.splits["val"][i], None) for i in range(4)]
    batch = {name: np.stack([example[name] for example in examples]) for name in ("image", "target")}
    model = jaxseg.load(trained)
    scores = problem.summarise({k: np.asarray(v) for k, v in problem.scores(model, batch).items()})
    assert scores["dice"] == pytest.approx(best["dice"], abs=1e-6)


def test_pictures_come_at_their_own_epochs(tmp_path):
    changed = {"trainer__checkpoint_steps": None, "trainer__validate_every": 3, "trainer__checkpoint_every": 3}
    train(tmp_path / "run", **changed, trainer__max_steps=8, trainer__pictures_every=1)
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == ["step_0000004.png", "step_0000008.png"]


def test_evaluation_writes_its_numbers_and_touches_nothing_else(trained):
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
def test_an_evaluation_that_cannot_be_says_what_there_is(trained, split, step, message):
    with pytest.raises(ValueError, match=message):
        run.evaluate(trained, split, devices=jax.devices()[:1], step=step)


def test_evaluation_needs_a_run_with_a_checkpoint(tmp_path, trained):
    with pytest.raises(ValueError, match="holds no run"):
        run.evaluate(tmp_path, "val", devices=jax.devices()[:1])
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        run.evaluate(tmp_path, "val", devices=jax.devices()[:1])
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_run_that_goes_on_gives_its_last_validation_again(trained):
    entries = (trained / "metrics.jsonl").read_bytes()
    scores, told = train(trained, run.open_run(None, trained, resume=True))
    assert told == ["going on after step 6 of 6"]
    assert (trained / "metrics.jsonl").read_bytes() == entries
    assert scores["dice"] == [entry for entry in metrics(trained) if entry["split"] == "val"][-1]["dice"]


def test_a_folder_is_begun_only_once_data_batch_and_devices_fit(tmp_path):
    folder = tmp_path / "run"
    for changed, message in (
        ({"trainer__batch_size": 18}, "18 is more than the 16 training examples"),
        ({"trainer__batch_size": 5}, "5 cannot be split evenly over 2 devices"),
    ):
        with pytest.raises(ValueError, match=message):
            run.train(configured(folder, **changed), folder, devices=jax.devices()[:2])
        assert not folder.exists()


def test_a_folder_with_other_things_is_refused(tmp_path, trained):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name a new folder$"):
        run.open_run("demo", tmp_path)
    with pytest.raises(ValueError, match="is not empty; name a new folder$"):
        run.open_run("demo", tmp_path, resume=True)
    with pytest.raises(ValueError, match="is not empty; name a new folder, or go on with the run in it with --resume"):
        run.open_run("demo", trained)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_a_run_was_killed_in_at_once_can_be_used(tmp_path):
    (tmp_path / "versions.json").write_text("{}")
    (tmp_path / ".jaxseg-0123-1-x.yaml").write_text("half")
    assert run.open_run("demo", tmp_path, resume=True) == run.open_run("demo", tmp_path)


def test_going_on_needs_the_same_settings(trained):
    config = run.open_run(None, trained, resume=True)
    same = overrides(**SHORT, trainer__checkpoint_steps=None, trainer__keep_last=3)
    assert run.open_run("demo", trained, resume=True, overrides=same) == config
    with pytest.raises(ValueError, match="was started with another optimizer.learning_rate, trainer.epochs; start"):
        run.open_run(None, trained, resume=True, overrides=["trainer.epochs=9", "optimizer.learning_rate=1"])
    with pytest.raises(ValueError, match="was started with another .*task"):
        run.open_run("paxray", trained, resume=True)


def test_nothing_to_go_on_with_is_an_error_unless_a_configuration_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run to go on with; give one with -t"):
        run.open_run(None, tmp_path / "none", resume=True)
    assert run.open_run("demo", tmp_path / "none", resume=True).task == "phantom"


def test_two_runs_cannot_write_into_one_folder(trained):
    from jaxseg.files import only_writer

    with only_writer(trained), pytest.raises(ValueError, match="another run is writing into"):
        train(trained, run.open_run(None, trained, resume=True))
