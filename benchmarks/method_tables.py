"""Tables of what the methods compute, for the page of benchmarks: made from the JSON files in `results/`."""

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
NETWORKS = {"cmvae": "confusion-matrix VAE", "prob_unet": "probabilistic U-Net"}
ANNOTATORS = (("cmvae", "cmvae_consistent", "cmvae_best"), ("prob_unet", "prob_unet", "prob_unet_best"))
LEFT_OUT = "patients left out"


def results(name: str) -> dict[str, Any]:
    """Returns the content of a file in `results/`; nothing if it was not measured yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def markdown(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Returns a Markdown table; the names of the columns are separated by |."""
    names, rows = head.split("|"), list(rows)
    if not rows:
        return "Not measured yet."
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def post_dae(key: str) -> str:
    """Dice and Hausdorff distances of unseen masks before and after one configuration."""
    return _before_and_after(results("post_dae")[key]["corruption"], "corruption")


def post_dae_prior() -> str:
    """Dice and Hausdorff distances of unseen masks, beside what needs no network and the original's network."""
    found, parts = [], results("post_dae")
    for kind, row in parts.get("prior", {}).get("corruption", {}).items():
        row = row | {"original": parts["original"]["corruption"][kind]["after"]}
        shown = [("dice", 3, ("before", "mean shape", "seven nearest", "original", "after"))]
        shown += [("hausdorff", 1, ("before", "seven nearest", "after"))]
        cells = [f"{row[when][name]['mean']:.{digits}f}" for name, digits, methods in shown for when in methods]
        found.append([kind, *cells])
    head = "damage|Dice before|mean shape|seven nearest|original's network, 128 px|**after**"
    return markdown(f"{head}|Hausdorff (largest) before|seven nearest|**after**", found)


def post_dae_segmenter() -> str:
    """The same for the masks of a weak segmenter."""
    masks = results("post_dae")["segmenter"]["masks"]
    named = {f"{int(name.split('_')[1])} steps": row for name, row in masks.items()}
    return _before_and_after(named, "U-Net trained for")


def _before_and_after(rows: dict[str, Any], first: str) -> str:
    baselines = [name for name in ("mean shape", "seven nearest") if name in next(iter(rows.values()))]
    found = []
    for name, row in rows.items():
        cells = [name, *(f"{row[method]['dice']['mean']:.3f}" for method in baselines)]
        for measure, digits in (("dice", 3), ("hausdorff_95", 1), ("hausdorff", 1)):
            cells += [f"{row[when][measure]['mean']:.{digits}f}" for when in ("before", "after")]
        found.append(cells)
    without = "".join(f"Dice of the {name}|" for name in baselines)
    head = f"{first}|{without}Dice before|after|Hausdorff 95 % before|after|Hausdorff (largest) before|after"
    return markdown(head, found)


def post_dae_code() -> str:
    """Dice and largest Hausdorff distance for codes of several sizes."""
    found = []
    for size in (16, 64, 512):
        row = results("post_dae")[f"code_{size}"]["corruption"]
        kinds = [row[kind]["after"] for kind in ("clean", "original", "heavy")]
        found.append([str(size), *(f"{kind['dice']['mean']:.3f}, {kind['hausdorff']['mean']:.1f}" for kind in kinds)])
    return markdown("code|clean|original|heavy", found)


def segae() -> str:
    """Correlations of predicted and true Dice."""
    found, all_rows = [], results("segae")
    settings = {
        "val": ("slices of A and C (`train`)", "other slices of both (`val`)", "`segae_small`"),
        "plain_val": ("the same", "the same", "the original's, ResNet-18, 128 px, batch 16, 12 epochs"),
    }
    for key, names in settings.items():
        row = all_rows[key]
        values = [f"{row[name]:.3f}" for name in ("correlation", "rank_correlation", "mae")]
        found.append([*names, *values, f"{row['training_seconds'] / 60:.0f}"])
    values = [_spread(all_rows["unseen"][name], "std") for name in ("correlation", "rank_correlation", "mae")]
    minutes = sum(all_rows[f"unseen_{seed}"]["training_seconds"] for seed in range(3)) / 180
    found.append(["A only", "C, another patient", "`segae_small`, 3 seeds", *values, f"{minutes:.0f}"])
    return markdown("trained on|measured on|settings|linear|rank|MAE|minutes of training", found)


