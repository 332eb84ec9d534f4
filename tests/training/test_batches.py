"""Batches have the same order and position for any number of threads, workers and processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from child_commands import run_commands, small_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_kit import KIT
from streams import Numbers, noisy, same, slow, take, train

from jaxseg.training.batches import evaluation_batches, training_batches


def test_batches_hold_arrays_and_the_number_of_each_record():
    (batch,) = take(train(), 1)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "value": ((4, 2, 3), np.float32),
        "noise": ((4, 4), np.float32),
        "index": ((4,), np.int64),
    }
    np.testing.assert_array_equal(batch["value"][:, 0, 0], batch["index"])


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_has_no_record_twice_and_each_epoch_has_its_own_order(count, size, seed):
    if count < size:
        with pytest.raises(ValueError, match="needs as many records"):
            training_batches(Numbers(count), noisy, batch_size=size, seed=seed)
        return
    steps = count // size
    batches = take(train(count, batch_size=size, seed=seed), 2 * steps)
    epochs = [np.concatenate([b["index"] for b in part]) for part in (batches[:steps], batches[steps:])]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == steps * size
    if count > 12:
        assert (epochs[0] != epochs[1]).any()


def test_every_record_is_used_after_some_epochs_although_each_epoch_leaves_some_out():
    seen = np.concatenate([batch["index"] for batch in take(train(13), 30)])
    assert set(seen.tolist()) == set(range(13))


def test_each_seed_gives_its_own_order_and_random_numbers():
    first, second = take(train(seed=1), 3), take(train(seed=2), 3)
    assert any((a["index"] != b["index"]).any() for a, b in zip(first, second, strict=True))
    draws = np.concatenate([b["noise"] for b in take(train(), 9)])
    # An epoch's random numbers are not repeated in the next.
    assert len({row.tobytes() for row in draws}) == len(draws)


@pytest.mark.parametrize("options", [{"threads": 1, "buffer": 1}, {"threads": 8, "buffer": 5}])
def test_threads_do_not_change_the_order(options):
    same(take(train(transform=slow), 10), take(train(transform=slow, **options), 10))


@pytest.mark.full
def test_worker_processes_change_neither_order_nor_position():
    expected = take(train(transform=slow), 9)
    for workers in (1, 2):
        with contextlib.closing(train(transform=slow, workers=workers)) as batches:
            found = [{k: np.array(v) for k, v in next(batches).items()} for _ in range(5)]
            state = json.loads(json.dumps(batches.get_state()))
        other = train(workers=2 if workers == 1 else 0)
        other.set_state(state)
        same(expected, found + take(other, 4))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_the_batches_of_two_processes_together_equal_the_batch_of_one(count):
    whole = take(train(), 7)
    parts = [take(train(process_index=p, process_count=count), 7) for p in range(count)]
    joined = [{k: np.concatenate([part[i][k] for part in parts]) for k in whole[0]} for i in range(7)]
    same(whole, joined)


@pytest.mark.full
@settings(max_examples=15, deadline=None)
@given(stop=st.integers(0, 9), threads=st.integers(1, 3), buffer=st.integers(1, 4))
def test_reading_resumes_at_a_stored_position(stop, threads, buffer):
    whole = take(train(), 12)
    with contextlib.closing(train()) as batches:
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(batches.get_state()))
    other = train(threads=threads, buffer=buffer)
    next(other)
    other.set_state(state)
    same(whole[stop:], take(other, 12 - stop))


def test_orbax_stores_and_restores_the_iterator(tmp_path):
    grain, ocp = pytest.importorskip("grain"), pytest.importorskip("orbax.checkpoint")
    whole = take(train(), 6)
    with ocp.CheckpointManager(tmp_path, item_names=("data",)) as manager, contextlib.closing(train()) as batches:
        for _ in range(4):
            next(batches)
        manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
        manager.wait_until_finished()
        other = train()
        manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(other)))
    same(whole[4:], take(other, 2))


@pytest.mark.parametrize("other", [{"batch_size": 2}, {"seed": 6}, {"count": 14}])
def test_a_position_from_other_data_is_refused(other):
    state = train().get_state()
    with pytest.raises(ValueError, match=r"the stored position in the data is for .*, this run has"):
        train(**other).set_state(state)


@pytest.mark.parametrize("number", [-1, 2.0, None, "3", True])
def test_a_position_without_a_batch_number_is_refused(number):
    with pytest.raises(ValueError, match="has no batch number"):
        train().set_state(train().get_state() | {"next_batch": number})


def test_evaluation_gives_every_record_once_in_order_and_pads_with_weight_zero():
    batches = list(evaluation_batches(Numbers(10), noisy, batch_size=4))
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in batches]), [*range(10), 9, 9])
    weights = np.concatenate([b["weight"] for b in batches])
    np.testing.assert_array_equal(weights, np.float32([1] * 10 + [0] * 2))
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(batches[2]["noise"][1], batches[2]["noise"][3])
    same(batches, list(evaluation_batches(Numbers(10), noisy, batch_size=4, threads=1, buffer=1)))


def test_evaluation_gives_every_process_the_same_number_of_batches():
    whole = list(evaluation_batches(Numbers(9), noisy, batch_size=4))
    parts = [
        list(evaluation_batches(Numbers(9), noisy, batch_size=4, process_index=p, process_count=4)) for p in range(4)
    ]
    assert [len(part) for part in parts] == [3] * 4
    same(whole, [{k: np.concatenate([part[i][k] for part in parts]) for k in whole[0]} for i in range(3)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"buffer": 0}, "buffer must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"seed": 2**32}, "the seed must be in"),
        ({"seed": -1}, "the seed must be in"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; known: stop, skip"),
        ({"process_count": 3}, "batch_size 4 cannot be shared by 3 processes"),
        ({"process_count": 2, "process_index": 2}, "process_index 2 is not one of 2"),
        ({"batch_size": 14}, "a batch of 14 needs as many records, there are 13"),
    ],
)
def test_impossible_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        train(**options)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="no record to evaluate"):
        evaluation_batches(Numbers(0), noisy, batch_size=2)


def test_no_more_records_are_read_ahead_than_requested():
    read = []
    batches = train(transform=lambda record, rng: read.append(1) or noisy(record, rng), buffer=2)
    with contextlib.closing(batches):
        next(batches)
        time.sleep(0.3)
        assert len(read) == 3 * 4


def test_closed_batches_are_refused():
    batches = train()
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


ORPHANS = """
import multiprocessing, signal, sys, time
sys.path.insert(0, {folder!r})
from streams import train
if __name__ == "__main__":
    signal.alarm(100)  # ends this process, and so its workers, if no batch comes
    batches = train(workers=2)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS.format(folder=str(KIT)))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if alive(worker)]


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-7, ["/dev/shm", "--shm-size", "data.threads"]),
        (-9, ["memory is full", "fewer data.workers"]),
        (3, ["code 3", "data.workers=0"]),
    ],
)
def test_the_death_of_a_reading_process_says_what_to_do(monkeypatch, code, words):
    class Dead:
        def __next__(self):
            raise RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}. Search the logs")

        def close(self):
            pass

    with contextlib.closing(training_batches(Numbers(8), noisy, batch_size=4, seed=0)) as batches:
        monkeypatch.setattr(batches, "_start", Dead)
        with pytest.raises(ChildProcessError) as caught:
            next(batches)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.full
@pytest.mark.system("unshare")
def test_a_small_shared_memory_is_named_by_the_command(tmp_path):
    """In containers /dev/shm has 64 MB by default; a worker that finds no room there is ended by SIGBUS."""
    prepare = ["prepare", "phantom", "--kind", "xray", "-o", "set", "--train", 4, "--validate", 1, "--test", 0]
    settings = {"data.workers": 1, "data.threads": 1, "trainer.max_steps": 1, "trainer.batch_size": 4, "model.width": 4}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    train = ["train", "-t", "paxray_sample", "-i", "set", "-o", "run", "-g", "cpu", *sets]
    assert run_commands(prepare, folder=tmp_path)[0][0] == 0
    code, said = run_commands(train, folder=tmp_path, prefix=small_disk(Path("/dev/shm"), "500k"))[0]
    assert code == 1
    assert "/dev/shm of 0 MB: start the container with more, such as --shm-size=2g" in said
    assert "resource_tracker" not in said
