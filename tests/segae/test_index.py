"""The stored index of usable slices: it is used only for the files it was made from, and rebuilt otherwise."""

import json
import os
import time

import numpy as np
import pytest
from segae_files import organ, save_data
from volume_files import save_nifti

from jaxseg.segae import index
from jaxseg.segae.data import read_segae

OLD = time.time_ns() - 3600 * 10**9


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Returns the folder in which jaxseg keeps indexes; also small ones in these tests."""
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index, "WORTH_S", -1.0)
    return tmp_path / "home"


def stored(root):
    (found,) = (root.parent / "home").rglob("*_index_20.json")
    return found


@pytest.fixture
def data(tmp_path, home):
    root = save_data(tmp_path / "data")
    for path in root.rglob("*.nii.gz"):
        os.utime(path, ns=(OLD, OLD))
    return root


@pytest.fixture
def opened(monkeypatch):
    """Returns the names of the cases that were opened."""
    names, original = [], index.index_case

    def recorded(case, *rest):
        names.append(case.name)
        return original(case, *rest)

    monkeypatch.setattr(index, "index_case", recorded)
    return names


def items(root, **options):
    return {split: source.items for split, source in read_segae(root, **options).splits.items()}


def test_a_second_start_opens_no_volume_and_finds_the_same(data, opened):
    first = items(data)
    assert sorted(opened) == ["a", "b"]
    assert items(data) == first
    assert sorted(opened) == ["a", "b"]
    assert stored(data).parent == data.parent / "home" / "segae" / "index"
    assert sorted(path.name for path in data.iterdir()) == ["train", "val"]  # it holds only what the user put there


def test_the_index_is_in_the_folder_of_a_data_set_that_jaxseg_made(data, opened):
    (data / "summary.json").write_text('{"made_by": "prepare segae"}')
    first = items(data)
    assert items(data) == first
    assert len(opened) == 2
    assert (data / "index_20.json").is_file()
    assert not (data.parent / "home").exists()


@pytest.mark.parametrize("text", ["{}", '{"made_by": "prepare mnist"}', "[]", "{", ""])
def test_a_summary_of_another_program_makes_no_data_set_ours(data, opened, text):
    (data / "summary.json").write_text(text)
    first = items(data)
    assert items(data) == first
    assert len(opened) == 2
    assert sorted(path.name for path in data.iterdir()) == ["summary.json", "train", "val"]
    assert stored(data).parent == data.parent / "home" / "segae" / "index"


def test_small_data_sets_of_others_are_not_stored(data, opened, monkeypatch):
    monkeypatch.setattr(index, "WORTH_S", 3600.0)
    items(data)
    items(data)
    assert len(opened) == 4
    assert not (data.parent / "home").exists()


def test_only_changed_added_and_removed_cases_are_opened_again(data, opened):
    items(data)
    mask = data / "train" / "a" / "liver_13" / "epoch_000.nii.gz"
    save_nifti(mask, organ(1).astype(np.uint8))
    del opened[:]
    found = items(data)["train"]
    assert opened == ["a"]
    assert found[1].dice == pytest.approx(8 / 9, abs=1e-3)
    (data / "val" / "b" / "liver_13" / "epoch_001.nii.gz").unlink()
    del opened[:]
    items(data)
    assert "b" in opened


def test_equal_sizes_with_another_time_are_opened_again(data, opened):
    items(data)
    path = data / "train" / "a" / "ct.nii.gz"
    os.utime(path, ns=(OLD, OLD + 1))
    del opened[:]
    items(data)
    assert opened == ["a"]


def test_a_file_that_has_just_changed_is_not_stored(data, opened):
    """Two changes within one tick of the file system's clock have the same time."""
    os.utime(data / "train" / "a" / "ct.nii.gz")
    items(data)
    del opened[:]
    items(data)
    assert opened == ["a"]


def test_other_settings_have_their_own_index(data, opened):
    items(data)
    items(data, overlap=60)
    assert len(opened) == 4
    items(data, overlap=60)
    items(data)
    assert len(opened) == 4


def rows(content):
    return content["cases"]["train/a"]["masks"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(format=99),
        lambda content: content.update(cases=[]),
        lambda content: content["cases"].update({"train/a": 3}),
        lambda content: rows(content).pop(),
        lambda content: rows(content)[0].pop(),
        lambda content: rows(content)[0].__setitem__(0, [3, 1]),
        lambda content: rows(content)[0].__setitem__(0, [1, 2, 3]),
        lambda content: rows(content)[0].__setitem__(0, [0, 10**15]),
        lambda content: rows(content)[0].__setitem__(1, "0.5"),
        lambda content: rows(content)[0].__setitem__(2, -1),
        lambda content: content["cases"]["train/a"].update(digest="0"),
    ],
)
def test_a_damaged_entry_is_made_again(data, opened, damage):
    first = items(data)
    content = json.loads(stored(data).read_text())
    damage(content)
    stored(data).write_text(json.dumps(content))
    del opened[:]
    assert items(data) == first
    assert "a" in opened
    del opened[:]
    assert items(data) == first
    assert opened == []


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10_000, b"\xff\xfe", b"null"])
def test_a_file_that_is_no_index_is_replaced(data, opened, content):
    first = items(data)
    stored(data).write_bytes(content)
    assert items(data) == first
    assert len(opened) == 4
    assert items(data) == first
    assert len(opened) == 4


def test_a_folder_that_cannot_be_written_gives_a_note(data, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(index, "atomic_file", full)
    (note,) = [note for note in read_segae(data).notes if "index" in note]
    assert note.endswith("index_20.json is not stored (No space left on device), so that every start opens all volumes")


def test_damaged_volumes_are_reported_at_every_start(data):
    (data / "val" / "b" / "ct.nii.gz").write_bytes(b"damaged")
    os.utime(data / "val" / "b" / "ct.nii.gz", ns=(OLD, OLD))
    for _ in range(2):
        with pytest.raises(ValueError, match="val/b/ct.nii.gz"):
            read_segae(data)


def test_a_volume_that_changes_after_the_start_is_refused(data):
    items(data)
    source = read_segae(data, memory=0).splits["train"]
    path = source.items[0].path
    save_nifti(path, np.zeros((2, 48, 52), np.uint8))
    with pytest.raises(ValueError, match="changed after the start"):
        source[0]


@pytest.mark.parametrize("seed", range(20))
def test_random_slices_survive_storing(tmp_path, seed):
    places = np.flatnonzero(np.random.default_rng(seed).random(40) < 0.5 * (seed > 0))
    item = index.Item(None, "liver", 13, tmp_path, tuple(map(int, places)), 0.25, 7, 9)
    row = json.loads(json.dumps(index._row(item)))
    case = index.TrainingCase("a", tmp_path, tmp_path, (("liver", 13, (tmp_path,)),))
    assert index._items(case, [row])[0].slices == item.slices