def segae_start() -> str:
    """Seconds until a training of SegAE knows which slices it can use."""
    row, head = results("segae_start"), "cases|files|first start, s|later starts, s|index, MB"
    if not row:
        return markdown(head, [])
    seconds = [f"{row['first_start_s']:.1f}", ", ".join(f"{s:.1f}" for s in row["later_starts_s"])]
    return markdown(head, [[f"{row['cases']:,}", f"{row['files']:,}", *seconds, f"{row['index_bytes'] / 1e6:.1f}"]])


def segae_new_patient() -> str:
    """Agreement of predicted and true Dice on held-out organs and on another patient, also calibrated."""
    found, rows = [], results("segae_new_patient")
    if "patient_C" not in rows:
        return markdown("", [])
    for setting, row in rows["held_out_organs_of_A"].items():
        found.append([setting, "held-out organs of A", *_agreement([row["before"]], [row["after"]])])
        found.append([setting, "the same, another scanner", *_agreement([row["another_scanner"]], [])])
    for setting, runs in rows["patient_C"].items():
        found.append([setting, "C", *_agreement(*([run[key] for run in runs] for key in ("predicted", "calibrated")))])
    head = "setting|measured on|seeds|linear|rank|MAE|mean error|MAE, calibrated|mean error, calibrated"
    return markdown(head, found)


def _agreement(predicted: list[dict], calibrated: list[dict]) -> list[str]:
    """Returns the number of runs and the means of their measures, with the standard deviation of several runs."""
    cells = [str(len(predicted))]
    for runs, names in (
        (predicted, ("correlation", "rank_correlation", "mae", "mean_error")),
        (calibrated, ("mae", "mean_error")),
    ):
        for name in names:
            values = [run[name] for run in runs]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
    return cells


def annotators() -> str:
    """Measures of models of annotators who disagree."""
    found, rows = [], results("noisy_labels")
    names = {
        "cmvae": "confusion-matrix VAE, jaxseg, `cm_normalisation: original`",
        "torch_cmvae": "the same, PyTorch",
        "cmvae_consistent": "jaxseg, `cm_normalisation: consistent`, the default",
        "prob_unet": "probabilistic U-Net, jaxseg",
        "torch_prob_unet": "the same, PyTorch",
    }
    measures = ("dice", "dice_majority", "ged_published", "ged_original", "distance_between_samples")
    for key, name in names.items():
        row = rows[key]
        found.append([name, str(row["seeds"]), *(_spread(row[measure], "standard_error") for measure in measures)])
    head = "|seeds|Dice|Dice of the samples' majority|published distance|the original's distance"
    return markdown(f"{head}|distance between samples", found)


def annotators_best() -> str:
    """Measures of the better settings of both networks beside the original's values and what needs no network."""
    rows, found = results("noisy_labels"), []
    for network, original, better in ANNOTATORS:
        single = rows.get("runs", {}).get("faster_prob_unet", {}) if network == "prob_unet" else {}
        name = f"{NETWORKS[network]}, the original's values"
        found.append([name, "validate", *_annotators_row(rows.get(original, {}))])
        found.append(["the same", LEFT_OUT, *_annotators_row(rows.get(f"{network}_original_patients", {}))])
        if single:
            one = {key: {"mean": value["mean"]} for key, value in single["measures"].items()}
            one |= {"seeds": 1, "epochs": single["epochs"], "lowest_dice": one["dice"]["mean"]}
            found.append(["the original's values, but a learning rate of 1e-3", "validate", *_annotators_row(one)])
        best = rows.get(better, {})
        found.append([f"`{network}_lidc_best`", "validate", *_annotators_row(best)])
        checkpoint = {key: best[key] for key in ("seeds", "epochs") if key in best} | best.get("best_checkpoint", {})
        found.append(["the same, best checkpoint on validate", "validate", *_annotators_row(checkpoint)])
        found.append(["the same", LEFT_OUT, *_annotators_row(rows.get(f"{network}_patients", {}))])
    found += _without_network(next((rows[better] for *_, better in ANNOTATORS if better in rows), {}))
    head = "settings|measured on|runs|epochs|Dice|lowest Dice|published distance|distance between samples"
    return markdown(f"{head}|between annotators|matched IoU|minutes", found)


