"""`jaxseg models`: the models, their classes, and the sources of their weights."""

import json

import click

from jaxseg import registry
from jaxseg.vocabulary import labels


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def models(name, as_json):
    """List the models. With NAME, list also the classes and groups of that model."""
    from jaxseg.cli.options import usage_errors

    with usage_errors("NAME"):
        entries = [registry.find(name)] if name else registry.ENTRIES
    if as_json:
        click.echo(json.dumps([_fields(entry) for entry in entries], indent=1))
        return
    click.echo("\n\n".join(_text(entry, whole=bool(name)) for entry in entries))


def _fields(entry: registry.Entry) -> dict:
    groups = labels.GROUPS.get(entry.class_names, {})
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "title": entry.title,
        "available": True,  # earlier versions listed models that they could not build
        "num_classes": entry.num_classes,
        "classes": list(entry.class_names or ()),
        "groups": {group: [entry.class_names[i] for i in members] for group, members in groups.items()},
        "weights": _weights(entry),
        "licence": entry.licence,
        "project": entry.project,
        "citation": entry.citation,
    }


def _text(entry: registry.Entry, whole: bool) -> str:
    also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
    lines = [f"{entry.name}{also}: {entry.title}"]
    lines += [f"  weights: {_weights(entry)}", f"  licence: {entry.licence}"]
    lines += [f"  from {entry.project}; {entry.citation}"]
    if whole and entry.class_names:
        lines += ["  classes:"] + [f"    {i:3d} {name}" for i, name in enumerate(entry.class_names)]
        groups = labels.GROUPS.get(entry.class_names, {})
        lines += ["  groups:"] + [f"    {group}: {len(members)} classes" for group, members in groups.items()]
    return "\n".join(lines)


def _weights(entry: registry.Entry) -> str:
    from jaxseg.weights.home import home, places

    if entry.weights_file is None:
        return "none published; train the model, or pass --weights"
    for path in places(entry):
        if path.is_file():
            return str(path)
    how = "downloaded on first use" if entry.drive_file else f"fetch it from {entry.weights_page}"
    place = home() and places(entry)[0]
    return f"{entry.weights_file}, {how}; expected at {place or 'a place that JAXSEG_HOME must name'}"
