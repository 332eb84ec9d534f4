"""The tables of benchmarks/README.md, made from the results in `results/`.

    python benchmarks/page.py

replaces what stands between `<!-- table NAME -->` and `<!-- end -->`, so that no figure of the page is typed by hand. A
test checks that the page agrees with the results.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import method_tables  # noqa: E402
from benchmarks.alternate import short  # noqa: E402
from benchmarks.method_tables import markdown, results  # noqa: E402
from benchmarks.worker import WHAT, WORKLOADS  # noqa: E402

PAGE = ROOT / "benchmarks" / "README.md"
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
OF_TUNED = 1.1  # highest memory of inference, relative to tuned PyTorch's
STEP_GB = {"unet": 7.0, "post_dae": 1.6}  # highest memory of a training step
STARTS = {"jaxseg segment, converted, first start": 5.0, "jaxseg segment, converted, second start": 2.5}  # seconds
FASTER = 1.0  # what the ratio to OpenCV should exceed
OTHER_FILES = {  # file of results -> what the table of processors calls it
    "convolutions_transposed": "transposed convolutions",
    "convolutions_transposed_bfloat16": "the same in bfloat16",
    "convolutions_kernel_gradient": "gradients of kernels",
    "startup": "start-up",
    "measuring": "measuring an image",
    "cohort": "cohorts",
    "comparison": "comparing masks",
}
PASSES = ("forward", "gradient of the images", "gradient of the kernel")
# row of the jobs -> network whose batches it consists of, what it does with them, and the originals' side of the row
BATCHES = {
    "score": ("segae", "inference", None),
    "epoch_cmvae": ("cmvae", "training step", "published"),
    "epoch_prob_unet": ("prob_unet", "training step", "published"),
}
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


def throughput() -> str:
    """Every row of the throughput: milliseconds of the three sides, ratios, targets and memory."""
    found = []
    for (what, dtype), models in TARGETS.items():
        for model, (least, wanted) in models.items():
            rows = _rows(model, what, dtype)
            if not rows:
                found.append([NAMES[model], what, dtype, *["not measured"] * 2, *[""] * 8])
            for row in rows:
                cells = _throughput_cells(row, least, wanted)
                memory = _memory_of(model, what, dtype, row)
                found.append([NAMES[model], what, dtype, *cells, memory, short(row["processor"])])
    head = (
        "network|what|dtype|batch|jaxseg, ms|tuned, ms|published, ms|tuned / jaxseg|target|result|GB|memory|processor"
    )
    return markdown(head, found)


def _throughput_cells(row: dict[str, Any], least: float | None, wanted: float) -> list[str]:
    sides = row["sides"]
    times = [_milliseconds(sides.get(name)) for name in ("jaxseg", "tuned", "published")]
    ratio = sides["tuned"]["over_jaxseg"]
    memory = [f"{sides[name]['peak_gb']:.2f}" for name in ("jaxseg", "tuned")]
    target = " to ".join(f"{one}" for one in sorted({wanted, least or wanted}))
    cells = [str(row["batch"]), *times, f"**{ratio:.2f}**", target, verdict(ratio, least, wanted)]
    return [*cells, " and ".join(memory)]


def _rows(model: str, what: str, dtype: str) -> list[dict[str, Any]]:
    """Returns the rows of one network with its published batch, the latest first, then those of other processors."""
    found = results("throughput_cpu")
    every = [*found["rows"].items(), *found.get("elsewhere", {}).items()]
    batch = WORKLOADS[model].batches[WHAT.index(what)]
    rows = [row for name, row in every if name.split(", ")[:2] == [model, what]]
    return [row for row in rows if row["dtype"] == dtype and row["batch"] == batch]


def _milliseconds(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{1e3 * side['median_s']:.3g}"


def verdict(ratio: float, least: float | None, wanted: float) -> str:
    """Returns what became of a target: "reached", "between" the two ratios, "below" the only one, or "missed"."""
    if ratio >= max(wanted, least or 0):
        return "reached"
    if least is None or ratio >= least:
        return "between" if least is not None else "below"
    return "**missed**"


def missed() -> dict[str, list[str]]:
    """Returns what is below its floor or above its limit: kind of target -> names of rows and of jobs."""
    every = results("end_to_end")["jobs"]
    ratios = {name: row["sides"]["torch"] for name, row in every.items()}
    steady = [name for name in every if ratios[name]["over_jaxseg"] < JOBS[name]]
    whole = [name for name in every if ratios[name]["whole"]["over_jaxseg"] < START_TO_END]
    starts = results("startup")["median_seconds"]
    slower = results("measuring")["opencv_over_jaxseg"] <= FASTER
    return {
        "time of a network": [_named(*row) for row in missed_rows()],
        "memory of a network": [_named(*row) for row in _every_row() if _memory_of(*row) == "**missed**"],
        "time of a job": [every[name]["what"] for name in steady],
        "time of a whole process": [every[name]["what"] for name in whole],
        "time of a start": [name for name, most in STARTS.items() if starts[name] > most],
        "time to measure an image": ["all features together"] if slower else [],
    }


def missed_rows() -> list[tuple[str, str, str, dict[str, Any]]]:
    """Returns network, what, dtype and content of the rows of the throughput whose ratio is below its floor."""
    return [row for row in _every_row() if _verdict_of(*row) == "**missed**"]


def _every_row() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for (what, dtype), models in TARGETS.items():
        for model in models:
            for row in _rows(model, what, dtype):
                yield model, what, dtype, row


def _verdict_of(model: str, what: str, dtype: str, row: dict[str, Any]) -> str:
    return verdict(row["sides"]["tuned"]["over_jaxseg"], *TARGETS[what, dtype][model])


def _memory_of(model: str, what: str, dtype: str, row: dict[str, Any]) -> str:
    """Says whether a row keeps its limit of memory: "reached", "missed", or nothing without a limit."""
    del dtype
    limit = OF_TUNED * row["sides"]["tuned"]["peak_gb"] if what == "inference" else STEP_GB.get(model)
    if limit is None:
        return ""
    return "reached" if row["sides"]["jaxseg"]["peak_gb"] <= limit else "**missed**"


def _named(model: str, what: str, dtype: str, row: dict[str, Any]) -> str:
    return f"{NAMES[model]}, {what}, {dtype}, {short(row['processor'])}"


def missed_table() -> str:
    """What misses its target."""
    return markdown("target|missed by", ([kind, "; ".join(names) or "nothing"] for kind, names in missed().items()))


def machines() -> str:
    """The processors of the rows and the days on which they were measured, as far as the results hold them.

    Rows: throughput, jobs, layers, huge pages, start-up, forms of convolutions, measuring, cohorts, comparing masks.
    """
    throughput = results("throughput_cpu")
    rows = [("throughput", row) for part in ("rows", "elsewhere") for row in throughput.get(part, {}).values()]
    rows += [("jobs", row) for row in results("end_to_end")["jobs"].values()]
    rows += [("layers", row) for row in results("layer_times").values()]
    rows += [("huge pages", row) for row in results("huge_pages").values()]
    rows += [(kind, results(name)) for name, kind in OTHER_FILES.items()]
    found: dict[str, list[str]] = {}
    for kind, row in rows:
        processor = row.get("processor") or row.get("environment", {}).get("processor")
        if processor and row.get("date"):
            kinds = found.setdefault(f"{processor}, measured on {row['date']}", [])
            kinds.extend({kind} - set(kinds))
    return markdown("processor|rows", ([name, ", ".join(kinds)] for name, kinds in found.items()))


def layers() -> str:
    """Where the time of a network goes, on both sides: each pass of its convolutions, and what remains."""
    found = []
    for name, row in results("layer_times").items():
        model, what, dtype = name.split(", ")
        for side in ("jaxseg", "tuned"):
            whole, passes = row["whole_ms"][side], {pass_: both[side] for pass_, both in row["passes_ms"].items()}
            cells = [f"{passes[pass_]:.1f}" if pass_ in passes else "" for pass_ in PASSES]
            cells = [f"{whole:.1f}", *cells, f"{whole - sum(passes.values()):.1f}", short(row["processor"])]
            found.append([NAMES[model], what, dtype, side, *cells])
    head = "network|what|dtype|side|whole, ms|convolutions forward|gradients of maps|gradients of kernels|the rest"
    return markdown(f"{head}|processor", found)


def jobs() -> str:
    """Jobs from files to results beside the originals' steps."""
    found = []
    for name, row in results("end_to_end")["jobs"].items():
        ours, theirs = row["sides"]["jaxseg"], row["sides"]["torch"]
        cells = [row["what"], row["item"], f"{ours['median_s']:.3g}", f"{theirs['median_s']:.3g}"]
        ratio, whole = theirs["over_jaxseg"], theirs["whole"]["over_jaxseg"]
        cells += [f"**{ratio:.2f}**", f"{JOBS[name]}", "reached" if ratio >= JOBS[name] else "**missed**"]
        cells += [f"{side['whole']['median_s']:.3g}" for side in (ours, theirs)] + [f"{whole:.2f}"]
        found.append([*cells, "reached" if whole >= START_TO_END else "**missed**"])
    head = "job|seconds per|jaxseg|originals|originals / jaxseg|target|result"
    return markdown(f"{head}|whole process: jaxseg|originals|ratio|target {START_TO_END}", found)


