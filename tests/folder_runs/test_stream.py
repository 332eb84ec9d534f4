"""Reading, computing and writing overlap; every item has one outcome, and memory does not grow with the item count."""

import collections
import gc
import itertools
import threading
import time
import weakref

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxseg.folder_runs.stream import stream


class Value:
    """An image or its masks; the class counts its live instances."""

    alive = collections.Counter()
    most = collections.Counter()
    lock = threading.RLock()

    def __init__(self, item, kind):
        self.item, self.notes = item, (f"note of {item}",)
        with Value.lock:
            Value.alive[kind] += 1
            Value.most[kind] = max(Value.most[kind], Value.alive[kind])
        weakref.finalize(self, Value._gone, kind)

    @staticmethod
    def _gone(kind):
        with Value.lock:
            Value.alive[kind] -= 1


def read(item):
    return Value(item, "read")


def compute(values):
    return [Value(value.item, "computed") for value in values]


def write(item, value, result):
    assert item == value.item == result.item
    return f"file {item}"


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("read_", "write_"))]


def failing(function, bad, error=ValueError):
    def wrapped(item, *rest):
        if item in bad:
            raise error(f"{function.__name__} {item}")
        return function(item, *rest)

    return wrapped


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    st.integers(0, 23),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.tuples(*[st.sets(st.integers(0, 22))] * 3),
    st.sampled_from([None, list]),
)
def test_every_item_has_one_outcome_and_its_own_error(count, batch_size, readers, writers, bad, fetch):
    bad_read, bad_compute, bad_write = bad
    batches = []

    def computed(values):
        batches.append([value.item for value in values])
        if bad_compute & set(batches[-1]):
            raise ValueError("compute")
        return compute(values)

    outcomes = list(
        stream(
            iter(range(count)),
            failing(read, bad_read),
            computed,
            failing(write, bad_write, OSError),
            fetch=fetch,
            batch_size=batch_size,
            readers=readers,
            writers=writers,
        )
    )
    readable = [item for item in range(count) if item not in bad_read]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert list(itertools.chain(*batches)) == readable  # batches in order; only the last one may be smaller
    lost = set(itertools.chain(*(batch for batch in batches if bad_compute & set(batch))))
    assert sorted(outcome.item for outcome in outcomes) == list(range(count))
    for outcome in outcomes:
        item = outcome.item
        stages = ["read", "compute", "write"]
        if item in bad_read:
            expected, stages = f"read {item}", stages[:1]
        elif item in lost:
            expected, stages = "compute", stages[:2]
        else:
            expected = f"write {item}" if item in bad_write else "None"
        assert str(outcome.error) == expected
        assert outcome.result == (f"file {item}" if expected == "None" else None)
        assert outcome.notes == (() if item in bad_read else (f"note of {item}",))
        assert list(outcome.seconds) == stages
        assert min(outcome.seconds.values()) >= 0
    assert workers() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "readers", "writers"),
    [pytest.param(1, 1, 1, marks=pytest.mark.full), pytest.param(1, 2, 2, marks=pytest.mark.full), (4, 2, 3)],
)
@pytest.mark.parametrize("slow", ["read", "compute", "write"])
def test_memory_is_bounded_for_every_slowest_stage(batch_size, readers, writers, slow):
    def delayed(function):
        def wrapped(*args):
            if function.__name__ == slow:
                time.sleep(0.002)
            return function(*args)

        return wrapped

    gc.collect()
    Value.most.clear()
    stages = [delayed(function) for function in (read, compute, write)]
    done = sum(1 for _ in stream(range(120), *stages, batch_size=batch_size, readers=readers, writers=writers))
    assert done == 120
    ahead, behind = 2 * batch_size + readers, 2 * batch_size + writers
    assert Value.most["computed"] <= behind
    assert Value.most["read"] <= ahead + behind
    gc.collect()
    assert Value.alive.total() == 0


def test_stages_overlap():
    """Each stage waits until another one is active at the same time; run one after the other, they would time out."""
    both = {"read and compute": threading.Barrier(2), "compute and write": threading.Barrier(2)}

    def read(item):
        if item == 2:
            both["read and compute"].wait(10)
        return item

    def compute(values):
        if values == [0]:
            both["read and compute"].wait(10)
        if values == [2]:
            both["compute and write"].wait(10)
        return values

    def write(item, value, result):
        if item == 0:
            both["compute and write"].wait(10)

    outcomes = list(stream(range(4), read, compute, write, batch_size=1))
    assert [outcome.error for outcome in outcomes] == [None] * 4


