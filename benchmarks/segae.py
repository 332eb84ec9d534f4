"""SegAE on two real CTs: unseen slices of both patients, and a patient who was not trained on.

    python benchmarks/segae.py --data ../shared/data/ct/segae --folder runs/segae

`val` trains on the sample's training cases. `unseen_0` to `unseen_2` train only on CT A, with three seeds, and test on
CT C. The `plain` parts are the same with the original's training: ResNet-18, 128 px, batch 16, 12 epochs, Adam with
coupled L2, no degrading during training and no augmentation. Every step is a command of jaxseg, which is printed before
it runs; a command whose result exists is not repeated. The masks are real masks that a program degraded, so the figures
describe this demonstration and not the method.
"""

import argparse
import json
import os
import statistics
import sys
from datetime import date
from pathlib import Path

from jaxseg.devices import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.commands import jaxseg, train, training_seconds  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MEASURES = ("correlation", "rank_correlation", "mae")
UNSEEN = ["data.train_cases=[case_a_low, case_a_mid, case_a_high]", "data.val_cases=[case_c_low, case_c_high]"]
UNSEEN += ["trainer.validate_every=1000"]  # only at the end, so that nothing is chosen by the test patient
PLAIN = ["model.backbone=resnet18", "data.size=128", "data.val_slices=3", "trainer.batch_size=16", "trainer.epochs=12"]
RUNS = {  # part -> configuration and overrides
    "val": ("segae_small", []),
    **{f"unseen_{seed}": ("segae_small", [f"seed={seed}", *UNSEEN]) for seed in range(3)},
    "plain_val": ("segae", PLAIN),
    "plain_unseen": ("segae", [*PLAIN, *UNSEEN]),
}


def main() -> None:
    """Runs the parts and writes the JSON file and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=shared / "ct" / "segae")
    parser.add_argument("--embeddings", type=Path, default=shared / "segae" / "label_embedding.npz")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "segae")
    parser.add_argument("--only", choices=RUNS, nargs="*", default=list(RUNS), help="none: only write the results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        config, overrides = RUNS[part]
        train(options.folder / part, config, options.data, [f"data.embeddings={options.embeddings}", *overrides])
        jaxseg("evaluate", "--run", options.folder / part, done=options.folder / part / "evaluation_val.json")
    summarise(options.folder)


def summarise(folder: Path) -> None:
    """Writes the figures of all parts that exist, and copies the plots beside the JSON file."""
    found = {}
    for part in RUNS:
        run = folder / part
        if not (run / "evaluation_val.json").is_file():
            continue
        found[part] = {"training_seconds": training_seconds(run)} | json.loads(
            (run / "evaluation_val.json").read_text()
        )
        if part in ("val", "unseen_0"):
            (RESULTS / f"segae_{part}.png").write_bytes((run / "evaluation_val.png").read_bytes())
    result = {"command": "python benchmarks/segae.py", "date": str(date.today())}
    parts = [numbers for part, numbers in found.items() if part.startswith("unseen_")]
    if len(parts) > 1:
        values = {name: [part["all"][name] for part in parts] for name in MEASURES}
        found["unseen"] = {
            name: {"mean": statistics.mean(of), "std": statistics.stdev(of)} for name, of in values.items()
        }
    result |= found | {"environment": environment()}
    (RESULTS / "segae.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
