"""`jaxseg convert`: converts weights to a model directory or to a safetensors file."""

from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import fetched


@click.command(short_help="Convert weights to a model directory or to a safetensors file.")
@click.argument("source", type=options.ExistingPath(options.KINDS, hub=True))
@click.argument("destination", type=click.Path(path_type=Path))
@options.model("that of its card; without a card, recognised by its tensors")
@options.labels
@options.embeddings("to store with a segae")
@options.replace("a model at DESTINATION")
def convert(source, destination, model, labels_file, embeddings, overwrite):
    """Convert weights, SOURCE, to the model directory DESTINATION, or to a file if DESTINATION ends in .safetensors.

    Reads .pth, .pt, .ckpt and .pkl files of PyTorch without PyTorch and without executing anything in them, files that
    end in .safetensors, model directories, training runs, and hf://owner/name[@revision][/file] on the Hugging Face
    Hub. A model directory contains the parameters (safetensors) and card.json: model, hyper-parameters, class names,
    the SHA-256 of SOURCE and the licence of the weights. A file holds the card in its metadata, and its tensors have
    PyTorch's names and layout if the model has an original there.
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
    source = fetched(source, "SOURCE")
    load.convert(source, destination, model=model, class_names=names, embeddings=embeddings, overwrite=overwrite)
    console.show(f"{destination}: {_line(load.card_of(destination))}")


def _line(card) -> str:
    licence = f"; licence of the weights: {card.licence}" if card.licence else ""
    origin = f"from {card.source}" if card.source else "trained with jaxseg"
    return f"model {card.model}, {len(card.class_names)} classes, {origin}{licence}"