def test_what_is_written_is_reported_before_the_next_batch_is_done():
    started, reported = [], []
    written = threading.Event()

    def compute(values):
        started.extend(values)
        if values == [1]:
            assert written.wait(10)
        if values == [2]:
            assert reported == [0]
        return values

    def write(item, value, result):
        if item == 0:
            written.set()
        else:
            time.sleep(0.05)

    for outcome in stream(range(3), lambda item: item, compute, write, batch_size=1, writers=2):
        assert outcome.error is None
        reported.append(outcome.item)
    assert sorted(reported) == [0, 1, 2]


def test_without_items_there_are_no_outcomes():
    assert list(stream([], read, compute, write, batch_size=3)) == []
    assert workers() == []


def test_stopping_early_ends_the_threads_and_the_remaining_items_are_not_processed():
    seen = []

    def slow(item):
        seen.append(item)
        time.sleep(0.005)
        return Value(item, "read")

    outcomes = stream(range(1000), slow, compute, write, batch_size=2)
    first = next(outcomes)
    assert first.error is None
    assert workers() != []
    outcomes.close()
    assert workers() == []
    assert len(seen) < 30


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["compute", "consumer"])
def test_ctrl_c_ends_the_threads_after_the_current_item_is_written(stage):
    writing, finished = [], []

    def slow_write(item, value, result):
        writing.append(item)
        time.sleep(0.02)
        finished.append(item)

    def interrupted(values):
        if stage == "compute" and values[0].item == 6:
            raise KeyboardInterrupt
        return compute(values)

    def run():
        for outcome in stream(range(1000), read, interrupted, slow_write, batch_size=1):
            if stage == "consumer" and outcome.item == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    gc.collect()
    assert workers() == []
    assert sorted(writing) == sorted(finished)
    assert len(finished) < 20


def test_a_wrong_number_of_results_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        list(stream(range(4), read, lambda values: compute(values)[1:], write, batch_size=2))
    assert workers() == []


def test_stages_run_in_their_own_threads():
    threads = {}

    def note(stage, value):
        threads.setdefault(stage, set()).add(threading.current_thread().name)
        return value

    list(
        stream(
            range(20),
            lambda item: note("read", item),
            lambda values: note("compute", values),
            lambda item, value, result: note("write", item),
            batch_size=2,
            readers=2,
            writers=3,
        )
    )
    assert threads["compute"] == {threading.current_thread().name}
    assert all(name.startswith("read_") for name in threads["read"])
    assert all(name.startswith("write_") for name in threads["write"])
    assert len(threads["read"]) <= 2
    assert len(threads["write"]) <= 3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_next_batch_is_started_before_the_last_is_fetched(batch_size):
    """The order of events shows the overlap: a slow copy from a device runs while the device has the next batch."""
    events = []

    def start(values):
        events.append(("start", values[0].item // batch_size))
        return compute(values)

    def copy(results):
        events.append(("copy", results[0].item // batch_size))
        return results

    outcomes = list(stream(range(3 * batch_size), read, start, write, fetch=copy, batch_size=batch_size))
    order = [("start", 0), ("start", 1), ("copy", 0), ("start", 2), ("copy", 1), ("copy", 2)]
    assert events == order
    assert sorted(outcome.result for outcome in outcomes) == sorted(f"file {item}" for item in range(3 * batch_size))
    assert all(list(outcome.seconds) == ["read", "compute", "write"] for outcome in outcomes)


@pytest.mark.parametrize("stage", ["start", "copy"])
def test_an_error_on_the_device_belongs_to_its_batch(stage):
    def failing_in(name):
        def run(values):
            if name == stage and values[0].item == 2:
                raise ValueError(name)
            return values

        return run

    outcomes = stream(range(7), read, failing_in("start"), write, fetch=failing_in("copy"), batch_size=2)
    errors = {outcome.item: str(outcome.error) for outcome in outcomes}
    assert errors == {item: stage if item in (2, 3) else "None" for item in range(7)}


def test_memory_is_bounded_with_a_batch_in_flight():
    gc.collect()
    Value.most.clear()
    done = sum(1 for _ in stream(range(60), read, compute, write, fetch=lambda results: results, batch_size=4))
    assert done == 60
    assert Value.most["computed"] <= 3 * 4 + 2
    gc.collect()
    assert Value.alive.total() == 0
