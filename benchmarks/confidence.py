"""Whether the confidence of a mask says how good it is: Spearman's correlation with the true Dice on degraded phantoms.

    python benchmarks/confidence.py --folder runs/confidence

Three networks are trained as `jaxseg demo` trains one, with other seeds, and a Post-DAE with the masks of phantoms. The
networks segment phantoms that are blurred, noisy, of low contrast or cropped, in steps. Trainings that exist are not
repeated. It takes ten minutes on one core.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.commands import train, training_seconds  # noqa: E402
from jaxseg.anatomy.phantom_task import UNSEEN  # noqa: E402
from jaxseg.datasets import phantom  # noqa: E402
from jaxseg.masks.confidence import SCORES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SIZE = 448  # side of the phantoms in pixels, twice that of the network's input, as in the demo
MODELS, COPIES, STEPS = 3, 8, 6
PRIOR = ["data.size=128", "data.channels=6", "trainer.epochs=40", "trainer.validate_every=40"]
PRIOR_MASKS = 240
LOWEST = -2.0  # below every score and every entropy with its sign changed
FIRST = UNSEEN + 5000  # seed of the first phantom


def main() -> None:
    """Trains what is missing, segments the phantoms, and writes the JSON file and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "confidence")
    parser.add_argument("--images", type=int, default=8, help="phantoms of each degradation and step; default: 8")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    trainings(options.folder)
    start = time.perf_counter()
    found = {name: judged(options.folder, count, options.images) for name, count in (("one", 1), ("three", MODELS))}
    seconds = time.perf_counter() - start
    (options.folder / "masks.json").write_text(json.dumps(found))
    write_results(found, options, seconds)


def trainings(folder: Path) -> None:
    """Trains the networks and the Post-DAE, unless they exist."""
    for seed in range(MODELS):
        train(folder / f"model_{seed}", "demo", None, [f"seed={seed}"])
    masks = folder / "prior_masks"
    if not masks.is_dir():
        masks.mkdir()
        for i in range(PRIOR_MASKS):
            np.save(masks / f"phantom_{i:03d}.npy", phantom.draw(i, 224)[1])
    train(folder / "prior", "post_dae", masks, PRIOR)


def blurred(image: np.ndarray, masks: np.ndarray, strength: float, _: np.random.Generator) -> tuple:
    """Returns the image blurred by up to 16 pixels, and its masks."""
    return ndimage.gaussian_filter(image.astype(float), 16 * strength), masks


def noisy(image: np.ndarray, masks: np.ndarray, strength: float, rng: np.random.Generator) -> tuple:
    """Returns the image with normal noise of up to 100 grey values, and its masks."""
    return image + 100 * strength * rng.standard_normal(image.shape), masks


def faint(image: np.ndarray, masks: np.ndarray, strength: float, _: np.random.Generator) -> tuple:
    """Returns the image with as little as 4 % of its contrast, around a middle grey, and its masks."""
    return 128 + (1 - 0.96 * strength) * (image.astype(float) - 128), masks


def cropped(image: np.ndarray, masks: np.ndarray, strength: float, rng: np.random.Generator) -> tuple:
    """Returns a random part of the image with as little as 35 % of its sides, and of its masks."""
    side = round(len(image) * (1 - 0.65 * strength))
    row, column = rng.integers(0, len(image) - side + 1, 2)
    part = slice(row, row + side), slice(column, column + side)
    return image[part].astype(float), masks[:, *part]


DEGRADATIONS = {"blur": blurred, "noise": noisy, "low contrast": faint, "cropping": cropped}


