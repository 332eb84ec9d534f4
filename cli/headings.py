"""The order of commands and options in `--help`, under headings."""

import functools
from collections.abc import Iterable

import click

# Headings of `--help` -> options under them, the most used first. Every option of every command is listed.
HEADINGS = {
    "Input": (
        *("--url", "--since", "--once", "--every", "--port", "--host", "--aet", "--allow", "--any-body-part"),
        *("--max-file-mb", "--max-disk-gb", "--user", "--ca"),
        *(
            "--config",
            "--run",
            "--input",
            "--files",
            "--part",
            "--kind",
            "--recursive",
            "--ct",
            "--mask",
            "--label-volume",
        ),
        *("--masks", "--prediction", "--truth", "--consensus", "--spacing"),
        *("--organ", "--dataset", "--labels", "--label", "--label-names", "--names-table", "--names"),
        *("--organs", "--canonical", "--slices", "--split", "--step"),
        *("--xml", "--pseudo", "--intensity", "--any-modality", "--preprocessing", "--grey", "--normalise", "--resize"),
        *("--reference", "--check-orientation", "--no-correction", "--build-reference"),
    ),
    "Output": (
        *("--state", "--send", "--secondary-capture"),
        *("--output", "--output_type", "--feature", "--features", "--classes", "--groups", "--samples", "--preview"),
        *("--confidence", "--probabilities", "--edges"),
        *("--table", "--save-mask", "--reference-out", "--overwrite", "--merged", "--partial", "--draw", "--store_seg"),
        *("--labelmap",),
        *("--strict-projection", "--soft", "--title", "--alpha", "--sides", "--report", "--per-slice", "--worst"),
        *("--rank", "--original-values", "--platforms", "--image-size", "--json", "--to", "--sha256"),
    ),
    "Model": (
        *("--model", "--weights", "--fidelity", "--threshold", "--embeddings", "--denoise"),
        *("--average", "--calibrated"),
        *("--shape-check", "--denoise-classes", "--union", "--largest-component", "--tta", "--source", "--score"),
    ),
    "Service": ("--host", "--port", "--token", "--token-file", "--allow-host", "--queue"),
    "Settings": (
        *("--mode", "--resume", "--set", "--steps", "--trials", "--search", "--full-trials", "--keep-all", "--train"),
        *("--evaluate", "--calibrate", "--segmenter", "--stages"),
        *("--validate", "--test", "--val-fraction", "--test-fraction", "--size", "--noise", "--per-organ", "--seed"),
        *("--grouping", "--least-slices", "--least-readers", "--least-pixels", "--most-pixels", "--clahe"),
        "--tolerance",
    ),
    "Speed": (
        *("--gpus", "--batch-size", "--dtype", "--cache", "--ray"),
        *("--hosts", "--coordinator", "--num-processes", "--process-id"),
    ),
    "Help": ("--debug", "--version", "--help"),
}


def grouped(command: click.Command) -> click.Command:
    """Makes a command list its options in `--help` under the headings of `HEADINGS`, and returns it.

    The first option name that starts with "--" decides. New options of any command must be listed in `HEADINGS`.
    """
    command.format_options = functools.partial(_format_options, command)
    return command


def _format_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    place = {
        name.replace("_", "-"): (heading, i) for heading, names in HEADINGS.items() for i, name in enumerate(names)
    }
    rows: dict[str, list] = {heading: [] for heading in HEADINGS}
    for number, parameter in enumerate(command.get_params(context)):
        record = parameter.get_help_record(context)
        if record is None or isinstance(parameter, click.Argument):  # the usage line shows arguments
            continue
        long = next((name.replace("_", "-") for name in parameter.opts if name.startswith("--")), "")
        heading, order = place.get(long, ("Help", len(place)))
        rows[heading].append((order, number, record))
    for heading, found in rows.items():
        if found:
            with formatter.section(heading):
                formatter.write_dl([record for _, _, record in sorted(found, key=lambda row: row[:2])])
    if isinstance(command, click.Group):
        write_commands(formatter, "Commands", command.commands.values())


def write_commands(formatter: click.HelpFormatter, heading: str, commands: Iterable[click.Command]) -> None:
    """Writes commands with their whole summaries under a heading of `--help`."""
    with formatter.section(heading):
        formatter.write_dl([(command.name, command.get_short_help_str(limit=200)) for command in commands])
