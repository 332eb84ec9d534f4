"""Restoring mask files: formats, unchanged classes, previews, resuming, and bad files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from mask_models import Echo
from PIL import Image

import jaxseg
from jaxseg.post_dae import mask_files
from jaxseg.vocabulary import labels

INVERT = {"answer": lambda x: 1 - x}


def blob(height: int = 32, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : -height // 4, width // 5 : -width // 5] = True
    return mask


def run(source, output, model=None, **options):
    """Returns the summary's entries of a run, {output name: entry}."""
    return jaxseg.denoise_folder(source, output, model or Echo(**INVERT), **options).entries


def picture(path, array) -> None:
    Image.fromarray(array.astype(np.uint8) * 255).save(path)


@pytest.fixture
def masks(tmp_path):
    path = tmp_path / "masks"
    path.mkdir()
    return path


def test_each_file_gives_a_result_of_the_same_format_and_shape(masks, tmp_path):
    stack = np.stack([blob()])
    picture(masks / "a.png", blob(40, 50))
    picture(masks / "b.jpg", blob(64, 64))
    np.save(masks / "c.npy", blob())
    np.save(masks / "d.npy", stack.astype(np.uint8) * 255)
    np.savez(masks / "e.npz", stack)
    files = run(masks, tmp_path / "out")
    assert {entry["status"] for entry in files.values()} == {"done"}
    a, b = (np.asarray(Image.open(tmp_path / "out" / name)) for name in ("a.png", "b.png"))
    assert a.shape == (40, 50)
    assert set(np.unique(a)) == {0, 255}
    assert ((b > 127) == ~blob(64, 64)).mean() > 0.9
    c, d = (np.load(tmp_path / "out" / name) for name in ("c.npy", "d.npy"))
    assert np.array_equal(c, ~blob())
    assert d.dtype == bool
    assert np.array_equal(d, ~stack)
    with np.load(tmp_path / "out" / "e.npz") as archive:
        assert archive.files == ["arr_0"]
        assert np.array_equal(archive["arr_0"], ~stack)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_only_the_chosen_classes_of_a_file_change(masks, tmp_path, suffix):
    rng = np.random.default_rng(0)
    stack = rng.random((159, 32, 64)) > 0.5
    (np.save if suffix == ".npy" else np.savez)(masks / f"x{suffix}", stack)
    files = run(masks, tmp_path / "out", classes="heart,left lung", model=Echo((32, 64), **INVERT))
    assert files["x"]["status"] == "done"
    found = np.load(tmp_path / "out" / f"x{suffix}")
    found = found if suffix == ".npy" else found["arr_0"]
    changed = np.flatnonzero((found != stack).any((1, 2)))
    assert changed.tolist() == sorted(labels.select(labels.CXAS, "heart,left lung"))


def test_soft_results_are_probabilities(masks, tmp_path):
    picture(masks / "a.png", blob())
    half = Echo(answer=lambda x: 0.5 * x)
    np.save(masks / "b.npy", np.stack([blob()]))
    run(masks, tmp_path / "out", half, soft=True)
    found = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert set(np.unique(found)) == {0, 128}
    b = np.load(tmp_path / "out" / "b.npy")
    assert b.dtype == np.float32
    assert np.array_equal(b, 0.5 * np.stack([blob()]).astype(np.float32))


def test_bad_files_are_named_and_the_others_are_restored(masks, tmp_path):
    picture(masks / "good.png", blob())
    picture(masks / "empty.png", np.zeros((8, 8), bool))
    picture(masks / "full.png", np.ones((8, 8), bool))
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1))).save(masks / "grey.png")
    (masks / "cut.png").write_bytes((masks / "good.png").read_bytes()[:60])
    np.save(masks / "two.npy", np.stack([blob(), blob()]))
    np.save(masks / "float.npy", blob().astype(np.float32))
    files = run(masks, tmp_path / "out")
    assert files["good"]["status"] == "done"
    reasons = {name: entry.get("reason", "") for name, entry in files.items()}
    for name, words in {
        "empty": "the mask is empty",
        "full": "the mask is full",
        "grey": "many shades of grey",
        "cut": "cut.png",
        "two": "name the classes",
        "float": "float32",
    }.items():
        assert files[name]["status"] == "failed"
        assert words in reasons[name]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png", "summary.json"]


def test_results_of_an_accelerator_equal_those_of_a_cpu(masks, tmp_path, monkeypatch):
    """There, files are given to the network before the results of the files before them are fetched."""
    denoiser = jaxseg.Denoiser(Echo(**INVERT), batch_size=2)
    for name in "abcde":
        picture(masks / f"{name}.png", blob(40 + ord(name), 50))
    run(masks, tmp_path / "cpu", denoiser)
    given, fetched = [], []
    start, fetch = denoiser.start, denoiser.fetch
    monkeypatch.setattr(type(denoiser), "devices", [SimpleNamespace(platform="gpu")])
    monkeypatch.setattr(denoiser, "start", lambda planes: given.append(len(fetched)) or start(planes))
    monkeypatch.setattr(denoiser, "fetch", lambda answers: fetched.append(len(given)) or fetch(answers))
    run(masks, tmp_path / "gpu", denoiser)
    assert (given, fetched) == ([0, 0, 1], [2, 3, 3])
    for name in "abcde":
        ours, theirs = (np.asarray(Image.open(tmp_path / side / f"{name}.png")) for side in ("gpu", "cpu"))
        np.testing.assert_array_equal(ours, theirs)


