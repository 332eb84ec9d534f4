"""`jaxseg score`: predicts how good masks of organs in CTs are (SegAE / Quality Sentinel)."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.core import ParameterSource

from jaxseg.cli import cluster, cohort, console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.progress import COMPILING, Forecast, item_progress
from jaxseg.cli.runs import fetched, inference_devices

_EXISTING = options.ExistingPath("a .nii.gz, .nii, .npy or .npz file, or a folder of DICOM slices")
_MODELS = options.trained_kinds(".pth")


@click.command()
@options.fidelity(
    names=("original", "right"),
    canonical=(False, None),
    organs=("v1", "auto"),
    average=("slices", "area"),
    calibrated=(False, None),
)
@click.option("--ct", type=_EXISTING, help="A CT: .nii.gz, .nii, .npy, .npz, or a folder of DICOM slices.")
@click.option("--mask", type=_EXISTING, help="With --ct: a mask with the values 0 and 1.")
@click.option(
    "--organ",
    help="With --mask: the organ that the mask shows, by name (DAP-Atlas, TotalSegmentator v1 or v2) or class.",
)
@click.option(
    "--label-volume",
    cls=options.RenamedOption,
    earlier=("--labels",),
    type=_EXISTING,
    help="With --ct, instead of --mask: a volume of labels, all of which are scored.",
)
@click.option(
    "--label-names",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --label-volume: CSV or JSON table of labels and organs.  [default: the table in the NIfTI header, as "
    "TotalSegmentator --ml writes it; without one, DAP-Atlas classes]",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Instead of --ct: a folder of CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz.",
)
@cohort.of_cohort("cases", where="--dataset")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table with one row per case and one column per organ, a .csv or .parquet file. Required with --dataset.",
)
@click.option("--per-slice", is_flag=True, help="Show every slice; with -o, write them to NAME.slices.csv.")
@click.option(
    "--worst",
    type=click.IntRange(1),
    help="List this number of masks with the lowest predicted Dice; with -o, also draw them to NAME.worst.png, with "
    "the patient's right on the left and anterior at the top.",
)
@click.option(
    "--rank",
    type=click.Choice(["annotate", "trust"]),
    help="With -o: write the order in which to annotate masks (worst first) or to trust them (best first) to "
    "NAME.RANK.csv.",
)
@click.option(
    "--organs",
    type=click.Choice(["auto", "v1", "v2", "present"]),
    default="auto",
    show_default=True,
    help="Columns of the CSV of a data set: the 104 names of TotalSegmentator v1 and other names in the data set "
    "(auto), only the 104 (v1, as the original), the 117 names of v2, or the names in the data set (present).",
)
@cluster.of_ray("cases of --dataset")
@options.overwrite("cases")
@click.option(
    "--weights",
    type=options.ExistingPath(_MODELS, names=("segae",), hub=True),
    help=f"Model to use: {_MODELS}.  [default: the published weights]",
)
@options.embeddings("for weights that are stored without them")
@click.option("--slices", default="10", show_default=True, help="Number of slices to score per mask, or all.")
@click.option(
    "--average",
    type=click.Choice(["slices", "area"]),
    default="slices",
    show_default=True,
    help="Score of a mask: the mean of its slices, as in the original, or weighted by the area of the mask in each.",
)
@click.option(
    "--calibrated/--uncalibrated",
    default=None,
    help="Whether to apply the calibration of the model, which also gives an interval for --average slices.  "
    "[default: if it has one]",
)
@click.option(
    "--names",
    type=click.Choice(["right", "original"]),
    default="right",
    show_default=True,
    help="original: face means the left cheek and urinary_bladder the prostate, as in the original's table.",
)
@click.option(
    "--canonical/--as-stored",
    default=None,
    help="Whether to turn volumes to the patient's axes.  [default: as the model was trained; the original does not]",
)
@options.batch_size("10 on CPUs, otherwise 128", "slices")
@options.gpus_uncached
def score(
    ct,
    mask,
    organ,
    label_volume,
    label_names,
    dataset,
    listed,
    part,
    address,
    output,
    per_slice,
    worst,
    rank,
    organs,
    overwrite,
    **settings,
):
    """Predict the Dice of masks of organs in CTs without knowing the true masks.

    One mask:       jaxseg score --weights RUN --ct CT --mask MASK --organ liver

    One volume:     jaxseg score --weights RUN --ct CT --label-volume LABELS

    A data set:     jaxseg score --weights RUN --dataset DIR -o results.csv --worst 20

    With a data set, bad masks and cases are listed and the others are scored; a second run resumes where the first one
    ended.
    """
    given = {"mask": mask, "label-volume": label_volume, "dataset": dataset, "ct": ct, "organ": organ}
    given |= {"label-names": label_names} | {"o": output, "worst": worst, "rank": rank, "overwrite": overwrite}
    source = click.get_current_context().get_parameter_source("organs")
    given |= {"organs": organs != "auto" and source is not ParameterSource.DEFAULT}
    given |= {"files": listed, "part": part, "ray": address}
    _check({name for name, value in given.items() if value})
    gpus = settings["gpus"]
    ray = cluster.connect(address, gpus=gpus, part=part)
    part = cohort.part_of(part, many=dataset is not None) if address is None else None
    console.stage("reading weights")
    model = _model_options(**settings | {"gpus": cluster.devices_here(address, gpus)})
    if mask:
        _score_mask(ct, mask, organ, per_slice, model)
        return
    written = {"per_slice": per_slice, "worst": worst, "rank": rank, "overwrite": overwrite} if output else {}
    if label_volume:
        found = _score_many("score_labels", (ct, label_volume, output), {"label_names": label_names} | written | model)
    else:
        files = None if listed is None else cohort.read_list(listed, dataset)
        chosen = {"organs": organs, "files": files}
        if address is not None:
            succeeded = _score_on_cluster(ray, dataset, output, chosen | {"overwrite": overwrite}, model, gpus)
            if not (per_slice or worst or rank):
                sys.exit(not succeeded)
            written["overwrite"] = False  # this process writes the other files, from the merged scores
        found = _score_many("score_dataset", (dataset, output), chosen | {"part": part} | written | model)
    _finish(found, output, per_slice, worst, part)


def _finish(found, output: Path | None, per_slice: bool, worst: int | None, part) -> None:
    """Shows the scores, or which files hold them, and exits with 1 if a case failed."""
    if output:
        _show_files(found, worst)
        counts = f"{found.done} done, {found.skipped} were there, {found.failed} with failures"
        console.say(f"{counts}: {output if part is None else found.files['journal']}")
    else:
        _show_rows(found.rows[:worst], per_slice)
    if found.failed:
        sys.exit(1)


def _check(given: set[str]) -> None:
    """Refuses combinations of options that have no meaning."""
    if len(given & {"mask", "label-volume", "dataset"}) != 1:
        raise click.UsageError("name one of --mask, --label-volume (both with --ct) and --dataset")
    if ("dataset" in given) == ("ct" in given):
        raise click.UsageError("--ct belongs to --mask or --label-volume; a data set has its own CTs")
    if ("mask" in given) != ("organ" in given):
        raise click.UsageError("--mask and --organ belong together")
    if "label-names" in given and "label-volume" not in given:
        raise click.UsageError("--label-names belongs to --label-volume")
    if "dataset" in given and "o" not in given:
        raise click.UsageError("--dataset needs -o, the CSV")
    if "mask" in given and given & {"o", "worst", "rank"}:
        raise click.UsageError("-o, --worst and --rank are for many masks: --label-volume or --dataset")
    for name in ("rank", "overwrite"):
        if name in given and "o" not in given:
            raise click.UsageError(f"--{name} needs -o, the CSV")
    for name in ("organs", "files", "part", "ray"):
        if name in given and "dataset" not in given:
            raise click.UsageError(f"--{name} belongs to --dataset")


def _model_options(*, gpus, weights, slices, **others) -> dict:
    """Returns the options of `jaxseg.score_dataset` that concern the model and how volumes are read."""
    if slices != "all" and (not slices.isdecimal() or not 0 < int(slices) < 100_000):
        raise click.UsageError(f"--slices: {slices!r} is neither a whole number of at least 1 nor all")
    devices = inference_devices(gpus)
    return others | {
        "model": fetched(weights) or "segae",
        "slices": None if slices == "all" else int(slices),
        "devices": devices,
    }


def _score_mask(ct: Path, mask: Path, organ: str, per_slice: bool, model: dict) -> None:
    """Scores one mask and prints its score."""
    import jaxseg
    from jaxseg.vocabulary import organs

    with options.usage_errors("--organ"):
        organs.find(organ, names=model["names"])
    with options.usage_errors():
        found = jaxseg.score(ct, mask, organ, per_slice=True, **model)
    pairs = zip(found.slices, found.dice, strict=True) if per_slice else ()
    rows = [(f"slice {z}", f"{predicted:.4f}") for z, predicted in pairs]
    if found.mean is None:
        console.say(f"{mask.name}: the mask is empty, so there is nothing to score")
    console.show_rows([*rows, (found.organ.name, *_shown(found))])


def _shown(score) -> tuple[str, ...]:
    """Returns the cells of a score: the mean and, if it has one, the ends of its interval."""
    numbers = (score.mean, *(score.interval or ()))
    return tuple("n/a" if number is None else f"{number:.4f}" for number in numbers)


def _heading(rows) -> tuple[str, ...]:
    return ("predicted_dice", *(("lower", "upper") if rows[0].score.margin is not None else ()))


def _score_many(function: str, paths: tuple, settings: dict):
    """Calls `jaxseg.score_labels` or `jaxseg.score_dataset` and shows its progress."""
    import jaxseg

    with _progress() as callbacks, options.usage_errors():
        return getattr(jaxseg, function)(*paths, **settings, **callbacks)


def _score_on_cluster(ray, dataset: Path, output: Path, settings: dict, model: dict, gpus: str) -> bool:
    """Scores a data set on a Ray cluster and merges the scores; returns whether no case failed."""
    import jaxseg
    from jaxseg.segae.cases import find_cases
    from jaxseg.segae.merge_scores import merge_scores
    from jaxseg.segae.score import open_scorer

    with options.usage_errors():
        count = len(find_cases(dataset, settings["files"]))
        canonical, weights = model["canonical"], model["model"]
        others = {name: value for name, value in model.items() if name not in ("canonical", "model")}
        scorer = open_scorer(weights, **others)
    job = functools.partial(jaxseg.score_dataset, dataset, output, canonical=canonical, **settings)
    merge = functools.partial(merge_scores, output)
    how = {"gpus": gpus, "folder": cluster.folder_of([dataset, output, *(settings["files"] or ())])}
    with _progress(first=cluster.WAITING) as callbacks, options.usage_errors():
        return cluster.run(ray, job, scorer, count, merge, **how, callbacks=callbacks)


@contextlib.contextmanager
def _progress(*, first: str = COMPILING) -> Iterator[dict[str, Callable]]:
    """Yields the callbacks of `jaxseg.score_dataset` that show its progress; the bar starts with `first`."""
    hint = "With -o, the same command continues where it stopped."
    forecast = Forecast("cases")
    with resumable(lambda: hint), item_progress("cases", first=first) as show:

        def progress(done: int, total: int, name: str) -> None:
            show(done, total, name)
            forecast.progress(done, total, name)

        yield {"progress": progress, "report": _show_problems}


def _show_problems(record) -> None:
    """Prints remarks, failures and masks without a class; empty masks are not mentioned."""
    for note in dict.fromkeys(record.notes):
        console.say(f"Warning: {record.case}: {note}")
    for name, why in record.failed.items():
        console.say(f"Failed: {'/'.join(part for part in (record.case, name) if part)}: {why}")
    without = [name for name, why in record.absent.items() if why != "empty"]
    if without:
        console.say(f"{record.case}: no class of the DAP-Atlas: {', '.join(without)}")


def _show_rows(rows: tuple, per_slice: bool) -> None:
    """Prints the scores of a volume of labels, the lowest first."""
    cells = [("organ", *_heading(rows))] if rows else []
    for row in rows:
        pairs = zip(row.score.slices, row.score.dice, strict=True) if per_slice else ()
        cells += [(f"{row.organ}, slice {z}", f"{predicted:.4f}") for z, predicted in pairs]
        cells.append((row.organ, *_shown(row.score)))
    console.show_rows(cells)
    if not rows:
        console.say("nothing was scored")


def _show_files(found, worst: int | None) -> None:
    """Prints which files were written beside the CSV, and the masks with the lowest scores."""
    for name, what in {"slices": "slices", "annotate": "order", "trust": "order"}.items():
        if name in found.files:
            console.say(f"{what}: {found.files[name]}")
    lowest = found.rows[:worst] if worst else ()
    cells = [("case", "organ", *_heading(lowest))] if lowest else []
    console.show_rows([*cells, *((row.case, row.organ, *_shown(row.score)) for row in lowest)])
    if "worst" in found.files:
        console.say(f"picture: {found.files['worst']}")
