"""Tables of what the methods compute, for the page of benchmarks: made from the JSON files in `results/`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


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
    """Dice and Hausdorff distances of unseen masks, beside what needs no network."""
    found = []
    for kind, row in results("post_dae").get("prior", {}).get("corruption", {}).items():
        shown = [("dice", 3, ("before", "mean shape", "seven nearest", "after"))]
        shown += [("hausdorff", 1, ("before", "seven nearest", "after"))]
        cells = [f"{row[when][name]['mean']:.{digits}f}" for name, digits, methods in shown for when in methods]
        found.append([kind, *cells])
    head = "damage|Dice before|mean shape|seven nearest|**after**|Hausdorff (largest) before|seven nearest|**after**"
    return markdown(head, found)


def post_dae_segmenter() -> str:
    """The same for the masks of a weak segmenter."""
    masks = results("post_dae")["segmenter"]["masks"]
    named = {f"{int(name.split('_')[1])} steps": row for name, row in masks.items()}
    return _before_and_after(named, "U-Net trained for")


def _before_and_after(rows: dict[str, Any], first: str) -> str:
    found = []
    for name, row in rows.items():
        cells = [name]
        for measure, digits in (("dice", 3), ("hausdorff_95", 1), ("hausdorff", 1)):
            cells += [f"{row[when][measure]['mean']:.{digits}f}" for when in ("before", "after")]
        found.append(cells)
    head = f"{first}|Dice before|after|Hausdorff 95 % before|after|Hausdorff (largest) before|after"
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
    found, all_rows = [], results("segae_new_patient")
    parts = {(name, "held-out organs of A"): row for name, row in all_rows.get("held_out_organs_of_A", {}).items()}
    if "patient_C" in all_rows:
        parts[all_rows["patient_C"]["setting"], "C, another patient"] = all_rows["patient_C"]
    for (setting, where), row in parts.items():
        for kind, keys in {"predicted": ("before", "predicted"), "calibrated": ("after", "calibrated")}.items():
            values = next(row[key] for key in keys if key in row)
            measures = ("correlation", "rank_correlation", "mae", "mean_error")
            found.append([setting, where, kind, *(f"{values[measure]:.3f}" for measure in measures)])
    return markdown("setting|measured on|prediction|linear|rank|MAE|mean error", found)


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
    """Measures of the better settings of both networks beside the original's values."""
    found, rows = [], results("noisy_labels")
    named = {
        "cmvae_consistent": ("confusion-matrix VAE, the original's values", "validate"),
        "cmvae_best": ("`cmvae_lidc_best`", "validate"),
        "cmvae_patients": ("the same", "patients left out"),
        "prob_unet": ("probabilistic U-Net, the original's values", "validate"),
        "prob_unet_best": ("`prob_unet_lidc_best`", "validate"),
        "prob_unet_patients": ("the same", "patients left out"),
    }
    measures = ("dice", "ged_published", "distance_between_samples", "distance_between_annotators", "iou_matched")
    for key, (name, where) in named.items():
        if row := rows.get(key):
            values = [_spread(row[measure], "standard_error") if measure in row else "" for measure in measures]
            minutes = f"{row['training_seconds'] / 60:.0f}" if "training_seconds" in row else ""
            found.append([name, where, str(row["seeds"]), *values, minutes])
    head = "settings|measured on|runs|Dice|published distance|distance between samples|between annotators|matched IoU"
    return markdown(f"{head}|minutes of the fastest training", found)


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
