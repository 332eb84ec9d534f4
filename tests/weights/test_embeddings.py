"""Text embeddings: the original's pickle, .npz and .npy to the same bits; hostile, damaged and wrong files."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_pickles import zipped
from torch_writer import call, named, pickled, storage, tensor, write_zip

from jaxseg.weights import embeddings
from jaxseg.weights.embeddings import read_embeddings

SHAPE = (3, 4)
ROWS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def plain_pickle(rows: dict) -> bytes:
    """The layout of the original's file: a plain pickle of tensors, each with its own file of torch.save inside."""
    return pickled({key: row if isinstance(row, (str, bytes)) else nested(row) for key, row in rows.items()})


def nested(row: np.ndarray):
    """A tensor whose storage is bytes inside the pickle."""
    kind = {"float32": "Float", "int64": "Long"}[row.dtype.name]
    file = io.BytesIO()
    write_zip(file, storage(kind, row.size), {"0": row.tobytes()})
    memory = call(named("torch.storage", "_load_from_bytes"), file.getvalue())
    return tensor(memory, row.shape, (row.shape[-1], 1)[-row.ndim :])


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text.encode()


def test_the_originals_pickle_and_the_npz_have_the_same_bits(shared):
    folder = shared / "data" / "segae"
    pickle, archive = (read_embeddings(folder / f"label_embedding.{suffix}") for suffix in ("pkl", "npz"))
    assert (pickle.shape, pickle.dtype) == ((145, 512), np.float32)
    np.testing.assert_array_equal(pickle.view(np.uint32), archive.view(np.uint32))
    with np.load(folder / "label_embedding.npz") as expected:
        np.testing.assert_array_equal(pickle.view(np.uint32), expected["embeddings"].view(np.uint32))
    norms = np.linalg.norm(pickle, axis=1)
    assert 8 < norms.min() < norms.max() < 12.7


@pytest.mark.parametrize("rank", [1, 2])
def test_a_plain_pickle_of_tensors_is_read_in_the_order_of_its_classes(tmp_path, rank):
    rows = {i: ROWS[i] if rank == 1 else ROWS[i : i + 1] for i in (2, 0, 1)}
    path = tmp_path / "x.pkl"
    path.write_bytes(plain_pickle(rows))
    np.testing.assert_array_equal(read_embeddings(path, shape=SHAPE), ROWS)


def test_a_file_of_torch_save_is_read(tmp_path):
    values = {i: tensor(storage("Float", 4, str(i)), (1, 4), (4, 1)) for i in range(3)}
    path = tmp_path / "x.pt"
    path.write_bytes(zipped(values, {str(i): ROWS[i].tobytes() for i in range(3)}))
    np.testing.assert_array_equal(read_embeddings(path, shape=SHAPE), ROWS)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_float_and_order_are_read(tmp_path, dtype, order):
    given = np.array(ROWS, dtype, order=order)
    np.save(tmp_path / "x.npy", given)
    for path in (tmp_path / "x.npy", npz(tmp_path / "x.npz", embeddings=given)):
        found = read_embeddings(path, shape=SHAPE)
        assert (found.dtype, found.flags.c_contiguous, found.dtype.isnative) == (np.float32, True, True)
        np.testing.assert_array_equal(found, given.astype(np.float32))


