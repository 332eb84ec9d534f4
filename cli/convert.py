"""`jaxseg convert`: converts a PyTorch file to a model directory."""

from pathlib import Path

import click

from jaxseg.cli import console, options


@click.command(short_help="Convert a PyTorch file to a model directory.")
@click.argument("source", type=options.ExistingPath("a .pth, .pt, .ckpt or .pkl file"))
@click.argument("destination", type=click.Path(path_type=Path))
@options.model("recognised by its tensors")
@options.labels
@options.embeddings("to store with a segae")
@options.replace("a model directory at DESTINATION")
def convert(source, destination, model, labels_file, embeddings, overwrite):
    """Convert the PyTorch file SOURCE to the model directory DESTINATION.

    Reads .pth, .pt, .ckpt and .pkl files without PyTorch and without executing anything in them. DESTINATION will
    contain the parameters (safetensors) and card.json: model, hyper-parameters, class names, the SHA-256 of SOURCE and
    the licence of the weights.
    """
    console.stage("reading weights")
    from jaxseg import registry
    from jaxseg.devices import select_devices
    from jaxseg.weights import load

    select_devices("cpu")  # nothing is computed

    if model:
        with options.usage_errors("--model"):
            registry.find(model)
    names = options.class_names(labels_file)
    load.convert(source, destination, model=model, class_names=names, embeddings=embeddings, overwrite=overwrite)
    console.show(f"{destination}: {_line(destination)}")


def _line(destination: Path) -> str:
    from jaxseg.card import read_card

    card = read_card(destination)
    licence = f"; licence of the weights: {card.licence}" if card.licence else ""
    return f"model {card.model}, {len(card.class_names)} classes, from {card.source}{licence}"
