"""Times several sides alternately (A B A B) on a machine that may do other work too: medians, and ratios per round.

A sample during which other processes used more than 5 % of the machine is discarded and taken again. If the machine
does not become quiet, the last sample is kept and counted as noisy.
"""

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

LIMIT, ATTEMPTS = 0.05, 4
PAUSE_S = 0.2  # the threads of one side spin for a while after their work
SHORTEST_S = 0.3  # length of a sample: /proc counts hundredths of a second
_STAT = Path("/proc/stat")


class Sample(NamedTuple):
    """One measurement.

    Attributes:
      seconds: of one call.
      cpu: processor seconds that this process used per second of wall clock.
      others: share of the whole machine that other processes used at the same time; 0 if the system does not report it.
    """

    seconds: float
    cpu: float
    others: float


class Side:
    """A process that runs one side and measures it on request, so that no other side shares its memory and threads.

    The process calls `serve`.

    Args:
      command: words of the command.
      variables: environment variables of the process, besides those of this one.

    Attributes:
      facts: what the process says of itself.
      calls: number of calls in a sample.
    """

    def __init__(self, command: list, variables: Mapping[str, str]):
        words = [str(word) for word in command]
        environment = os.environ | variables
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.facts = self._answer()
        self.calls = max(1, round(SHORTEST_S / self.facts.pop("first")["seconds"]))

    def sample(self) -> Sample:
        """Takes one sample."""
        self.process.stdin.write(f"{self.calls}\n")
        self.process.stdin.flush()
        return Sample(**self._answer())

    def close(self) -> dict:
        """Ends the process and returns what it says at its end."""
        self.process.stdin.close()
        found = self._answer()
        self.process.wait()
        return found

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("> "):
                return json.loads(line[2:])
        sys.exit(f"a side ended with {self.process.wait()}; its messages are above")


def serve(run: Callable[[], object], facts: dict, end: Callable[[], dict] = dict, *, again: bool = False) -> None:
    """Measures a function for the `Side` that started this process, until its input ends.

    Args:
      run: the function, warm.
      facts: what the `Side` gets as `facts`, before the first sample.
      end: returns what `Side.close` returns.
      again: whether the function is also called before each sample, as if it had run all the time. A virtual machine
        may give free memory to its host while this process waits, and its next call then takes up to three times as
        long.
    """

    def answer(content: dict) -> None:
        print("> " + json.dumps(content), flush=True)

    answer(facts | {"first": sample(run, 1)._asdict()})
    for line in sys.stdin:
        if again:
            run()
        answer(sample(run, int(line))._asdict())
    answer(end())


def time_alternately(
    runs: Mapping[str, Callable[[], object]], rounds: int, *, shortest: float = SHORTEST_S, pause: float = PAUSE_S
) -> dict[str, list[Sample]]:
    """Returns `rounds` samples of every side. Each side is called twice before, to compile and to warm up.

    Args:
      runs: name of a side -> function that returns when its work is done.
      rounds: number of samples per side; each round takes one sample of every side.
      shortest: length of a sample in seconds; a side is called as often as that takes.
      pause: seconds between sides.
    """
    samplers = {}
    for name, run in runs.items():
        run()
        calls = max(1, round(shortest / sample(run, 1).seconds))
        samplers[name] = functools.partial(sample, run, calls)
    return sample_alternately(samplers, rounds, pause=pause)


def sample_alternately(
    samplers: Mapping[str, Callable[[], Sample]], rounds: int, *, pause: float = PAUSE_S
) -> dict[str, list[Sample]]:
    """Returns `rounds` samples of every side; the function of a side takes one sample when it is called."""
    samples: dict[str, list[Sample]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, take in samplers.items():
            for _ in range(ATTEMPTS):
                time.sleep(pause)
                taken = take()
                if taken.others <= LIMIT:
                    break
            samples[name].append(taken)  # the last attempt may be noisy; `summary` counts and leaves out such samples
    return samples


def sample(run: Callable[[], object], calls: int) -> Sample:
    """Calls a function several times and measures one call."""
    busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(calls):
        run()
    wall, own = time.perf_counter() - start, time.process_time() - own
    busy = busy_seconds() - busy
    others = max(0.0, busy - own) / (wall * (os.cpu_count() or 1)) if _STAT.exists() and wall >= 0.1 else 0.0
    return Sample(wall / calls, own / wall, others)


def summary(samples: Mapping[str, list[Sample]], base: str) -> dict:
    """Returns medians, quartiles, ratios to the side `base` and all samples, as they are written to a JSON file."""
    found = {}
    for name, taken in samples.items():
        quiet = [one.seconds for one in taken if one.others <= LIMIT]
        seconds = quiet or [one.seconds for one in taken]
        pairs = [(one, ours) for one, ours in zip(taken, samples[base], strict=True)]
        ratios = [one.seconds / ours.seconds for one, ours in pairs if max(one.others, ours.others) <= LIMIT]
        ratios = ratios or [one.seconds / ours.seconds for one, ours in pairs]
        quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
        found[name] = {
            "median_s": _rounded(statistics.median(seconds)),
            "quartiles_s": [_rounded(quartiles[0]), _rounded(quartiles[2])],
            f"over_{base}": round(statistics.median(ratios), 3),
            "noisy": sum(one.others > LIMIT for one in taken),
            "samples_s": [_rounded(one.seconds) for one in taken],
            "cpu_s_per_s": [round(one.cpu, 2) for one in taken],
            "others": [round(one.others, 3) for one in taken],
        }
    return found


def busy_seconds() -> float:
    """Returns the seconds that all processors have worked since the start; 0 if the system does not report them."""
    if not _STAT.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, steal, *_ = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    """Returns the name of the processor, or its architecture if the system does not report the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def short(processor: str) -> str:
    """Returns the name of a processor without marks.

    >>> short("Intel(R) Xeon(R) Processor")
    'Intel Xeon'
    """
    return " ".join(processor.replace("(R)", "").replace("Processor", "").split())


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