def job_stages() -> str:
    """Where the seconds of whole processes go, and what the first call of a job takes more than a steady one."""
    found = []
    for name, row in results("end_to_end")["jobs"].items():
        for side, label in (("jaxseg", "jaxseg"), ("torch", "originals")):
            figures, stages = row["sides"][side], row["sides"][side]["stages_s"]
            work, whole = stages.get("images", stages.get("job")), figures["whole"]["median_s"]
            rest = whole - work - stages["start"] - stages.get("compile", 0)
            parts = [whole, stages["start"], stages.get("compile"), work, stages.get("encode")]
            calls = [figures["first_call_s"], figures["median_s"]] if "first_call_s" in figures else [None, None]
            more = calls[0] - calls[1] if calls[0] else None
            parts += [max(rest, 0.0) if rest >= 0.05 else None, *calls, more, _batches(name, row, side)]
            found.append([row["what"], label, *("" if part is None else f"{part:.3g}" for part in parts)])
    head = "job|side|whole process, s|start|compilation|work|encoding, part of the work|outside of these"
    return markdown(f"{head}|first call|steady call|first - steady|its batches in the throughput", found)


def _batches(name: str, row: dict[str, Any], side: str) -> float | None:
    """Returns the seconds of the batches of a job by the row of its network; None if no row has what the side does."""
    model, what, published = BATCHES.get(name, ("", "", None))
    rows, same = (_rows(model, what, "float32") if model else []), "jaxseg" if side == "jaxseg" else published
    rows = [one for one in rows if one["processor"] == row["processor"]]
    if not rows or same is None:
        return None
    count = row["slices"] / rows[0]["batch"]
    return (count if what == "inference" else int(count)) * rows[0]["sides"][same]["median_s"]


