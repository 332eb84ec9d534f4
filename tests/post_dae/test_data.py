"""Folders of masks as training data: what is read, resized, refused and split."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import draw, finish
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_masks import CLASSES, shapes
from PIL import Image

from jaxseg.images.picture import ImageError
from jaxseg.masks.cohort import file_name, image_names, mask_file
from jaxseg.post_dae.data import MaskFolder, as_read, parse_classes
from jaxseg.training.batches import RecordError, evaluation_batches, training_batches

SIZE = (24, 32)


def square(height: int = 24, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def record(path: Path, **options) -> np.ndarray:
    options = {"size": SIZE} | options
    return MaskFolder(path.parent, files=(path,), **options)[0]["mask"]


def torch_bilinear(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the resized mask by definition, pixel by pixel."""
    result = np.zeros(size)
    for row, column in np.ndindex(*size):
        at = [max(0.0, (i + 0.5) * n / m - 0.5) for i, n, m in zip((row, column), mask.shape, size, strict=True)]
        low = [int(x) for x in at]
        high = [min(x + 1, n - 1) for x, n in zip(low, mask.shape, strict=True)]
        (y, x), (a, b) = (at[0] - low[0], at[1] - low[1]), (low, high)
        upper = mask[a[0], a[1]] * (1 - x) + mask[a[0], b[1]] * x
        lower = mask[b[0], a[1]] * (1 - x) + mask[b[0], b[1]] * x
        result[row, column] = upper * (1 - y) + lower * y
    return result


@pytest.mark.parametrize("folder", ["lung_masks", "heart_masks"])
def test_the_sample_masks_are_read_unchanged(shared, folder):
    masks = MaskFolder(shared / "data" / folder)
    assert (len(masks), masks.ignored) == ({"lung_masks": 300, "heart_masks": 150}[folder], 0)
    mask = masks[7]["mask"]
    assert (mask.shape, mask.dtype) == ((512, 512, 1), np.float32)
    with Image.open(masks.files[7]) as image:
        np.testing.assert_array_equal(mask[..., 0], np.asarray(image) / 255)
    small = MaskFolder(shared / "data" / folder, (128, 128))[7]["mask"]
    assert small.mean() == pytest.approx(mask.mean(), abs=1e-3)
    assert ((small > 0) & (small < 1)).any()


