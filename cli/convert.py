"""`jaxseg convert`: a PyTorch file to a model directory."""

from pathlib import Path

import click

from jaxseg.cli import options


@click.command(short_help="PyTorch file to model directory.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="The file's model (`jaxseg models`).  [default: recognised by its tensors]")
@options.labels
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    help="Text embeddings to store with segae: label_embedding.pkl of the original project, .npz or .npy.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model directory that stands at DESTINATION.")
def convert(source, destination, model, labels_file, embeddings, overwrite):
    """Convert the PyTorch file SOURCE to the model directory DESTINATION.

    Reads .pth, .pt, .ckpt and .pkl without PyTorch and without executing anything in them. DESTINATION gets the
    parameters (Orbax) and card.json: model, hyper-parameters, class names, the source's SHA-256 and licence.
    """
    from jaxseg import registry
    from jaxseg.vocabulary import labels
    from jaxseg.weights import load

    if model:
        with options.usage_errors("--model"):
            registry.find(model)
    names = labels.read_names(labels_file) if labels_file else None
    load.convert(source, destination, model=model, class_names=names, embeddings=embeddings, overwrite=overwrite)
    click.echo(f"{destination}: {_line(destination)}")


def _line(destination: Path) -> str:
    from jaxseg.card import read_card

    card = read_card(destination)
    licence = f"; licence of the weights: {card.licence}" if card.licence else ""
    return f"model {card.model}, {len(card.class_names)} classes, from {card.source}{licence}"
