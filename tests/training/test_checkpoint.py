"""Checkpoints: damaged ones are detected and skipped, which ones are kept, and what happens on a full disk."""

import errno
import math
import resource
import shutil
import signal

import jax
import numpy as np
import pytest

from jaxseg.devices import shardings
from jaxseg.training import checkpoint
from jaxseg.training.checkpoint import REMOVED, Checkpoints

POSITION = {"next_batch": 3, "skipped": {"a.png": 1}, "records": 16}


def state(step: int, size: int = 64) -> dict:
    """Returns a state whose arrays differ from step to step."""
    rng = np.random.default_rng(step)
    arrays = {
        "params": {"kernel": rng.normal(size=(size, size)).astype(np.float32), "bias": np.zeros(5000, np.float32)},
        "step": np.int32(step),
        "key": np.array([0, step], np.uint32),
    }
    return jax.device_put(arrays, shardings(jax.devices()[:1])[0])


def same(one: dict, other: dict) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def write(folder, steps, scores=None, **options) -> None:
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            score = scores.get(step) if scores else None
            checkpoints.save(step, state(step), POSITION | {"next_batch": step}, score=score)
            checkpoints.wait()


def latest(folder) -> tuple[int | None, list[str]]:
    """Returns the newest step that can be read, after checking it, and the messages about the others."""
    told = []
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(state(0), told.append)
    if found is None:
        return None, told
    step, restored, position = found
    assert same(restored, state(step))
    assert position == POSITION | {"next_batch": step}
    return step, told


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    write(folder, [1, 2], {1: 0.5, 2: 0.6})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def largest(folder, step):
    return max((path for path in (folder / str(step)).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


def damage(path, kind: str) -> None:
    raw = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
        return
    if kind == "flipped":
        raw[len(raw) // 2] ^= 0x10
    path.write_bytes({"truncated": raw[: len(raw) // 2], "zeroed": bytes(len(raw)), "flipped": raw}[kind])


# Each part of a checkpoint is damaged in each way; one of each also in `make test`.
KINDS = ("truncated", "zeroed", "missing", "flipped")
DAMAGE = [(what, kind) for what in ("arrays", "record", "list") for kind in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "kind"),
    [pytest.param(*pair, marks=[] if i in (0, 6, 11) else pytest.mark.full) for i, pair in enumerate(DAMAGE)],
)
def test_if_the_newest_checkpoint_is_damaged_it_is_reported_and_the_one_before_it_is_used(folder, kind, what):
    paths = {
        "arrays": largest(folder, 2),
        "record": folder / "2/data/metadata",
        "list": folder / "2/state/manifest.ocdbt",
    }
    damage(paths[what], kind)
    step, told = latest(folder)
    assert step == 1
    assert len(told) == 1
    assert "\n" not in told[0]
    assert "the checkpoint of step 2 is damaged" in told[0]
    assert (folder.parent / "damaged-2").is_dir()
    write(folder, [2])  # its step can be written again
    assert latest(folder) == (2, [])


@pytest.mark.full
def test_a_changed_bit_anywhere_is_detected_or_harmless(folder):
    """Orbax itself returns wrong numbers if a bit in the stored arrays has changed."""
    files = [path for path in (folder / "2").rglob("*") if path.is_file() and path.stat().st_size]
    noticed = 0
    with Checkpoints(folder, read_only=True) as checkpoints:
        for path in files:
            raw = path.read_bytes()
            damage(path, "flipped")
            try:
                restored, position = checkpoints.restore(2, state(0))
                assert same(restored, state(2)), path
                assert position["next_batch"] == 2
            except ValueError:
                noticed += 1
            path.write_bytes(raw)
    assert noticed >= 4


@pytest.mark.slow
def test_if_all_checkpoints_are_damaged_each_attempt_raises_the_same_error_and_moves_nothing(folder):
    for step in (1, 2):
        damage(largest(folder, step), "zeroed")
    for _ in range(2):
        with Checkpoints(folder) as checkpoints:
            with pytest.raises(ValueError, match="no checkpoint in .* can be read: the checkpoint of step 2") as caught:
                checkpoints.restore_latest(state(0), lambda _: None)
            assert "\n" not in str(caught.value)
            assert checkpoints.steps() == [1, 2]
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoints"]


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(folder):
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(ValueError, match="belongs to another model"):
            checkpoints.restore(2, state(0, size=32))
        other = state(0)
        other["params"]["more"] = other["params"].pop("bias")
        with pytest.raises(ValueError, match="belongs to another model"):
            checkpoints.restore(2, other)


def test_without_a_checkpoint_the_result_is_none(tmp_path):
    assert latest(tmp_path / "checkpoints") == (None, [])


def test_the_newest_and_the_best_checkpoints_are_kept_also_after_reopening(tmp_path):
    folder = tmp_path / "checkpoints"
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.9, 5: 0.1, 6: None, 7: math.nan, 8: 0.8}
    for step in scores:
        write(folder, [step], scores, keep_last=2, keep_best=1)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 7, 8]
        assert checkpoints.best() == 2  # the first of those with equal scores
        assert checkpoints.best_score() == 0.9
    write(folder, [9, 10], keep_last=1, keep_best=2)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 8, 10]


def test_the_best_checkpoint_is_kept_with_all_settings(tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, [1, 2, 3], {1: 0.9, 2: 0.1, 3: 0.2}, keep_last=1, keep_best=0)
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 3], 1)


