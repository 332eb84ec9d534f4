"""Post-DAE on real lung masks: jaxseg's settings, the original's network, sizes of the code, masks of a weak segmenter.

    python benchmarks/post_dae.py --masks ../shared/data/lung_masks --folder runs/post_dae

Every step is a command of jaxseg, which is printed before it runs. A command whose result exists is not repeated, so a
second call resumes. `prior` takes about 70 minutes on one core, the others together 70 minutes on two; --only selects
some parts, and keeps the figures of the others. `prior` reports the last step, which no mask chose.
"""

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.anatomy.phantom_task import UNSEEN
from jaxseg.datasets import phantom
from jaxseg.devices import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.commands import jaxseg, train, training_seconds  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SIZE = 128
SCALED = [f"data.size={SIZE}", "data.corruption.scaled=true"]
CODES = ["trainer.epochs=40"]  # enough to compare sizes of the code
SHORT = ["trainer.epochs=100"]  # enough for phantoms, which resemble each other
RUNS = {  # part -> configuration and overrides
    "prior": ("post_dae_prior", []),  # 256 pixels
    "working": ("post_dae", []),
    "original": ("post_dae_original", [*SCALED, "trainer.validate_every=20"]),
    "code_16": ("post_dae", [*CODES, "model.intermediate=[16, 16]"]),
    "code_64": ("post_dae", [*CODES, "model.intermediate=[64, 64]"]),
    "code_512": ("post_dae", CODES),
}
LAST = 6000  # the last training step of `prior`
PHANTOMS, TESTED = 240, 40
STAGES = (20, 40, 80, 160)  # training steps of the segmenter


def main() -> None:
    """Runs the parts and writes the JSON file and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--masks", type=Path, default=shared / "data" / "lung_masks")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "post_dae")
    parser.add_argument("--only", choices=[*RUNS, "segmenter"], nargs="+", default=[*RUNS, "segmenter"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        if part == "segmenter":
            on_a_segmenter(options.folder / part)
        else:
            on_lungs(options.folder / part, options.masks, *RUNS[part])
    summarise(options.folder)


def on_lungs(folder: Path, masks: Path, config: str, overrides: list[str]) -> None:
    """Trains on 80 % of the masks and evaluates on the other masks."""
    train(folder, config, masks, overrides)
    step = ["--step", LAST] if folder.name == "prior" else []
    jaxseg("evaluate", "--run", folder, *step, done=folder / "evaluation_val.json")


def on_a_segmenter(folder: Path) -> None:
    """Trains on the lungs of phantoms; evaluates on masks that a segmenter with few training steps made of others."""
    write_phantoms(folder / "lungs", None, 0, PHANTOMS)
    write_phantoms(folder / "truth", folder / "images", UNSEEN, TESTED)
    train(folder / "run", "post_dae", folder / "lungs", SHORT)
    predicted = []
    for steps in STAGES:
        stage = folder / f"after_{steps:03d}_steps"
        train(
            folder / f"segmenter_{steps}", "demo", None, [f"trainer.max_steps={steps}", "trainer.validate_every=1000"]
        )
        masks = folder / f"masks_{steps}"
        wanted = ["-ot", "npy", "--classes", "right lung,left lung"]
        weights = folder / f"segmenter_{steps}"
        jaxseg(
            "segment", "-i", folder / "images", "-o", masks, "--weights", weights, *wanted, done=masks / "summary.json"
        )
        stage.mkdir(exist_ok=True)
        for path in sorted(masks.glob("*.npy")):
            save(np.load(path).any(0), stage / f"{path.stem}.png")
        predicted += ["--masks", stage]
    done = folder / "run" / "evaluation_masks.json"
    jaxseg("evaluate", "--run", folder / "run", *predicted, "--truth", folder / "truth", done=done)


def write_phantoms(masks: Path, images: Path | None, first: int, count: int) -> None:
    """Draws phantoms and writes both lungs as one mask, and the images if a folder is given."""
    for folder in (masks, images):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, parts = phantom.draw(first + i, 224)
        save(parts[:2].any(0), masks / f"phantom_{i:03d}.png")
        if images is not None:
            Image.fromarray(image).save(images / f"phantom_{i:03d}.png")


def save(mask: np.ndarray, path: Path) -> None:
    """Writes a mask as an image of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def summarise(folder: Path) -> None:
    """Writes the figures of all parts that exist, and copies the plots beside the JSON file."""
    path = RESULTS / "post_dae.json"
    stored = json.loads(path.read_text())
    facts = {key: stored[key] for key in ("date", "environment") if key in stored}  # of rows that have none themselves
    found = {part: facts | row for part, row in stored.items() if part in (*RUNS, "segmenter")}
    for part in [*RUNS, "segmenter"]:
        run = folder / part / "run" if part == "segmenter" else folder / part
        name = "evaluation_masks" if part == "segmenter" else "evaluation_val"
        if not (run / f"{name}.json").is_file():
            continue
        measured = json.loads((run / f"{name}.json").read_text())
        if measured.items() <= found.get(part, {}).items():
            continue  # it was measured earlier
        facts = {"date": str(date.today()), "environment": environment(), "training_seconds": training_seconds(run)}
        found[part] = facts | measured
        (RESULTS / f"post_dae_{part}.png").write_bytes((run / f"{name}.png").read_bytes())
    path.write_text(json.dumps({"command": "python benchmarks/post_dae.py"} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
