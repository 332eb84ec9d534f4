"""Tensors of every dtype and shape read bit-exactly; impossible ones are refused before anything is allocated."""

import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from torch_pickles import FLOATS, assert_refused_cheaply, legacy, vector, zipped
from torch_writer import KINDS, Code, call, code, named, storage, tensor

from jaxseg.weights.torch_file import TorchFileError, read_torch_file


def memory_of(array: np.ndarray, key: str = "0") -> Code:
    return storage(KINDS[array.dtype.name], array.size, key, *([None] if array.dtype.name == "bool" else []))


@pytest.mark.parametrize("name", KINDS)
def test_every_dtype_is_bit_exact(write, torch_save, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.arange(6).reshape(2, 3).astype(dtype)
    content = {"data": {"0": array.tobytes()}, "tree": {"w": tensor(memory_of(array), (2, 3), (3, 1))}}
    extra = {"itemsize": dtype.itemsize} if torch_save is legacy else {}
    got = read_torch_file(write(torch_save(content["tree"], content["data"], **extra)))["w"]
    assert got.dtype == dtype
    assert got.tobytes() == array.tobytes()
    assert got.flags.c_contiguous
    assert not got.flags.writeable


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int64", "complex64", "uint8"])
def test_big_endian_zip(write, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.arange(6).astype(dtype)
    unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    raw = np.frombuffer(array.tobytes(), f"<u{unit}").byteswap().tobytes()
    tree = {"w": tensor(memory_of(array), (6,), (1,)), "part": tensor(memory_of(array), (2,), (2,), 1)}
    got = read_torch_file(write(zipped(tree, {"0": raw}, order=b"big")))
    assert got["w"].tobytes() == array.tobytes()
    assert got["part"].tobytes() == array[1:5:2].tobytes()
    assert got["w"].dtype == dtype


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "uint16", "float32"])
@pytest.mark.parametrize("order", [b"little", b"big"])
def test_untyped_storage_takes_the_dtype_of_the_tensor(write, name, order):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.arange(1, 5).astype(dtype)
    raw = np.frombuffer(array.tobytes(), f"u{dtype.itemsize}")
    raw = raw.byteswap() if order == b"big" else raw
    memory = Code(code(("storage", named("torch.storage", "UntypedStorage"), "0", "cpu", raw.nbytes)) + b"Q")
    build = named("torch._utils", "_rebuild_tensor_v3")
    tree = {"w": call(build, memory, 1, (3,), (1,), False, {}, named("torch", name))}
    got = read_torch_file(write(zipped(tree, {"0": raw.tobytes()}, order=order)))["w"]
    assert got.dtype == dtype
    assert got.tobytes() == array[1:].tobytes()


def test_strides_offsets_sharing_and_odd_shapes(write, torch_save):
    memory = storage("Float", 4)
    tree = {
        "plain": tensor(memory, (2, 2), (2, 1)),
        "transposed": tensor(memory, (2, 2), (1, 2)),
        "offset": tensor(memory, (2,), (1,), 2),
        "every_other": tensor(memory, (2,), (2,), 1),
        "scalar": tensor(memory, (), (), 3),
        "empty": tensor(memory, (0, 5), (5, 1)),
        "expanded": tensor(memory, (2, 3), (0, 0), 1),
        "one_axis": tensor(memory, (1, 4), (999, 1)),
        "no_memory": tensor(storage("Float", 0, "1"), (0,), (1,)),
    }
    got = read_torch_file(write(torch_save(tree, {"0": FLOATS, "1": b""})))
    want = {"plain": [[0, 1], [2, 3]], "transposed": [[0, 2], [1, 3]], "offset": [2, 3], "every_other": [1, 3]}
    want |= {
        "scalar": 3,
        "empty": np.empty((0, 5)),
        "expanded": np.ones((2, 3)),
        "one_axis": [[0, 1, 2, 3]],
        "no_memory": [],
    }
    assert list(got) == list(want)
    for name, array in got.items():
        assert array.shape == np.shape(want[name]), name
        np.testing.assert_array_equal(array, want[name], err_msg=name)
        assert array.flags.aligned
        assert not array.flags.writeable
    assert np.shares_memory(got["plain"], got["transposed"])


def test_parameters_and_tensors_with_attributes(write, torch_save):
    plain = named("torch._utils", "_rebuild_tensor_v2")
    args = (storage("Float", 4), 0, (4,), (1,), False, {})
    tree = {
        "a": call(named("torch._utils", "_rebuild_parameter"), vector(), True, {}),
        "b": call(named("torch._utils", "_rebuild_parameter_with_state"), vector(), True, {}, {"tag": 1}),
        "c": call(named("torch._tensor", "_rebuild_from_type_v2"), plain, named("torch", "Tensor"), args, {"tag": 1}),
        "d": call(
            named("torch._utils", "_rebuild_tensor"), storage("Float", 4), 0, call(named("torch", "Size"), [4]), (1,)
        ),
    }
    for array in read_torch_file(write(torch_save(tree))).values():
        np.testing.assert_array_equal(array, [0, 1, 2, 3])