def startup() -> str:
    """Seconds of commands from the start of the process, with the targets of two of them."""
    found = []
    for name, value in results("startup")["median_seconds"].items():
        most = STARTS.get(name)
        target = ["", ""] if most is None else [f"at most {most}", "reached" if value <= most else "**missed**"]
        found.append([name, f"{value:.2f}", *target])
    return markdown("command|seconds|target|result", found)


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


def transposed_bfloat16() -> str:
    """Forms of Post-DAE's transposed convolution in bfloat16."""
    sides, found = ("four", "one", "jaxseg"), []
    for shape in results("convolutions_transposed_bfloat16").get("shapes", []):
        batch, size, channels = shape["shape"][:3]
        times = [f"{1e3 * shape['forward'][side]['median_s']:.2g}" for side in sides]
        found.append([f"{batch} x {size} x {size} x {channels}", *times])
    return markdown("input|four, ms|one|jaxseg", found)


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
        cells += [" and ".join(f"{side['peak_gb']:.2f}" for side in (with_them, without))]
        found.append([NAMES[model], *cells, str(len(with_them["samples_s"])), short(row["processor"])])
    return markdown("network|huge pages, ms|usual pages, ms|usual / huge|GB|rounds|processor", found)


def measuring() -> str:
    """Seconds to measure the masks of one image."""
    found = results("measuring")
    seconds, ratio = found["seconds_an_image"], found["opencv_over_jaxseg"]
    cells = [f"{seconds['jaxseg']:.3f}", f"{seconds['opencv']:.3f}", f"**{ratio:.2f}**"]
    cells += ["faster than OpenCV", "reached" if ratio > FASTER else "**missed**"]
    return markdown("jaxseg, s|OpenCV, s|OpenCV / jaxseg|target|result", [cells])


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


TABLES: dict[str, Callable[[], str]] = {
    "throughput": throughput,
    "missed": missed_table,
    "machines": machines,
    "layers": layers,
    "jobs": jobs,
    "job_stages": job_stages,
    "startup": startup,
    "start_stages": start_stages,
    "transposed": transposed,
    "transposed_bfloat16": transposed_bfloat16,
    "kernel_gradient": kernel_gradient,
    "huge_pages": huge_pages,
    "measuring": measuring,
    "post_dae": lambda: method_tables.post_dae("working"),
    "post_dae_original": lambda: method_tables.post_dae("original"),
    "post_dae_prior": method_tables.post_dae_prior,
    "post_dae_code": method_tables.post_dae_code,
    "post_dae_segmenter": method_tables.post_dae_segmenter,
    "segae": method_tables.segae,
    "segae_start": method_tables.segae_start,
    "segae_new_patient": method_tables.segae_new_patient,
    "annotators": method_tables.annotators,
    "annotators_best": method_tables.annotators_best,
    "annotators_fall": method_tables.annotators_fall,
    "paxray_sample": method_tables.paxray_sample,
    "paxray_table": paxray_table,
    "confidence": method_tables.confidence,
    "cohort": method_tables.cohort,
    "comparison": method_tables.comparison,
}

if __name__ == "__main__":
    main()
