"""The study of a search: optuna's journal, a file that is opened again after whatever ended the process.

Needs optuna (extra `tune`). What is drawn hangs on the seed and the trials before alone, not on how often the file was
opened.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxseg.tuning.space import Parameter
from jaxseg.tuning.trials import COMPLETE, FAILED, PRUNED, Trial

JOURNAL = "study.journal"
LOCK = f"{JOURNAL}.lock"  # optuna's
_NAME, _PLAN, _NOTE = "jaxseg", "plan", "note"
PLANNED = {"config", "space", "seed", "data"}
_STATES = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}


@dataclasses.dataclass(frozen=True)
class Study:
    """A study that is open: optuna's module, its study and its storage."""

    optuna: ModuleType
    study: Any
    storage: Any

    @property
    def plan(self) -> dict | None:
        """What the search is, as JSON gives it back; None: that was not set yet.

        Raises:
          ValueError: it is none of ours.
        """
        plan = self.study.user_attrs.get(_PLAN)
        if plan is not None and not (isinstance(plan, dict) and plan.keys() == PLANNED):
            raise ValueError(f"{JOURNAL} does not say what its search is; name a new folder")
        return plan

    def begin(self, plan: dict, first: dict | None) -> None:
        """Sets what the search is, and the values of its first trial, unless a call that was cut short did."""
        if first is not None and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(first)
        self.study.set_user_attr(_PLAN, plan)

    def under_way(self) -> list[int]:
        """Returns the numbers of the trials that have begun and not ended."""
        return [t.number for t in self.study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]

    def trials(self) -> list[Trial]:
        """Returns the trials that have ended, in order."""
        return [
            Trial(t.number, _STATES[t.state.name], t.value, dict(t.params), t.user_attrs.get(_NOTE, ""))
            for t in self.study.get_trials(deepcopy=False)
            if t.state.is_finished()
        ]

    def next_trial(self, space: Sequence[Parameter], seed: int) -> tuple[Any, dict]:
        """Returns optuna's trial, the one under way or else a new one, and its values by path."""
        seeds = np.random.SeedSequence([seed, len(self.trials())])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=int(seeds.generate_state(1)[0]))
        number = next(iter(self.under_way()), None)
        if number is None:
            trial = self.study.ask()
        else:
            of = self.storage.get_study_id_from_name(_NAME)
            there = self.storage.get_trial_id_from_study_id_trial_number(of, number)
            trial = self.optuna.trial.Trial(self.study, there)
        return trial, {parameter.path: _drawn(trial, parameter) for parameter in space}

    def report(self, trial: Any, epoch: int, score: float) -> None:
        """Keeps a validation after so many epochs, unless that was kept before the trial was cut short."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if epoch not in known:
            trial.report(score, epoch)

    def tell(self, trial: Any, state: str, value: float | None, note: str) -> None:
        """Keeps how a trial ended; a pruned one has the value that was reported last."""
        kept = next(name for name, ours in _STATES.items() if ours == state)
        trial.set_user_attr(_NOTE, note)
        self.study.tell(trial, value if state == COMPLETE else None, state=self.optuna.trial.TrialState[kept])


def open_study(folder: Path, full_trials: int) -> Study:
    """Opens the study in a folder, made if there is none; the caller sees to it that no other process does.

    Args:
      folder: of the search.
      full_trials: no trial is pruned before so many are complete.

    Raises:
      ValueError: optuna is not installed; the file is damaged or no study. OSError: it cannot be read or written.
    """
    optuna = import_optuna()
    path = folder / JOURNAL
    (folder / LOCK).unlink(missing_ok=True)  # of a process that was killed
    if path.is_file():
        _cut_last_line(path)
    journal = optuna.storages.journal
    try:
        lock = journal.JournalFileOpenLock(str(path))
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=lock))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=full_trials)
        named = {"study_name": _NAME, "direction": "maximize", "load_if_exists": True}
        study = Study(optuna, optuna.create_study(storage=storage, pruner=pruner, **named), storage)
        study.trials()
    except OSError:
        raise
    except Exception as error:  # optuna raises almost anything where a line is damaged
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path} is damaged or no study ({reason}); name a new folder") from None
    return study


def import_optuna() -> ModuleType:
    """Returns optuna, which no longer tells of every trial itself.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError("jaxseg tune needs optuna: pip install 'jaxseg[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _cut_last_line(path: Path) -> None:
    """Cuts what a kill left of a line: optuna would write the next line behind it, and read neither."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _drawn(trial: Any, parameter: Parameter) -> float | int | str:
    """The value of a parameter, drawn unless it was before."""
    if parameter.choices:
        return trial.suggest_categorical(parameter.path, list(parameter.choices))
    draw = trial.suggest_int if parameter.whole else trial.suggest_float
    return draw(parameter.path, parameter.low, parameter.high, log=parameter.log)
