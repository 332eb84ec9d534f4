"""The throughput as a table and a plot."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.workloads import WHAT, WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"

COLOURS = {"jaxseg": (31, 119, 180), "published": (200, 200, 200), "tuned": (120, 120, 120)}
TITLES = {"jaxseg": "jaxseg", "published": "PyTorch as published", "tuned": "PyTorch tuned"}
_WIDTH, _LABEL, _BAR, _GAP = 980, 330, 14, 12


def table(result: dict) -> str:
    """Returns a Markdown table of all rows: medians, ratios to jaxseg, share of the machine's peak, memory."""
    lines = [
        "| model, what, batch, dtype | jaxseg | published | tuned | published / jaxseg | tuned / jaxseg "
        "| of the peak: operations | bytes before fusion | GB: jaxseg | published | tuned | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        sides = row["sides"]
        times = [_seconds(sides.get(side)) for side in COLOURS]
        ratios = [f"{sides[side]['over_jaxseg']:.2f}" if side in sides else "" for side in ("published", "tuned")]
        memory = [f"{_memory(sides[side]):.1f}" if side in sides else "" for side in COLOURS]
        name += " (other processes took part)" if any(side["noisy"] for side in sides.values()) else ""
        cells = [name, *times, *ratios, *shares(row, result), *memory, row["date"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _machines(result), _agreement(result), _not_run(result)]) + "\n"


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
    """How the counts by hand compare with XLA's."""
    ours = [row["sides"]["jaxseg"] for row in result["rows"].values()]
    found = []
    for what, name in (("operations", "flops"), ("bytes", "bytes")):
        ratios = [side[name] / side[f"xla_{name}"] for side in ours if side.get(f"xla_{name}")]
        if ratios:
            found.append(f"{what} {min(ratios):.3f} to {max(ratios):.3f}")
    return f"Counted by hand, in parts of XLA's count: {', '.join(found) or 'nothing'}."


def _not_run(result: dict) -> str:
    """Names what of the usual batches has no row, and the platforms without a file of results."""
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
    return f"Not run: {'; '.join(missing) or 'nothing'}."


def shares(row: dict, result: dict) -> list[str]:
    """The operations and bytes of a row a second, as shares of those of a large product and a large copy."""
    peak, ours = result.get("peak", {}).get(row["dtype"], {}), row["sides"]["jaxseg"]
    found = []
    for name in ("flops", "bytes"):
        most, count = peak.get(f"{name}_per_s"), ours.get(name)
        found.append(f"{count / ours['median_s'] / most:.0%}" if most and count else "")
    return found


def plot(result: dict, path: Path) -> None:
    """Draws how long PyTorch takes where jaxseg takes 1, a bar a side."""
    rows = [
        (name, side, found["over_jaxseg"])
        for name, row in result["rows"].items()
        for side, found in row["sides"].items()
        if side != "jaxseg"
    ]
    names = list(result["rows"])
    most = max([1.0, *(ratio for *_, ratio in rows)])
    height = 60 + len(names) * (2 * _BAR + _GAP)
    picture = Image.new("RGB", (_WIDTH, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    scale = (_WIDTH - _LABEL - 190) / most
    draw.text(
        (10, 10),
        f"PyTorch's seconds by jaxseg's, {result['platform']}: right of the line jaxseg is faster",
        "black",
        font,
    )
    line = _LABEL + scale
    draw.line((line, 40, line, height - 5), COLOURS["jaxseg"], 2)
    for i, name in enumerate(names):
        top = 50 + i * (2 * _BAR + _GAP)
        draw.text((10, top + 5), name, "black", font)
        for j, side in enumerate(("published", "tuned")):
            ratio = next((r for n, s, r in rows if (n, s) == (name, side)), None)
            if ratio is None:
                continue
            y = top + j * _BAR
            draw.rectangle((_LABEL, y, _LABEL + ratio * scale, y + _BAR - 2), COLOURS[side])
            place, text = (_LABEL + ratio * scale + 5, y - 2), f"{ratio:.2f} {TITLES[side]}"
            draw.text(place, text, "black", font, stroke_width=2, stroke_fill="white")
    picture.save(path)


def _seconds(side: dict | None) -> str:
    if side is None:
        return ""
    low, high = side["quartiles_s"]
    return f"{1e3 * side['median_s']:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"


def _memory(side: dict) -> float:
    return side.get("device_gb") or side["peak_gb"]