def test_legacy_storage_that_is_part_of_another(write):
    memory = storage("Float", 4, "0", ("view", 1, 3))
    got = read_torch_file(write(legacy({"w": tensor(memory, (3,), (1,))})))["w"]
    np.testing.assert_array_equal(got, [1, 2, 3])
    with pytest.raises(TorchFileError, match="outside"):
        read_torch_file(write(legacy({"w": tensor(storage("Float", 4, "0", ("view", 2, 3)), (3,), (1,))})))
    build, double = named("torch._utils", "_rebuild_tensor_v3"), named("torch", "float64")
    with pytest.raises(TorchFileError, match="part of a float32 storage as float64"):
        read_torch_file(write(legacy({"w": call(build, memory, 0, (1,), (1,), False, {}, double)})))


def test_legacy_storage_that_is_described_in_two_ways_is_refused(write):
    for other in (storage("Int", 4), storage("Float", 3)):
        with pytest.raises(TorchFileError, match="storage 0 twice"):
            read_torch_file(write(legacy({"w": vector(), "v": other})))
    content = legacy({"w": vector()})
    count = content.rindex(FLOATS) - 8
    with pytest.raises(TorchFileError, match="storage 0 has another size"):
        read_torch_file(write(content[:count] + struct.pack("<q", 3) + FLOATS))


def test_tensors_are_views_of_the_file(write):
    path = write(zipped({"w": vector(2**20)}, {"0": bytes(2**22)}))
    tracemalloc.start()
    try:
        got = read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert got["w"].nbytes == 2**22


@pytest.mark.parametrize("kind", ["_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_meta_tensor_no_storage"])
def test_tensors_that_numpy_cannot_hold_are_named(write, kind):
    with pytest.raises(TorchFileError, match=f"'w' is a tensor that numpy cannot hold .{kind}"):
        read_torch_file(write(zipped({"w": call(named("torch._utils", kind), 1)})))


def test_lazily_conjugated_tensor_is_refused(write):
    build = named("torch._utils", "_rebuild_tensor_v2")
    tree = {"w": call(build, storage("ComplexFloat", 2), 0, (2,), (1,), False, {}, {"conj": True})}
    with pytest.raises(TorchFileError, match="resolve_conj"):
        read_torch_file(write(zipped(tree)))


BAD_TENSORS = {
    "outside": (tensor(storage("Float", 4), (2, 2), (3, 1)), "needs 5 elements, its storage has 4"),
    "offset": (tensor(storage("Float", 4), (4,), (1,), 1), "needs 5 elements"),
    "huge size": (tensor(storage("Float", 4), (2**40,), (1,)), "its storage has 4"),
    "huge expansion": (tensor(storage("Float", 4), (2**40,), (0,)), "repeats memory"),
    "empty but huge": (tensor(storage("Float", 4), (0, 2**61, 2**61), (1, 1, 1)), "damaged"),
    "negative stride": (tensor(storage("Float", 4), (2,), (-1,), 3), "in a way that PyTorch does not"),
    "negative offset": (tensor(storage("Float", 4), (2,), (1,), -1), "in a way that PyTorch does not"),
    "negative size": (tensor(storage("Float", 4), (-2,), (1,)), "in a way that PyTorch does not"),
    "text": (tensor(storage("Float", 4), "ab", "ab"), "in a way that PyTorch does not"),
    "axes": (tensor(storage("Float", 4), (2, 2), (1,)), "2 axes and 1 strides"),
    "many axes": (tensor(storage("Float", 4), (1,) * 40, (1,) * 40), "40 axes"),
    "no storage": (tensor(Code(b"N"), (1,), (1,)), "in a way that PyTorch does not|does not fit"),
    "unknown storage": (tensor(storage("Weird", 4), (1,), (1,)), "in a way that PyTorch does not"),
    "storage of 2**60": (vector(2**60), "storage 0 has|middle of its data"),
    "storage of 2**70": (vector(2**70), "in a way that PyTorch does not"),
    "short storage": (vector(5), "storage 0 has|another size|middle of its data"),
    "missing storage": (vector(4, "9"), "lacks the data|does not fit"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_impossible_tensors_are_refused_before_anything_is_allocated(write, torch_save, case):
    tree, words = BAD_TENSORS[case]
    assert_refused_cheaply(write(torch_save({"w": tree})), words)


def test_overlapping_strides_may_repeat_only_little_memory(write, torch_save):
    data = {"0": np.zeros(3000, "<f4").tobytes()}
    tree = {"w": tensor(storage("Float", 3000), (1000, 1000), (1, 1))}
    assert read_torch_file(write(torch_save(tree, data)))["w"].shape == (1000, 1000)
    tree = {"w": tensor(storage("Float", 3000), (1001, 1000), (1, 1))}
    assert_refused_cheaply(write(torch_save(tree, data)), "repeats memory")
