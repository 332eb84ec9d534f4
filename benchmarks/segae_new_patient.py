"""SegAE on another patient: settings and calibration come from held-out organs of the patient it was trained on.

    python benchmarks/segae_new_patient.py --choose                  # trains every setting on CT A
    python benchmarks/segae_new_patient.py --report                  # measures them on CT C

Each setting is trained on CT A of the shared data without every fourth organ. It is measured on the held-out organs,
and on these as another scanner might show them: smaller pixels, more noise, and other grey values of every organ, as
after a contrast agent. The mean of both linear correlations chooses the setting; the held-out organs also calibrate it.
`--report` then measures the last step of every setting on CT C, which chooses nothing, and trains the chosen one with
two more seeds. C was measured once before the other scanner and the last two settings were added. The configuration
`segae_small`, from which all but the original's come, was once chosen by runs on C. Both write
`results/segae_new_patient.json`. The masks are true masks that a program degraded.
"""

import argparse
import dataclasses
import json
import os
import sys
from datetime import date
from pathlib import Path

import numpy as np
from flax import nnx

import jaxseg as package
from jaxseg.devices import environment
from jaxseg.segae.augment import organ_shifts, resampled
from jaxseg.segae.calibration import parse_calibration
from jaxseg.segae.crop import bounds, crop_window
from jaxseg.segae.data import Example, example, planes
from jaxseg.segae.evaluate import summary
from jaxseg.segae.layout import read_layout
from jaxseg.training.config.config import CONFIG_FILE, read_config
from jaxseg.training.task import make_task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.commands import jaxseg, train, training_seconds  # noqa: E402
from benchmarks.segae import PLAIN as ORIGINAL  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "segae_new_patient.json"
SEEDS, CONTRAST, NOISE = 3, 200.0, 25.0  # the last two in HU
A, C = ("case_a_low", "case_a_mid", "case_a_high"), ("case_c_low", "case_c_high")
KEEP_OUT = 4  # every fourth organ of A, in the order of their classes
SCANNER = ["data.window_jitter=80", "data.noise=40", "data.blur=1.0", "data.thickness=3", "data.spacing=0.5"]
ONE_CONTRAST = ["data.contrast=0", "data.unnamed_share=0"]
SETTINGS = {  # name -> configuration and what it changes
    "original": ("segae", ORIGINAL),
    "small": ("segae_small", []),
    "scanner": ("segae_small", SCANNER),
    "margins": ("segae_best", ["model.truth_map=false", *ONE_CONTRAST]),
    "best_one_head": ("segae_best", ["model.truth_map=false"]),
    "best_one_contrast": ("segae_best", ONE_CONTRAST),
    "best": ("segae_best", []),
}