def test_rows_of_an_npz_belong_to_its_ids(tmp_path):
    path = npz(tmp_path / "x.npz", ids=np.array([2, 0, 1]), embeddings=ROWS[[2, 0, 1]], names=np.array(["c", "a", "b"]))
    np.testing.assert_array_equal(read_embeddings(path, shape=SHAPE), ROWS)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"table": ROWS}, "no array `embeddings`, only table"),
        ({"embeddings": ROWS.T}, r"must be \(3, 4\) .* got \(4, 3\)"),
        ({"embeddings": ROWS.astype(np.int32)}, "got .* int32"),
        ({"embeddings": np.array([[None] * 4] * 3)}, "got .* object"),
        ({"embeddings": ROWS, "ids": np.array([0, 1, 1])}, "the classes 0 to 2, each once"),
        ({"embeddings": ROWS, "ids": np.arange(4)}, r"must be \(3,\)"),
        ({"embeddings": ROWS, "ids": np.arange(3.0)}, "int32 or int64, got .* float64"),
        ({"embeddings": np.where(np.arange(4) == 2, np.nan, ROWS)}, "not finite"),
        ({"embeddings": ROWS * np.array([[1], [0], [1]])}, "zeros only"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, words):
    path = npz(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz: .*{words}"):
        read_embeddings(path, shape=SHAPE)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({0: ROWS[0], 1: ROWS[1]}, "must hold a dict from the classes 0 to 2 .* got 2 entries"),
        ({0: ROWS[0], 1: ROWS[1], 3: ROWS[2]}, "must hold a dict from the classes 0 to 2"),
        ({"0": ROWS[0], "1": ROWS[1], "2": ROWS[2]}, "must hold a dict from the classes 0 to 2"),
        ({0: ROWS[0], 1: ROWS[1], 2: ROWS[2][:3]}, r"class 2 must be \(4,\) or \(1, 4\) decimals, got \(3,\)"),
        ({0: ROWS[0], 1: ROWS[1], 2: np.arange(4)}, "class 2 .* got .* int64"),
        ({0: ROWS[0], 1: ROWS[1], 2: "text"}, "class 2 .* got a str"),
        ({0: ROWS[0], 1: ROWS[1], 2: np.full(4, np.inf, np.float32)}, "not finite"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, rows, words):
    path = tmp_path / "x.pkl"
    path.write_bytes(plain_pickle(rows))
    with pytest.raises(ValueError, match=rf"x\.pkl: .*{words}"):
        read_embeddings(path, shape=SHAPE)


def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path):
    path, witness = tmp_path / "x.pkl", tmp_path / "witness"
    path.write_bytes(pickled({0: call(named("os", "system"), f"touch {witness}")}))
    with pytest.raises(ValueError, match=r"refers to os\.system, which no weights file needs"):
        read_embeddings(path, shape=SHAPE)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x93NUMPY", "damaged"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }") + bytes(47), "is cut off"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }") + bytes(49), "more bytes"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (30000000, 40000), }"), r"must be \(3, 4\)"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }") + b"cos\nsystem\n.", "got .* object"),
        (header("{" * 300), "damaged|parse"),
        (header("", b"\x03\x00"), "version"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, content, words):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_embeddings(path, shape=SHAPE)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count(str(path)) == 1


def test_a_large_array_behind_a_small_zip_is_not_unpacked(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"
        archive.writestr("embeddings.npy", header(text) + bytes(2**24))
    with pytest.raises(ValueError, match="more bytes than"):
        read_embeddings(path, shape=SHAPE)


def test_a_large_file_and_a_folder_are_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(ValueError, match="is a folder"):
        read_embeddings(tmp_path, shape=SHAPE)
    with pytest.raises(FileNotFoundError):
        read_embeddings(tmp_path / "none.pkl", shape=SHAPE)
    monkeypatch.setattr(embeddings, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="tables of text embeddings are smaller"):
        read_embeddings(tmp_path / "x.npy", shape=SHAPE)


def written(kind: str, path) -> bytes:
    if kind == "pkl":
        return plain_pickle({i: ROWS[i] for i in range(3)})
    if kind == "npz":
        return npz(path, embeddings=ROWS, ids=np.arange(3)).read_bytes()
    np.save(path, ROWS)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["pkl", "npz", "npy"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_a_table_or_a_value_error(tmp_path, kind, data):
    path = tmp_path / f"x.{kind}"
    content = bytearray(written(kind, path))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_embeddings(path, shape=SHAPE)
    except ValueError:
        return
    assert (found.shape, found.dtype) == (SHAPE, np.float32)
    assert np.isfinite(found).all()
