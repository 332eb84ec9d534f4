"""`jaxseg merge`: joins the results of parts that several processes or machines have computed."""

import sys
from pathlib import Path

import click

from jaxseg.cli import console
from jaxseg.files import printable


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Merge what there is, although something is missing. The parts stay.")
def merge(output: Path, partial: bool) -> None:
    """Join the parts of a run with --part into the results of one run.

    OUTPUT is the folder that the parts share (-o), or the table (.csv or .parquet) of jaxseg score. The summaries
    become summary.json, and what a run without parts writes for all files is written: the table of jaxseg extract or
    score, confidence.csv, the COCO file of -ot json, and masks.jsonl or masks.parquet. It checks first that no part is
    missing, that every file is in exactly one part, and that all results exist. If something is missing, nothing is
    changed, and the exit code is 1. Files that failed are counted; they are not missing.
    """
    from jaxseg.folder_runs.merge import merge_folder

    if output.suffix.lower() not in (".csv", ".parquet"):
        found = merge_folder(output, partial=partial)
    else:
        from jaxseg.segae.merge_scores import merge_scores

        found = merge_scores(output, partial=partial)
    for problem in found.problems:
        console.say(f"{'Warning' if found.merged else 'Missing'}: {printable(problem)}")
    if not found.parts:
        console.say(f"{output}: nothing to merge; there are no parts")
        return
    counts = f"{found.parts} parts, {found.done} done, {found.failed} failed"
    if found.merged:
        console.say(f"{counts}; the results are in {', '.join(str(path) for path in found.merged)}")
    else:
        console.say(f"{counts}; nothing was merged (--partial merges what there is)")
        sys.exit(1)