def test_grey_pictures_are_thresholded_on_request(masks, tmp_path):
    Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))).save(masks / "grey.png")
    files = run(masks, tmp_path / "out", Echo(), grey="threshold")
    assert files["grey"]["status"] == "done"
    found = np.asarray(Image.open(tmp_path / "out" / "grey.png")) > 127
    assert np.array_equal(found, np.tile(np.arange(0, 256, 8) > 127, (32, 1)))


def test_empty_classes_are_kept_and_reported(masks, tmp_path):
    np.save(masks / "x.npy", np.stack([blob(), np.zeros((32, 32), bool)]))
    files = run(masks, tmp_path / "out", classes="class_000,class_001")
    assert np.array_equal(np.load(tmp_path / "out" / "x.npy"), np.stack([~blob(), np.zeros((32, 32), bool)]))
    assert files["x"]["notes"] == ["x.npy: class_001: the mask is empty, and is kept"]


def test_a_file_with_only_empty_classes_is_copied(masks, tmp_path):
    np.save(masks / "x.npy", np.zeros((2, 32, 32), bool))
    files = run(masks, tmp_path / "out", classes="class_000,class_001", preview=True)
    assert files["x"]["status"] == "done"
    assert not np.load(tmp_path / "out" / "x.npy").any()


def test_a_second_run_skips_and_a_changed_mask_is_done_again(masks, tmp_path):
    picture(masks / "a.png", blob())
    picture(masks / "b.png", blob(40, 40))
    run(masks, tmp_path / "out", preview=True)
    assert {entry["status"] for entry in run(masks, tmp_path / "out", preview=True).values()} == {"skipped"}
    picture(masks / "a.png", blob(50, 50))
    files = run(masks, tmp_path / "out", preview=True)
    assert {name: entry["status"] for name, entry in files.items()} == {"a": "done", "b": "skipped"}
    with pytest.raises(ValueError, match="made with other settings: denoise"):
        run(masks, tmp_path / "out", soft=True)


def test_the_preview_shows_what_was_added_and_removed(masks, tmp_path):
    picture(masks / "a.png", blob(256, 256))
    run(masks, tmp_path / "out", Echo((256, 256), **INVERT), preview=True)
    with Image.open(tmp_path / "out" / "a.preview.jpg") as image:
        pixels = np.asarray(image).astype(int)
    blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 2] > 150)
    orange = (pixels[..., 0] > pixels[..., 2] + 60) & (pixels[..., 0] > 150)
    assert blue.sum() > 0.9 * blob(256, 256).sum()
    assert orange.sum() > 0.9 * (~blob(256, 256)).sum()


def test_results_are_not_read_as_masks_and_never_replace_the_input(masks, tmp_path):
    picture(masks / "a.png", blob())
    with pytest.raises(ValueError, match="holds the masks themselves"):
        mask_files.find_mask_files(masks, output=masks)
    with pytest.raises(ValueError, match="holds the masks themselves"):
        mask_files.find_mask_files(masks / "a.png", output=masks)
    run(masks, masks / "out", preview=True, recursive=True)
    assert mask_files.find_mask_files(masks, recursive=True, output=masks / "out") == [masks / "a.png"]
    with pytest.raises(FileNotFoundError):
        mask_files.find_mask_files(tmp_path / "none", output=tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"no .png, .jpg"):
        mask_files.find_mask_files(tmp_path / "bare", output=tmp_path / "out")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match="masks are read from"):
        mask_files.find_mask_files(tmp_path / "x.txt", output=tmp_path / "out")


def test_other_results_of_a_run_are_not_restored(masks, tmp_path):
    np.savez(masks / "a.npz", blob()[None])
    np.savez(
        masks / "a.probabilities.npz", probabilities=np.zeros((1, 8, 8), np.float16), names=["heart"], size=[32, 32]
    )
    for name in ("a.preview.jpg", "b.lines.jpg"):
        picture(masks / name, blob())
    assert run(masks, tmp_path / "out").keys() == {"a"}


def test_equal_names_keep_their_suffix_and_folders_are_mirrored(masks, tmp_path):
    picture(masks / "a.png", blob())
    np.save(masks / "a.npy", blob())
    (masks / "sub").mkdir()
    picture(masks / "sub" / "a.png", blob())
    files = run(masks, tmp_path / "out", recursive=True)
    assert sorted(files) == ["a_npy", "a_png", "sub/a"]
    assert (tmp_path / "out" / "sub" / "a.png").is_file()
    assert (tmp_path / "out" / "a_npy.npy").is_file()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"]["done"] == 3