def degraded(name: str, step: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a degraded phantom (H, W) uint8 and its masks (K, H, W) bool; step 0 of `STEPS` changes nothing."""
    image, masks = phantom.draw(seed, SIZE)
    image, masks = DEGRADATIONS[name](image, masks, step / STEPS, np.random.default_rng([seed, step]))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), masks


def judged(folder: Path, count: int, images: int) -> list[dict]:
    """Returns one row per mask: its degradation, step, class, true Dice and scores, of `count` networks together."""
    import jaxseg

    prior = jaxseg.Denoiser(jaxseg.load(folder / "prior")).postprocess(phantom.CLASSES)
    models = [jaxseg.load(folder / f"model_{seed}") for seed in range(count)]
    segmenter = jaxseg.Segmenter(models, tta=COPIES, shape_check=prior)
    rows = []
    for name in DEGRADATIONS:
        for step in range(STEPS + 1):
            for i in range(images):
                image, truth = degraded(name, step, FIRST + i)
                rows += [
                    {"degradation": name, "step": step, "image": i} | row for row in rows_of(segmenter(image), truth)
                ]
    return rows


def rows_of(found, truth: np.ndarray) -> list[dict]:
    """Returns the true Dice and the scores of each mask; masks are left out that are rightly empty."""
    from jaxseg.nn.metrics import dice

    true, rows = dice(found.masks, truth), found.confidence.rows()
    return [row | {"dice": float(value)} for row, value in zip(rows, true, strict=True) if not np.isnan(value)]


def ranks(rows: list[dict], score: str) -> float | None:
    """Returns Spearman's correlation of a score with the true Dice; None if the score has no values.

    The entropy is taken with its sign changed. A mask without a score is an empty one, and has the lowest.
    """
    values = [row[score] for row in rows]
    if all(value is None for value in values):
        return None
    sign = -1 if score == "border_entropy" else 1
    given = [LOWEST if value is None else sign * value for value in values]
    return round(float(stats.spearmanr(given, [row["dice"] for row in rows]).statistic), 3)


def table(rows: list[dict]) -> dict[str, dict[str, float | None]]:
    """Returns the correlations: score -> "all", "not empty", degradation or class -> number.

    The phantoms of step 0 are the same in every degradation, so that all rows together have them once.
    """
    once = [row for row in rows if row["step"] or row["degradation"] == next(iter(DEGRADATIONS))]
    parts = {"all": once, "not empty": [row for row in once if row["pixels"]]}
    parts |= {name: [row for row in rows if row["degradation"] == name] for name in DEGRADATIONS}
    parts |= {name: [row for row in once if row["class"] == name] for name in phantom.CLASSES}
    return {score: {name: ranks(part, score) for name, part in parts.items()} for score in ("confidence", *SCORES)}


def means(rows: list[dict]) -> dict[str, list[float]]:
    """Returns the mean true Dice at each step of each degradation."""
    return {
        name: [
            round(float(np.mean([row["dice"] for row in rows if (row["degradation"], row["step"]) == (name, step)])), 3)
            for step in range(STEPS + 1)
        ]
        for name in DEGRADATIONS
    }


def write_results(found: dict[str, list[dict]], options: argparse.Namespace, seconds: float) -> None:
    """Writes the figures, and a plot of the confidence and the true Dice of three networks."""
    from jaxseg.devices import environment
    from jaxseg.draw.plots import scatter

    names = [*(f"model_{seed}" for seed in range(MODELS)), "prior"]
    result = {
        "what": "Spearman's correlation of scores and the true Dice of masks of degraded phantoms",
        "command": "python benchmarks/confidence.py",
        "date": time.strftime("%Y-%m-%d"),
        "images": options.images,
        "steps": STEPS,
        "copies": COPIES,
        "masks": {name: len(rows) for name, rows in found.items()},
        "spearman": {name: table(rows) for name, rows in found.items()},
        "mean_dice": {name: means(rows) for name, rows in found.items()},
        "seconds": {"evaluation": round(seconds)} | {name: training_seconds(options.folder / name) for name in names},
        "environment": environment(),
    }
    (RESULTS / "confidence.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = [row for row in found["three"] if row["confidence"] is not None]
    true, score = (np.array([row[name] for row in rows]) for name in ("dice", "confidence"))
    groups = [row["degradation"] for row in rows]
    picture = scatter(true, score, groups=groups, title="three networks", axes=("true Dice", "confidence"))
    if picture is not None:
        picture.save(RESULTS / "confidence.png")
    print(json.dumps(result["spearman"], indent=1))


if __name__ == "__main__":
    main()
