"""A Ray cluster of two nodes on this computer, and runs on it, each in a new process.

Run as a program, this file is one of these processes, see `main`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Two nodes with one CPU each; a driver on this computer belongs to the first, which Ray prefers since 2.60."""

    address: str
    program: subprocess.Popen

    def lose_the_second(self) -> None:
        """Kills all processes of the second node at once."""
        self.program.stdin.write("lose\n")
        self.program.stdin.flush()
        assert self.program.stdout.readline().strip() == "lost"


@contextlib.contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Starts a cluster, and ends it afterwards."""
    with started("cluster", stdin=subprocess.PIPE) as program:
        yield Nodes(program.stdout.readline().strip(), program)
        program.stdin.close()


def started(*arguments, **options) -> subprocess.Popen:
    """Starts this file as a program; its output can be read."""
    variables = os.environ | VARIABLES | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, **options)


def _cluster() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    _say(cluster.address)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        _say("lost")
    cluster.shutdown()


def _segment(address: str, source: str, output: str, model: str, seconds: str) -> None:
    """Segments a folder on a cluster with a slow `postprocess`, and merges the parts."""
    from plain_network import PLACE
    from run_trees import Slow

    import jaxseg
    from jaxseg.folder_runs.inputs import find_images
    from jaxseg.folder_runs.merge import merge_folder
    from jaxseg.folder_runs.on_ray import connected, run_on_ray
    from jaxseg.registry import MODELS

    MODELS |= PLACE
    segmenter = jaxseg.Segmenter(jaxseg.load(model), postprocess=Slow(float(seconds)))
    files = find_images(Path(source))
    job = functools.partial(jaxseg.segment_folder, source, output, files=files, output_type="png")
    reported = []
    with connected(address) as ray:
        found = run_on_ray(
            ray, job, segmenter, len(files), progress=lambda *now: _say(json.dumps(now)), report=reported.append
        )
    merge_folder(Path(output))
    _say(json.dumps(dataclasses.asdict(found) | {"reported": sorted({each.item.source.name for each in reported})}))


class Mortal:
    """A job that ends its process in a part for some tries, and then counts one file.

    Args:
      folder: keeps one file per try.
      deaths: number of tries of each part in which the process ends.
    """

    def __init__(self, folder: str, deaths: int):
        self.folder, self.deaths = folder, deaths

    def __call__(self, *, model, part, progress, report) -> SimpleNamespace:
        tries = len(list(Path(self.folder).glob(f"{part.index}-*")))
        Path(self.folder, f"{part.index}-{tries}-{os.getpid()}").touch()
        if tries < self.deaths:
            os._exit(9)
        progress(0, 1, "")
        report(model)
        progress(1, 1, f"file {part}")
        return SimpleNamespace(done=1, skipped=0, failed=0)


def _mortal(folder: str, deaths: str) -> None:
    """Runs a `Mortal` job with Ray on this computer; says the result, or the error."""
    from ray_runs import Mortal  # by the name with which the worker imports it

    from jaxseg.folder_runs.on_ray import connected, run_on_ray

    reported = []
    try:
        with connected("local") as ray:
            found = run_on_ray(ray, Mortal(folder, int(deaths)), "the model", 1, report=reported.append)
    except (ConnectionError, ValueError) as error:
        _say(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    else:
        _say(json.dumps(dataclasses.asdict(found) | {"reported": reported}))


def _say(text: str) -> None:
    sys.__stdout__.write(text + "\n")  # sys.stdout is for Ray while a run is connected
    sys.__stdout__.flush()


def main(what: str, *arguments: str) -> None:
    """Runs one of the processes: "cluster", "segment" or "mortal"."""
    {"cluster": _cluster, "segment": _segment, "mortal": _mortal}[what](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
