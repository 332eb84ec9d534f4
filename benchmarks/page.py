"""The tables of benchmarks/README.md, made from the results in `results/`.

    python benchmarks/page.py

replaces what stands between `<!-- table NAME -->` and `<!-- end -->`, so that no figure of the page is typed by hand. A
test checks that the page agrees with the results.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
NAMES = {
    "unet": "U-Net",
    "post_dae": "Post-DAE",
    "segae": "SegAE",
    "cmvae": "confusion-matrix VAE",
    "prob_unet": "probabilistic U-Net",
}
# what is measured, dtype -> lowest and wanted ratio of tuned PyTorch's time to jaxseg's; None: only to be measured
TARGETS = {
    ("inference", "float32"): {name: (1.0, 1.4 if name == "unet" else 1.2) for name in NAMES},
    ("inference", "bfloat16"): {
        "unet": (0.9, 1.1),
        "segae": (0.9, 1.1),
        "post_dae": (0.75, 1.1),
        "cmvae": (None, 1.1),
        "prob_unet": (None, 1.1),
    },
    ("training step", "float32"): {
        "unet": (1.1, 1.0),
        "segae": (0.85, 1.0),
        "cmvae": (0.95, 1.0),
        "prob_unet": (0.95, 1.0),
        "post_dae": (0.65, 1.0),
    },
    ("training step", "bfloat16"): dict.fromkeys(NAMES, (None, 0.9)),
}
JOBS = {  # job -> lowest ratio of the originals' time per item to jaxseg's; from start to end it is START_TO_END
    "png": 3.5,
    "json": 3.0,
    "score": 1.8,
    "epoch_cmvae": 1.3,
    "epoch_prob_unet": 2.0,
    "denoise": 2.0,
    "features": 1.5,
    "samples_cmvae": 2.0,
    "samples_prob_unet": 2.0,
}
START_TO_END = 1.2
# PAX-Ray's original trains so, on about this many images.
PAXRAY_IMAGES, PAXRAY_EPOCHS = 850, 110
GPUS = {"A100": (19.5e12, 2.0e12), "H100": (67e12, 3.35e12)}  # operations in float32 and bytes per second, by the maker


def main() -> None:
    """Writes the tables into the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """Returns the text of a page with all its tables as the results are now."""
    pattern = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def without_tables(text: str) -> str:
    """Returns the text of a page without its tables."""
    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", "", text, flags=re.DOTALL)


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


def throughput() -> str:
    """Every row of the throughput: milliseconds of the three sides, ratios, targets and memory."""
    found = []
    for (what, dtype), models in TARGETS.items():
        for model, (least, wanted) in models.items():
            row = _row(model, what, dtype)
            if row is None:
                found.append([NAMES[model], what, dtype, *["not measured"] * 2, *[""] * 7])
                continue
            sides = row["sides"]
            times = [_milliseconds(sides.get(name)) for name in ("jaxseg", "tuned", "published")]
            ratio = sides["tuned"]["over_jaxseg"]
            memory = [f"{sides[name]['peak_gb']:.1f}" for name in ("jaxseg", "tuned")]
            target = f"{wanted}" if least is None else f"{least} ({wanted})"
            batch = str(row["batch"])
            cells = [
                NAMES[model],
                what,
                dtype,
                batch,
                *times,
                f"**{ratio:.2f}**",
                target,
                verdict(ratio, least, wanted),
            ]
            found.append([*cells, " and ".join(memory), _short(row["processor"])])
    head = "network|what|dtype|batch|jaxseg, ms|tuned, ms|published, ms|tuned / jaxseg|target|result|GB|processor"
    return markdown(head, found)


def _short(processor: str) -> str:
    """Returns the name of a processor without marks.

    >>> _short("Intel(R) Xeon(R) Processor")
    'Intel Xeon'
    """
    return " ".join(processor.replace("(R)", "").replace("Processor", "").split())


def _row(model: str, what: str, dtype: str) -> dict[str, Any] | None:
    rows = results("throughput_cpu")["rows"]
    return next(
        (row for name, row in rows.items() if name.startswith(f"{model}, {what},") and name.endswith(dtype)), None
    )