def main() -> None:
    """Trains the settings on A, or measures one of them on C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=shared / "ct" / "segae")
    parser.add_argument("--embeddings", type=Path, default=shared / "segae" / "label_embedding.npz")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "segae_new_patient")
    parser.add_argument("--choose", choices=SETTINGS, nargs="*", help="settings to train on A; none: all")
    parser.add_argument(
        "--report", action="store_true", help="measure the settings on C, the chosen one with more seeds"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {"held_out_organs_of_A": {}}
    chosen = [] if options.choose is None else options.choose or list(SETTINGS)
    for name in chosen:
        found["held_out_organs_of_A"][name] = on_held_out_organs(name, options)
    if options.report:
        on_a = found["held_out_organs_of_A"]
        best = max(on_a.keys() - {"original"}, key=lambda name: score_of(on_a[name]))
        runs = {name: [options.folder / name] for name in on_a}
        for seed in range(1, SEEDS):
            runs[best].append(options.folder / f"{best}_seed_{seed}")
            on_held_out_organs(best, options, seed)
        found |= {"chosen": best}
        found["patient_C"] = {name: [on_new_patient(run) for run in of] for name, of in runs.items()}
    found |= {"date": str(date.today()), "environment": environment()}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def score_of(row: dict) -> float:
    """Returns the mean of the linear correlations on held-out organs, as they are and as another scanner shows them."""
    return (row["before"]["correlation"] + row["another_scanner"]["correlation"]) / 2


def on_held_out_organs(name: str, options: argparse.Namespace, seed: int = 0) -> dict:
    """Trains a setting on A without the held-out organs, calibrates it on them, and returns its figures."""
    run, cases = options.folder / (f"{name}_seed_{seed}" if seed else name), f"[{', '.join(A)}]"
    overrides = [f"seed={seed}", f"data.embeddings={options.embeddings}", f"data.train_cases={cases}"]
    overrides += [f"data.val_cases={cases}", f"data.val_organs=[{', '.join(held_out(options.data))}]"]
    config, changes = SETTINGS[name]
    overrides += [*changes, "trainer.validate_every=1000"]  # only at the end: the last step is used
    train(run, config, options.data, overrides)
    jaxseg("evaluate", "--run", run, "--calibrate", done=run / "evaluation_val.json")
    figures = json.loads((run / "evaluation_val.json").read_text())
    row = {"config": config, "overrides": changes, "seed": seed, "training_seconds": training_seconds(run)}
    return row | figures["calibration"] | {"another_scanner": on_another_scanner(run)}


def on_another_scanner(run: Path) -> dict:
    """Returns the agreement on the held-out organs as another scanner might show them."""
    task = make_task(read_config(run / CONFIG_FILE))
    task.prepare = AnotherScanner(task.cfg.size, task.prepare.with_truth)
    return agreement(task.measured(evaluated(run), task.splits["val"]))


@dataclasses.dataclass(frozen=True)
class AnotherScanner(Example):
    """The transform for evaluation, with pixels of half the size, noise, and other grey values of every organ."""

    def __call__(self, record: dict, rng: np.random.Generator | None = None) -> dict:
        z = int(record["slices"][len(record["slices"]) // 2])
        ct, truth, mask = planes(record, z)
        rng = np.random.default_rng([0, record["label"], z])
        ct = ct + organ_shifts(rng, record["labels"][z], CONTRAST) + rng.normal(0, NOISE, ct.shape)
        ct, truth, mask = resampled(ct, truth, mask, 2.0)
        part = crop_window(bounds(mask), mask.shape).part
        more = {"size": self.size, "with_truth": self.with_truth}
        return example(ct[part], truth[part], mask[part], record["label"], z, **more)


def agreement(measured: dict) -> dict[str, float]:
    """Returns mean error, correlations and mean absolute error of predictions."""
    true, predicted = measured["true"], measured["predicted"]
    return {"mean_error": float(np.mean(predicted - true))} | summary(true, predicted)


def evaluated(run: Path) -> nnx.Module:
    """Returns the model of a run in evaluation mode."""
    return nnx.view(package.load(run), use_running_average=True, raise_if_not_found=False)


def held_out(data: Path) -> list[str]:
    """Returns the names of every fourth organ of A."""
    cases = [case for found in read_layout(data).values() for case in found if case.name in A]
    organs = sorted({label: name.replace("-", " ") for case in cases for name, label, _ in case.masks}.items())
    return [name for _, name in organs[::KEEP_OUT]]


def on_new_patient(run: Path) -> dict:
    """Returns the agreement on C without and with the calibration, and how often the interval holds."""
    config = read_config(run / CONFIG_FILE)
    data = dataclasses.replace(config.data, train_cases=A, val_cases=C, val_organs=None)
    task = make_task(dataclasses.replace(config, data=data))
    measured = task.measured(evaluated(run), task.splits["val"])
    calibration = parse_calibration(package.load(run).card.calibration)
    true, found = measured["true"], {"predicted": measured["predicted"]}
    found["calibrated"] = calibration(found["predicted"])
    masks = np.unique(measured["masks"], return_inverse=True)[1]
    errors = np.bincount(masks, found["calibrated"] - true) / np.bincount(masks)
    figures = {name: {"mean_error": float(np.mean(v - true))} | summary(true, v) for name, v in found.items()}
    held = float(np.mean(np.abs(errors) <= calibration.margin))
    return figures | {"slices": len(true), "masks": len(errors), "margin": calibration.margin, "interval_holds": held}


if __name__ == "__main__":
    main()
