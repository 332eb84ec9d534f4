"""A folder of X-rays to PNG masks: jaxseg's command against the original's steps in PyTorch, in turn, in one run.

    python benchmarks/end_to_end.py --images ../shared/data/cxr --rounds 3

Each side runs in a process of its own, so that peak memory is its own. Reported apart: start-up (imports, weights),
compilation, and the steady state per image. Needs `pip install 'jaxseg[bench]'`.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Runs both sides alternately and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--images", type=Path, default=shared / "data" / "cxr")
    parser.add_argument("--weights", type=Path, help="a CXAS .pth; default: the parity kit's, made for the run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "end_to_end.json")
    parser.add_argument("--torch-side", nargs=3, metavar=("WEIGHTS", "IMAGES", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is missing: `make test-torch` installs it, or pip install 'jaxseg[bench]'")
    if not options.torch_side and not options.images.is_dir():
        sys.exit(f"{options.images} is no folder; name one with --images")
    if options.torch_side:
        print(json.dumps(torch_side(*map(Path, options.torch_side))))
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or make_weights(Path(folder) / "UNet_ResNet50_default.pth")
        rounds = [
            {side: measure(side, weights, options.images, Path(folder) / f"{side}{i}") for side in ("jaxseg", "torch")}
            for i in range(options.rounds)
        ]
    result = summary(rounds, options)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["medians"], indent=1))


def measure(side: str, weights: Path, images: Path, output: Path) -> dict:
    """Runs one side in a process; returns its seconds by stage, seconds an image and peak memory in GB."""
    report = output.with_suffix(".json")
    if side == "jaxseg":
        command = [sys.executable, "-m", "jaxseg.cli", "segment", "-i", images, "-o", output, "--weights", weights]
        command += ["--report", report]
    else:
        command = [sys.executable, __file__, "--torch-side", weights, images, output]
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the {side} side failed: {' '.join(map(str, command))}")
    seconds = json.loads(report.read_text())["seconds"] if side == "jaxseg" else json.loads(printed)
    count = sum(1 for path in output.iterdir() if path.is_dir())
    return {
        "seconds": seconds | {"whole": round(time.perf_counter() - start, 3)},
        "seconds_an_image": round(seconds["images"] / count, 3),
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def torch_side(weights: Path, images: Path, output: Path) -> dict:
    """The original's steps for every image, one after the other; returns seconds by stage."""
    start = time.perf_counter()
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.torch_models import pipeline
    from benchmarks.torch_models.unet import BackboneUNet
    from jaxseg.labels import CXAS

    model = BackboneUNet().eval()
    state = torch.load(weights, weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    loaded = time.perf_counter()
    for path in sorted(images.iterdir()):
        image = pipeline.read_image(path)
        _, masks = pipeline.predict(model, pipeline.preprocess(image))
        resized = pipeline.resize_masks(masks, image.shape[1:])
        pipeline.write_masks(resized, output / path.stem, CXAS)
    return {"start": loaded - start, "images": time.perf_counter() - loaded}


def make_weights(path: Path) -> Path:
    """Writes the parity kit's CXAS weights as the original would."""
    import torch

    data = ROOT / "tests" / "data"
    spec = importlib.util.spec_from_file_location("parity_fill", data / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    manifest = json.loads((data / "manifests" / "cxas_unet_resnet50.json").read_text())
    state = {"module." + name: torch.from_numpy(array) for name, array in fill.state_dict(manifest, 0).items()}
    torch.save({"model": state}, path)
    return path


def summary(rounds: list[dict], options: argparse.Namespace) -> dict:
    """The medians of both sides, their ratio, every round, and what they were made with."""
    import torch

    from jaxseg.environment import environment

    medians = {
        side: {
            key: statistics.median(one[side][key] for one in rounds)
            for key in ("seconds_an_image", "peak_gb", "cpu_seconds")
        }
        for side in ("jaxseg", "torch")
    }
    for stage in ("start", "compile"):
        medians["jaxseg"][f"{stage}_seconds"] = statistics.median(one["jaxseg"]["seconds"][stage] for one in rounds)
    medians["torch"]["start_seconds"] = statistics.median(one["torch"]["seconds"]["start"] for one in rounds)
    ratios = [one["torch"]["seconds_an_image"] / one["jaxseg"]["seconds_an_image"] for one in rounds]
    return {
        "what": "X-rays to PNG masks of 159 classes, as published (eager PyTorch) against jaxseg",
        "command": f"python benchmarks/end_to_end.py --rounds {options.rounds}",
        "date": time.strftime("%Y-%m-%d"),
        "files": len(list(options.images.iterdir())),
        "medians": medians | {"torch_over_jaxseg": round(statistics.median(ratios), 2)},
        "environment": environment() | {"torch": torch.__version__, "processor": processor()},
        "rounds": rounds,
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
