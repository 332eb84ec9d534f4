"""`jaxseg models`: the models, their classes, and the sources of their weights."""

import json
from pathlib import Path

import click

from jaxseg import cpu, registry
from jaxseg.card import CARD_FILE, Card, read_card
from jaxseg.cli import console
from jaxseg.vocabulary import labels


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def models(name, as_json):
    """List the models. With NAME, list also the classes and groups of that model.

    NAME is a name in the list, a training run, a model directory, or a .safetensors file of `jaxseg convert`.
    """
    found = [_find(name)] if name else list(registry.ENTRIES)
    if as_json:
        click.echo(json.dumps([_fields(one) for one in found], indent=1))  # never wrapped
    else:
        console.show("\n\n".join(_text(one, whole=bool(name)) for one in found))


def _find(name: str) -> registry.Entry | Card:
    """Returns the model of a name, or the card of a training run or model directory."""
    from jaxseg.cli.options import usage_errors

    path = Path(name).expanduser()
    with usage_errors("NAME"):
        if name.lower() in registry.BY_NAME or not path.exists():
            return registry.find(name)
        if path.is_dir():
            inner = path / "model"
            return read_card(path if (path / CARD_FILE).is_file() or not (inner / CARD_FILE).is_file() else inner)
        return _card_in(path)


def _card_in(path: Path) -> Card:
    """Returns the card in a safetensors file that jaxseg has written."""
    if path.suffix.lower() == ".safetensors":
        from jaxseg.weights.store import file_card

        card = file_card(path)
        if card is not None:
            return card
    raise ValueError(f"{path} is a file without a card; name a training run, or a model that `jaxseg convert` has made")


def _fields(found: registry.Entry | Card) -> dict:
    if isinstance(found, Card):
        entry = registry.find(found.model)
        own = {"name": found.title, "model": found.model, "num_classes": len(found.class_names)}
        own |= {"weights": _origin(found), "licence": found.licence, "note": found.note}
        own |= {"project": entry.project, "citation": entry.citation, "onednn": cpu.onednn()._asdict()}
        return own | _classes(found.class_names)
    return {
        "name": found.name,
        "aliases": list(found.aliases),
        "title": found.title,
        "available": True,  # earlier versions listed models that they could not build
        "num_classes": found.num_classes,
        "weights": _weights(found),
        "licence": found.licence,
        "project": found.project,
        "citation": found.citation,
        "onednn": cpu.onednn()._asdict(),
    } | _classes(found.class_names or ())


def _classes(names: tuple[str, ...]) -> dict:
    groups = labels.GROUPS.get(names, {})
    return {
        "classes": list(names),
        "groups": {group: [names[i] for i in members] for group, members in groups.items()},
    }


def _text(found: registry.Entry | Card, whole: bool) -> str:
    if isinstance(found, Card):
        entry = registry.find(found.model)
        lines = [f"{found.title}: {len(found.class_names)} classes, a model of the kind {found.model}"]
        lines += [f"  weights: {_origin(found)}"]
        lines += [f"  note: {found.note}"] if found.note else []
    else:
        entry, also = found, f" (also {', '.join(found.aliases)})" if found.aliases else ""
        lines = [f"{entry.name}{also}: {entry.title}", f"  weights: {_weights(entry)}"]
    lines += [f"  licence: {found.licence}"] if found.licence else []
    lines += [f"  from {entry.project}; {entry.citation}"]
    if whole and found.class_names:
        known = _classes(found.class_names)
        lines += ["  classes:"] + [f"    {i:3d} {name}" for i, name in enumerate(known["classes"])]
        groups = [f"    {group}: {len(members)} classes" for group, members in known["groups"].items()]
        lines += ["  groups:", *groups] if groups else []
        newer = labels.GROUP_VERSIONS["cxas-0.0.20"].get(found.class_names, {})
        older = labels.GROUPS.get(found.class_names, {})
        changed = [group for group, members in newer.items() if members != older.get(group)]
        lines += [f"  --groups cxas-0.0.20 adds vertebrae C7 to {' and '.join(changed)}"] if changed else []
    return "\n".join(lines)


def _origin(card: Card) -> str:
    return f"from {card.source}" if card.source else "trained with jaxseg"


def _weights(entry: registry.Entry) -> str:
    from jaxseg.files import user_cache
    from jaxseg.weights.home import places

    if entry.weights_file is None:
        return "none published; train the model, or pass --weights"
    for path in places(entry):
        if path.is_file():
            return str(path)
    how = "downloaded on first use" if entry.release_url or entry.drive_file else f"fetch it from {entry.weights_page}"
    place = user_cache() and places(entry)[0]
    return f"{entry.weights_file}, {how}; expected at {place or 'a place that JAXSEG_HOME must name'}"
