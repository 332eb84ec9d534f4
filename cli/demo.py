"""`jaxseg demo`: the main job on phantoms, without any download or data."""

import contextlib
import shlex
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.pipeline import Watchers, show_tables
from jaxseg.cli.progress import step_callbacks


@click.command(short_help="Train small networks on phantom X-rays in a minute, and run everything on unseen ones.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo",
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "--steps", type=click.IntRange(1), help="Number of training steps.  [default: 240, about a minute on 2 cores]"
)
@options.gpus_uncached
def demo(output, steps, gpus):
    """Train a small network on phantom X-rays for a minute, segment unseen ones, and run the pipeline on damaged ones.

    Phantoms are drawn from formulas, so the true masks are known; they do not show the anatomy of real X-rays. The
    output folder gets the phantoms, one PNG per class, the model, contact_sheet.png and report.html.

    Then a small Post-DAE learns the shapes of lungs, and `jaxseg pipeline` runs on phantoms with damaged contrast:
    damaged.png and pipeline/report.html show what each stage changed.
    """
    console.stage("starting JAX")
    import jax

    from jaxseg.devices import select_devices
    from jaxseg.pipeline import demo as job
    from jaxseg.report.build import write_report

    with options.usage_errors("--gpus"):
        device = select_devices(gpus)[0]
    jax.config.update("jax_default_device", device)
    config = job.start(output, steps)
    size = config.data.size
    console.say(f"Training a small U-Net on {config.data.train} phantom X-rays of {size} x {size} pixels ...")
    model = _train(job.train, config, output, device, total=config.trainer.max_steps)
    console.stage("segmenting unseen phantoms, and writing the report")
    paths, means = job.segment_unseen(model, output, device, 2 * size)  # in practice sizes differ, too
    notice = "Phantoms drawn from formulas, segmented by jaxseg demo"
    write_report(paths, output / "masks", output / "report.html", title=notice, features="area, centroid")
    config = job.start_restoring(output, steps)
    console.say(f"Training a small Post-DAE on the lungs of {job.SHAPE_COUNT} phantoms ...")
    restorer = _train(job.train_restorer, config, output, device, total=config.trainer.max_steps)
    console.say("Running the pipeline on phantoms with damaged contrast:")
    watchers = Watchers()
    result = job.run_chain(output, device, {"segment": model, "restore": restorer}, 2 * size, watchers.watch)
    watchers.finish()
    _tell(output, len(paths), means)
    _tell_chain(output, result)


def _train(train, config, output: Path, device, *, total: int):
    """Trains with a progress bar, and returns the model."""
    with contextlib.ExitStack() as stack:
        return train(config, output, device, **step_callbacks(stack, "training", every=max(1, total // 10)))


def _tell(output: Path, count: int, means: dict[str, float]) -> None:
    """Prints the scores, and where the results are."""
    console.show(f"Dice on {count} unseen phantoms (1 is perfect):")
    for name, value in means.items():
        console.show(f"  {name:12s} {value:.3f}")
    console.show(f"Look at {output / 'contact_sheet.png'}, or open {output / 'report.html'} in a browser.")
    console.show(f"The masks are in {output / 'masks'}, the training run is in {output / 'training'}.")
    console.show("Segment with this model:")
    images, weights = (shlex.quote(str(output / name)) for name in ("images", "training"))
    console.show(f"  jaxseg segment -i {images} -o out --weights {weights}")


def _tell_chain(output: Path, result) -> None:
    """Prints the summary of the pipeline, and how to run it."""
    console.show("")
    console.show("The pipeline on phantoms with a veil over a part of a lung:")
    show_tables(result.tables)
    console.show(f"Look at {output / 'damaged.png'}, or open {result.report} in a browser.")
    console.show("Run the pipeline again; it does only what is missing:")
    config, images = (shlex.quote(str(output / name)) for name in ("pipeline.yaml", "damaged/images"))
    console.show(f"  jaxseg pipeline {config} -i {images} -o {shlex.quote(str(output / 'pipeline'))}")