def test_other_entries_are_counted_and_ignored(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg"):
        save(tmp_path / name, square())
    np.save(tmp_path / "d.npy", square() > 0)
    (tmp_path / "more.png").mkdir()
    save(tmp_path / "more.png" / "deep.png", square())
    for name in ("areas.csv", ".hidden.png", "e.npz"):
        (tmp_path / name).write_text("x")
    masks = MaskFolder(tmp_path, SIZE)
    assert [masks.name(i) for i in range(len(masks))] == ["a.PNG", "b.png", "c.jpg", "d.npy"]
    assert masks.ignored == 4
    exact = square()[..., None] / np.float32(255)
    for index in (0, 1, 3):
        np.testing.assert_array_equal(masks[index]["mask"], exact)
    np.testing.assert_allclose(masks[2]["mask"], exact, atol=0.2)
    assert (MaskFolder(tmp_path, SIZE, grey="threshold")[2]["mask"] == exact).all()


@settings(max_examples=30, deadline=None)
@given(*(st.integers(1, 20) for _ in range(4)), st.integers(0, 99))
def test_masks_are_resized_bilinearly_without_antialiasing(tmp_path_factory, height, width, rows, columns, seed):
    pixels = np.random.default_rng(seed).choice([0, 255], (height, width)).astype(np.uint8)
    wanted = torch_bilinear(pixels / 255, (rows, columns))
    if (wanted == 0).all() or (wanted == 1).all():
        return
    path = save(tmp_path_factory.mktemp("m") / "x.png", pixels)
    found = record(path, size=(rows, columns))
    np.testing.assert_allclose(found[..., 0], wanted, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_every_mode_are_read(tmp_path, mode):
    path = tmp_path / "x.png"
    Image.fromarray(square()).convert(mode).save(path)
    np.testing.assert_array_equal(record(path)[..., 0], square() / 255)


def test_masks_of_0_and_1_are_not_read_as_black(tmp_path):
    wanted = square()[..., None] / 255
    np.testing.assert_array_equal(record(save(tmp_path / "x.png", square() // 255)), wanted)
    for dtype in (bool, np.uint8, np.int64):
        np.save(tmp_path / "x.npy", (square() // 255).astype(dtype))
        np.testing.assert_array_equal(record(tmp_path / "x.npy"), wanted)


@pytest.mark.parametrize("order", ["C", "F"])
def test_channels_of_an_array_are_channels_of_the_record(tmp_path, order):
    masks = np.random.default_rng(0).random((3, *SIZE)) > 0.5
    masks[2] = False  # one empty channel among others is allowed
    np.save(tmp_path / "x.npy", np.asarray(masks, order=order))
    np.testing.assert_array_equal(record(tmp_path / "x.npy", channels=3), masks.transpose(1, 2, 0))
    with pytest.raises(ValueError, match="x.npy: has 3 channels; the setting is 1"):
        record(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="x.png: has 1 channels; the setting is 3"):
        record(save(tmp_path / "x.png", square()), channels=3)


def test_soft_edges_are_kept_or_thresholded(tmp_path):
    pixels = square()
    pixels[5, 8:16], pixels[12, 8:16] = 100, 200  # the rows above and below the square
    path = save(tmp_path / "x.png", pixels)
    np.testing.assert_allclose(record(path)[..., 0], pixels / 255, atol=1e-6)
    np.testing.assert_array_equal(record(path, grey="threshold")[..., 0], pixels > 127)


def test_a_photograph_is_refused_or_thresholded(tmp_path):
    pixels = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
    path = save(tmp_path / "x.png", pixels)
    with pytest.raises(ValueError, match="x.png: has many shades of grey: it is a picture, not a mask"):
        record(path)
    np.testing.assert_array_equal(record(path, grey="threshold")[..., 0], pixels > 127)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros(SIZE, np.uint8), r"x.png: the mask is empty, at 24 x 32"),
        (np.full(SIZE, 255, np.uint8), "x.png: the mask is full: every pixel is foreground"),
        (square() // 5, "x.png: has values up to 51: masks have 0 and 255, or 0 and 1"),
        (square().astype(np.uint16), "x.png: a mask must be one picture of 1 or 8 bits"),
    ],
)
def test_images_that_are_not_masks_are_refused(tmp_path, pixels, reason):
    with pytest.raises(ValueError, match=reason):
        record(save(tmp_path / "x.png", pixels))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(SIZE, bool), "x.npy: the mask is empty"),
        (square().astype(np.float32) / 255, "x.npy: masks must be bool or whole numbers, got float32"),
        (np.full(SIZE, 3, np.uint8), "x.npy: has values from 3 to 3"),
        (np.zeros((2, 2, 4, 4), bool), r"x.npy: masks must be \(K, H, W\) or \(H, W\)"),
        (np.array([{}], object), "x.npy: masks must be bool or whole numbers, got object"),
    ],
)
def test_arrays_that_are_not_masks_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=reason):
        record(tmp_path / "x.npy")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["x.png", "x.jpg", "x.npy"]), st.integers(0, 2**32 - 1))
def test_damaged_files_give_a_mask_or_an_error_that_names_the_file(tmp_path_factory, name, seed):
    path = tmp_path_factory.mktemp("m") / name
    np.save(path, square() > 0) if name.endswith("npy") else save(path, square())
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 4):
        content[place] = rng.integers(256)
    path.write_bytes(content[: rng.integers(0, len(content) + 1)])
    problem = ""
    try:
        mask = record(path)
    except ValueError as error:
        problem = str(error)
    if problem:
        assert problem.startswith(f"{name}: ")
    else:
        assert mask.shape == (*SIZE, 1)
        assert 0 <= mask.min() <= mask.max() <= 1


