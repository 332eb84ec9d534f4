"""Predicted Dice of the organs of a CT: jaxseg's Scorer and the original's steps in PyTorch, alternating in one run.

    python benchmarks/score.py --rounds 3

The network is the published one (ResNet-50, 256 px) with the parity kit's random weights, and ten slices of every mask
are scored. The PyTorch side works slice by slice, as published: crop, resize with Pillow, a batch of one. Reading files
is timed separately, because it is the same for both sides. Both use all processors. Needs
`pip install 'jaxseg[bench,nifti]'`.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import alternate  # noqa: E402
from benchmarks.jobs import make_weights  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BACKBONE, SIZE, SLICES, MARGIN = "resnet50", 256, 10, 20
LOW, HIGH = -200, 200  # HU
SHIFT, CT_SCALE, MASK_SCALE = 0.5, 0.25, 0.5
TOLERANCE = 1e-4

Case = tuple[np.ndarray, dict[str, tuple[np.ndarray, int]]]  # a CT; organ name -> mask and class
Side = Callable[[], dict[str, float]]


def main() -> None:
    """Times both sides alternately, compares their predictions and writes the JSON file."""
    options = arguments()
    start = time.perf_counter()
    case = read_case(options.case, 3 if options.quick else None)
    reading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        weights = make_weights(Path(folder) / "segae.pt")
        sides = {"jaxseg": jax_side(case, weights, options.embeddings), "torch": torch_side(case, weights, options)}
    started = time.perf_counter()
    predicted = {"jaxseg": sides["jaxseg"]()}  # compiles
    first = time.perf_counter() - started
    predicted["torch"] = sides["torch"]()
    difference = compare(predicted["jaxseg"], predicted["torch"])
    rounds = [{side: seconds(run) for side, run in sides.items()} for _ in range(options.rounds)]
    result = summary(rounds, case, options)
    result["seconds"] |= {"reading": round(reading, 2), "first_call_of_jaxseg": round(first, 2)}
    result |= {"largest_difference": difference, "rounds": rounds}
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("organs", "slices", "seconds", "torch_over_jaxseg")}, indent=1))


def arguments() -> argparse.Namespace:
    """Returns the options; exits with a message if the benchmark cannot run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--case", type=Path, default=data / "ct" / "totalseg" / "s0001")
    parser.add_argument("--embeddings", type=Path, default=data / "segae" / "label_embedding.npz")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side; default: 3")
    parser.add_argument("--quick", action="store_true", help="one round of three organs; no JSON file without --output")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/score.json")
    options = parser.parse_args()
    for package, extra in (("torch", "bench"), ("nibabel", "nifti")):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is missing: pip install 'jaxseg[{extra}]'")
    if not (options.case / "segmentations").is_dir():
        sys.exit(f"{options.case} has no folder `segmentations`; give a case of TotalSegmentator with --case")
    if options.rounds < 1:
        sys.exit(f"--rounds must be at least 1, got {options.rounds}")
    if options.quick:
        options.rounds = 1
    elif options.output is None:
        options.output = RESULTS / "score.json"
    return options


def read_case(folder: Path, most: int | None) -> Case:
    """Returns a CT and its masks that are not empty and whose organ has a class, at most `most` of them."""
    from jaxseg.vocabulary import organs
    from jaxseg.volumes.pair import check_ct, check_mask, check_pair
    from jaxseg.volumes.read import read_volume, stem

    ct = read_volume(folder / "ct.nii.gz")
    check_ct(ct)
    found = {}
    for path in sorted((folder / "segmentations").iterdir()):
        name = stem(path)
        try:
            organ = organs.find(name)
        except ValueError:
            continue  # the DAP-Atlas has no such class
        mask = read_volume(path)
        check_pair(ct, mask)
        if mask.array.any():
            found[name] = check_mask(mask).array, organ.id
        if len(found) == most:
            break
    if not found:
        sys.exit(f"{folder / 'segmentations'} holds no mask of an organ that has a class; give another case")
    return ct.array, found


def jax_side(case: Case, weights: Path, embeddings: Path) -> Side:
    """Returns a function that scores all organs with jaxseg: full batches over slices and organs, crops in threads."""
    import jaxseg
    from jaxseg.segae.score import Request, Scorer
    from jaxseg.vocabulary import organs

    scorer = Scorer(jaxseg.load(weights, embeddings=embeddings), slices=SLICES)
    ct, masks = case

    def run() -> dict[str, float]:
        requests = (Request(ct, mask, organs.find(organ)) for mask, organ in masks.values())
        return {name: found.mean for name, found in zip(masks, scorer.scores(requests), strict=True)}

    return run


