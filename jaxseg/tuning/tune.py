"""A search for hyper-parameters: every trial is a run, and a later call continues the study, which is a file.

It needs optuna (extra `tune`), whose tree-structured Parzen estimator samples the values. A trial is stopped early if
its validation is worse than the median of the trials before it after the same number of epochs.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg.files import only_writer, sweep
from jaxseg.settings import to_mapping
from jaxseg.training import loop, run
from jaxseg.training.config.config import MOVABLE, Config, read_config, write_config
from jaxseg.training.log import METRICS_FILE, read_metrics
from jaxseg.training.plan import make_plan
from jaxseg.training.task import make_task
from jaxseg.tuning.space import Parameter, default_space, make_space, read_space, valued
from jaxseg.tuning.study import JOURNAL, LOCK, Study, import_optuna, open_study
from jaxseg.tuning.trials import COMPLETE, FAILED, PRUNED, Found, Trial, ranked, shown, track, write_results

RUNS, BASE_FILE = "trials", "base.yaml"


@dataclasses.dataclass(frozen=True)
class Search:
    """An open search: its trials change `base` within `space`, until `wanted` trials have ended.

    The other attributes are arguments of `open_search`.

    Attributes:
      target: name of the number to maximise.
    """

    folder: Path
    study: Study
    base: Config
    target: str
    space: Sequence[Parameter]
    seed: int
    wanted: int
    devices: Sequence[jax.Device]
    keep_all: bool
    tell: Callable[[str], None]


class _BehindError(Exception):
    """Raised to end a trial that is worse than the median."""


@contextlib.contextmanager
def open_search(
    source: str | Path | None,
    folder: Path,
    *,
    trials: int,
    space: Sequence[str] = (),
    seed: int | None = None,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    devices: Sequence[jax.Device],
    full_trials: int = 5,
    keep_all: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Search]:
    """Yields a search for `tune`, which is new or continues; its folder is locked until the context ends.

    The folder gets `study.journal` (optuna's) and `base.yaml`, the configuration that trials change.

    Args:
      source: source of the configuration, see `open_run`; None: that of the search in the folder.
      folder: folder of the search.
      trials: total number of trials, including those of earlier calls.
      space: see `jaxseg.tuning.space.read_space`; if empty, that of the search in the folder, else the default.
      seed: random seed of the sampled values; None: that of the search in the folder, else 0. The training of a trial
        uses the seed of the configuration.
      data: folder of the data, instead of `data.root`.
      overrides: see `open_run`.
      devices: devices to train on.
      full_trials: number of complete trials before the first one can be stopped early.
      keep_all: whether to keep checkpoints and models of all trials, not only of the best one.
      tell: called with each message for the user.

    Raises:
      ValueError: optuna is missing; configuration, space or data are wrong, and nothing was written; or the folder
        holds other files, another search or a damaged one.
      OSError: something cannot be read or written.
    """
    import_optuna()
    with contextlib.ExitStack() as stack:
        study = _opened(folder, full_trials, stack) if (folder / JOURNAL).is_file() else None
        stored = study.plan if study else None
        if stored is None:
            _refuse_other_things(folder)
        if source is None and stored is None:
            raise ValueError(f"{folder}: no search to continue; name a configuration with -t")
        source = folder / BASE_FILE if source is None else source
        base = run.open_run(source, folder / RUNS / "none", data=data, overrides=overrides, tell=tell)
        target, facts = _checked(base, folder, devices, tell)
        root = [f"data.root={json.dumps(base.data.root)}"] if base.data_folder else []
        lines = read_space(space) or (stored or {}).get("space") or default_space(base)
        parameters = make_space(lines, lambda one: read_config(source, [*overrides, *root, one]), MOVABLE)
        seed = (stored or {}).get("seed", 0) if seed is None else seed
        plan = {"config": _lasting(base), "space": [str(p) for p in parameters], "seed": seed, "data": facts}
        _refuse_other_search(folder, stored, plan)
        if study is None:
            folder.mkdir(parents=True, exist_ok=True)
            study = _opened(folder, full_trials, stack)
        sweep(folder)
        write_config(base, folder / BASE_FILE)
        if stored is None:
            first = {p.path: p.position(valued(base, p.path)) for p in parameters}
            study.start(plan, None if None in first.values() else first)
        yield Search(folder, study, base, target, parameters, seed, trials, devices, keep_all, tell)


def tune(search: Search) -> Found:
    """Runs trials until the wanted number have ended, and returns the result.

    The folder of the search gets one run per trial in `trials/`. After every trial it gets `trials.csv`,
    `coordinates.png` and `best.yaml`, which `jaxseg.training.run.open_run` reads. The first trial is the unchanged
    configuration if the space contains it. Settings that were tried before are not trained again.

    Raises:
      ValueError: no trial could be completed; or any error of `jaxseg.training.run.train`, after which the next call
        resumes the interrupted trial.
    """
    for parameter in search.space:
        search.tell(f"searched: {parameter}")
    found = _kept(search)
    while len(found.trials) < search.wanted or search.study.unfinished():
        found = _next(search, found)
    if found.best is None:
        raise ValueError(f"none of {len(found.trials)} trials is complete; the last: {found.trials[-1].note}")
    return found


def _opened(folder: Path, full_trials: int, stack: contextlib.ExitStack) -> Study:
    """Opens the study in a folder; no other process can write into the folder while the stack is open."""
    stack.enter_context(only_writer(folder))
    return open_study(folder, full_trials)


def _refuse_other_things(folder: Path) -> None:
    """Raises if a folder holds files that a search killed at its start would not have left."""
    ours = (JOURNAL, LOCK, BASE_FILE)
    if folder.exists() and any(p.name not in ours and not p.name.startswith(".jaxseg-") for p in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no search; name a new folder")


def _checked(base: Config, folder: Path, devices: Sequence[jax.Device], tell: Callable) -> tuple[str, str]:
    """Returns the number to maximise and a digest of the data; checks that the configuration can be trained."""
    if jax.process_count() > 1:
        raise ValueError("a search runs on one host; start a separate search with its own folder on each host")
    task = make_task(base)
    if not task.splits.get("val"):
        raise ValueError("a search compares trials on a validation split, but the data have none")
    plan = make_plan(base, task, folder, devices=devices)
    if base.trainer.validate_every * plan.steps_per_epoch >= plan.total_steps:
        tell(
            "a trial is validated only at its end, so none is stopped early; lower trainer.validate_every to change it"
        )
    for note in task.notes:
        tell(note)
    facts = json.dumps(dict(task.facts), sort_keys=True).encode()
    return task.target, hashlib.sha256(facts).hexdigest()


def _lasting(base: Config) -> dict:
    """Returns the settings that must stay the same during a search, by their paths."""
    found: dict = {}
    groups = [("", to_mapping(base))]
    while groups:
        prefix, group = groups.pop()
        found |= {prefix + name: value for name, value in group.items() if not isinstance(value, dict)}
        groups += [(f"{prefix}{name}.", value) for name, value in group.items() if isinstance(value, dict)]
    return {name: value for name, value in found.items() if name not in MOVABLE}


def _refuse_other_search(folder: Path, stored: dict | None, plan: dict) -> None:
    if stored is None:
        return
    now, then = json.loads(json.dumps(plan)), stored
    names = [
        name
        for name in sorted(now["config"].keys() | then["config"].keys())
        if now["config"].get(name) != then["config"].get(name)
    ]
    names += [f"search ({', '.join(then['space'])})"] if now["space"] != then["space"] else []
    names += [f"{name} ({then[name]})" for name in ("seed", "data") if now[name] != then[name]]
    if names:
        changed = ", ".join(names)
        raise ValueError(f"{folder} holds a search that was started with a different {changed}; name a new folder")


def _next(search: Search, found: Found) -> Found:
    """Runs the trial that was interrupted, or else a new one."""
    again = " resumes" if search.study.unfinished() else ""
    trial, values = search.study.next_trial(search.space, search.seed)
    count = len(found.trials) + 1
    settings = ", ".join(f"{path}={shown(value)}" for path, value in values.items())
    search.tell(f"trial {trial.number:04d} ({count} of {max(search.wanted, count)}){again}: {settings}")
    state, value, note = _twin(found, values) or _run(search, trial, values)
    search.study.tell(trial, state, value, note)
    found = _kept(search)
    ended = next(t for t in found.trials if t.number == trial.number)
    _track(search, ended)
    score = f": {search.target} {value:.4f}" if state == COMPLETE else ""
    search.tell(f"trial {ended.name} is {state}{score}{f'; {note}' if note else ''}")
    return found


def _twin(found: Found, values: dict) -> tuple[str, float | None, str] | None:
    """Returns how a trial of the same values ended; training it again would give the same result."""
    same = sorted((t for t in found.trials if t.values == values), key=lambda t: t.number)
    return (same[0].state, same[0].value, same[0].note or f"same values as {same[0].name}") if same else None


def _run(search: Search, trial: Any, values: dict) -> tuple[str, float | None, str]:
    """Runs or resumes a trial; returns its state, its value and the reason if it is not complete."""
    place = search.folder / RUNS / f"{trial.number:04d}"
    reported = set()

    def on_validation(epoch: int, score: float) -> None:
        if epoch in reported or not math.isfinite(score):
            return
        reported.add(epoch)
        search.study.report(trial, epoch, score)
        if trial.should_prune():
            raise _BehindError(f"behind the median after {epoch} epochs")

    calls = {"devices": search.devices, "tell": search.tell}
    data = search.base.data_folder
    settings = [f"{path}={value}" for path, value in values.items()]
    try:
        config = run.open_run(search.folder / BASE_FILE, place, data=data, overrides=settings, resume=True)
        run.train(config, place, on_validation=on_validation, **calls)
    except (_BehindError, loop.TrainingError) as error:
        return PRUNED, None, str(error)
    except ValueError as error:
        if (place / run.CONFIG_FILE).exists():  # the run had started, so the settings fit together
            raise
        return FAILED, None, str(error).split("\n")[-1]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return FAILED, None, "it needs more memory than the device has"
    scores = [entry.get(search.target) for entry in read_metrics(place / METRICS_FILE) if entry["split"] == "val"]
    known = [score for score in scores if score is not None]
    return (COMPLETE, max(known), "") if known else (PRUNED, None, "no validation gave a number")


def _kept(search: Search) -> Found:
    """Writes the results so far; removes checkpoints and models of all trials except the best one."""
    found = ranked(search.target, search.study.trials())
    if found.trials:
        write_results(search.folder, search.folder / RUNS, found, search.space)
    for trial in () if search.keep_all else found.trials:
        for name in (loop.CHECKPOINTS, loop.MODEL):
            path = search.folder / RUNS / trial.name / name
            if trial != found.best and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
    return found


def _track(search: Search, trial: Trial) -> None:
    entries = read_metrics(search.folder / RUNS / trial.name / METRICS_FILE)
    tags = {"state": trial.state, "note": trial.note, "folder": str(search.folder.resolve())}
    name = f"trial {trial.name}"
    track(search.folder, name, parameters=trial.values, entries=entries, tags=tags, tell=search.tell)