def test_without_scores_there_is_no_best_checkpoint(tmp_path):
    write(tmp_path / "checkpoints", [1, 2, 3], keep_last=2)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.steps(), checkpoints.best(), checkpoints.best_score()) == ([2, 3], None, -math.inf)


@pytest.mark.slow
def test_foreign_files_in_the_folder_are_never_removed(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "1-copy").mkdir()
    (folder / "0").mkdir()  # even if its name is that of a step
    (folder / "0" / "mine.txt").write_text("mine")
    (folder.parent / "damaged-2").write_text("mine")
    damage(largest(folder, 2), "zeroed")
    assert latest(folder)[0] == 1
    write(folder, [3, 4, 5, 6], keep_last=1)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "1-copy", "0", "1", "6"}
    assert (folder / "0" / "mine.txt").read_text() == "mine"
    assert (folder.parent / "damaged-2").read_text() == "mine"
    assert (folder.parent / "damaged-2-2").is_dir()


def test_a_read_only_manager_leaves_files_that_another_process_is_writing(folder):
    half = folder / "3.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert half.is_dir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert not half.exists()  # left by a killed process: the only writer removes it


def test_a_half_removed_checkpoint_is_ignored_and_removed_at_the_next_start(folder):
    half = folder / REMOVED / "1"
    half.parent.mkdir()
    (folder / "1").rename(half)
    shutil.rmtree(half / "data")
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
    assert half.is_dir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2]
        assert {path.name for path in folder.iterdir()} == {"2"}


def test_a_kill_during_removal_leaves_only_complete_checkpoints(folder, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # the state after a process is killed here
    write(folder, [3], keep_last=1)
    monkeypatch.undo()
    assert {path.name for path in folder.iterdir()} == {"2", "3", REMOVED}  # step 2 is the best
    assert {path.name for path in (folder / REMOVED / "1").iterdir()} >= {"state", "data"}
    write(folder, [4, 5], keep_last=1)
    assert {path.name for path in folder.iterdir()} == {"2", "5"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["save", "wait_until_finished", "close"])
def test_an_interruption_waits_until_orbax_has_finished(folder, monkeypatch, method):
    """An interruption inside Orbax would leave locks held and threads that wait forever."""
    orbax = getattr(checkpoint.ocp.CheckpointManager, method)

    def interrupted(*args, **options):
        monkeypatch.setattr(checkpoint.ocp.CheckpointManager, method, orbax)
        signal.raise_signal(signal.SIGINT)
        return orbax(*args, **options)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(folder, [3])
    assert latest(folder) == (3, [])


@pytest.mark.slow
@pytest.mark.parametrize("background", [True, False])
def test_a_failed_write_is_a_one_line_error_and_earlier_checkpoints_stay(folder, background):
    with pytest.raises(OSError, match="a checkpoint could not be written to") as caught:
        write_with_a_limit(folder, 10_000, background=background)
    assert str(caught.value).endswith("File too large; the checkpoints before it are kept")
    assert "\n" not in str(caught.value)
    assert latest(folder) == (2, [])


def write_with_a_limit(folder, max_file_bytes: int, **options) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, limits[1]))
    try:
        write(folder, [3], **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_error_on_a_full_disk_says_so(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(checkpoints._manager, "save", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises(OSError, match="No space left on device; the checkpoints before it are kept"):
            checkpoints.save(3, state(3), POSITION)
    assert latest(folder) == (2, [])


def test_an_error_during_closing_does_not_hide_the_error_that_ended_the_run(folder, monkeypatch):
    def fails():
        raise RuntimeError("disk")

    checkpoints = Checkpoints(folder)
    close = checkpoints._manager.close
    monkeypatch.setattr(checkpoints._manager, "close", fails)
    with pytest.raises(KeyError, match="first"), checkpoints:
        raise KeyError("first")
    with pytest.raises(OSError, match="disk"), checkpoints:
        pass
    close()