def _milliseconds(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{1e3 * side['median_s']:.3g}"


def verdict(ratio: float, least: float | None, wanted: float) -> str:
    """Returns what became of a target: "reached", "between" the two ratios, "below" the only one, or "missed"."""
    if ratio >= max(wanted, least or 0):
        return "reached"
    if least is None or ratio >= least:
        return "between" if least is not None else "below"
    return "**missed**"


def machines() -> str:
    """The processors and versions of the rows of the throughput, the jobs and the layers."""
    found: dict[str, list[str]] = {}
    rows = [("throughput", row) for row in results("throughput_cpu")["rows"].values()]
    rows += [("jobs", row) for row in results("end_to_end")["jobs"].values()]
    rows += [("layers", row) for row in results("layer_times").values()]
    rows += [("huge pages", row) for row in results("huge_pages").values()]
    for kind, row in rows:
        kinds = found.setdefault(f"{row['processor']}, measured on {row['date']}", [])
        if kind not in kinds:
            kinds.append(kind)
    return markdown("processor|rows", ([name, ", ".join(kinds)] for name, kinds in found.items()))


def layers() -> str:
    """Where the time of a network goes, on both sides: each pass of its convolutions, and what remains."""
    found = []
    for name, row in results("layer_times").items():
        model, what, dtype = name.split(", ")
        for side in ("jaxseg", "tuned"):
            whole, passes = row["whole_ms"][side], [both[side] for both in row["passes_ms"].values()]
            cells = [f"{value:.0f}" for value in (whole, *passes)] + [""] * (3 - len(passes))
            found.append([NAMES[model], what, dtype, side, *cells, f"{whole - sum(passes):.0f}"])
    head = "network|what|dtype|side|whole, ms|convolutions forward|gradients of maps|gradients of kernels|the rest"
    return markdown(head, found)


def jobs() -> str:
    """Jobs from files to results beside the originals' steps."""
    found = []
    for name, row in results("end_to_end")["jobs"].items():
        ours, theirs = row["sides"]["jaxseg"], row["sides"]["torch"]
        cells = [row["what"], row["item"], f"{ours['median_s']:.3g}", f"{theirs['median_s']:.3g}"]
        ratio, whole = theirs["over_jaxseg"], theirs["whole"]["over_jaxseg"]
        cells += [f"**{ratio:.2f}**", f"{JOBS[name]}", "reached" if ratio >= JOBS[name] else "**missed**"]
        cells += [f"{side['whole']['median_s']:.3g}" for side in (ours, theirs)] + [f"{whole:.2f}"]
        cells.append("reached" if whole >= START_TO_END else "**missed**")
        # What a whole process takes besides the seconds of the steady state.
        besides = [side["whole"]["median_s"] - row.get("items", 1) * side["median_s"] for side in (ours, theirs)]
        found.append([*cells, *(f"{seconds:.3g}" for seconds in besides)])
    head = "job|seconds per|jaxseg|originals|originals / jaxseg|target|result|whole process: jaxseg|originals|ratio|"
    return markdown(f"{head}{START_TO_END}|start and compilation: jaxseg|originals", found)


def startup() -> str:
    """Seconds of commands from the start of the process."""
    medians = results("startup")["median_seconds"]
    return markdown("command|seconds", ([name, f"{value:.2f}"] for name, value in medians.items()))


def start_stages() -> str:
    """Where the seconds of a second start go."""
    parts = results("startup")["stages of the second start, converted"]
    rows = [[name, f"{value:.2f}"] for name, value in parts.items()]
    return markdown("stage|seconds", [*rows, ["all", f"{sum(parts.values()):.2f}"]])


def transposed() -> str:
    """Forms of Post-DAE's transposed convolution."""
    found = []
    for shape in results("convolutions_transposed").get("shapes", []):
        batch, height, width, channels = shape["shape"][0], *[shape["shape"][1]] * 2, shape["shape"][2]
        cells = [f"{batch} x {height} x {width} x {channels}"]
        for what in ("forward", "forward and backward"):
            cells += [f"{1e3 * shape[what][side]['median_s']:.2g}" for side in ("dilated", "four", "PyTorch")]
        found.append(cells)
    head = "input|forward: dilated, ms|four|PyTorch|with backward: dilated, ms|four|PyTorch"
    return markdown(head, found)


def kernel_gradient() -> str:
    """Forms of the gradient of a 3x3 kernel."""
    sides, found = ("products", "XLA", "XLA, exchanged", "jaxseg", "PyTorch"), []
    for shape in results("convolutions_kernel_gradient").get("shapes", []):
        batch, side, num_in, num_out, _ = shape["shape"]
        times = [f"{1e3 * shape['gradient'][name]['median_s']:.2g}" for name in sides]
        found.append([f"{batch} x {side} x {side}, {num_in} to {num_out}", *times])
    return markdown("image, channels|products, ms|XLA|XLA, exchanged|jaxseg|PyTorch", found)


def huge_pages() -> str:
    """Seconds and memory of training steps with huge pages and with usual ones."""
    found = []
    for model, row in results("huge_pages").items():
        with_them, without = (row["sides"][side] for side in ("huge pages", "usual pages"))
        cells = [f"{1e3 * side['median_s']:.3g}" for side in (with_them, without)]
        cells += [f"**{without['over_huge pages']:.2f}**"]
        found.append([NAMES[model], *cells, " and ".join(f"{side['peak_gb']:.1f}" for side in (with_them, without))])
    return markdown("network|huge pages, ms|usual pages, ms|usual / huge|GB", found)


def measuring() -> str:
    """Seconds to measure the masks of one image."""
    found = results("measuring")
    seconds = found["seconds_an_image"]
    return markdown("jaxseg, s|OpenCV, s", [[f"{seconds['jaxseg']:.3f}", f"{seconds['opencv']:.3f}"]])


def post_dae(key: str) -> str:
    """Dice and Hausdorff distances of unseen masks before and after one configuration."""
    return _before_and_after(results("post_dae")[key]["corruption"], "corruption")


def post_dae_prior() -> str:
    """Dice and Hausdorff distances of unseen masks, beside what needs no network."""
    found = []
    for kind, row in results("post_dae")["prior"]["corruption"].items():
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
    """Measures of the better settings of the confusion-matrix VAE beside the original's values."""
    rows = results("noisy_labels")
    named = {
        "the original's values, 20 epochs (means of 3 seeds)": rows["cmvae_consistent"],
        "`cmvae_lidc_best` (means of the images)": rows["runs"]["best"]["measures"],
    }
    measures = ("dice", "ged_published", "distance_between_samples")
    found = ([name, *(_spread(row[measure], "standard_error") for measure in measures)] for name, row in named.items())
    return markdown("|Dice|published distance|distance between samples", found)


def paxray_sample() -> str:
    """Results of a training on synthetic images in PAX-Ray's layout."""
    found = results("paxray_sample")
    dice = found["evaluation"]["dice"]
    return markdown("seconds|mean Dice on 12 validation images", [[str(found["seconds_uninterrupted"]), f"{dice:.3f}"]])


def paxray_table() -> str:
    """Estimated hours of the trainings of PAX-Ray's table, from the measured training step of the U-Net.

    A step of 480 x 480 pixels is taken to cost as much as the measured one of 512 x 512 times the ratio of the pixels.
    A GPU is taken to reach half of what its operations and its memory would allow.
    """
    row = results("throughput_cpu")["rows"]["unet, training step, 3, float32"]["sides"]["jaxseg"]
    pixels = (480 / 512) ** 2
    found = []
    for name, share in (("all images", 1.0), ("half", 0.5), ("a quarter", 0.25)):
        steps = PAXRAY_EPOCHS * (round(share * PAXRAY_IMAGES) // 3)  # the last batch of an epoch is left out
        hours = [steps * row["median_s"] * pixels / 3600]
        for flops, traffic in GPUS.values():
            hours.append(steps * 2 * max(row["flops"] / flops, row["bytes"] / traffic) * pixels / 3600)
        found.append([name, f"{steps:,}", f"{hours[0]:.0f}", *(f"{value:.1f}" for value in hours[1:])])
    return markdown("training images|steps|2 cores, hours|" + "|".join(f"{name}, hours" for name in GPUS), found)


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


TABLES: dict[str, Callable[[], str]] = {
    "throughput": throughput,
    "machines": machines,
    "layers": layers,
    "jobs": jobs,
    "startup": startup,
    "start_stages": start_stages,
    "transposed": transposed,
    "kernel_gradient": kernel_gradient,
    "huge_pages": huge_pages,
    "measuring": measuring,
    "post_dae": lambda: post_dae("working"),
    "post_dae_original": lambda: post_dae("original"),
    "post_dae_prior": post_dae_prior,
    "post_dae_code": post_dae_code,
    "post_dae_segmenter": post_dae_segmenter,
    "segae": segae,
    "segae_start": segae_start,
    "segae_new_patient": segae_new_patient,
    "annotators": annotators,
    "annotators_best": annotators_best,
    "paxray_sample": paxray_sample,
    "paxray_table": paxray_table,
    "confidence": confidence,
    "cohort": cohort,
    "comparison": comparison,
}

if __name__ == "__main__":
    main()
