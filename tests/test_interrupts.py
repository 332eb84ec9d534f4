"""Ctrl-C and SIGTERM wait until a protected operation is complete, and are not lost."""

import signal
import threading

import pytest

from jaxseg.interrupts import SIGNALS, uninterrupted


@pytest.fixture(autouse=True)
def ctrl_c():
    """Installs the handlers of the command line for both signals."""
    before = [signal.signal(number, signal.default_int_handler) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def handlers() -> set:
    return {signal.getsignal(number) for number in SIGNALS}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_takes_effect_after_the_body(number):
    done = []

    def body():
        with uninterrupted():
            signal.raise_signal(number)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == ["all of it"]
    assert handlers() == {signal.default_int_handler}


def test_a_second_signal_takes_effect_at_once():
    done = []

    def body():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == []
    assert handlers() == {signal.default_int_handler}


def test_a_signal_in_an_inner_body_waits_for_the_outer_one():
    done = []

    def body():
        with uninterrupted():
            with uninterrupted() as act:
                signal.raise_signal(signal.SIGINT)
                act()
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == ["all of it"]


def test_without_a_signal_nothing_happens_and_errors_pass():
    with pytest.raises(OSError, match="disk"), uninterrupted():
        raise OSError("disk")
    assert handlers() == {signal.default_int_handler}


def test_a_signal_takes_effect_where_the_body_allows_it():
    done = []

    def body():
        with uninterrupted() as act:
            act()
            done.append("nothing had come")
            signal.raise_signal(signal.SIGTERM)
            done.append("it waits")
            act()
            done.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == ["nothing had come", "it waits"]
    assert handlers() == {signal.default_int_handler}


def test_a_signal_is_not_lost_when_the_body_fails():
    def body():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            raise OSError("disk")

    with pytest.raises(KeyboardInterrupt) as caught:
        body()
    assert isinstance(caught.value.__context__, OSError)


def test_other_threads_do_not_change_the_handlers():
    seen = []

    def work():
        with uninterrupted():
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{signal.default_int_handler}]