def test_records_are_batched_and_a_bad_one_is_reported_or_skipped(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", square())
    (tmp_path / "3.png").write_bytes(b"no picture")
    masks = pickle.loads(pickle.dumps(MaskFolder(tmp_path, SIZE)))  # noqa: S301 (our own)
    with pytest.raises(RecordError, match=r"record 3, 3.png: not a png or jpg file, or damaged"):
        next(evaluation_batches(masks, as_read, batch_size=5))
    batches = training_batches(masks, as_read, batch_size=5, seed=0, on_error="skip")
    assert next(batches)["mask"].shape == (5, *SIZE, 1)
    assert batches.skipped == {"3.png": 1}
    batches.close()


def folder_of(root: Path, count: int) -> MaskFolder:
    return MaskFolder(root, SIZE, files=tuple(root / f"{i:03}.png" for i in range(count)))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(0, 9), st.floats(0.5, 0.9))
def test_training_and_validation_are_disjoint_and_complete(count, seed, fraction):
    train, validation = folder_of(Path("x"), count).split(train_fraction=fraction, seed=seed)
    assert len(train) == int(fraction * count)
    assert sorted(train.files + validation.files) == list(folder_of(Path("x"), count).files)
    assert (train.size, train.root) == (SIZE, Path("x"))


def test_splits_depend_only_on_the_seed():
    first, same, other = (folder_of(Path("x"), 50).split(seed=seed)[0].files for seed in (1, 1, 2))
    assert first == same
    assert set(first) != set(other)


def test_the_originals_splits_overlap():
    masks = folder_of(Path("x"), 300)
    train, validation = masks.split(split="original")
    assert (len(train), len(validation)) == (240, 60)
    assert validation.files == masks.files[240:]
    assert len(set(train.files)) == 240
    assert 30 < len(set(train.files) & set(validation.files)) < 60


