"""One task of gpu.py in a separate process: prints each row as "> " and JSON, a list of its name and its content.

A row has `result`, a short text. It may have `target` and whether it was `reached`, and the numbers themselves.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import alternate  # noqa: E402
from benchmarks.worker import WORKLOADS, inputs  # noqa: E402

Rows = Iterator[tuple[str, dict]]

BOUNDS = {"float32": 1e-4, "bfloat16": 0.05}  # largest difference, relative to the largest value on the CPU
PEAK_SHARE, OVER_TUNED = 0.45, 1.2  # targets: share of the measured peak (U-Net, bfloat16), PyTorch tuned / jaxseg
BATCHES = {  # the batch sizes of which the best is taken
    ("unet", "inference"): (8, 32),
    ("unet", "training step"): (8, 24),
    ("segae", "inference"): (64, 256),
    ("segae", "training step"): (64, 256),
}
ROUNDS = 5
TINY_MODELS = ("prob_unet", "segae")  # what is compared with --tiny
GOLDENS = [  # tests that compare networks with numbers of the originals
    "tests/anatomy/test_unet.py",
    "tests/segae/test_model.py",
    "tests/post_dae/test_model.py",
    "tests/annotators/test_cmvae.py",
    "tests/annotators/test_prob_unet.py",
]


def main() -> None:
    """Runs the task of the arguments and prints its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--platform", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--known", type=Path, help="JSON file with earlier rows")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--torch", action="store_true", help="whether PyTorch is measured too")
    options = parser.parse_args()
    if options.platform == "cpu" and not options.tiny:
        from jaxseg.xla import use_all_cores

        use_all_cores()
    kind, *words = options.task.split(", ")
    for name, row in TASKS[kind](options, *words):
        print("> " + json.dumps([name, row]), flush=True)


def environment(options: argparse.Namespace) -> Rows:
    """Yields the devices and the versions of the packages."""
    import jax

    devices = jax.devices()
    if devices[0].platform != options.platform:
        raise ValueError(f"JAX sees {devices[0].platform}, not {options.platform}")
    names = ("jax", "jaxlib", "flax", "numpy", "torch")
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in names if name in installed}
    text = f"{len(devices)} x {devices[0].device_kind}, " + ", ".join(f"{k} {v}" for k, v in versions.items())
    facts = {"device": devices[0].device_kind, "count": len(devices), "versions": versions, "cpus": os.cpu_count()}
    yield "environment", {"result": text, "date": time.strftime("%Y-%m-%d"), "python": sys.version.split()[0]} | facts


