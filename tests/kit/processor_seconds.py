"""A pytest plugin that records the processor seconds and the memory of every test.

`JAXSEG_TEST_SECONDS=seconds.tsv make test` writes one line per test: its processor seconds (the processes that it
started and waited for included), the largest memory of the worker so far in MB, and the test's name. Fixtures count for
the first test that uses them. `python tests/kit/processor_seconds.py seconds.tsv` prints the total, the slowest tests
and the slowest modules. Unlike wall time, processor seconds can be compared on a machine that others use too.
"""

import collections
import os
import resource
import sys
from pathlib import Path

import pytest


class ProcessorSeconds:
    """Appends one line per test to a file; several workers may share it."""

    def __init__(self, path: Path):
        self.path = path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = _used()
        result = yield
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        with self.path.open("a") as file:
            file.write(f"{_used() - before:.3f}\t{memory}\t{item.nodeid}\n")
        return result


def _used() -> float:
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def register(config: pytest.Config) -> None:
    """Adds the plugin if the environment variable JAXSEG_TEST_SECONDS names a file."""
    path = os.environ.get("JAXSEG_TEST_SECONDS")
    if path:
        config.pluginmanager.register(ProcessorSeconds(Path(path).resolve()), "processor_seconds")


def report(path: Path, count: int = 60) -> str:
    """Returns the total, the slowest tests and the slowest modules of a file that the plugin wrote."""
    rows = [line.split("\t", 2) for line in path.read_text().splitlines()]
    tests = sorted(((float(seconds), name) for seconds, _, name in rows), reverse=True)
    modules = collections.Counter()
    for seconds, name in tests:
        modules[name.split("::")[0]] += seconds
    largest = max(int(memory) for _, memory, _ in rows)
    lines = [f"{sum(seconds for seconds, _ in tests):.0f} s in {len(tests)} tests, {largest} MB"]
    lines += [f"{seconds:8.2f} {name}" for seconds, name in tests[:count]]
    lines += ["", *(f"{seconds:8.2f} {name}" for name, seconds in modules.most_common(count))]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report(Path(sys.argv[1])) + "\n")