def torch_side(case: Case, weights: Path, options: argparse.Namespace) -> Side:
    """Returns a function that scores all organs as the original does: slice by slice, in batches of one."""
    import torch

    from benchmarks.torch_models.segae import QualitySentinel
    from jaxseg.weights.embeddings import read_embeddings

    model = QualitySentinel(backbone=BACKBONE)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    table = torch.from_numpy(read_embeddings(options.embeddings))
    ct, masks = case

    @torch.inference_mode()
    def run() -> dict[str, float]:
        scores = {}
        for name, (mask, organ) in masks.items():
            values = [
                model(network_input(ct[z], mask[z]), table[organ : organ + 1]).item() for z in slice_indices(mask)
            ]
            scores[name] = sum(values) / len(values)
        return scores

    return run


def slice_indices(mask: np.ndarray) -> list[int]:
    """Returns the indices of the slices that the original scores."""
    found = [z for z in range(len(mask)) if mask[z].any()]
    if len(found) <= SLICES:
        return found
    return [found[int(len(found) / SLICES * k)] for k in range(SLICES)]


def network_input(ct: np.ndarray, mask: np.ndarray):
    """Returns the original's crop of a slice as the input of its network, a (1, 2, 256, 256) tensor."""
    import torch

    rows, columns = np.nonzero(mask)
    sides = [[rows.min() - MARGIN, rows.max() + MARGIN], [columns.min() - MARGIN, columns.max() + MARGIN]]
    sides = [clipped(side, length) for side, length in zip(sides, mask.shape, strict=True)]
    lengths = [end - start for start, end in sides]
    short, half = int(lengths[0] > lengths[1]), abs(lengths[0] - lengths[1]) // 2
    sides[short] = clipped([sides[short][0] - half, sides[short][1] + half], mask.shape[short])
    part = tuple(slice(*side) for side in sides)
    unit = (np.clip(ct[part], LOW, HIGH) - LOW) / (HIGH - LOW)
    planes = []
    for plane, scale in ((unit, CT_SCALE), (mask[part], MASK_SCALE)):
        grey = torch.from_numpy(plane.astype(np.float32)).mul(255).byte().numpy()
        resized = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        planes.append((torch.from_numpy(np.array(resized)).float() / 255 - SHIFT) / scale)
    return torch.stack(planes)[None]


def clipped(side: Sequence[int], length: int) -> list[int]:
    """Returns a start and an end, limited to the slice."""
    return [max(0, side[0]), min(length, side[1])]


def compare(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Returns the largest difference between the predictions of the two sides.

    Raises:
      ValueError: the difference is larger than the tolerance, or the sides scored different organs.
    """
    if list(ours) != list(theirs):
        raise ValueError(f"jaxseg scored {', '.join(ours)}; PyTorch {', '.join(theirs)}")
    apart = {name: abs(ours[name] - theirs[name]) for name in theirs}
    worst = max(apart, key=lambda name: (not apart[name] <= TOLERANCE, apart[name]))
    if not apart[worst] <= TOLERANCE:  # also if it is not a number
        raise ValueError(f"{worst}: jaxseg predicts {ours[worst]:.6f}, PyTorch {theirs[worst]:.6f}")
    return apart[worst]


def seconds(run: Side) -> float:
    """Returns the seconds that a side takes."""
    time.sleep(alternate.PAUSE_S)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def summary(rounds: list[dict[str, float]], case: Case, options: argparse.Namespace) -> dict:
    """Returns the medians of both sides in total and per slice, the median ratio of the rounds, and the environment."""
    import torch

    from jaxseg.devices import environment

    slices = sum(len(slice_indices(mask)) for mask, _ in case[1].values())
    medians = {side: statistics.median(one[side] for one in rounds) for side in ("jaxseg", "torch")}
    quick = " --quick" if options.quick else ""
    return {
        "what": "ten slices of every organ of a CT, as published (eager PyTorch, slice by slice) against jaxseg",
        "command": f"python benchmarks/score.py --rounds {options.rounds}{quick}",
        "date": time.strftime("%Y-%m-%d"),
        "case": options.case.name,
        "ct": list(case[0].shape),
        "model": f"segae, {BACKBONE}, {SIZE} px",
        "organs": len(case[1]),
        "slices": slices,
        "seconds": {side: round(value, 3) for side, value in medians.items()},
        "seconds_a_slice": {side: round(value / slices, 5) for side, value in medians.items()},
        "torch_over_jaxseg": round(statistics.median(one["torch"] / one["jaxseg"] for one in rounds), 2),
        "environment": environment() | {"torch": torch.__version__, "processor": alternate.processor()},
        "torch_threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
