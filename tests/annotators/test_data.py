"""Slices with several annotators: the two layouts, padding, and the selection of an annotator."""

import pickle

import jax
import numpy as np
import pytest
import tifffile
from annotator_files import save_lidc, save_mnist

from jaxseg.annotators.data import lidc_slices, mnist_slices
from jaxseg.annotators.losses import draw_annotator
from jaxseg.images.picture import ImageError
from jaxseg.images.tiff import write_tiff
from jaxseg.training.batches import evaluation_batches

RNG = np.random.default_rng


def test_the_lidc_sample_matches_its_readme(shared):
    source = lidc_slices(shared / "data" / "lidc", "validate")
    assert len(source) == 114
    records = [source[i] for i in range(len(source))]
    assert np.bincount([int(r["present"].sum()) for r in records]).tolist() == [0, 0, 3, 29, 82]
    assert sum(int((r["labels"].any((0, 1)) < r["present"]).sum()) for r in records) == 13  # empty masks
    for record in records:
        assert {k: (v.shape, v.dtype) for k, v in record.items()} == {
            "image": ((64, 64, 1), np.float32),
            "labels": ((64, 64, 4), np.uint8),
            "present": ((4,), bool),
            "truth": ((64, 64), np.uint8),
        }
        share = record["labels"][..., record["present"]].mean(-1)
        np.testing.assert_array_equal(record["truth"], share >= 0.5)
        np.testing.assert_allclose([record["image"].mean(), record["image"].std()], [0, 1], atol=1e-5)
    path = shared / "data/lidc/validate/masks/annots" / source.name(3).split("/")[-1]
    np.testing.assert_array_equal(tifffile.imread(path)[0], source[3]["labels"][..., source[3]["present"]])


def test_the_mnist_sample_matches_its_readme(shared):
    source = mnist_slices(shared / "data" / "mnist", "validate")
    assert (len(source), source.name(2)) == (
        21,
        "validate/Gaussian/2_Gaussian.tif",
    )  # 2 before 10
    record = source[2]
    assert (record["image"].shape, record["image"].dtype) == ((28, 28, 3), np.float32)
    assert record["present"].all()
    np.testing.assert_array_equal(record["labels"][..., 3], record["truth"])
    assert (record["labels"][..., 0] >= record["truth"]).all()  # Over contains the truth
    assert (record["labels"][..., 1] <= record["truth"]).all()  # Under is inside it
    bad = mnist_slices(shared / "data" / "mnist", "validate", annotators=("Over", "Under", "Wrong"))
    np.testing.assert_array_equal(bad[2]["labels"], record["labels"][..., :3])


def test_batches_have_one_shape_and_absent_places_are_empty(tmp_path):
    save_lidc(tmp_path)
    source = lidc_slices(tmp_path, "train")
    batch = next(evaluation_batches(source, lambda record, rng: record, batch_size=3))
    assert batch["labels"].shape == (3, 12, 12, 4)
    assert batch["present"].tolist() == [[True, True, False, False], [True] * 4, [True, True, True, False]]
    assert not batch["labels"].transpose(0, 3, 1, 2)[~batch["present"]].any()


def test_files_are_listed_and_read_once_and_the_source_can_be_pickled(tmp_path):
    names = save_lidc(tmp_path)
    source = lidc_slices(tmp_path, "train")
    before = [source[i]["labels"] for i in range(3)]
    copied = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(copied[1]["labels"], before[1])
    for folder in ("scans", "masks/GT", "masks/annots"):
        (tmp_path / "train" / folder / names[0]).unlink()
    np.testing.assert_array_equal(source[0]["labels"], before[0])
    with pytest.raises(FileNotFoundError):
        lidc_slices(tmp_path, "train", memory=0).__class__(source.files, source.read, 4, tmp_path)[0]


def test_changing_a_returned_record_does_not_change_the_cache(tmp_path):
    save_lidc(tmp_path)
    source = lidc_slices(tmp_path, "train")
    source[0]["labels"][:] = 7
    assert source[0]["labels"].max() == 1


def test_sampled_annotators_are_among_those_that_the_original_pads_with(kit):
    _, arrays = kit.golden("metrics/lidc_collate")
    labels, present = np.zeros((3, 8, 8, 4), np.uint8), np.zeros((3, 4), bool)
    for i in range(3):
        masks = kit.input("metrics/lidc_collate", f"annot{i}")[0].astype(np.uint8)  # (n, H, W)
        labels[i, ..., : len(masks)] = masks.transpose(1, 2, 0)
        present[i, : len(masks)] = True
        np.testing.assert_array_equal(arrays["annots"][i, 0][..., : len(masks)], labels[i, ..., : len(masks)])
    sampled = jax.jit(jax.vmap(lambda key: draw_annotator(key, labels, present, per="batch")))
    for masks in np.asarray(sampled(jax.random.split(jax.random.key(0), 50))):
        for i, mask in enumerate(masks):
            padded = arrays["annots"][i, 0].transpose(2, 0, 1)  # the original repeats annotators in absent places
            assert any((mask == other).all() for other in padded)


