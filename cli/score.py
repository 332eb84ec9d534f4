"""`jaxseg score`: how good are these masks of organs in CTs? (SegAE / Quality Sentinel)"""

import hashlib
import sys
from pathlib import Path

import click

from jaxseg.cli import options
from jaxseg.cli.progress import progress

_PATH = click.Path(path_type=Path)
WORST = 20  # masks of a picture that an earlier run left


@click.command()
@click.option(
    "--weights", type=_PATH, help="A training run, a model directory or a .pth.  [default: published weights]"
)
@click.option(
    "--embeddings", type=_PATH, help="Text embeddings that the weights lack: label_embedding.pkl, .npz or .npy."
)
@click.option("--ct", type=_PATH, help="A CT: .nii.gz, .nii, .npy, .npz, or a folder of DICOM slices.")
@click.option("--mask", type=_PATH, help="With --ct: a mask, of 0 and 1.")
@click.option("--organ", help="With --mask: its organ, by name (DAP-Atlas, TotalSegmentator v1 or v2) or class.")
@click.option(
    "--labels", type=_PATH, help="With --ct, in place of --mask: a volume of labels, all of which are scored."
)
@click.option(
    "--label-names", type=_PATH, help="CSV or JSON of labels and organs.  [default: labels are DAP-Atlas classes]"
)
@click.option("--dataset", type=_PATH, help="A folder of CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz.")
@click.option("-o", "--output", type=_PATH, help="CSV: a row a case, a column an organ. Needed with --dataset.")
@click.option(
    "--organs",
    "columns",
    type=click.Choice(["auto", "v1", "v2", "present"]),
    default="auto",
    show_default=True,
    help="Columns of a data set: the 104 names of TotalSegmentator v1 and what else is there (auto), those alone (v1, "
    "as the original), the 117 of v2, or what is there (present).",
)
@click.option("--slices", default="10", show_default=True, help="Slices a mask, spread over it, or all.")
@click.option("--per-slice", is_flag=True, help="Show every slice; with -o, in NAME.slices.csv.")
@click.option(
    "--worst", type=click.IntRange(1), help="List so many masks to look at first; with -o, also as a picture."
)
@click.option(
    "--rank",
    type=click.Choice(["annotate", "trust"]),
    help="With -o: write the order in which to annotate masks (worst first) or to trust them, NAME.RANK.csv.",
)
@click.option(
    "--names",
    type=click.Choice(["right", "original"]),
    default="right",
    show_default=True,
    help="original: face is the left cheek and urinary_bladder the prostate, as in the original's table.",
)
@click.option(
    "--canonical/--as-stored",
    default=None,
    help="Turn volumes to the patient's axes, or not.  [default: as the model was trained; the original: not]",
)
@click.option("--batch-size", type=click.IntRange(1), help="Slices at once.  [default: 10 on CPUs, else 128]")
@options.gpus
@click.option("--overwrite", is_flag=True, help="Score again what the CSV holds.")
def score(**settings):
    """Predict the Dice of masks of organs in CTs, without knowing the truth.

    One mask:       jaxseg score --weights RUN --ct CT --mask MASK --organ liver

    One volume:     jaxseg score --weights RUN --ct CT --labels LABELS

    A data set:     jaxseg score --weights RUN --dataset DIR -o results.csv --worst 20

    A data set goes on past bad masks and cases, which are listed, and a second run goes on where the first ended.
    """
    given = {name for name in ("mask", "labels", "dataset") if settings[name]}
    _check(given, settings)
    (_one if "mask" in given else _many)(settings)


