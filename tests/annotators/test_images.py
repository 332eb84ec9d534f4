"""Reading images for annotator models: file formats, damaged files, sizes."""

import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxseg.annotators.images import read_image, resized_labels
from jaxseg.images import tiff


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape or (32, 32))


def test_every_kind_of_file_is_read_as_stored(tmp_path):
    plane = image()
    tiff.write_tiff(tmp_path / "a.tif", plane[None])
    np.save(tmp_path / "b.npy", np.asfortranarray(plane))
    np.savez(tmp_path / "c.npz", image=plane.astype(">f4"), mask=plane > 0)
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "d.PNG")
    assert np.array_equal(read_image(tmp_path / "a.tif"), plane[None])
    assert np.array_equal(read_image(tmp_path / "b.npy"), plane)
    assert np.array_equal(read_image(tmp_path / "c.npz"), plane.astype(np.float32))
    assert read_image(tmp_path / "c.npz").dtype.isnative
    np.testing.assert_allclose(read_image(tmp_path / "d.PNG"), levels / 255, atol=1e-7)


def test_damaged_and_unknown_files_are_refused_with_a_one_sentence_error(tmp_path):
    np.savez(tmp_path / "other.npz", picture=image())
    np.save(tmp_path / "object.npy", np.array([[None]]), allow_pickle=True)
    np.save(tmp_path / "deep.npy", np.zeros((1, 2, 3, 4)))
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    Image.new("I;16", (4, 4)).save(tmp_path / "deep.png")
    for name in ("bad.tif", "bad.npy", "bad.npz", "bad.png", "image.jpg"):
        (tmp_path / name).write_bytes(b"no image at all")
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    shape = "{'descr': '<f8', 'fortran_order': False, 'shape': (9000, 9000), }"
    (tmp_path / "huge.npy").write_bytes(head + shape.ljust(117).encode() + b"\n")
    (tmp_path / "short.npy").write_bytes(head + shape.replace("9000", "90").ljust(117).encode() + b"\n")
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("image.npy", (tmp_path / "short.npy").read_bytes())
    words = {
        "other.npz": "must hold an array called image; it holds picture",
        "object.npy": "numbers, got object",
        "deep.npy": r"of at most 67,108,864 values, got \(1, 2, 3, 4\)",
        "huge.npy": r"got \(9000, 9000\)",
        "short.npy": "is cut off: .* needs 64,800 bytes, but it has 0",
        "short.npz": "is cut off",
        "clear.png": "without transparency: RGBA",
        "deep.png": "one picture of 8 bits",
        "bad.tif": "not a TIFF file, or damaged",
        "bad.npy": "or damaged",
        "bad.npz": "or damaged",
        "bad.png": "not a png file, or damaged",
        "image.jpg": "images are read from .tif",
    }
    for name, expected in words.items():
        with pytest.raises(ValueError, match=expected) as error:
            read_image(tmp_path / name)
        assert str(error.value).startswith(f"{name}: ")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.npy")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200), st.sampled_from([".npy", ".npz", ".png"]))
def test_truncated_and_changed_files_are_read_or_refused(tmp_path_factory, patch, place, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    if suffix == ".png":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    else:
        {".npy": np.save, ".npz": lambda path, array: np.savez(path, image=array)}[suffix](path, image(4, 5))
    content = path.read_bytes()
    path.write_bytes(content[:place] + patch + content[place + 2 * len(patch) :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and Pillow warn about odd headers
        try:
            found = read_image(path)
        except ValueError:
            return
    assert found.ndim in (2, 3)
    assert found.dtype.kind in "iuf"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_enlarged_pixels_have_the_value_of_the_pixel_that_contains_their_centre(height, width, tall, wide):
    labels = np.arange(height * width).reshape(1, height, width)
    found = resized_labels(labels, (tall, wide))
    rows = [min(int((i + 0.5) * height / tall), height - 1) for i in range(tall)]
    columns = [min(int((j + 0.5) * width / wide), width - 1) for j in range(wide)]
    assert np.array_equal(found[0], [[i * width + j for j in columns] for i in rows])
    assert np.array_equal(resized_labels(labels, (height, width)), labels)