def parity(options: argparse.Namespace) -> Rows:
    """Yields the largest differences between each model on the device, and in float32 on the CPU of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        # In a process without the GPU, so that the CPU's own form of each operation is compiled.
        command = [sys.executable, __file__, f"reference, {folder}", "--platform", "cpu"] + ["--tiny"] * options.tiny
        subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True, stdout=subprocess.DEVNULL)
        for model in TINY_MODELS if options.tiny else WORKLOADS:
            for dtype in BOUNDS:
                name = f"parity, {model}, {dtype}"
                try:
                    yield name, _compared(Path(folder), model, dtype, tiny=options.tiny)
                except Exception as error:  # the other models are still compared
                    yield name, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def reference(options: argparse.Namespace, folder: str) -> Rows:
    """Writes weights, inputs and answers of every model in float32 on the CPU; yields no row."""
    import jax
    from flax import nnx

    from benchmarks import jax_side

    for model in TINY_MODELS if options.tiny else WORKLOADS:
        network = jax_side.network_of(model, "float32", tiny=options.tiny)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(network))]
        given = _images(model, tiny=options.tiny)
        answers = _answers(network, given)
        np.savez(Path(folder) / model, *leaves, answers=answers, **given)
    yield from ()


def _images(model: str, *, tiny: bool) -> dict[str, np.ndarray]:
    found = inputs(model, 2, tiny=tiny)
    return {name: found[name] for name in ("image", "embedding") if name in found}


def _answers(network, given: dict[str, np.ndarray]) -> np.ndarray:
    import jax

    import jaxseg
    from jaxseg.nn.inference import for_inference

    apply, state = jaxseg.functional(for_inference(network))
    return np.asarray(jax.jit(apply)(state, *given.values()), np.float32)


def _compared(folder: Path, model: str, dtype: str, *, tiny: bool) -> dict:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from benchmarks import jax_side

    network = jax_side.network_of(model, dtype, tiny=tiny)
    leaves, tree = jax.tree.flatten(nnx.state(network))
    with np.load(folder / f"{model}.npz") as stored:
        filled = [jnp.asarray(stored[f"arr_{i}"], leaf.dtype) for i, leaf in enumerate(leaves)]
        wanted = stored["answers"]
        given = {name: stored[name] for name in ("image", "embedding") if name in stored.files}
    nnx.update(network, jax.tree.unflatten(tree, filled))
    found = _answers(network, given)
    largest = float(np.abs(wanted).max())
    difference = float(np.abs(found - wanted).max()) / largest
    row = {"result": f"{difference:.1e} of the largest value", "difference": difference, "largest_value": largest}
    return row | {"target": f"{BOUNDS[dtype]:g} at most", "reached": difference <= BOUNDS[dtype]}


def peak(options: argparse.Namespace) -> Rows:
    """Yields the operations per second of a large product and the bytes per second of a large copy, by dtype."""
    from benchmarks import jax_side

    for dtype in ("bfloat16", "float32"):
        found = jax_side.peak(dtype, tiny=options.tiny)
        text = f"{found['flops_per_s'] / 1e12:.3g} TFLOP/s, {found['bytes_per_s'] / 1e9:.3g} GB/s"
        yield f"peak, {dtype}", {"result": text} | found


def throughput(options: argparse.Namespace, model: str, what: str, dtype: str) -> Rows:
    """Yields examples per second at the best batch size, beside tuned PyTorch at the same size."""
    from benchmarks.throughput import Side

    best, tried = None, {}
    for batch in (1, 2) if options.tiny else BATCHES[model, what]:
        try:
            side = Side(options.platform, "jaxseg", model, what, batch, dtype, tiny=options.tiny)
            rate = batch / min(side.sample().seconds for _ in range(2))
        except SystemExit as error:  # such as a lack of memory
            tried[batch] = {"error": str(error)}
            continue
        tried[batch] = {"per_s": round(rate, 2)}
        if best is not None and best[1] >= rate:
            tried[batch] |= side.close()
            continue
        if best is not None:
            tried[best[0]] |= best[2].close()
        best = batch, rate, side
    if best is None:
        raise ValueError(f"no batch size could be computed: {tried}")
    batch, _, ours = best
    sides, problem = {"jaxseg": ours}, ""
    if options.torch:
        try:
            sides["tuned"] = Side(options.platform, "tuned", model, what, batch, dtype)
        except SystemExit as error:
            problem = f"PyTorch, tuned: {error}"
    taken = alternate.sample_alternately({name: side.sample for name, side in sides.items()}, ROUNDS)
    found = alternate.summary(taken, "jaxseg")
    for name, side in sides.items():
        found[name] |= side.facts | side.close()
    known = json.loads(options.known.read_text())["rows"] if options.known and options.known.exists() else {}
    row = {"batch": batch, "batches": tried, "sides": found} | ({"problem": problem} if problem else {})
    yield f"throughput, {model}, {what}, {dtype}", row | _judged(row, known.get(f"peak, {dtype}", {}), model, dtype)


def _judged(row: dict, peak: dict, model: str, dtype: str) -> dict:
    """Returns the text of a row of throughput, its target, and whether it was reached."""
    ours, tuned = row["sides"]["jaxseg"], row["sides"].get("tuned")
    parts = [f"{row['batch'] / ours['median_s']:.4g} per s in batches of {row['batch']}"]
    targets, reached = [], []
    if peak.get("flops_per_s") and ours.get("flops"):
        share = ours["flops"] / ours["median_s"] / peak["flops_per_s"]
        parts.append(f"{share:.0%} of the peak")
        if (model, dtype) == ("unet", "bfloat16"):
            targets.append(f"{PEAK_SHARE:.0%} of the peak")
            reached.append(share >= PEAK_SHARE)
    if tuned:
        parts.append(f"PyTorch tuned / jaxseg {tuned['over_jaxseg']:.2f}")
        targets.append(f"{OVER_TUNED:g} times tuned")
        reached.append(tuned["over_jaxseg"] >= OVER_TUNED)
    memory = {name: side.get("device_gb") or side["peak_gb"] for name, side in row["sides"].items()}
    parts.append("GB at most: " + ", ".join(f"{name} {size:.1f}" for name, size in memory.items()))
    found = {"result": "; ".join([*parts, *filter(None, [row.get("problem")])])}
    return found | ({"target": ", ".join(targets), "reached": all(reached)} if targets else {})


def parallel(options: argparse.Namespace) -> Rows:
    """Yields the seconds of SegAE's training step by jit and by pmap on all devices, and whether the losses agree."""
    import jax

    from benchmarks import jax_side
    from jaxseg.training.learner import AXIS, initial_state
    from jaxseg.training.mesh import PARALLEL, make_placement

    model = "prob_unet" if options.tiny else "segae"
    devices, losses = jax.devices(), {}
    size = (2 if options.tiny else 32) * len(devices)
    batch = inputs(model, size, tiny=options.tiny)
    for way in PARALLEL:
        network = jax_side.network_of(model, "float32", tiny=options.tiny)
        learner = jax_side.learner_of(model, network, axis=AXIS if way == "pmap" else None)
        placement = make_placement(way, devices, size)
        state = placement.put_state(initial_state(learner, network, seed=0))
        step, given = placement.compile(learner), placement.put_batch(batch)
        seconds, losses[way] = [], []
        for _ in range(6):
            start = time.perf_counter()
            state, metrics = step(state, given)
            losses[way].append(placement.fetch(metrics)["loss"])
            seconds.append(time.perf_counter() - start)
        median = float(np.median(seconds[1:]))
        row = {"result": f"{1e3 * median:.1f} ms per step of {size} examples on {len(devices)} devices"}
        row |= {"median_s": median, "losses": losses[way], "devices": len(devices)}
        if way != PARALLEL[0]:
            theirs = losses[PARALLEL[0]]
            difference = max(abs(a - b) / abs(b) for a, b in zip(losses[way], theirs, strict=True))
            row["result"] += f"; losses differ by {difference:.1e}"
            row |= {
                "target": f"losses differ by 1e-3 at most from those by {PARALLEL[0]}",
                "reached": difference <= 1e-3,
            }
        yield f"parallel, {way}", row


