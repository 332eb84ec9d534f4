"""The set with noisy annotators is built from MNIST's files."""

import gzip
import json

import numpy as np
import pytest
from annotator_files import digits, idx, save_mnist_files

from jaxseg.annotators.data import mnist_slices
from jaxseg.annotators.mnist import LEVELS, Settings, annotate, prepare_mnist, read_idx

SMALL = {"train": 4, "validate": 2, "test": 2}


@pytest.mark.parametrize("packed", [False, True])
def test_the_set_has_the_published_layout_and_is_reproducible(tmp_path, packed):
    save_mnist_files(tmp_path / "raw", packed=packed)
    progress = []
    made = prepare_mnist(tmp_path / "raw", tmp_path / "a", **SMALL, progress=lambda *step: progress.append(step))
    assert (made.made, made.summary) == (8, tmp_path / "a" / "summary.json")
    assert progress[:2] == [(0, 8, ""), (1, 8, "train 0")]
    assert [step[0] for step in progress] == list(range(9))
    prepare_mnist(tmp_path / "raw", tmp_path / "b", **SMALL)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 8 * 5 + 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    source = mnist_slices(tmp_path / "a", "train")
    assert [len(mnist_slices(tmp_path / "a", split)) for split in ("train", "validate", "test")] == [4, 2, 2]
    record = source[0]
    over, under, _, good = np.moveaxis(record["labels"], -1, 0)
    np.testing.assert_array_equal(good, record["truth"])
    assert (over >= record["truth"]).all()
    assert (under <= record["truth"]).all()
    grey = record["image"] * 255
    np.testing.assert_allclose(grey, grey.round(), atol=1e-4)
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert summary["digits"] == {"test": 2, "train": 4, "validate": 2}


def test_no_digit_is_in_two_splits_and_another_seed_selects_others(tmp_path):
    save_mnist_files(tmp_path / "raw")
    taken = {}
    for seed in (0, 1):
        prepare_mnist(tmp_path / "raw", tmp_path / str(seed), **SMALL, seed=seed)
        lines = (tmp_path / str(seed) / "quality.csv").read_text().splitlines()[1:]
        taken[seed] = [(line.split(",")[0] == "test", line.split(",")[3]) for line in lines]
        assert len(set(taken[seed])) == 8
    assert taken[0] != taken[1]


def test_the_annotators_dice_matches_the_published_ones():
    found = {name: [] for name in LEVELS}
    for i, digit in enumerate(digits(60)):
        made = annotate(digit, np.random.default_rng(i), noise=0.36)
        truth = made["GT"]
        np.testing.assert_array_equal(truth, digit > 0)
        for name, values in found.items():
            values.append(2 * (made[name] & truth).sum() / (made[name].sum() + truth.sum()))
    for name, (level, spread) in LEVELS.items():
        assert np.mean(found[name]) == pytest.approx(level, abs=0.06), name
        assert 0.4 * spread < np.std(found[name]) < 2 * spread, name


def test_noise_gives_the_published_mean_and_standard_deviation_of_the_background():
    images = [annotate(digit, np.random.default_rng(i), noise=0.36) for i, digit in enumerate(digits(20))]
    background = np.concatenate([made["Gaussian"][made["GT"] == 0].ravel() for made in images])
    np.testing.assert_allclose([background.mean(), background.std()], [0.142, 0.218], atol=0.015)
    quiet = annotate(digits(1)[0], np.random.default_rng(0), noise=0)["Gaussian"]
    np.testing.assert_array_equal(np.rint(quiet[..., 0] * 255), digits(1)[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an idx file of bytes with 3 axes"),
        (idx(np.zeros((2, 4), np.uint8)), "not an idx file of bytes with 3 axes"),
        (idx(np.zeros((2, 4, 4), np.uint8))[:-1], "another length"),
        (idx(np.zeros((2, 4, 4), np.uint8)) + b"x", "another length"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "more than can be read"),
        (gzip.compress(idx(np.zeros((2, 4, 4), np.uint8)), mtime=0)[:-9], "damaged|another length"),
        (b"\x1f\x8bnonsense", "damaged"),
        (gzip.compress(idx(np.zeros((2, 4, 4), np.uint8)) + bytes(10**7)), "another length"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, reason):
    (tmp_path / "x-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=f"x-ubyte: .*({reason})"):
        read_idx(tmp_path / "x-ubyte", axes=3)


def test_missing_files_too_many_digits_and_other_folders_are_refused(tmp_path):
    save_mnist_files(tmp_path / "raw")
    with pytest.raises(ValueError, match="train has 20 digits, but 21 were asked for"):
        prepare_mnist(tmp_path / "raw", tmp_path / "out", train=20, validate=1, test=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x.txt").write_text("")
    with pytest.raises(ValueError, match="did not write"):
        prepare_mnist(tmp_path / "raw", tmp_path / "mine", **SMALL)
    (tmp_path / "raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="has no t10k-labels-idx1-ubyte"):
        prepare_mnist(tmp_path / "raw", tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
    for options in ({"train": 0}, {"noise": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match=r"at least|noise must be"):
            Settings(**options)


def test_files_that_a_user_added_to_a_set_are_not_deleted(tmp_path):
    raw = tmp_path / "raw"
    save_mnist_files(raw)
    prepare_mnist(raw, tmp_path / "out", **SMALL)
    prepare_mnist(raw, tmp_path / "out", **SMALL)  # a set without other files is replaced
    (tmp_path / "out/run").mkdir()
    with pytest.raises(ValueError, match="is replaced as a whole, and `jaxseg prepare mnist` did not write run"):
        prepare_mnist(raw, tmp_path / "out", **SMALL)
    assert (tmp_path / "out/run").is_dir()


def test_a_small_file_that_announces_a_large_array_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(bytes([0, 0, 8, 3]) + np.array([2**20, 256, 256], ">u4").tobytes())
    for content in ((tmp_path / "x").read_bytes(), gzip.compress((tmp_path / "x").read_bytes())):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match="the rest of it has another length"):
            read_idx(tmp_path / "x", axes=3)