def test_present_annotators_are_sampled_uniformly_and_absent_ones_never():
    labels = np.broadcast_to(np.arange(4, dtype=np.uint8), (3, 2, 2, 4))
    present = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    draw = jax.jit(jax.vmap(lambda key: draw_annotator(key, labels, present)[:, 0, 0]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    counts = [np.bincount(column, minlength=4) / 4000 for column in drawn.T]
    np.testing.assert_allclose(counts, present / present.sum(1, keepdims=True), atol=0.03)
    assert len(np.unique(drawn[:, :2], axis=0)) == 8  # examples are sampled independently


def test_one_annotator_per_batch_is_shared_and_absent_ones_are_replaced():
    labels = np.broadcast_to(np.arange(4, dtype=np.uint8), (3, 2, 2, 4))
    present = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], bool)
    draw = jax.jit(jax.vmap(lambda key: draw_annotator(key, labels, present, per="batch")[:, 0, 0]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 2] == drawn[:, 0])[drawn[:, 0] < 2].all()
    np.testing.assert_allclose(np.bincount(drawn[:, 2]) / 4000, [0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 4000, [0.25] * 4, atol=0.03)


def test_sampling_refuses_shapes_that_do_not_fit():
    key, labels, present = jax.random.key(0), np.zeros((2, 3, 3, 4), np.uint8), np.ones((2, 4), bool)
    with pytest.raises(ValueError, match="per is 'epoch'; known: sample, batch"):
        draw_annotator(key, labels, present, per="epoch")
    with pytest.raises(ValueError, match=r"labels must be \(B, H, W, A\)"):
        draw_annotator(key, labels, present[:, :3])


def test_folders_that_do_not_fit_are_refused(tmp_path):
    names = save_lidc(tmp_path)
    with pytest.raises(ValueError, match="split is 'val'; known: train, validate, test"):
        lidc_slices(tmp_path, "val")
    with pytest.raises(ValueError, match="no such folder"):
        lidc_slices(tmp_path, "validate")
    (tmp_path / "train/masks/GT" / names[1]).unlink()
    with pytest.raises(ValueError, match="masks/GT lacks pid_0001_nod_0_slice_1"):
        lidc_slices(tmp_path, "train")
    save_mnist(tmp_path / "digits")
    with pytest.raises(ValueError, match="annotators must be distinct names of Over, Under, Wrong, GT"):
        mnist_slices(tmp_path / "digits", "train", annotators=("Over", "Over"))
    (tmp_path / "digits/train/Over/x.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.tif is not named NUMBER_Over\.tif"):
        mnist_slices(tmp_path / "digits", "train")


@pytest.mark.parametrize(
    ("folder", "array", "reason"),
    [
        ("scans", np.full((1, 12, 12), np.nan), "not finite"),
        ("scans", np.zeros((12, 12)), r"a scan is \(1, H, W\)"),
        ("masks/GT", np.zeros((1, 11, 12), bool), "scan, GT and annots must be"),
        ("masks/GT", np.full((1, 12, 12), 2, np.uint8), "a mask must hold only 0 and 1"),
        ("masks/annots", np.zeros((1, 12, 12), bool), "scan, GT and annots must be"),
        ("masks/annots", np.zeros((1, 12, 12, 5), bool), "has 5 annotators, and data.annotators is 4"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, folder, array, reason):
    names = save_lidc(tmp_path)
    write_tiff(tmp_path / "train" / folder / names[0], array)
    with pytest.raises(ImageError, match=f"pid_0001_nod_0_slice_0.*{reason}"):
        lidc_slices(tmp_path, "train")[0]


def test_digits_that_do_not_fit_are_refused(tmp_path):
    save_mnist(tmp_path)
    write_tiff(tmp_path / "train/Over/1_Over.tif", np.zeros((28, 27), np.uint8))
    source = mnist_slices(tmp_path, "train")
    assert source[0]["labels"].shape == (28, 28, 4)
    with pytest.raises(ImageError, match=r"1_Over\.tif: a mask of 1_Gaussian\.tif is \(28, 28\)"):
        source[1]