def _check(given: set[str], settings: dict) -> None:
    """Refuses options that mean nothing together."""
    if len(given) != 1:
        raise click.UsageError("name one of --mask, --labels (both with --ct) and --dataset")
    if ("dataset" in given) == bool(settings["ct"]):
        raise click.UsageError("--ct belongs to --mask or --labels; a data set has its own")
    if ("mask" in given) != bool(settings["organ"]):
        raise click.UsageError("--mask and --organ belong together")
    if settings["label_names"] and "labels" not in given:
        raise click.UsageError("--label-names belongs to --labels")
    if "dataset" in given and not settings["output"]:
        raise click.UsageError("--dataset needs -o, the CSV")
    if "mask" in given and any(settings[name] for name in ("output", "worst", "rank")):
        raise click.UsageError("-o, --worst and --rank are for many masks: --labels or --dataset")
    for name in ("rank", "overwrite"):
        if settings[name] and not settings["output"]:
            raise click.UsageError(f"--{name} needs -o, the CSV")
    if settings["columns"] != "auto" and "dataset" not in given:
        raise click.UsageError("--organs belongs to --dataset")


def _slices(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise click.UsageError(f"--slices: {text!r} is neither a whole number from 1 on nor all")
    return int(text)


def _scorer(settings: dict):
    """The Scorer of the command's options, and all that its scores depend on."""
    from jaxseg.devices import select_devices
    from jaxseg.segae.published import open_model
    from jaxseg.segae.score import Scorer

    slices = _slices(settings["slices"])
    with options.usage_errors("--gpus"):
        devices = select_devices(settings["gpus"])
    with options.usage_errors("--weights, --embeddings, --batch-size"):
        model = open_model(settings["weights"] or "segae", embeddings=settings["embeddings"])
        batch = {"batch_size": settings["batch_size"], "devices": devices}
        scorer = Scorer(model, slices=slices, names=settings["names"], **batch)
    if settings["canonical"] is None:
        settings["canonical"] = scorer.canonical
    elif settings["canonical"] != scorer.canonical:
        known = "turned to the patient's axes" if scorer.canonical else "as stored"
        options.say(f"Warning: the model was trained on volumes {known}")
    card = model.card
    embeddings = hashlib.sha256(model.embeddings[...].tobytes()).hexdigest()
    identity = {"weights": card.params_sha256 or card.source_sha256, "embeddings": embeddings}
    identity |= {"slices": settings["slices"], "size": scorer.size, "dtype": dict(card.config)["dtype"]}
    identity |= {"kind": "dataset" if settings["dataset"] else "labels"}
    return scorer, identity | {name: settings[name] for name in ("names", "canonical")}


def _one(settings: dict) -> None:
    """Scores one mask."""
    from jaxseg.segae import score as scoring
    from jaxseg.vocabulary import organs

    with options.usage_errors("--organ"):
        organ = organs.find(settings["organ"], names=settings["names"])  # before anything is read
    scorer, _ = _scorer(settings)
    with options.usage_errors("--ct, --mask, --organ"):
        volumes, way = (settings["ct"], settings["mask"]), {"canonical": settings["canonical"], "per_slice": True}
        found = scoring.score(*volumes, organ.id, scorer, **way)
    if settings["per_slice"]:
        for z, predicted in zip(found.slices, found.dice, strict=True):
            click.echo(f"slice {z}\t{predicted:.4f}")
    if found.mean is None:
        options.say(f"{settings['mask'].name}: the mask is empty, so there is nothing to score")
    click.echo(f"{organ.name}\t{'n/a' if found.mean is None else format(found.mean, '.4f')}")


def _many(settings: dict) -> None:
    """Scores a volume of labels or a data set."""
    from jaxseg import files
    from jaxseg.segae.cases import score_cases
    from jaxseg.segae.table import Table

    cases = _cases(settings)
    output = settings["output"]
    if output is None:
        scorer, _ = _scorer(settings)
        (record,) = score_cases(cases, scorer, canonical=settings["canonical"])
        _show(record, settings)
        return
    if output.suffix.lower() != ".csv":
        raise click.UsageError(f"-o: {output.name} is no .csv")
    scorer, identity = _scorer(settings)
    columns = _columns(cases, settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.only_writer(output.parent):
        files.sweep(output.parent)
        with options.usage_errors("-o"):
            table = Table(output, columns, identity, overwrite=settings["overwrite"])
            todo = [case for case in cases if not table.has(case)]
        failed = 0
        with progress(len(cases), "cases", done=len(cases) - len(todo)) as step:
            for case, record in zip(todo, score_cases(todo, scorer, canonical=settings["canonical"]), strict=True):
                table.add(case, record)
                failed += bool(record.failed)
                _tell(record)
                step(case.name)
        table.write()
        _further(table, cases, settings)
    options.say(f"{len(todo) - failed} done, {len(cases) - len(todo)} were there, {failed} with failures: {output}")
    if failed:
        sys.exit(1)


def _cases(settings: dict) -> tuple:
    from jaxseg.segae import sources as segae_sources
    from jaxseg.segae.cases import Case, find_cases
    from jaxseg.volumes.read import stem

    if settings["dataset"]:
        with options.usage_errors("--dataset"):
            return find_cases(settings["dataset"])
    names = settings["label_names"]
    with options.usage_errors("--label-names"):
        table = segae_sources.read_table(names) if names else segae_sources.dap_table()
    for option in ("ct", "labels"):
        if not settings[option].exists():
            raise click.UsageError(f"--{option}: {settings[option]}: no such file")
    ct = settings["ct"].resolve()
    name = stem(ct) or ct.name
    name = ct.parent.name if name == "ct" else name  # CASE/ct.nii.gz
    return (Case(name, ct, labels=settings["labels"], table=table, source=str(ct)),)


def _columns(cases: tuple, settings: dict) -> list[str]:
    """The organs of the CSV."""
    from jaxseg.vocabulary.organs import totalsegmentator

    there = sorted({name for case in cases for name in case.names})
    if settings["labels"]:
        return list(cases[0].names)
    if settings["columns"] == "present":
        return there
    known = list(totalsegmentator(2 if settings["columns"] == "v2" else 1))
    return known + [name for name in there if name not in known] if settings["columns"] == "auto" else known


def _show(record, settings: dict) -> None:
    """Prints what became of a volume of labels."""
    _tell(record)
    scores = sorted(record.scores.items(), key=lambda item: item[1].mean)
    for name, found in scores[: settings["worst"]]:
        if settings["per_slice"]:
            for z, predicted in zip(found.slices, found.dice, strict=True):
                click.echo(f"{name}, slice {z}\t{predicted:.4f}")
        click.echo(f"{name}\t{found.mean:.4f}")
    if not scores:
        options.say("nothing was scored")
    if record.failed:
        sys.exit(1)


def _tell(record) -> None:
    """Tells what was not scored, but for masks that are empty, and remarks."""
    for note in dict.fromkeys(record.notes):
        options.say(f"Warning: {record.case}: {note}")
    for name, why in record.failed.items():
        options.say(f"Failed: {'/'.join(part for part in (record.case, name) if part)}: {why}")
    without = [name for name, why in record.absent.items() if why != "empty"]
    if without:
        options.say(f"{record.case}: no class of the DAP-Atlas: {', '.join(without)}")


def _further(table, cases: tuple, settings: dict) -> None:
    """Writes what is wanted beside the CSV, and anew what an earlier run left there."""
    from jaxseg.draw.save import save_picture
    from jaxseg.segae.table import ORDERS
    from jaxseg.segae.worst import worst_picture

    def there(end: str) -> Path | None:
        path = table.path.with_name(f"{table.path.stem}.{end}")
        return path if path.exists() else None

    if settings["per_slice"] or there("slices.csv"):
        options.say(f"slices: {table.write_slices()}")
    for order in ORDERS:
        if settings["rank"] == order or there(f"{order}.csv"):
            options.say(f"order: {table.write_order(order)}")
    rows = table.ordered()[: settings["worst"] or WORST]
    for row in rows if settings["worst"] else ():
        click.echo(f"{row.case}\t{row.organ}\t{row.score.mean:.4f}")
    if rows and (settings["worst"] or there("worst.png")):
        picture = worst_picture(rows, cases, canonical=settings["canonical"])
        if picture is not None:
            path = table.path.with_name(f"{table.path.stem}.worst.png")
            save_picture(picture, path)
            options.say(f"picture: {path}")