def annotators_fall() -> str:
    """How much lower the Dice is on patients left out than on `validate`."""
    rows, found = results("noisy_labels"), []
    for network, original, better in ANNOTATORS:
        pairs = {
            f"{NETWORKS[network]}, the original's values": (original, f"{network}_original_patients"),
            f"`{network}_lidc_best`": (better, f"{network}_patients"),
        }
        for name, keys in pairs.items():
            values = [rows.get(key, {}).get("dice") for key in keys]
            cells, fall = [_spread(value, "standard_error") if value else "n/a" for value in values], "n/a"
            if all(values):
                error = sum(value["standard_error"] ** 2 for value in values) ** 0.5
                fall = f"{values[0]['mean'] - values[1]['mean']:.3f} +- {error:.3f}"
            same = rows.get(keys[1], {}).get("of_validate")
            found.append([name, *cells, fall, f"{same['mean']:.3f}" if same else "n/a"])
    head = "settings|Dice on validate, last step|Dice on patients left out|fall"
    return markdown(f"{head}|Dice on the patients of validate, left out", found)


def _without_network(measured: dict[str, Any]) -> Iterator[list[str]]:
    """The rows of the consensus of the annotators, from those of runs that were measured on `validate`."""
    between = "distance_between_annotators"
    for name, kind in {"annotators' majority": "baseline_majority", "STAPLE": "baseline_staple"}.items():
        keys = {"dice": kind, "ged_published": f"{kind}_ged", between: between}
        row = {key: {"mean": measured[of]["mean"]} for key, of in keys.items() if of in measured}
        yield [f"without a network: {name}", "validate", *_annotators_row(row)]


def _annotators_row(row: dict[str, Any]) -> list[str]:
    """The cells of a group of runs; "n/a" for what it does not have."""
    cells = [str(row.get(key, "n/a")) for key in ("seeds", "epochs")]
    measures = ("dice", "lowest_dice", "ged_published", "distance_between_samples", "distance_between_annotators")
    for measure in (*measures, "iou_matched"):
        value = row.get(measure)
        if isinstance(value, dict):
            value = _spread(value, "standard_error") if "standard_error" in value else value["mean"]
        cells.append("n/a" if value is None else value if isinstance(value, str) else f"{value:.3f}")
    return [*cells, f"{row['training_seconds'] / 60:.0f}" if "training_seconds" in row else "n/a"]


def paxray_sample() -> str:
    """Results of a training on synthetic images in PAX-Ray's layout."""
    found = results("paxray_sample")
    dice = found["evaluation"]["dice"]
    return markdown("seconds|mean Dice on 12 validation images", [[str(found["seconds_uninterrupted"]), f"{dice:.3f}"]])


def confidence() -> str:
    """Rank correlation of each score of a mask with its true Dice."""
    kinds = ("all", "not empty", "blur", "noise", "low contrast", "cropping")
    found = []
    for networks, scores in results("confidence")["spearman"].items():
        for name, row in scores.items():
            if row["all"] is not None:
                found.append([networks, f"`{name}`", *(f"{row[kind]:.2f}" for kind in kinds)])
    return markdown("networks|score|" + "|".join(kinds), found)


def cohort() -> str:
    """Processor time and memory per picture of long runs."""
    rows = results("cohort")["rows"]
    found = []
    for step, name in (("first", "first run"), ("resumed", "resumed run"), ("merge", "merge")):
        cells = [name]
        for row in rows.values():
            cells += [f"{row[step]['processor_ms_per_picture']:.2f}", f"{row[step]['kb_per_picture']:.1f}"]
        found.append(cells)
    return markdown("step|" + "|".join(f"{int(count):,} pictures: ms|KB" for count in rows), found)


def comparison() -> str:
    """Processor seconds of comparing masks."""
    found = results("comparison")
    theirs = found["pairs"] * found["surface_distance_processor_seconds_a_pair"]
    cells = [f"{found['pairs']:,}", f"{found['processor_seconds']:.1f}", f"{theirs:.1f}"]
    return markdown("pairs|`jaxseg compare`, processor seconds|surface-distance, processor seconds", [cells])


def _spread(value: dict[str, float], kind: str) -> str:
    return f"{value['mean']:.3f} +- {value[kind]:.3f}"