def folder(options: argparse.Namespace) -> Rows:
    """Yields images per second of `jaxseg.segment_folder`, and the share of the time that is not the network's."""
    import jax
    from PIL import Image

    import jaxseg
    from benchmarks import jax_side
    from jaxseg.datasets import phantom

    count, side, batch = (4, 64, 2) if options.tiny else (64, 1024, 16)
    dtype = "bfloat16" if options.platform == "gpu" else "float32"
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        first = phantom.draw(0, side)[0]
        for i in range(count):  # one drawing, moved, because drawing takes longer than segmenting
            Image.fromarray(np.roll(first, 7 * i, axis=1)).save(images / f"{i}.png")
        segmenter = jaxseg.Segmenter(jax_side.network_of("unet", dtype, tiny=options.tiny), batch_size=batch)
        segmenter.compile()
        prepared = [segmenter.prepare(path) for path in sorted(images.iterdir())[:batch]]
        times = []
        for _ in range(4):
            start = time.perf_counter()
            jax.block_until_ready(segmenter.start(prepared).answer)
            times.append(time.perf_counter() - start)
        device = min(times) / batch
        for kind in ("npy", "png"):
            done = jaxseg.segment_folder(images, Path(scratch) / kind, segmenter, output_type=kind)
            seconds = done.seconds / count
            if done.done != count:
                raise ValueError(f"{done.failed} of {count} images failed: {done.files[0].reason}")
            share = max(0.0, 1 - device / seconds)
            text = f"{1 / seconds:.3g} images/s, batches of {batch}, {dtype}; the host's share of the time: {share:.0%}"
            facts = {"per_s": 1 / seconds, "device_s": device, "host_share": share, "images": count, "side": side}
            yield f"folder, {kind}", {"result": text, "note": "random weights, so masks are noise"} | facts


def goldens(options: argparse.Namespace) -> Rows:
    """Yields how many of the tests pass on the device that compare networks with numbers of the originals."""
    files = GOLDENS[2:3] if options.tiny else GOLDENS
    variables = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    variables["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1" if options.tiny else "0"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *files]
        command += ["-k", "equal_the_original", "-W", "default", f"--junitxml={report}"]
        ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if not report.exists():
            raise ValueError(f"no test ran: {(ran.stdout + ran.stderr)[-500:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    passed = sum(case.find("skipped") is None for case in cases) - len(failed)
    text = f"{passed} passed, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else "")
    yield "goldens", {"result": text, "failed": failed, "target": "all pass", "reached": passed > 0 and not failed}


TASKS = {
    "environment": environment,
    "parity": parity,
    "reference": reference,
    "peak": peak,
    "throughput": throughput,
    "parallel": parallel,
    "folder": folder,
    "goldens": goldens,
}

if __name__ == "__main__":
    main()
