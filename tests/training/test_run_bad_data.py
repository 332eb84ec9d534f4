"""Training runs with faulty data: losses that are not finite, bad records, and data lists that have changed."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import configured, metrics, steps, train

import jaxseg
from jaxseg.training import loop, run
from jaxseg.training.batches import training_batches
from jaxseg.training.reader import RecordError
from jaxseg.training.task import make_task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain")]


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A source with some bad records: they raise an error, or they are marked."""

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
def damaged(monkeypatch):
    """Returns a task with bad records in one split, and with another loss or other facts on request."""

    def change(bad=(), error=None, loss=None, split="train", facts=None):
        def changed(config):
            task = make_task(config)
            plain = task.augment

            def augment(record, rng):
                example = plain(record, rng)
                return example | {"image": example["image"] * np.float32(np.nan if record.get("bad") else 1)}

            task.splits = {**task.splits, split: Damaged(task.splits[split], frozenset(bad), error)}
            task.augment, task.loss, task.facts = augment, loss or task.loss, facts or {}
            return task

        monkeypatch.setattr(run, "make_task", changed)

    return change


def order(config) -> list[list[int]]:
    """The records of every batch of the first epoch."""
    source = Damaged(make_task(config).splits["train"], frozenset())
    batches = training_batches(source, lambda record, rng: {}, batch_size=4, seed=config.seed)
    found = [next(batches)["index"].tolist() for _ in range(4)]
    batches.close()
    return found


def test_a_loss_that_is_not_finite_stops_the_run_before_its_step_is_stored(tmp_path, damaged):
    config = configured(tmp_path / "run")
    batch = order(config)[2]
    damaged(batch[1:2])
    with pytest.raises(loop.TrainingError, match="the loss is nan at step 3; its examples: ") as caught:
        train(tmp_path / "run", config)
    assert all(f"phantom {i}" in str(caught.value) for i in batch)
    assert "\n" not in str(caught.value)
    assert steps(tmp_path / "run") == [1, 2]
    assert [entry["step"] for entry in metrics(tmp_path / "run")] == [1, 2]


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path, damaged):
    """Without this check, the loss is finite, but the parameters in the next checkpoint are not."""

    def loss(model, batch, key, step):
        value = jnp.mean(model(batch["image"]))
        return jnp.sqrt(value * 0.0), {}

    damaged(loss=loss)
    with pytest.raises(loop.TrainingError, match="the gradient norm is nan at step 1"):
        train(tmp_path / "run")
    assert steps(tmp_path / "run") == []


def test_of_many_bad_examples_only_a_few_are_named(tmp_path, damaged):
    damaged(range(16))
    with pytest.raises(loop.TrainingError, match="and 8 more. The checkpoints before it are kept"):
        train(tmp_path / "run", trainer__batch_size=16)


def test_a_bad_record_stops_the_run_with_its_name(tmp_path, damaged):
    config = configured(tmp_path / "run")
    bad = order(config)[2][0]
    damaged([bad], ValueError("not a picture"))
    with pytest.raises(RecordError, match=f"record {bad}, phantom {bad}: not a picture"):
        train(tmp_path / "run", config)
    assert steps(tmp_path / "run") == [1, 2]


def test_bad_records_are_skipped_counted_and_reported_on_request(tmp_path, damaged):
    config = configured(tmp_path / "run", data__on_error="skip", trainer__max_steps=8, trainer__checkpoint_steps=None)
    bad = order(config)[1][:2]
    damaged(bad, ValueError("not a picture"))
    _, told = train(tmp_path / "run", config)
    assert told[-1].startswith("2 bad records were skipped and replaced by others: phantom ")
    assert all(f"phantom {i} (2 times)" in told[-1] for i in bad)  # in two epochs


@pytest.mark.full
def test_bad_records_in_a_validation_are_left_out_on_request(tmp_path, damaged):
    damaged([1], ValueError("not a picture"), split="val")
    with pytest.raises(RecordError, match="record 1, phantom 500001: not a picture"):
        train(tmp_path / "stopped")
    scores, told = train(tmp_path / "run", data__on_error="skip", trainer__max_steps=4, trainer__pictures_every=1)
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["step_0000004.png"]
    assert "1 bad records of val were not measured: phantom 500001" in told
    task = make_task(configured(tmp_path / "other"))
    examples = [task.prepare(task.splits["val"][i], None) for i in (0, 2, 3)]
    batch = {name: np.stack([example[name] for example in examples]) for name in ("image", "target")}
    found = task.scores(jaxseg.load(tmp_path / "run"), batch)
    wanted = task.summarise({name: np.asarray(values) for name, values in found.items()})
    assert scores["dice"] == pytest.approx(wanted["dice"], abs=1e-6)


def test_threads_end_when_a_run_ends_or_fails(tmp_path, damaged):
    damaged([0, 1, 2, 3, 4, 5], ValueError("x"))
    with pytest.raises(RecordError):
        train(tmp_path / "run")
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("jaxseg-read")]
    for thread in ours:
        thread.join(5)
    assert not any(thread.is_alive() for thread in ours)


def test_resuming_with_other_data_is_refused(tmp_path, damaged):
    folder = tmp_path / "run"
    damaged(facts={"train": ("a.png", "b.png")})
    train(folder, trainer__max_steps=1)
    config = run.open_run(None, folder, resume=True)
    train(folder, config)  # the same
    damaged(facts={"train": ("b.png", "a.png")})
    with pytest.raises(
        ValueError, match=r"the data differ from those that the run was started with, which .*data.json"
    ):
        train(folder, config)


@pytest.mark.parametrize("fails", ["validation", "its picture"])
def test_an_epoch_is_stored_even_if_its_validation_or_picture_fails(tmp_path, monkeypatch, fails):
    def failing(*_, **__):
        raise OSError("disk")

    name = {"validation": "measure_split", "its picture": "_write_picture"}[fails]
    changed = {"trainer__checkpoint_steps": None, "trainer__pictures_every": 1}
    config, told = configured(tmp_path / "run", **changed), []
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, failing)
        with pytest.raises(OSError, match="disk"):
            run.train(config, tmp_path / "run", devices=jax.devices()[:1], tell=told.append)
    assert told[-1] == f"step 4 is stored as a checkpoint, although {fails} failed"
    assert steps(tmp_path / "run") == [4]
    _, told = train(tmp_path / "run", config)
    assert told[0] == "resuming after step 4 of 6"
    assert steps(tmp_path / "run")[-1] == 6
