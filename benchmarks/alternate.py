"""Times several sides in turn on a machine that may do other work too: A B A B, medians, ratios of rounds.

A sample in which other processes used more than 5 % of the machine is thrown away and taken again; where the machine
never gets quiet, the last is kept and counted as noisy.
"""

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

LIMIT, ATTEMPTS = 0.05, 4
PAUSE_S = 0.2  # the threads of one side spin for a while after their work
SHORTEST_S = 0.3  # of a sample: /proc counts hundredths of a second
_STAT = Path("/proc/stat")


class Sample(NamedTuple):
    """One measurement.

    Attributes:
      seconds: of one call.
      cpu: seconds of processor that this process used per second of wall clock.
      others: share of the whole machine that other processes used meanwhile; 0 where the system does not tell.
    """

    seconds: float
    cpu: float
    others: float


def in_turn(
    runs: Mapping[str, Callable[[], object]], rounds: int, *, shortest: float = SHORTEST_S, pause: float = PAUSE_S
) -> dict[str, list[Sample]]:
    """Returns `rounds` samples of every side; each is called twice before, to compile and to warm up.

    Args:
      runs: names to functions that return when their work is done.
      rounds: every side is measured once in each.
      shortest: seconds of a sample; a side is called as often as that takes.
      pause: seconds between sides.
    """
    takers = {}
    for name, run in runs.items():
        run()
        calls = max(1, round(shortest / sample(run, 1).seconds))
        takers[name] = functools.partial(sample, run, calls)
    return taken_in_turn(takers, rounds, pause=pause)


def taken_in_turn(
    takers: Mapping[str, Callable[[], Sample]], rounds: int, *, pause: float = PAUSE_S
) -> dict[str, list[Sample]]:
    """Returns `rounds` samples of every side, which its function takes when it is called."""
    samples: dict[str, list[Sample]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            for _ in range(ATTEMPTS):
                time.sleep(pause)
                taken = take()
                if taken.others <= LIMIT:
                    break
            samples[name].append(taken)  # the last attempt may be noisy; `summary` counts those and leaves them out
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
    """Returns medians, quartiles and all samples, and the ratios to the side `base`, as they go into a JSON file."""
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
    """Seconds that all processors worked since the machine started; 0 where the system does not tell."""
    if not _STAT.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, steal, *_ = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
