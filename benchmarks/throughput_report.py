"""The throughput as a table and a plot."""

from pathlib import Path

from benchmarks.alternate import short
from benchmarks.worker import SIDES, WHAT, WORKLOADS
from jaxseg.draw.plots import Panel, paired_bars

RESULTS = Path(__file__).resolve().parent / "results"


def table(result: dict) -> str:
    """Returns a Markdown table of all rows: medians, ratios to jaxseg, shares of the machine's peak, memory."""
    lines = [
        "| model, what, batch, dtype | jaxseg | published | tuned | published / jaxseg | tuned / jaxseg "
        "| share of the peak: operations | bytes before fusion | GB: jaxseg | published | tuned | date | processor |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        sides = row["sides"]
        times = [_seconds(sides.get(side)) for side in SIDES]
        ratios = [f"{sides[side]['over_jaxseg']:.2f}" if side in sides else "" for side in ("published", "tuned")]
        memory = [f"{_memory(sides[side]):.1f}" if side in sides else "" for side in SIDES]
        name += " (other processes were running)" if any(side["noisy"] for side in sides.values()) else ""
        cells = [name, *times, *ratios, *shares(row, result), *memory, row["date"], row["processor"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _machines(result), _agreement(result), _not_measured(result)]) + "\n"


def _machines(result: dict) -> str:
    found = {}
    for row in result["rows"].values():
        facts = row["environment"]
        versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("jax", "torch"))
        device = row["sides"]["jaxseg"]["device"]
        device = f"{row['processor']}, {facts['cpus']} cores and threads" if device == "cpu" else device
        found.setdefault(f"{device}, {versions}", None)
    return f"Measured on: {'; '.join(found)}."


def _agreement(result: dict) -> str:
    """Compares the counts by hand with XLA's."""
    ours = [row["sides"]["jaxseg"] for row in result["rows"].values()]
    found = []
    for what, name in (("operations", "flops"), ("bytes", "bytes")):
        ratios = [side[name] / side[f"xla_{name}"] for side in ours if side.get(f"xla_{name}")]
        if ratios:
            found.append(f"{what} {min(ratios):.3f} to {max(ratios):.3f}")
    return f"Counts by hand relative to XLA's: {', '.join(found) or 'nothing'}."


def _not_measured(result: dict) -> str:
    """Names the usual rows that are missing, and the platforms without results."""
    usual = [
        f"{model}, {what}, {batch}, {dtype}"
        for dtype in ("float32", "bfloat16")
        for model, work in WORKLOADS.items()
        for what, batch in zip(WHAT, work.batches, strict=True)
    ]
    missing = [name for name in usual if name not in result["rows"]]
    missing += [
        f"all of {name}" for name in ("cpu", "gpu", "tpu") if not (RESULTS / f"throughput_{name}.json").exists()
    ]
    return f"Not measured: {'; '.join(missing) or 'nothing'}."


def shares(row: dict, result: dict) -> list[str]:
    """Returns operations and bytes per second of a row, as shares of those of a large product and of a large copy.

    The shares are empty if the peak of the row's processor was not measured.
    """
    peak = result.get("peak", {}).get(row["processor"], {}).get(row["dtype"], {})
    ours = row["sides"]["jaxseg"]
    found = []
    for name in ("flops", "bytes"):
        most, count = peak.get(f"{name}_per_s"), ours.get(name)
        found.append(f"{count / ours['median_s'] / most:.0%}" if most and count else "")
    return found


def plot(result: dict, path: Path) -> None:
    """Draws PyTorch's time relative to jaxseg's, one pair of bars per row; draws nothing without matplotlib.

    The rows are sorted by what was measured, and then by the ratio to tuned PyTorch. Rows of several processors name
    theirs.
    """
    pairs, rows = [], dict(sorted(result["rows"].items(), key=_order))
    for row in rows.values():
        ratios = [row["sides"].get(side, {}).get("over_jaxseg") for side in ("published", "tuned")]
        pairs.append(tuple((ratio, None) for ratio in ratios))
    panel = Panel("PyTorch's time / jaxseg's time", tuple(pairs))
    picture = paired_bars(
        [panel],
        labels(rows),
        title=result["platform"],
        series=("PyTorch as published", "PyTorch tuned"),
        caption="Above 1, jaxseg is faster.",
    )
    if picture is not None:
        picture.save(path)


def labels(rows: dict[str, dict]) -> list[str]:
    """Returns the names of rows in the plot, with the processor if there are several."""
    several = len({row["processor"] for row in rows.values()}) > 1
    names = [name.replace("training step", "training") for name in rows]
    return [
        f"{name}, {short(row['processor'])}" if several else name
        for name, row in zip(names, rows.values(), strict=True)
    ]


def _order(item: tuple[str, dict]) -> tuple:
    name, row = item
    return row["dtype"] != "float32", "inference" not in name, -row["sides"].get("tuned", {}).get("over_jaxseg", 0)


def _seconds(side: dict | None) -> str:
    if side is None:
        return ""
    low, high = side["quartiles_s"]
    return f"{1e3 * side['median_s']:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"


def _memory(side: dict) -> float:
    return side.get("device_gb") or side["peak_gb"]