def test_a_full_disk_leaves_no_partial_file(masks, tmp_path, monkeypatch):
    np.save(masks / "a.npy", np.stack([blob()]))

    def full(stack, found):
        yield found[0]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mask_files, "_planes", full)
    with pytest.raises(OSError, match="No space"):
        run(masks, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.json"]


def test_a_preview_shows_added_pixels_in_orange_and_removed_ones_in_blue():
    before, after = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    before[8:40, 8:56], after[24:56, 8:56] = True, True
    loaded = SimpleNamespace(chosen={0: before}, names=["lung"])
    sheet = np.asarray(mask_files.before_and_after(loaded, mask_files.Restored({0: after}, {}, ())))
    change = sheet[40:290, 560:800].astype(int)  # the third column
    shown = [
        (np.abs(change - colour).max(-1) < 4) for colour in (mask_files.REMOVED, mask_files.KEPT, mask_files.ADDED)
    ]
    rows = [np.nonzero(where)[0].mean() for where in shown]
    assert rows == sorted(rows)  # from top to bottom: removed, kept, added
    assert mask_files.ADDED == (230, 159, 0)
    assert mask_files.REMOVED == (0, 114, 178)


def test_a_mask_that_vanishes_at_the_networks_size_is_kept_with_a_note(masks, tmp_path):
    tiny = np.zeros((400, 400), bool)
    tiny[3:5, 3:5] = True
    np.save(masks / "a.npy", np.stack([blob(400, 400), tiny]))
    options = {"classes": "class_000,class_001"}
    (entry,) = run(masks, tmp_path / "out", **options).values()
    found = np.load(tmp_path / "out" / "a.npy")
    np.testing.assert_array_equal(found[1], tiny)
    assert not np.array_equal(found[0], blob(400, 400))
    note = "a.npy: class_001: the mask is empty at the network's size of 32 x 32, and is kept"
    assert entry["notes"] == [note]
    picture(masks / "b.png", tiny)
    files = run(masks / "b.png", tmp_path / "single")
    assert "b.png: the mask is empty at the network's size of 32 x 32" in files["b"]["reason"]
    with pytest.raises(ValueError, match="the mask is empty at the network's size of 32 x 32"):
        jaxseg.denoise(tiny, Echo())


def test_a_mask_that_comes_back_empty_is_noted(masks, tmp_path):
    np.save(masks / "a.npy", blob())
    (entry,) = run(masks, tmp_path / "out", Echo(answer=lambda x: 0 * x)).values()
    assert entry["notes"] == ["a.npy: class_000: the restored mask is empty, although the mask is not"]


def test_a_label_map_gives_a_label_map(masks, tmp_path):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[4:20, 4:14], pixels[10:28, 18:28], pixels[:2, :2] = 127, 255, 9
    Image.fromarray(pixels).save(masks / "a.png")
    np.save(masks / "b.npy", pixels.astype(np.int32))
    files = run(masks, tmp_path / "refused")
    assert "a.png: is a label map with the grey levels 0, 9, 127, 255" in files["a"]["reason"]
    moved = Echo(answer=lambda x: x[:, :, ::-1])  # each class is mirrored
    files = run(masks, tmp_path / "out", moved, levels={127: "heart", 255: "lung"})
    assert [entry["notes"] for entry in files.values()] == [
        [f"{name}: levels without a name are ignored: 9"] for name in ("a.png", "b.npy")
    ]
    expected = np.where(pixels == 9, 9, 0)
    for level in (127, 255):
        mirrored = (pixels == level)[:, ::-1]
        expected[mirrored & (expected == 0)] = level
        expected[mirrored & (pixels == level)] = level
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)
    found = np.load(tmp_path / "out" / "b.npy")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    run(masks, tmp_path / "heart", moved, levels={127: "heart", 255: "lung"}, classes="heart")
    found = np.load(tmp_path / "heart" / "b.npy")
    np.testing.assert_array_equal(found == 255, pixels == 255)
    with pytest.raises(ValueError, match="a label map has no probabilities"):
        run(masks, tmp_path / "soft", levels={127: "heart"}, soft=True)


def test_merged_parts_equal_a_run_without_parts(masks, tmp_path):
    for number in range(6):
        picture(masks / f"{number}.png", blob(30 + number, 40))
    options = {"model": Echo(**INVERT), "preview": True}
    results = [jaxseg.denoise_folder(masks, tmp_path / "out", part=part, **options) for part in ("1/2", "2/2")]
    assert sum(result.done for result in results) == 6
    assert min(result.done for result in results) > 0
    assert jaxseg.merge_folder(tmp_path / "out").problems == ()
    jaxseg.denoise_folder(masks, tmp_path / "whole", **options)
    parted, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix != ".json"}
        for name in ("out", "whole")
    )
    assert parted == whole
    assert jaxseg.denoise_folder(masks, tmp_path / "out", **options).skipped == 6
