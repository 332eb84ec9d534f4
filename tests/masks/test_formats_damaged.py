"""Damaged .npz files: every reader names the file and says that it is damaged, or reads the right values."""

import io
import random

import numpy as np
import pytest

from jaxseg import npy
from jaxseg.annotators.images import read_image
from jaxseg.masks.read import read_masks
from jaxseg.volumes.read import read_volume
from jaxseg.weights.embeddings import read_embeddings

RNG = np.random.default_rng(0)
READERS = {
    "masks": ({"arr_0": RNG.random((3, 20, 20)) > 0.5}, lambda path: read_masks(path).masks),
    "volume": ({"arr_0": RNG.integers(0, 9, (4, 9, 9))}, lambda path: read_volume(path).array),
    "image": ({"image": RNG.random((9, 9))}, read_image),
    "embeddings": (
        {"embeddings": RNG.random((3, 4)).astype(np.float32), "ids": np.arange(3)},
        lambda path: read_embeddings(path, shape=(3, 4)),
    ),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns content that is cut off, lacks its start, or has other bytes at some places."""
    kind, place = rng.randrange(3), rng.randrange(1, len(content))
    if kind < 2:
        return content[:place] if kind else content[place:]
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile warns of two members with one name
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_archive_is_named_as_such(tmp_path, kind):
    arrays, read = READERS[kind]
    file, path, rng = io.BytesIO(), tmp_path / "bad.npz", random.Random(kind)
    np.savez_compressed(file, **arrays)
    path.write_bytes(file.getvalue())
    right, refused = read(path), 0
    for _ in range(150):
        path.write_bytes(damaged(file.getvalue(), rng))
        try:
            found = read(path)
        except ValueError as error:
            assert "bad.npz" in str(error)  # noqa: PT017 -- the file may also be whole
            assert "Errno" not in str(error)  # noqa: PT017
            refused += 1
        else:
            np.testing.assert_array_equal(found, right)
    assert refused > 100


def test_the_archive_that_blamed_the_image_is_named(kit):
    path = kit.folder / "cases" / "first40lost.npz"
    with pytest.raises(ValueError, match="first40lost.npz: not a .npz file, or damaged: the archive cannot be read"):
        read_masks(path)


def test_errors_of_the_system_and_of_the_caller_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), npy.archive(tmp_path / "nothing.npz"):
        pass
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(OSError, match="Input/output"), npy.archive(tmp_path / "a.npz"):
        raise OSError(5, "Input/output error")
    with pytest.raises(npy.NpyError, match="damaged"), npy.archive(tmp_path / "a.npz"):
        raise OSError(22, "Invalid argument")
