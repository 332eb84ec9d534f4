"""Where the seconds of one command that segments go, from the start of its process.

    python benchmarks/stages.py TIMES.json segment -i X -o Y

runs the command and writes the seconds of its stages. `commands.py` calls it; the process that started it adds the end.
"""

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

START = "JAXSEG_BENCHMARK_START"  # environment variable: `time.time` when the process was started
IMPORTS = ("jax", "flax", "flax.nnx", "jaxseg.anatomy.folders")  # flax imports jax, and the last one all others


class Stopwatch:
    """Seconds of imports and of functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ends: dict[str, float] = {}

    def around(self, name: str, call: Callable) -> Callable:
        """Returns a function that also notes how long it takes, with all its calls together, and when it ends."""

        @functools.wraps(call)
        def timed(*given: Any, **options: Any) -> Any:
            start = time.time()
            try:
                return call(*given, **options)
            finally:
                self.ends[name] = time.time()
                self.seconds[name] = self.seconds.get(name, 0.0) + self.ends[name] - start

        return timed

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Times the import of the modules in `IMPORTS`; Python calls this for every module."""
        if name not in IMPORTS or name in self.seconds:
            return None
        self.seconds[name] = 0.0
        spec = importlib.util.find_spec(name)
        spec.loader.exec_module = self.around(name, spec.loader.exec_module)
        if name == IMPORTS[-1]:
            spec.loader.exec_module = functools.partial(self._with_functions, spec.loader.exec_module)
        return spec

    def _with_functions(self, execute: Callable, module: Any) -> None:
        execute(module)
        from jaxseg.anatomy.segment import Segmenter
        from jaxseg.nn.inference import Runner

        Segmenter.__init__ = self.around("segmenter", Segmenter.__init__)
        Segmenter.predict = self.around("predict", Segmenter.predict)
        Segmenter.compile = self.around("ready", Segmenter.compile)
        Runner.compile = self.around("compile", Runner.compile)


def stages(watch: Stopwatch, start: float, loaded: float, end: float) -> dict[str, float]:
    """Returns the seconds of each stage, in the order in which they follow each other."""
    jax, flax, nnx, ours = (watch.seconds[name] for name in IMPORTS)
    compiled, network = watch.seconds["compile"], watch.seconds["predict"]
    waited = watch.seconds["ready"] - compiled
    found = {"Python and the command line": loaded - start, "import of JAX": jax}
    found |= {"import of Flax": flax - jax + nnx, "import of jaxseg": ours - flax - nnx}
    before = watch.ends["ready"] - loaded - ours - watch.seconds["ready"]
    found |= {"description of the network": before, "tracing, reading or compiling the program": compiled}
    found |= {"waiting for the weights": waited, "the network": network}
    return found | {"files, and all else": end - start - sum(found.values())}


def main() -> None:
    """Runs the command of the command line, and writes its stages."""
    watch, start = Stopwatch(), float(os.environ[START])
    from jaxseg.cli.main import main as command

    loaded = time.time()
    sys.meta_path.insert(0, watch)
    path, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    try:
        command()
    finally:
        path.write_text(json.dumps(stages(watch, start, loaded, time.time())))


if __name__ == "__main__":
    main()
