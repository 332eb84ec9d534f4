"""Options that several commands share, and what stands for a wrong one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from jaxseg.files import printable

OUTPUT_TYPES = ("json", "npy", "npz", "jpg", "png", "dicom-seg")
PREPROCESSING = ("cxas", "paxray", "paxray_folder")
INTENSITIES = ("original", "clinical")

gpus = click.option(
    "-g",
    "--gpus",
    default="auto",
    show_default=True,
    metavar="DEVICES",
    help="auto (the first accelerator, else the CPU), cpu, gpu, tpu, or indices such as 0 or 0,1: the batch is "
    "spread over them. The original's default, 0, fails without a GPU.",
)
training_gpus = click.option(
    "-g",
    "--gpus",
    default="all",
    show_default=True,
    metavar="DEVICES",
    help="all (every device of the kind that JAX prefers, of all hosts), cpu, gpu, tpu, or indices such as 0,1: each "
    "batch is spread over them.",
)
weights = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A model directory, a training run or a PyTorch file. Default: the published weights, from the caches or "
    "downloaded once.",
)
labels = click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file with the class names (such as paxray.json), where the weights do not say.",
)
intensity = click.option(
    "--intensity",
    type=click.Choice(INTENSITIES),
    default="original",
    show_default=True,
    help="How grey values are read. original: as the published weights saw them in training, so it is the default "
    "(DICOM by its full range without window, 16-bit pictures clipped at 255). clinical: as a viewer shows them (DICOM "
    "with its window or look-up table, padding black, colour made grey; 16-bit pictures by their range).",
)

_OF_IMAGES = (
    click.option("-i", "--input", "source", required=True, type=click.Path(path_type=Path), help="Image or folder."),
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the results.",
    ),
    click.option(
        "-ot",
        "--output_type",
        type=click.Choice(OUTPUT_TYPES),
        help="Of masks. png/jpg: a folder an image, a picture a class; npy/npz: (classes, H, W) bool; json: COCO with "
        "run lengths; dicom-seg: a DICOM SEG object.  [default: png; npy for -m paxray]",
    ),
    gpus,
    click.option(
        "-m",
        "--model",
        help="`jaxseg models` lists them.  [default: what a model directory's card says, else UNet_ResNet50_default]",
    ),
    weights,
    labels,
    click.option("--batch-size", type=click.IntRange(1), help="Images at once.  [default: one a device]"),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="A pixel belongs to a class where its sigmoid exceeds this.",
    ),
    click.option(
        "--preprocessing",
        type=click.Choice(PREPROCESSING),
        help="How images become the network's input.  [default: what the weights were trained with]",
    ),
    intensity,
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        help="Arithmetic; bfloat16 is for accelerators, and processors with AMX; it changes masks at their edges.  "
        "[default: the model's]",
    ),
    click.option("--labelmap", is_flag=True, help="With -ot dicom-seg: one map of labels; classes must not overlap."),
    click.option("--preview", is_flag=True, help="Also write <image>.preview.jpg: the masks over the image."),
    click.option("--recursive", is_flag=True, help="Sub-folders too (a DICOMDIR tree, say); the output mirrors them."),
    click.option("--overwrite", is_flag=True, help="Redo images whose results are there."),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write versions, device, hashes and seconds a file here.",
    ),
)


def of_images(command: Callable) -> Callable:
    """Gives a command the options of every run of a network over images."""
    for option in reversed(_OF_IMAGES):
        command = option(command)
    return command


def of_extraction(required: bool) -> Callable[[Callable], Callable]:
    """Gives a command the options of measuring."""

    def decorate(command: Callable) -> Callable:
        added = (
            click.option(
                "-f",
                "--feature",
                "features",
                multiple=True,
                required=required,
                help="What to measure, again for each or with commas: CTR (Cardio-Thoracic Ratio), SCD (Spine-Center "
                "Distance), area, perimeter, compactness, centroid, box, convexity.",
            ),
            click.option("-s", "--store_seg", is_flag=True, help="Store the masks too."),
            click.option("--draw", is_flag=True, help="Also write <image>.lines.jpg: what was measured, drawn."),
            click.option(
                "--original-values",
                is_flag=True,
                help="Write the original's -1 (and boxes of 0) where nothing can be measured, not an empty cell.",
            ),
        )
        for option in reversed(added):
            command = option(command)
        return command

    return decorate


_OF_DENOISING = (
    click.option(
        "--union",
        is_flag=True,
        help="Restore the classes as one mask; each pixel of the result goes to the nearest class. For a model that "
        "was trained on all of them together, such as both lungs.",
    ),
    click.option(
        "--largest-component",
        type=click.IntRange(1),
        help="Of a restored mask keep so many connected parts, the largest.  [default: all]",
    ),
)


def of_denoising(command: Callable) -> Callable:
    """Gives a command the options of restoring masks."""
    for option in reversed(_OF_DENOISING):
        command = option(command)
    return command


def say(text: str) -> None:
    """Prints a line on stderr; names of files and tensors in it cannot steer the terminal."""
    click.echo("\n".join(printable(line) for line in text.split("\n")), err=True)


@contextlib.contextmanager
def usage_errors(option: str) -> Iterator[None]:
    """Turns a ValueError or a path that cannot be into a usage error (exit code 2) that names the option."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise click.UsageError(f"{option}: {error}") from None