def test_impossible_options_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="none of its 1 entries is a mask; name the folder that holds"):
        MaskFolder(tmp_path)
    with pytest.raises(OSError, match="missing"):
        MaskFolder(tmp_path / "missing")
    save(tmp_path / "a.png", square())
    for options, reason in (
        ({"grey": "refuse"}, "grey is 'refuse'; known: soft, threshold"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"size": (0, 8)}, "size must be two positive numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            MaskFolder(tmp_path, **options)
    masks = MaskFolder(tmp_path)
    for options, reason in (
        ({"split": "random"}, "split is 'random'; known: disjoint, original"),
        ({"train_fraction": 1.0}, r"train_fraction must be in \(0, 1\)"),
        ({}, "1 masks cannot be split into a share of 0.8 and the rest"),
    ):
        with pytest.raises(ValueError, match=reason):
            masks.split(**options)


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_masks_of_images_that_failed_later_are_left_out(tmp_path, kind):
    for number in range(3):
        draw(tmp_path / "images" / f"{number}.png")
    finish(tmp_path / "images", tmp_path / "out", kind)
    path = tmp_path / "out" / file_name(kind)
    assert len(MaskFolder(path, channels=3)) == 3
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    finish(tmp_path / "images", tmp_path / "out", kind)
    assert set(image_names(path)) == {"0", "1", "2"}
    assert MaskFolder(path, channels=3).files == (Path("0.png"), Path("2.png"))
    (tmp_path / "out" / "summary.json").unlink()
    assert len(MaskFolder(path, channels=3)) == 3


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_masks_in_a_file_with_all_images_are_records(tmp_path, suffix):
    output_type = {"jsonl": "coco-lines", "parquet": "parquet"}[suffix]
    found = mask_file(output_type, tmp_path, CLASSES)
    found.open()
    for number, name in enumerate(("b.png", "ward/a.png", "ward/b.png")):
        found.add(name[:-4], name, shapes(number, size=(64, 48)))
    found.finish()
    masks = MaskFolder(tmp_path / f"masks.{suffix}", (64, 48), channels=3, blank=True)
    assert [masks.name(i) for i in range(len(masks))] == ["b.png", "a.png", "b.png"]
    for i, number in enumerate((0, 1, 2)):
        wanted = np.moveaxis(shapes(number, size=(64, 48)).masks, 0, 2)
        np.testing.assert_array_equal(masks[i]["mask"], wanted)
    assert len(pickle.loads(pickle.dumps(masks))) == 3  # noqa: S301
    with pytest.raises(ValueError, match="has 3 channels; the setting is 1"):
        MaskFolder(tmp_path / f"masks.{suffix}")[0]


def folders(root: Path, **names: list[str]) -> Path:
    """Writes a folder of masks for each class; the masks of class number i have i pixels more."""
    for number, (folder, files) in enumerate(names.items()):
        (root / folder).mkdir()
        for name in files:
            mask = square()
            mask[0, :number] = 255
            save(root / folder / name, mask)
    return root


def test_classes_have_folders_of_their_own_and_images_without_all_of_them_are_left_out(tmp_path):
    root = folders(tmp_path, lungs=["a.png", "b.png", "c.png"], hearts=["c.png", "a.png", "d.png"])
    source = MaskFolder(root, SIZE, 2, classes=("hearts=heart", "lungs=lung"))
    assert ([source.name(i) for i in range(len(source))], source.ignored) == (["a.png", "c.png"], 2)
    masks = pickle.loads(pickle.dumps(source))[1]["mask"]  # noqa: S301
    assert masks.shape == (*SIZE, 2)
    assert (masks.sum((0, 1)) - square().sum() / 255).tolist() == [1, 0]
    train, val = source.split(train_fraction=0.5)
    assert (len(train), len(val), train[0]["mask"].shape) == (1, 1, (*SIZE, 2))


def test_folders_of_classes_that_share_no_image_are_refused(tmp_path):
    root = folders(tmp_path, lungs=["a.png"], hearts=["b.png"])
    with pytest.raises(ValueError, match="have no file name in common"):
        MaskFolder(root, SIZE, 2, classes=("lungs=lung", "hearts=heart"))


def test_masks_of_one_image_that_do_not_fit_together_are_refused(tmp_path):
    root = folders(tmp_path, lungs=["a.png", "b.png"], hearts=["a.png", "b.png"])
    save(root / "hearts" / "a.png", square(30, 32))
    (root / "hearts" / "b.png").write_bytes(b"no picture")
    source = MaskFolder(root, SIZE, 2, classes=("lungs=lung", "hearts=heart"))
    with pytest.raises(ImageError, match=r"a\.png: its classes have masks of different sizes: 24 x 32, 30 x 32"):
        source[0]
    with pytest.raises(ImageError, match=r"hearts/b\.png"):
        source[1]
    np.save(root / "lungs" / "a.npy", square() > 0)
    with pytest.raises(ValueError, match=r"a\.npy and a\.png have the same name"):
        MaskFolder(root, SIZE, 2, classes=("lungs=lung", "hearts=heart"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lungs"], "is not FOLDER=NAME"),
        (["=lung"], "is not FOLDER=NAME"),
        (["../x=lung"], "must lie in the folder of the data"),
        (["/x=lung"], "must lie in the folder of the data"),
        (["a=lung", "b=lung"], "occurs twice"),
        (["a=lung", "a=heart"], "occurs twice"),
    ],
)
def test_impossible_classes_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(texts)


def test_hearts_of_the_sample_lie_beside_their_lungs(shared):
    source = MaskFolder(shared / "data", (64, 64), 2, classes=("lung_masks=lungs", "heart_masks=heart"))
    assert (len(source), source.ignored) == (150, 150)
    lungs, heart = np.moveaxis(source[3]["mask"], -1, 0)
    columns = np.arange(64)
    assert (lungs > 0.5).sum() > (heart > 0.5).sum() > 0
    assert abs((heart.sum(0) @ columns) / heart.sum() - (lungs.sum(0) @ columns) / lungs.sum()) < 12
