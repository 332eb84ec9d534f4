"""Bad records, and batches that are fetched ahead."""

import contextlib
import json

import numpy as np
import pytest
from streams import Numbers, noisy, ragged, same, take, train

from jaxseg.training.batches import RecordError, evaluation_batches, prefetch_to_device, training_batches


def test_a_bad_record_stops_reading_and_its_file_is_named():
    bad = training_batches(Numbers(8, bad=(3,)), noisy, batch_size=4, seed=0)
    with contextlib.closing(bad), pytest.raises(RecordError, match=r"record 3, file3.png: damaged"):
        list(bad)
    with pytest.raises(RecordError, match="file9.png"):
        list(evaluation_batches(Numbers(10, bad=(9,)), noisy, batch_size=4))


@pytest.mark.slow
def test_the_file_of_a_bad_record_in_a_worker_is_named():
    bad = training_batches(Numbers(8, bad=tuple(range(8))), noisy, batch_size=4, seed=0, workers=1)
    with contextlib.closing(bad), pytest.raises(RecordError, match=r"file\d.png: damaged"):
        next(bad)


@pytest.mark.full
def test_bad_records_are_replaced_by_the_next_good_ones_and_counted():
    source = Numbers(8, bad=(2, 3, 7), error=FileNotFoundError(2, "gone"))
    options = {"batch_size": 8, "seed": 3, "on_error": "skip"}
    batches = training_batches(source, noisy, **options)
    found = [next(batches) for _ in range(3)]
    for batch in found:
        assert sorted(batch["index"].tolist()) == [0, 0, 1, 4, 4, 4, 5, 6]
        np.testing.assert_array_equal(batch["value"][:, 0, 0], batch["index"])
    assert batches.skipped == {"file2.png": 3, "file3.png": 6, "file7.png": 3}
    other = training_batches(source, noisy, workers=2, **options)
    other.set_state(batches.get_state())
    batches.close()
    with contextlib.closing(other):
        next(other)
        assert other.skipped == {"file2.png": 4, "file3.png": 8, "file7.png": 4}


@pytest.mark.parametrize("bad", [(2,), (9,), (0, 1, 2, 3), (8, 9)])
def test_bad_records_in_an_evaluation_have_no_weight_and_are_counted_once(bad):
    batches = evaluation_batches(Numbers(10, bad=bad), noisy, batch_size=4, on_error="skip")
    with contextlib.closing(batches):
        found = [(batch["value"][:, 0, 0], batch["weight"]) for batch in batches]
    values, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert values.shape == (12,)
    assert values[weights > 0].tolist() == [i for i in range(10) if i not in bad]
    assert batches.skipped == {f"file{i}.png": 1 for i in bad}


def test_an_evaluation_with_only_bad_records_stops():
    batches = evaluation_batches(Numbers(3, bad=(0, 1, 2)), noisy, batch_size=2, on_error="skip")
    with contextlib.closing(batches), pytest.raises(RecordError, match="none of the 3 records can be used"):
        next(batches)


def test_a_message_that_starts_with_the_file_name_does_not_repeat_it():
    bad = train(1, bad=(0,), error=ValueError("file0.png: not a picture"), batch_size=1)
    with contextlib.closing(bad), pytest.raises(RecordError, match=r"^record 0, file0.png: not a picture(\n|$)"):
        next(bad)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Numbers(4, bad=(0, 1, 2, 3)), "none of the 4 records can be used; the last: record"),
        (Numbers(4, bad=(1,), error=OSError(24, "Too many open files")), "file1.png: .*Too many open files"),
    ],
)
def test_skipping_stops_if_no_record_is_left_or_the_machine_has_failed(source, reason):
    batches = training_batches(source, noisy, batch_size=4, seed=0, on_error="skip")
    with contextlib.closing(batches), pytest.raises(RecordError, match=reason):
        next(batches)


def test_examples_of_several_sizes_are_refused_and_their_files_named():
    reason = r"file\d+.png and file\d+.png cannot be in one batch"
    with contextlib.closing(train(transform=ragged)) as batches, pytest.raises(ValueError, match=reason):
        next(batches)


@pytest.mark.full
@pytest.mark.parametrize("workers", [0, 1])
def test_reading_again_after_an_error_raises_it_again(workers):
    batches = training_batches(Numbers(8, bad=(3,)), noisy, batch_size=4, seed=0, workers=workers)
    with contextlib.closing(batches):
        for _ in range(2):
            with pytest.raises(RecordError, match="file3.png"):
                list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_position_is_that_of_the_last_returned_batch_not_of_the_prefetched_ones(size):
    whole = take(train(), 10)
    with contextlib.closing(train()) as batches:
        ahead = prefetch_to_device(batches, lambda batch: batch, size)
        for step in range(4):
            batch, state = next(ahead)
            same([whole[step]], [batch])
            other = train()
            other.set_state(json.loads(json.dumps(state)))
            same(whole[step + 1 : step + 3], take(other, 2))


def test_prefetching_ends_with_the_data_and_returns_each_batch_once():
    put = []
    ahead = list(prefetch_to_device(evaluation_batches(Numbers(10), noisy, batch_size=4), put.append, 2))
    assert (len(ahead), len(put)) == (3, 3)
    with pytest.raises(ValueError, match="size must be at least 1"):
        next(prefetch_to_device(train(), put.append, 0))


def test_good_batches_before_a_bad_one_are_returned_first():
    batches = evaluation_batches(Numbers(10, bad=(9,)), noisy, batch_size=4)
    found = []
    with contextlib.closing(batches), pytest.raises(RecordError, match="file9.png"):
        found.extend(batch for batch, _ in prefetch_to_device(batches, lambda batch: batch, 5))
    assert len(found) == 2
