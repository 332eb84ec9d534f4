"""`jaxseg pipeline`: segments, restores, checks, measures, compares and reports, as one file says."""

import contextlib
import dataclasses
import importlib.resources
import sys
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.progress import COMPILING, Forecast, download_progress, item_progress
from jaxseg.cli.runs import Notes, inference_devices, show_note, show_outcome

_TITLES = {
    "segment": "Segmenting",
    "restore": "Restoring masks",
    "measure": "Measuring",
    "compare segment": "Comparing the masks with the true ones",
    "compare restore": "Comparing the restored masks with the true ones",
    "report": "Writing the report",
}


class _WithExample(click.Command):
    """A command whose help ends with a whole example configuration."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example of CONFIG.yaml"):
            for line in example().splitlines():
                formatter.write(f"  {line}\n")


def example() -> str:
    """Returns the example of a configuration, which is packaged with jaxseg."""
    return importlib.resources.files("jaxseg.configs").joinpath("pipeline.yaml").read_text(encoding="utf-8")


@click.command(cls=_WithExample, short_help="Segment, restore, check, measure, compare and report, as one file says.")
@click.argument("config", metavar="CONFIG.yaml", type=click.Path(path_type=Path))
@options.source("Image (png, jpg, DICOM) or folder of images.")
@options.output("Folder of the results.")
@click.option(
    "--truth",
    type=options.ExistingPath("a folder or a file of true masks"),
    help="True masks to compare with, instead of `compare.truth` in the configuration.",
)
@options.recursive
@click.option(
    "--overwrite",
    is_flag=True,
    help="Redo the stages whose settings have changed, and those after them; all stages if none has changed.",
)
@options.gpus
def pipeline(config, source, output, truth, recursive, overwrite, gpus):
    """Run the stages of a configuration on X-rays: segment, restore, check, measure, compare, report.

    Each stage does what the command of the same name does: segment; segment --denoise; segment --confidence; extract
    --masks; compare; report. Before the first stage starts, the configuration is checked, and whether it fits the
    models, the images and the true masks.

    The folder gets masks/ and restored/ (masks), review.csv (masks that a person should check), measurements/,
    comparison/, report.html, and pipeline.json, the summary that is also printed.

    A second run does only what is missing, also after it was killed. Images that have changed are processed again. If
    settings of the masks or measurements, or weights, have changed, the command stops rather than mix results;
    --overwrite then redoes what depends on them. Images that fail are listed, the others are processed, and the exit
    code is 1.
    """
    console.stage("reading weights")
    from jaxseg.pipeline.config import read_pipeline
    from jaxseg.pipeline.plan import make_plan
    from jaxseg.pipeline.run import run_pipeline

    with options.usage_errors():
        settings = read_pipeline(config, truth=truth)
    devices = inference_devices(gpus)
    with options.usage_errors(), download_progress() as progress:
        plan = make_plan(settings, source, output, recursive=recursive, devices=devices, progress=progress)
    for card in (plan.segmenter.card, *([plan.restoring.denoiser.card] if plan.restoring else [])):
        show_note(card)
    notes = Watchers()
    with resumable(lambda: "The same command continues where it stopped."):
        result = run_pipeline(plan, overwrite=overwrite, watch=notes.watch)
    notes.finish()
    finish(result, output)


class Watchers:
    """Shows the stages of a pipeline on the terminal; a note on an image is shown once, and not for every stage."""

    def __init__(self) -> None:
        self.notes = Notes("images")
        self._shown: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def watch(self, stage: str):
        """Yields the `jaxseg.pipeline.run.Watch` of a stage."""
        from jaxseg.files import printable
        from jaxseg.pipeline.run import Watch

        console.say(f"{_TITLES[stage]} ...")
        forecast = Forecast("images")

        def report(outcome) -> None:
            forecast.report(outcome)
            show_outcome(dataclasses.replace(outcome, notes=self._new(outcome.item.source, outcome.notes)), self.notes)

        def tell(name: str, reason: str, notes: tuple[str, ...]) -> None:
            self.notes.show(Path(name), self._new(Path(name), notes))
            if reason:
                console.say(f"Failed: {printable(name)}: {printable(reason)}")

        first, every = COMPILING if stage == "segment" else "", {"every": lambda total: max(1, total // 10)}
        with item_progress("images", first=first, **every) as show:

            def progress(done: int, total: int, name: str) -> None:
                show(done, total, name)
                forecast.progress(done, total, name)

            yield Watch(progress, report, tell)

    def finish(self) -> None:
        """Shows how many more images have a note."""
        self.notes.finish()

    def _new(self, image: Path, notes) -> tuple[str, ...]:
        found = tuple(note for note in notes if (image.name, note) not in self._shown)
        self._shown |= {(image.name, note) for note in found}
        return found


def finish(result, output: Path) -> None:
    """Prints the summary of a pipeline, and exits with 1 if an image failed."""
    show_tables(result.tables)
    done = sum(stage.get("done", 0) for stage in result.stages.values())
    skipped = sum(stage.get("skipped", 0) for stage in result.stages.values())
    counts = f"{done} results made, {skipped} up to date, {len(result.failed)} failed"
    files = ", ".join(path.name for path in (result.report, result.record) if path)
    console.say(f"{counts}; the results are in {output} ({files})")
    if result.failed:
        sys.exit(1)


def show_tables(tables) -> None:
    """Prints the tables of a pipeline on stdout."""
    for table in tables:
        console.show(f"{table.title}:")
        console.show_rows([table.header, *table.rows])
