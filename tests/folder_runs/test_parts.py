"""Parts are disjoint, complete and stable, and their locks exclude what must not run at the same time."""

import contextlib
import fcntl
import os
import stat

import pytest

from jaxseg.folder_runs.parts import Part, as_part, locked, log_of, logs

NAMES = [f"p{number // 7}/s{number}.dcm" for number in range(300)] + ["ä\udcff.png", "#1.png"]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 301])
def test_each_file_belongs_to_exactly_one_part(count):
    owners = [sum(Part(index, count).holds(name) for index in range(1, count + 1)) for name in NAMES]
    assert owners == [1] * len(NAMES)


def test_parts_have_about_the_same_size_and_never_change():
    sizes = [sum(map(Part(index, 4).holds, NAMES)) for index in range(1, 5)]
    assert sizes == [76, 81, 77, 68]  # of every later version, too: jobs that are running depend on it
    assert [name for name in NAMES[:40] if Part(3, 8).holds(name)] == [
        "p0/s0.dcm",
        "p3/s21.dcm",
        "p4/s29.dcm",
        "p4/s32.dcm",
        "p5/s35.dcm",
    ]


def test_a_part_is_parsed_and_printed():
    assert Part.parse(" 3/8 ") == Part(3, 8) == as_part("3/8")
    assert (str(Part(3, 8)), Part(3, 8).tag, as_part(None)) == ("3/8", "3-of-8", None)


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/0", "-1/8", "a/b", "1/2/3", "1.5/2", "1/100001", "９/9"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"a part is I/N"):
        Part.parse(text)


def slurm(task, count, first) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": first}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items() if value is not None}


def test_a_task_of_a_slurm_array_is_a_part():
    assert Part.from_slurm({}) is None
    assert Part.from_slurm(slurm(0, 8, 0)) == Part(1, 8)
    assert Part.from_slurm(slurm(8, 8, 1)) == Part(8, 8)
    assert Part.from_slurm(slurm(12, 3, 10)) == Part(3, 3)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (slurm(7, 3, 1), "are not consecutive: task 7 of 3 from 1; submit --array=1-N"),
        (slurm(1, 3, 2), "are not consecutive"),
        (slurm(1, None, 1), "must be whole numbers, got '1', '', '1'"),
        (slurm("x", 3, 1), "must be whole numbers"),
    ],
)
def test_other_slurm_arrays_are_refused(variables, words):
    with pytest.raises(ValueError, match=words):
        Part.from_slurm(variables)


@pytest.mark.parametrize("name", ["summary.json", "scores.csv"])
def test_locks_exclude_other_counts_and_runs_without_parts(tmp_path, name):
    path = tmp_path / name
    held = {part: [None, Part(1, 2), Part(1, 3), Part(3, 3)] for part in (Part(1, 2), None)}
    for part, others in held.items():
        with locked(path, part):
            for other in others:
                with pytest.raises(ValueError, match=r"running into|writing into"), locked(path, other):
                    pass
    with locked(path, Part(1, 2)) as first, locked(path, Part(2, 2)) as second:
        assert [first, second] == [log_of(path, Part(1, 2)), log_of(path, Part(2, 2))]
    with locked(path, Part(1, 3)), contextlib.suppress(ValueError), locked(path, None):
        pytest.fail("a run without parts ran beside a part")
    with locked(path, None) as log:
        assert log is None
    assert {part for _, part in logs(path)} >= {Part(1, 2), Part(2, 2), Part(1, 3)}
    assert logs(tmp_path / "other.csv") == []


def test_locks_work_where_a_folder_cannot_be_locked(tmp_path, monkeypatch):
    """Some network file systems lock files, but no folders."""
    real = fcntl.flock

    def flock(handle, how):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(9, "Bad file descriptor")
        return real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "summary.json"
    with locked(path, Part(1, 2)):
        for other, words in ((Part(1, 2), "is running"), (Part(1, 3), "excludes part 1/3"), (None, "without --part")):
            with pytest.raises(ValueError, match=words), locked(path, other):
                pass
