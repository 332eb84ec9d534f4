"""Annotators who disagree, on LIDC: jaxseg beside PyTorch with the original's data loading, same epochs and batch.

    python benchmarks/annotators.py --data ../shared/data/lidc --folder runs/annotators
    python benchmarks/annotators.py --epoch --rounds 5

Networks, losses and learning rates are the original's, 20 epochs with a batch of 5, several seeds. As in the original,
PyTorch lists the folders and reads the files again for every item, and repeats annotators at random. On both sides one
annotator is sampled for every batch. All runs are measured in the same way, on `validate`, after the last epoch.
Both sides divide the confusion matrices by their sums in sampling; `cmvae_consistent` are jaxseg's runs measured with
their softmax, as in training and by default.
`cmvae_best` and `prob_unet_best` are jaxseg's own settings. `cmvae_patients` and `prob_unet_patients` train them again
on three quarters of all patients of `train` and `validate`, for each quarter that is left out, and measure the last
step on the patients that were left out, and on those of them who are in `validate`; `cmvae_original_patients` and
`prob_unet_original_patients` do so with the original's settings. `faster_prob_unet` has a higher learning rate and more
epochs. Runs of jaxseg are its commands; a command whose result exists is not repeated. Writes
`results/noisy_labels.json`, and keeps the rows of runs that are not in the folder. Draws the masks of one slice of each
patient of `validate`, with the first run of both own settings.

--epoch only times an epoch of each network, and trains no further. Both sides alternate in one process. Compilation and
a first epoch of each side are not counted. Writes `results/annotators_epoch.json`.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxseg
from jaxseg.annotators.augment import with_seed
from jaxseg.annotators.data import AnnotatedSlices, lidc_slices
from jaxseg.annotators.task import measures, with_matches
from jaxseg.devices import environment
from jaxseg.training.config.config import Config, read_config
from jaxseg.training.task import make_task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.alternate import summary, time_alternately  # noqa: E402
from benchmarks.commands import jaxseg as command  # noqa: E402
from benchmarks.commands import train, training_seconds  # noqa: E402
from benchmarks.epochs import BATCH, BETA, jaxseg_epochs, torch_epoch, torch_epochs, torch_side  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
EPOCHS, SAMPLES = 20, 16
SEEDS = {"cmvae": 3, "prob_unet": 8}  # by then the probabilistic U-Net has learned little, so its seeds differ widely
RAMP_UP = 0.3
LAST = ["data.draw=batch", f"trainer.epochs={EPOCHS}", f"trainer.validate_every={EPOCHS}"]
SUMS = {"cmvae": ["model.cm_normalisation=original"], "prob_unet": []}
RUNS = {f"{network}_{seed}": ("jaxseg", network, seed) for network in BETA for seed in range(SEEDS[network])}
RUNS |= {f"torch_{network}_{seed}": ("torch", network, seed) for network in BETA for seed in range(SEEDS[network])}
RUNS |= {f"cmvae_consistent_{seed}": ("consistent", "cmvae", seed) for seed in range(SEEDS["cmvae"])}
BEST, PARTS = {"cmvae": 3, "prob_unet": 5}, 4  # seeds of our own settings, parts of the patients
RUNS |= {f"{network}_best_{seed}": ("best", network, seed) for network in BETA for seed in range(BEST[network])}
RUNS |= {f"{network}_patients_{part}": ("patients", network, part) for network in BETA for part in range(PARTS)}
RUNS |= {f"{net}_original_patients_{part}": ("original patients", net, part) for net in BETA for part in range(PARTS)}
RUNS |= {"faster_prob_unet": ("faster", "prob_unet", 0)}
OF_VALIDATE = "of_validate"  # what is measured on the patients of `validate`, while they are left out
FASTER = ["optimizer.learning_rate=1e-3", "trainer.epochs=40", "trainer.validate_every=10"]


def main() -> None:
    """Runs the parts, or times an epoch, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("JAXSEG_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=shared / "lidc")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "annotators")
    parser.add_argument("--only", choices=RUNS, nargs="*", default=list(RUNS), help="none: only write the results")
    parser.add_argument("--epoch", action="store_true", help="only time an epoch of each network")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side that --epoch times; default: 5")
    options = parser.parse_args()
    if options.epoch:
        time_epochs(options.data, options.rounds)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        kind, network, seed = RUNS[part]
        if kind == "torch":
            on_torch(options.folder / part, options.data, network, seed)
            continue
        if kind == "consistent":
            with_consistent_matrices(options.folder / part, options.folder / f"{network}_{seed}")
            continue
        data = without_patients(options.data, options.folder / "patients", seed) if "patients" in kind else options.data
        if (options.folder / part / "config.yaml").exists():
            checked_config(options.folder / part)
        config, overrides = plan(part)
        train(options.folder / part, config, data, overrides)
        command("evaluate", "--run", options.folder / part, done=options.folder / part / "evaluation_val.json")
        if "patients" in kind:
            place = options.folder / part / OF_VALIDATE
            data = patients_of_validate(options.data, options.folder / "patients", seed)
            words = ["evaluate", "--run", options.folder / part, "-i", data, "-o", place]
            command(*words, done=place / "evaluation_val.json")
    summarise(options.folder)


def plan(part: str) -> tuple[str, list[str]]:
    """Returns the packaged configuration of a run of jaxseg, and what it changes."""
    kind, network, seed = RUNS[part]
    config = f"{network}_lidc_best" if kind in ("best", "patients") else f"{network}_lidc"
    changed = {"jaxseg": [*LAST, *SUMS[network]], "consistent": LAST, "original patients": LAST, "faster": FASTER}
    return config, [f"seed={0 if 'patients' in kind else seed}", *changed.get(kind, [])]


def checked_config(folder: Path) -> Config:
    """Returns the configuration of a run; stops if it is not the one that the run would have today."""
    config, overrides = plan(folder.name)
    found, wanted = read_config(folder / "config.yaml"), read_config(config, overrides)
    differing = [
        f"{section.name}.{name}"
        for section in dataclasses.fields(Config)
        if dataclasses.is_dataclass(getattr(found, section.name))
        for name, value in dataclasses.asdict(getattr(found, section.name)).items()
        if value != getattr(getattr(wanted, section.name), name, None) and name != "root"
    ]
    differing += [name for name in ("task", "seed") if getattr(found, name) != getattr(wanted, name)]
    if differing:
        raise SystemExit(
            f"{folder}: {', '.join(differing)} in its config.yaml differ from {config} with {' '.join(overrides)}: "
            "move the folder away to train again"
        )
    return found


def without_patients(data: Path, folder: Path, part: int) -> Path:
    """Returns a set whose `validate` has every fourth patient of `train` and `validate`, and `train` the others."""
    root = folder / str(part)
    files = sorted(path for split in ("train", "validate") for path in (data / split).rglob("*.tif"))
    patients = sorted({path.name.split("_")[1] for path in files})
    if not root.exists():
        unfinished = folder / f"{part}.part"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a copy that was interrupted
        for path in files:
            split = "validate" if path.name.split("_")[1] in patients[part::PARTS] else "train"
            target = unfinished / split / path.relative_to(data).relative_to(path.relative_to(data).parts[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        unfinished.rename(root)
    return root


def patients_of_validate(data: Path, folder: Path, part: int) -> Path:
    """Returns `without_patients` with only those of the patients left out who are in the `validate` of all data."""
    root = folder / f"{part}_{OF_VALIDATE}"
    if not root.exists():
        unfinished = folder / f"{part}_{OF_VALIDATE}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(without_patients(data, folder, part), unfinished)
        kept = {path.name.split("_")[1] for path in (data / "validate").rglob("*.tif")}
        for path in (unfinished / "validate").rglob("*.tif"):
            if path.name.split("_")[1] not in kept:
                path.unlink()
        unfinished.rename(root)
    return root


def with_consistent_matrices(folder: Path, trained: Path) -> None:
    """Measures a trained run again, with the softmax of the confusion matrices instead of their division by sums."""
    if not folder.exists():
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("evaluation*", "pictures", "tensorboard"))
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("cm_normalisation: original", "cm_normalisation: consistent"))
    command("evaluate", "--run", folder, done=folder / "evaluation_val.json")


def on_torch(folder: Path, data: Path, network: str, seed: int) -> None:
    """Trains and measures the network in PyTorch unless its result exists."""
    if (folder / "evaluation_val.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, optimizer = torch_side(network)
    start = time.perf_counter()
    for epoch in range(EPOCHS):
        weight = BETA[network] * min(1.0, epoch / max(int(EPOCHS * RAMP_UP), 1))
        value = torch_epoch(model, optimizer, data / "train", network, rng, weight)
        print(f"{folder.name}: epoch {epoch + 1}/{EPOCHS}, loss {value:.4f}", flush=True)
    (folder.parent / f"{folder.name}.seconds").write_text(f"{time.perf_counter() - start:.0f}\n")
    found = measured(model, network, lidc_slices(data, "validate"))
    (folder / "evaluation_val.json").write_text(json.dumps({"measures": found}, indent=1) + "\n")


def measured(model: Any, network: str, source: AnnotatedSlices) -> dict[str, dict[str, float]]:
    """Returns means and standard errors of the measures of `jaxseg evaluate`."""
    import torch

    from benchmarks.torch_models import cmvae

    model.eval().requires_grad_(False)
    torch.manual_seed(0)
    found, compute = [], jax.jit(lambda *given: measures(*given, {}))
    for i in range(len(source)):
        record = with_seed(source[i], np.random.default_rng(0))
        image = torch.from_numpy(record["image"].transpose(2, 0, 1)[None])
        if network == "cmvae":
            logits = model(image)[0]
            matrices = model.cm_network.decode(torch.randn(SAMPLES, 6))
            noisy = cmvae.noisy_logits(logits.expand(SAMPLES, -1, -1, -1), matrices, "sum")
            clean, masks = logits.argmax(1) > 0, noisy.argmax(1) > 0
        else:
            prior, features = model.prior(image), model.unet(image)
            clean = model.fcomb(features, prior.mean)[:, 0] > 0
            masks = torch.cat([model.fcomb(features, prior.sample())[:, 0] > 0 for _ in range(SAMPLES)])
        batch = {name: record[name][None] for name in ("labels", "present", "truth")}
        found.append(compute(clean.numpy(), masks.numpy()[None], batch))
    values, rows = with_matches({name: [np.asarray(one[name])[0] for one in found] for name in found[0]}), {}
    for name, of in values.items():
        known = np.array([value for value in of if np.isfinite(value)])
        if known.size:
            rows[name] = {"mean": float(known.mean()), "standard_error": float(known.std() / np.sqrt(known.size))}
    return rows


def summarise(folder: Path) -> None:
    """Writes the results of all parts that exist, and the means over seeds, and draws the pictures."""
    path = RESULTS / "noisy_labels.json"
    stored = json.loads(path.read_text())
    facts = {key: stored[key] for key in ("date", "environment") if key in stored}  # of rows that have none themselves
    runs = {part: facts | {"epochs": epochs_of(part)} | stored["runs"][part] for part in RUNS if part in stored["runs"]}
    for part in RUNS:
        if (folder / part / "evaluation_val.json").is_file():
            runs[part] = run_of(folder / part, runs.get(part, {}))
            if part.endswith("_best_0"):
                draw_patients(folder / part, RESULTS / f"annotators_{part.removesuffix('_0')}.png")
    runs = {part: runs[part] for part in RUNS if part in runs}
    result: dict[str, Any] = {"command": "python benchmarks/annotators.py"}
    result |= {group: found for group in sorted({*map(group_of, RUNS)}) if (found := over_seeds(group, runs))}
    path.write_text(json.dumps(result | {"runs": runs}, indent=1) + "\n")


def group_of(part: str) -> str:
    """Returns the name of a run without the number of its seed or part."""
    name, _, number = part.rpartition("_")
    return name if number.isdigit() else part


def epochs_of(part: str) -> int:
    """Returns the number of epochs that a run would have today."""
    return EPOCHS if RUNS[part][0] == "torch" else read_config(*plan(part)).trainer.epochs


def run_of(folder: Path, stored: dict) -> dict:
    """Returns the row of a run: its measures, where and when they come from, and its settings.

    "last" are the measures of the last step, if the best checkpoint on `validate` is an earlier one.
    """
    found = json.loads((folder / "evaluation_val.json").read_text())
    row: dict[str, Any] = {"measures": found["measures"]}
    if RUNS[folder.name][0] == "torch":
        if stored.get("measures") == row["measures"]:
            return stored  # its environment is that of the training
        versions = environment() | {"torch": importlib.metadata.version("torch")}
        day = day_of(folder / "evaluation_val.json")
        return row | {"epochs": EPOCHS, "date": day, "environment": versions}
    config = checked_config(folder)
    if found["last"]["measures"] != found["measures"]:
        row["last"] = found["last"]["measures"]
    if (same := folder / OF_VALIDATE / "evaluation_val.json").is_file():
        row[OF_VALIDATE] = json.loads(same.read_text())["last"]["measures"]["dice"]
    row |= {"loss": dataclasses.asdict(config.loss), "model": dataclasses.asdict(config.model)}
    row |= {"epochs": config.trainer.epochs, "date": day_of(folder / "model")}
    versions = folder / "versions.json"
    row["environment"] = json.loads(versions.read_text()) if versions.exists() else environment()
    if (folder.parent / f"{folder.name}.seconds").exists():
        row["training_seconds"] = training_seconds(folder)
    return row


def day_of(path: Path) -> str:
    """Returns the day on which a file or folder was written."""
    return str(date.fromtimestamp(path.stat().st_mtime))


def over_seeds(group: str, runs: dict[str, dict]) -> dict | None:
    """Returns means and standard errors of the measures that all runs of a group have, at the last step.

    "best_checkpoint" holds those of the best checkpoints on `validate`, for our own settings.
    """
    rows = [row for part, row in runs.items() if group_of(part) == group]
    if len(rows) < 2:
        return None
    found = spread([row.get("last", row["measures"]) for row in rows]) | {"seeds": len(rows)}
    if parts := [row[OF_VALIDATE] for row in rows if OF_VALIDATE in row]:
        slices = sum(part["count"] for part in parts)
        found[OF_VALIDATE] = {"mean": sum(part["mean"] * part["count"] for part in parts) / slices, "slices": slices}
    if group.endswith("_best"):
        found["best_checkpoint"] = spread([row["measures"] for row in rows])
    if len(epochs := {row.get("epochs") for row in rows}) == 1:
        found["epochs"] = epochs.pop()
    if seconds := [row["training_seconds"] for row in rows if "training_seconds" in row]:
        found["training_seconds"] = min(seconds)  # other jobs only lengthen it
    return found


def spread(rows: list[dict]) -> dict[str, Any]:
    """Returns mean and standard error of every measure that all rows have, and the lowest Dice."""
    found: dict[str, Any] = {}
    for name in (name for name in rows[0] if all(name in row for row in rows)):
        values = [row[name]["mean"] for row in rows]
        found[name] = {"mean": statistics.mean(values), "standard_error": statistics.stdev(values) / len(values) ** 0.5}
    return found | {"lowest_dice": min(row["dice"]["mean"] for row in rows)}


def draw_patients(folder: Path, path: Path) -> None:
    """Draws annotators, clean and sampled masks of the middle slice of each patient of `validate`."""
    task = make_task(read_config(folder / "config.yaml"))
    source, slices = task.splits["val"], {}
    for i in range(len(source)):
        slices.setdefault(Path(source.name(i)).name.split("_")[1], []).append(i)
    records = [source[of[len(of) // 2]] for of in slices.values()]
    task.draw(jaxseg.load(folder), records).save(path, optimize=True)


def time_epochs(data: Path, rounds: int) -> None:
    """Times an epoch of both networks on both sides and writes the JSON file."""
    rows = {}
    for network in BETA:
        sides = {"jaxseg": jaxseg_epochs(network, data), "pytorch": torch_epochs(network, data)}
        rows[network] = summary(time_alternately(sides, rounds), "jaxseg")
        print(network, {side: row["median_s"] for side, row in rows[network].items()}, flush=True)
    import torch

    versions = environment() | {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    found = {"command": "python benchmarks/annotators.py --epoch", "date": str(date.today()), "batch": BATCH, **rows}
    (RESULTS / "annotators_epoch.json").write_text(json.dumps(found | {"environment": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
