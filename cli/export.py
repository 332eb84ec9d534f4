"""`jaxseg export`: writes a model as one StableHLO file."""

from pathlib import Path

import click

from jaxseg import registry
from jaxseg.cli import console, options
from jaxseg.cli.progress import download_progress
from jaxseg.cli.runs import fetched


@click.command(short_help="Export a model to a StableHLO file that runs without jaxseg's model code.")
@options.model("that of the weights")
@options.weights
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new file, .stablehlo; <file>.json beside it describes it.",
)
@click.option(
    "--platforms",
    default="cpu,cuda,tpu",
    show_default=True,
    metavar="NAMES",
    help="Platforms to export for, from cpu, cuda, rocm, tpu; they need not be present here.",
)
@click.option(
    "--image-size",
    metavar="H,W",
    help="Height and width of the images, if the network accepts any.  [default: those of its training]",
)
@options.labels
@options.embeddings("for a segae that is stored without them")
@options.dtype
@options.replace("an exported model at the output path")
def export(model, weights, output, platforms, image_size, labels_file, embeddings, dtype, overwrite):
    """Export the inference of a model with its parameters, for batches of any size.

    jaxseg.load_exported, or any program that reads files of jax.export, runs it without the model's code. Images must
    be preprocessed as the JSON file states. The licence of the weights applies to the file too.
    """
    if model is None and weights is None:
        raise click.UsageError("name a model with --model, or weights with --weights")
    if model is not None:
        with options.usage_errors("--model"):
            registry.find(model)
    console.stage("checking the options")
    from jaxseg.devices import select_devices
    from jaxseg.export.export import check_destination, check_platforms, export_model
    from jaxseg.export.exported import need_flatbuffers

    with options.usage_errors("--platforms"):
        names = check_platforms(tuple(name.strip().lower() for name in platforms.split(",")))
    with options.usage_errors("--image-size"):
        size = _size(image_size)
    with options.usage_errors("--output"):
        check_destination(output, overwrite=overwrite)
    need_flatbuffers()  # before weights are fetched
    select_devices("cpu")  # nothing is computed
    console.stage("reading weights")
    network = _loaded(model, weights, labels_file, embeddings, dtype)
    console.stage("exporting (about a minute for each platform of a large network)")
    facts = export_model(network, output, platforms=names, image_size=size, overwrite=overwrite)
    console.show(f"{output}: {_line(facts)}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = [side.strip() for side in text.split(",")]
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise ValueError(f"{text!r} must be height and width, such as 512,512")
    return int(sides[0]), int(sides[1])


def _loaded(model, weights, labels_file, embeddings, dtype):
    """Returns the model that the options name."""
    from jaxseg.weights.load import load

    names = options.class_names(labels_file)
    weights = fetched(weights)
    with download_progress() as update:
        chosen = {"dtype": dtype, "class_names": names, "embeddings": embeddings, "progress": update}
        return load(model, weights, **chosen) if model else load(weights, **chosen)


def _line(facts) -> str:
    taken = ", ".join(f"{one.name} {_shape(one)}" for one in facts.inputs)
    given = ", ".join(f"{one.name} {_shape(one)}" for one in facts.outputs)
    licence = f"; licence of the weights: {facts.licence}" if facts.licence else ""
    size = f"{facts.bytes / 2**20:.1f} MiB"
    return f"model {facts.model}, {taken} to {given}, for {', '.join(facts.platforms)}, {size}{licence}"


def _shape(tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))}) {tensor.dtype}"
