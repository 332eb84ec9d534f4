"""The study of a search: optuna's journal, a file that can be opened again after the process has ended in any way.

It needs optuna (extra `tune`), which stores the trials in its own format; a `jaxseg.folder_runs.ledger.Ledger` would
store them a second time. The sampled values depend only on the seed and on earlier trials, not on how often the file
was opened.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxseg.journal import cut_last_line
from jaxseg.tuning.space import Parameter
from jaxseg.tuning.trials import COMPLETE, FAILED, PRUNED, Trial

JOURNAL = "study.journal"
LOCK = f"{JOURNAL}.lock"  # optuna's
_NAME, _PLAN, _NOTE = "jaxseg", "plan", "note"
PLANNED = {"config", "space", "seed", "data"}
_STATES = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}


@dataclasses.dataclass(frozen=True)
class Study:
    """An open study: optuna's module, its study and its storage."""

    optuna: ModuleType
    study: Any
    storage: Any

    @property
    def plan(self) -> dict | None:
        """The settings of the search as JSON values; None if they were not set yet.

        Raises:
          ValueError: the study was not written by jaxseg.
        """
        plan = self.study.user_attrs.get(_PLAN)
        if plan is not None and not (isinstance(plan, dict) and plan.keys() == PLANNED):
            raise ValueError(f"{JOURNAL} does not contain the settings of its search; name a new folder")
        return plan

    def start(self, plan: dict, first: dict | None) -> None:
        """Stores the settings of the search and the values of its first trial, unless an earlier call has done so."""
        if first is not None and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(first)
        self.study.set_user_attr(_PLAN, plan)

    def unfinished(self) -> list[int]:
        """Returns the numbers of the trials that have started but not ended."""
        return [t.number for t in self.study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]

    def trials(self) -> list[Trial]:
        """Returns the trials that have ended, in order."""
        return [
            Trial(t.number, _STATES[t.state.name], t.value, dict(t.params), t.user_attrs.get(_NOTE, ""))
            for t in self.study.get_trials(deepcopy=False)
            if t.state.is_finished()
        ]

    def next_trial(self, space: Sequence[Parameter], seed: int) -> tuple[Any, dict]:
        """Returns optuna's trial, the unfinished one or else a new one, and its values by path."""
        seeds = np.random.SeedSequence([seed, len(self.trials())])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=int(seeds.generate_state(1)[0]))
        number = next(iter(self.unfinished()), None)
        if number is None:
            trial = self.study.ask()
        else:
            of = self.storage.get_study_id_from_name(_NAME)
            there = self.storage.get_trial_id_from_study_id_trial_number(of, number)
            trial = self.optuna.trial.Trial(self.study, there)
        return trial, {parameter.path: _sampled(trial, parameter) for parameter in space}

    def report(self, trial: Any, epoch: int, score: float) -> None:
        """Stores the score after a number of epochs, unless it was stored before the trial was interrupted."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if epoch not in known:
            trial.report(score, epoch)

    def tell(self, trial: Any, state: str, value: float | None, note: str) -> None:
        """Stores how a trial ended; a pruned trial has the value that was reported last."""
        kept = next(name for name, ours in _STATES.items() if ours == state)
        trial.set_user_attr(_NOTE, note)
        self.study.tell(trial, value if state == COMPLETE else None, state=self.optuna.trial.TrialState[kept])


def open_study(folder: Path, full_trials: int) -> Study:
    """Opens the study in a folder, or makes one; the caller must ensure that no other process opens it.

    Args:
      folder: of the search.
      full_trials: number of complete trials before the first one can be pruned.

    Raises:
      ValueError: optuna is not installed; or the file is damaged or is not a study.
      OSError: the file cannot be read or written.
    """
    optuna = import_optuna()
    path = folder / JOURNAL
    (folder / LOCK).unlink(missing_ok=True)  # of a process that was killed
    if path.is_file():
        cut_last_line(path)  # optuna would append the next line to it and could read neither
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
    except Exception as error:  # optuna raises almost any exception if a line is damaged
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path} is damaged or is not a study ({reason}); name a new folder") from None
    return study


def import_optuna() -> ModuleType:
    """Returns the module optuna, with its own reports of every trial turned off.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError("jaxseg tune needs optuna: pip install 'jaxseg[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampled(trial: Any, parameter: Parameter) -> float | int | str:
    """Returns the value of a parameter, sampled unless it was sampled before."""
    if parameter.choices:
        return trial.suggest_categorical(parameter.path, list(parameter.choices))
    draw = trial.suggest_int if parameter.whole else trial.suggest_float
    return draw(parameter.path, parameter.low, parameter.high, log=parameter.log)
