"""The device thread: batches, order, waiting, items that are dropped, and items that fail."""

import asyncio
import threading

import pytest

from jaxseg.service.device import Device, Kind


class Doubler:
    """Doubles numbers; notes the batches; fails for negative ones; waits for `go` before each batch."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, items):
        self.go.wait(10)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("negative")
        return [2 * item for item in items]


def run(work, *, size=4, wait_s=0.02, kinds=("double",)):
    """Runs the coroutine function `work` with a device, and returns its result and what the device computed."""
    double = Doubler()
    device = Device({name: Kind(double, size, lambda: None) for name in kinds}, wait_s=wait_s)

    async def whole():
        device.start()
        try:
            return await work(device, double)
        finally:
            double.go.set()
            device.close()

    return asyncio.run(whole()), double.batches


def test_items_that_wait_are_computed_together_and_each_caller_gets_its_own():
    async def work(device, _):
        return await asyncio.gather(*(device.compute("double", i) for i in range(10)))

    found, batches = run(work)
    assert found == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_item_waits_for_others_only_a_short_time():
    async def work(device, _):
        first = asyncio.ensure_future(device.compute("double", 1))
        await asyncio.sleep(0.3)
        assert first.done()
        return await device.compute("double", 2)

    assert run(work)[1] == [[1], [2]]


def test_a_full_batch_does_not_wait():
    async def work(device, _):
        async with asyncio.timeout(5):
            return await asyncio.gather(*(device.compute("double", i) for i in range(2)))

    assert run(work, size=2, wait_s=60)[0] == [0, 2]


def test_kinds_are_not_mixed_and_keep_their_order():
    async def work(device, _):
        return await asyncio.gather(*(device.compute("ab"[i % 2], i) for i in range(6)))

    found, batches = run(work, kinds="ab")
    assert found == [0, 2, 4, 6, 8, 10]
    assert sorted(batches) == [[0, 2, 4], [1, 3, 5]]


def test_a_caller_that_goes_away_frees_its_place_in_the_queue():
    async def work(device, double):
        double.go.clear()
        running = asyncio.ensure_future(device.compute("double", 0))
        await asyncio.sleep(0.1)
        waiting = [asyncio.ensure_future(device.compute("double", i)) for i in (1, 2, 3)]
        await asyncio.sleep(0.01)
        assert device.waiting == 3
        waiting[1].cancel()
        await asyncio.sleep(0.01)
        assert device.waiting == 2
        double.go.set()
        return await asyncio.gather(running, waiting[0], waiting[2])

    found, batches = run(work)
    assert (found, batches) == ([0, 2, 6], [[0], [1, 3]])


def test_an_item_that_fails_does_not_fail_the_others_of_its_batch():
    async def work(device, _):
        return await asyncio.gather(*(device.compute("double", i) for i in (1, -1, 3)), return_exceptions=True)

    found, _ = run(work)
    assert (found[0], found[2]) == (2, 6)
    assert isinstance(found[1], ValueError)


def test_waiting_items_are_computed_before_the_thread_ends():
    async def work(device, double):
        double.go.clear()
        jobs = [asyncio.ensure_future(device.compute("double", i)) for i in range(6)]
        await asyncio.sleep(0.1)
        threading.Timer(0.2, double.go.set).start()
        await asyncio.to_thread(device.close)
        with pytest.raises(RuntimeError, match="has ended"):
            await device.compute("double", 7)
        return await asyncio.gather(*jobs)

    assert run(work)[0] == [0, 2, 4, 6, 8, 10]


def test_a_computation_that_does_not_end_does_not_keep_the_service(caplog):
    async def work(device, double):
        double.go.clear()
        job = asyncio.ensure_future(device.compute("double", 1))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await asyncio.to_thread(device.close, 0.2)
        assert "still computes after 0.2 seconds" in caplog.text
        double.go.set()
        return await job

    assert run(work)[0] == 2


def test_each_kind_has_its_own_average():
    async def work(device, double):
        threading.Timer(0.3, double.go.set).start()
        double.go.clear()
        await device.compute("a", 1)
        await device.compute("b", 1)
        return device.seconds_per_item

    seconds = run(work, kinds="ab")[0]
    assert seconds["a"] > 0.2 > seconds["b"] > 0


def test_a_device_that_cannot_be_prepared_says_so():
    def warm():
        raise MemoryError("no memory")

    device = Device({"a": Kind(list, 1, warm)})
    device.start()
    with pytest.raises(MemoryError):
        device.ready.result(10)
    device.close()
