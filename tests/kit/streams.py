"""A source of numbers, transforms, and batches of them."""

import contextlib
import time

import numpy as np

from jaxseg.training.batches import training_batches


class Numbers:
    """Records that hold their own number; those in `bad` cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = (), error: Exception | None = None):
        self.count, self.bad, self.error = count, bad, error or ValueError("damaged")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        if index in self.bad:
            raise self.error
        return {"value": np.full((2, 3), index, np.float32)}

    def name(self, index: int) -> str:
        return f"file{index}.png"


def noisy(record: dict, rng: np.random.Generator) -> dict:
    return {"value": record["value"], "noise": rng.random(4, dtype=np.float32)}


def ragged(record: dict, rng: np.random.Generator) -> dict:
    return {"value": np.zeros(int(record["value"][0, 0]) + 1)}


def slow(record: dict, rng: np.random.Generator) -> dict:
    """Takes longer for some records, so that a reader that returns batches in order of completion is detected."""
    time.sleep(0.004 * (int(record["value"][0, 0]) % 3))
    return noisy(record, rng)


def take(batches, count: int) -> list[dict]:
    with contextlib.closing(batches):
        return [{k: np.array(v) for k, v in next(batches).items()} for _ in range(count)]


def same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


def train(count: int = 13, transform=noisy, *, bad=(), error=None, **options):
    return training_batches(Numbers(count, bad, error), transform, **{"batch_size": 4, "seed": 5, **options})
