"""Weights files read bit-exactly in every format, layout and dtype; hostile and damaged ones are refused unrun."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.weights.torch_file import Record, TorchFileError, load_torch_file, read_torch_file

CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "files" / "checkpoints"
MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "bool": "Bool"}
KINDS |= {"int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte"}
KINDS |= {"complex64": "ComplexFloat", "complex128": "ComplexDouble"}


# A writer of pickles from hand-written opcodes, since the classes that the files name are not installed here.


class Code(bytes):
    """Opcodes that leave one value on the stack."""


def code(value) -> bytes:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"I%d\n" % value
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, (str, bytes)):
        raw = value.encode() if isinstance(value, str) else value
        return (b"X" if isinstance(value, str) else b"B") + struct.pack("<I", len(raw)) + raw
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    return b"}(" + b"".join(code(part) for item in value.items() for part in item) + b"u"


def named(module: str, name: str) -> Code:
    return Code(b"c%s\n%s\n" % (module.encode(), name.encode()))


def call(function: Code, *args) -> Code:
    return Code(function + code(args) + b"R")


def instance(module: str, name: str, state) -> Code:
    return Code(named(module, name) + b")\x81" + code(state) + b"b")


def storage(kind: str, count: int, key: str = "0", *rest) -> Code:
    return Code(code(("storage", named("torch", f"{kind}Storage"), key, "cpu", count, *rest)) + b"Q")


def tensor(memory: Code, size: tuple, stride: tuple, offset: int = 0) -> Code:
    hooks = call(named("collections", "OrderedDict"))
    return call(named("torch._utils", "_rebuild_tensor_v2"), memory, offset, size, stride, False, hooks)


def vector(count: int = 4, key: str = "0") -> Code:
    return tensor(storage("Float", count, key), (count,), (1,))


def pickled(value) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def zipped(
    value, storages: dict | None = None, *, root: str = "archive/", order: bytes | None = None, extra=()
) -> bytes:
    """The bytes of a torch.save of PyTorch >= 1.6; storages maps keys to bytes."""
    out = io.BytesIO()
    members = {"data.pkl": value if type(value) is bytes else pickled(value), "version": b"3\n"}
    members |= {"byteorder": order} if order else {}
    members |= {f"data/{key}": raw for key, raw in ({"0": FLOATS} if storages is None else storages).items()}
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(aligned(root + name, out.tell()), content)
        for name, content in extra:
            archive.writestr(name, content)
    return out.getvalue()


def aligned(name: str, position: int) -> zipfile.ZipInfo:
    """A member whose data starts at a multiple of 64, as torch.save pads it."""
    entry = zipfile.ZipInfo(name)
    padding = -(position + 34 + len(name)) % 64
    entry.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    return entry


def legacy(value, storages: dict | None = None, *, itemsize: int = 4, magic: int = MAGIC) -> bytes:
    """The bytes of a torch.save before PyTorch 1.6."""
    storages = {"0": FLOATS} if storages is None else storages
    system = {"protocol_version": 1001, "little_endian": True}
    magic = Code(b"\x8a\x0a" + magic.to_bytes(10, "little"))
    data = b"".join(struct.pack("<q", len(raw) // itemsize) + raw for raw in storages.values())
    return b"".join(pickled(part) for part in (magic, 1001, system, value, list(storages))) + data


FLOATS = np.arange(4, dtype="<f4").tobytes()
FORMATS = {"zip": zipped, "legacy": legacy}


@pytest.fixture
def write(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")  # not tmp_path, whose name has words that the messages are searched for

    def write(content: bytes) -> Path:
        (folder / "weights.pth").write_bytes(content)
        return folder / "weights.pth"

    return write


@pytest.fixture(params=FORMATS)
def save(request):
    return FORMATS[request.param]


def memory_of(array: np.ndarray, key: str = "0") -> Code:
    return storage(KINDS[array.dtype.name], array.size, key, *([None] if array.dtype.name == "bool" else []))


# Formats and layouts


@pytest.mark.parametrize("name", ["scm_tiny_whole_module_zip.pt", "scm_tiny_whole_module_legacy.pt"])
def test_whole_pickled_module_gives_its_state_dict(kit, name):
    assert_equal(read_torch_file(CHECKPOINTS / name), kit.weights("scm_tiny"))


def test_lightning_checkpoint_gives_its_state_dict(kit):
    assert_equal(read_torch_file(str(CHECKPOINTS / "dae_tiny_lightning.ckpt")), kit.weights("dae_tiny"))
    assert load_torch_file(CHECKPOINTS / "dae_tiny_lightning.ckpt")["global_step"] >= 0


def assert_equal(got: dict, want: dict) -> None:
    assert list(got) == list(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_label_embedding_is_a_plain_pickle_of_tensors(shared):
    got = read_torch_file(shared / "data" / "segae" / "label_embedding.pkl")
    with np.load(shared / "data" / "segae" / "label_embedding.npz") as want:
        assert list(got) == [str(i) for i in want["ids"]]
        np.testing.assert_array_equal(np.concatenate(list(got.values())), want["embeddings"])


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "net", "network", "weights"])
@pytest.mark.parametrize("whole", [False, True])
def test_layouts(write, save, wrapper, whole):
    tree = {"module.b": vector(), "module.a": vector()}
    if whole:
        inner = instance("mine", "Net", {"_parameters": {"b": vector(), "a": vector(), "bias": None}})
        tree = instance("mine", "Wrap", {"_parameters": {}, "_buffers": {}, "_modules": {"module": inner}})
    if wrapper:
        options = instance("argparse", "Namespace", {"lr": 0.1})
        tree = {"opt": options, "epoch": 3, "optimizer": {"state": {0: {"m": vector()}}}, wrapper: tree}
    got = read_torch_file(write(save(tree)))
    assert list(got) == ["module.b", "module.a"]  # names and their order as in the file
    np.testing.assert_array_equal(got["module.a"], [0, 1, 2, 3])


def test_module_leaves_out_buffers_that_are_not_persistent(write, save):
    hidden = call(named("__builtin__", "set"), ["h"])
    buffers = {"h": vector(), "mean": vector()}
    state = {"_parameters": {"w": vector()}, "_buffers": buffers, "_non_persistent_buffers_set": hidden}
    assert list(read_torch_file(write(save(instance("mine", "Net", state))))) == ["w", "mean"]


def test_state_dict_in_an_unknown_dict_class(write, save):
    entries = Code(named("easydict", "EasyDict") + b")\x81(" + code("w") + vector() + b"u")
    assert list(read_torch_file(write(save({"model": entries})))) == ["w"]


def test_nested_files_in_a_plain_pickle(write):
    def nested(content: bytes) -> Code:
        return tensor(call(named("torch.storage", "_load_from_bytes"), content), (2, 2), (1, 2))

    tree = {0: nested(legacy(storage("Float", 4))), 7: nested(zipped(storage("Float", 4)))}
    got = read_torch_file(write(pickled(tree)))
    assert list(got) == ["0", "7"]
    for array in got.values():
        np.testing.assert_array_equal(array, [[0, 2], [1, 3]])


def test_file_without_named_tensors_says_what_it_holds(write, save):
    for tree, words in [
        ({"epoch": 3, "encoder": {"w": vector()}}, "epoch.*encoder"),
        (vector(), "shape .4,."),
        ([], "list"),
    ]:
        with pytest.raises(TorchFileError, match=f"weights.pth: no named tensors.*{words}"):
            read_torch_file(write(save(tree, {"0": FLOATS} if "F" in str(code(tree)) else {})))


def test_two_keys_with_the_same_text_are_refused(write):
    with pytest.raises(TorchFileError, match="twice"):
        read_torch_file(write(zipped({1: vector(), "1": vector()})))


# Tensors


@pytest.mark.parametrize("name", KINDS)
def test_every_dtype_is_bit_exact(write, save, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.arange(6).reshape(2, 3).astype(dtype)
    content = {"data": {"0": array.tobytes()}, "tree": {"w": tensor(memory_of(array), (2, 3), (3, 1))}}
    extra = {"itemsize": dtype.itemsize} if save is legacy else {}
    got = read_torch_file(write(save(content["tree"], content["data"], **extra)))["w"]
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


def test_strides_offsets_sharing_and_odd_shapes(write, save):
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
    got = read_torch_file(write(save(tree, {"0": FLOATS, "1": b""})))
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


def test_parameters_and_tensors_with_attributes(write, save):
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
    for array in read_torch_file(write(save(tree))).values():
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
def test_impossible_tensors_are_refused_before_anything_is_allocated(write, save, case):
    tree, words = BAD_TENSORS[case]
    assert_refused_cheaply(write(save({"w": tree})), words)


def test_overlapping_strides_may_repeat_little_memory_only(write, save):
    data = {"0": np.zeros(3000, "<f4").tobytes()}
    tree = {"w": tensor(storage("Float", 3000), (1000, 1000), (1, 1))}
    assert read_torch_file(write(save(tree, data)))["w"].shape == (1000, 1000)
    tree = {"w": tensor(storage("Float", 3000), (1001, 1000), (1, 1))}
    assert_refused_cheaply(write(save(tree, data)), "repeats memory")


def assert_refused_cheaply(path: Path, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError, match=words):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


# Records


def test_unknown_classes_become_inert_records(write):
    kind = named("somewhere.deep", "Thing")
    state = {"a": 1}
    keyword = Code(kind + code((1,)) + code({"k": 2}) + b"\x92")
    tree = {
        "class": kind,
        "reduce": Code(call(kind, 1, 2) + code(state) + b"b"),
        "newobj_ex": keyword,
        "obj": Code(b"(" + kind + code(1) + b"o"),
        "inst": Code(b"(" + code(1) + b"isomewhere.deep\nThing\n"),
        "list": Code(call(kind) + b"(" + code(1) + code(2) + b"e" + code(3) + b"a"),
        "dict": Code(call(kind) + b"(" + code("x") + code(2) + b"u" + code("y") + code(3) + b"s"),
        "old": call(named("copy_reg", "_reconstructor"), kind, named("__builtin__", "object"), None),
        "new": call(named("copyreg", "__newobj__"), kind, 5),
        "nested": Code(code("a.b") + code("Outer.Inner") + b"\x93"),
    }
    got = load_torch_file(write(pickled(tree)))
    assert all(type(value) is Record for value in got.values())
    assert {(value.module, value.name) for name, value in got.items() if name != "nested"} == {
        ("somewhere.deep", "Thing")
    }
    assert got["class"].args is None
    assert (got["reduce"].args, got["reduce"].state) == ((1, 2), {"a": 1})
    assert (got["newobj_ex"].args, got["newobj_ex"].kwargs) == ((1,), {"k": 2})
    assert (got["obj"].args, got["inst"].args, got["old"].args, got["new"].args) == ((1,), (1,), (), (5,))
    assert (got["list"].items, got["dict"].entries) == ([1, 2, 3], {"x": 2, "y": 3})
    assert got["nested"].name == "Outer.Inner"
    assert repr(got["class"]) == "<class somewhere.deep.Thing, not imported>"


@pytest.mark.parametrize("protocol", range(6))
def test_plain_python_values_survive(write, protocol):
    tree = {
        "d": collections.defaultdict(list, {"a": [1]}),
        "o": collections.OrderedDict(x=1),
        "s": {1, "b"},
        "b": b"\xff\0",
    }
    tree |= {
        "f": frozenset([2]),
        "l": [1.5, None, True, -3, 2**70, "\xe9"],
        "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    }
    tree |= {"q": collections.deque([1, 2], 5), "k": {(1, "a"): 2, -(2**40): 3, 0.5: 4}}
    got = load_torch_file(write(pickle.dumps(tree, protocol)))
    assert got == tree | {"q": [1, 2]}


def test_dtypes_become_numpy_dtypes(write):
    tree = {"a": named("torch", "float32"), "b": named("torch", "bfloat16"), "c": named("torch", "strided")}
    got = load_torch_file(write(zipped(tree, {})))
    assert (got["a"], got["b"]) == (np.dtype("float32"), np.dtype(ml_dtypes.bfloat16))
    assert type(got["c"]) is Record


def test_nothing_is_imported(write, tmp_path, monkeypatch):
    (tmp_path / "surprise.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    tree = {
        "a": call(named("surprise", "run"), 1),
        "b": call(named("numpy.testing._private.utils", "runstring"), "1/0", {}),
    }
    got = load_torch_file(write(pickled(tree)))
    assert (got["a"].name, got["b"].name) == ("run", "runstring")
    assert "surprise" not in sys.modules


def test_torch_is_not_needed():
    text = "import sys; sys.modules['torch'] = None; from jaxseg.weights.torch_file import read_torch_file as r; "
    text += f"assert r({str(CHECKPOINTS / 'dae_tiny_lightning.ckpt')!r}) and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", text], check=True, cwd=Path(__file__).resolve().parents[2])


# Hostile files


class Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def attacks(marker: str) -> dict[str, bytes]:
    """Pickles that would write the file `marker`, if anything in them ran."""
    touch, python = f"touch {marker}", f"open({marker!r}, 'w').close()"
    system, getattr_ = named("os", "system"), named("builtins", "getattr")
    partial = call(named("functools", "partial"), system, touch)
    return {
        **{f"os.system {p}": pickle.dumps({"w": Reduced(os.system, (touch,))}, p) for p in range(6)},
        "eval": pickle.dumps(Reduced(eval, (python,))),
        "exec": pickle.dumps(Reduced(exec, (python,))),
        "popen": pickle.dumps(Reduced(subprocess.Popen, (["touch", marker],))),
        "python 2 eval": pickled(call(named("__builtin__", "eval"), python)),
        "commands": pickled(call(named("commands", "getoutput"), touch)),
        "nt": pickled(call(named("nt", "system"), touch)),
        "posix": pickled(call(named("posix", "system"), touch)),
        "importlib": pickled(call(named("importlib", "import_module"), "os")),
        "runpy": pickled(call(named("runpy", "_run_code"), python, {})),
        "getattr": pickled(call(call(getattr_, call(named("builtins", "__import__"), "os"), "system"), touch)),
        "partial": pickled(Code(partial + b")R")),
        "methodcaller": pickled(call(call(named("operator", "methodcaller"), "system", touch), named("os", "path"))),
        "dotted name": pickled(call(Code(code("collections") + code("OrderedDict.__class__") + b"\x93"), touch)),
        "dotted module": pickled(call(Code(code("os") + code("path.os.system") + b"\x93"), touch)),
        "submodule": pickled(call(named("os.path", "os"), touch)),
        "codecs": pickled(call(named("_codecs", "decode"), b"x", "zip")),
        "newobj": pickled(Code(named("subprocess", "Popen") + code((["touch", marker],)) + b"\x81")),
        "inst": pickled(Code(b"(" + code(touch) + b"ios\nsystem\n")),
        "obj": pickled(Code(b"(" + system + code(touch) + b"o")),
        "build": pickled(Code(named("collections", "OrderedDict") + b")R" + code({"__setstate__": system}) + b"b")),
        "persistent id": pickled(Code(call(system, touch) + b"Q")),
        "text": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
    }


@pytest.mark.parametrize("inside", ["plain", "zip", "legacy", "nested", "nested zip"])
@pytest.mark.parametrize("case", attacks(""))
def test_attacks_are_refused_by_name_and_nothing_runs(write, tmp_path, case, inside):
    marker = tmp_path / "marker"
    content = attacks(str(marker))[case]
    load = named("torch.storage", "_load_from_bytes")
    body = Code(content[2:-1] if content.startswith(b"\x80") else content[:-1])
    wrapped = {
        "plain": lambda: content,
        "zip": lambda: zipped(content, {}),
        "legacy": lambda: legacy(body, {}),
        "nested": lambda: pickled({"w": call(load, content)}),
        "nested zip": lambda: zipped({"w": call(load, zipped(content, {}))}, {}),
    }[inside]()
    path = write(wrapped)
    with pytest.raises(TorchFileError, match=r"refers to [\w.]+, which no weights file needs; refusing to read it"):
        read_torch_file(path)
    assert not marker.exists()


def test_refusal_names_the_global(write):
    for protocol in range(6):
        with pytest.raises(TorchFileError, match=f"refers to {os.name}.system"):
            read_torch_file(write(pickle.dumps(Reduced(os.system, ("true",)), protocol)))


NEW = named("copyreg", "__newobj__")
BOMBS = {
    "BINBYTES8 of 2**62": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    "BINBYTES8 of 2**64": (b"\x80\x04\x8e" + b"\xff" * 8 + b"x.", "damaged"),
    "BYTEARRAY8 of 2**62": (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    "BINUNICODE8 of 2**62": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    "LONG4 of 2**31": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
    "a frame of 2**62": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "no named tensors"),
    "LONG_BINPUT 2**31": (b"\x80\x02Nr\0\0\0\x80.", "under number 2147483648"),
    "PUT 10**20": (b"\x80\x02Np100000000000000000000\n.", "under number"),
    "a long number": (b"\x80\x02\x8b" + struct.pack("<I", 1000) + b"\x7f" * 1000 + b".", "number of 7999 bits"),
    "decimal digits": (b"\x80\x02L" + b"9" * 100_000 + b"L\n.", "damaged"),
    "extension code": (b"\x80\x02\x82\x01.", "extension codes"),
    "buffer": (b"\x80\x05\x97.", "outside buffers"),
    "text id": (b"\x80\x02Pid\n.", "text ids"),
    "outside data": (pickled(vector()), "refers to data outside"),
    "encode with a codec": (pickled(call(named("_codecs", "encode"), "x", "zip")), "damaged"),
    "called constant": (pickled(Code(b"N)R")), "damaged"),
    "called instance": (pickled(Code(call(named("mine", "C")) + b")R")), "damaged"),
    "list as key": (pickled(Code(b"}]Ns")), "uses a list as a key"),
    "maker of makers": (pickled(call(NEW, NEW, NEW, NEW)), "no named tensors"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused_or_harmless(write, case):
    content, words = BOMBS[case]
    assert_refused_cheaply(write(content), words)


def nest(opening: bytes, closing: bytes, depth: int = 100_000) -> Code:
    return Code(opening * depth + b"N" + closing * depth)


DEEP = {
    "tuples": nest(b"", b"\x85"),
    "lists": nest(b"]", b"a"),
    "dicts": nest(b"}N", b"s"),
    "marks": nest(b"(", b"t"),
    "records": Code(b"cmine\nC\nq\x000" + nest(b"(h\0", b"o")),
    "a list in itself": Code(b"]q\0h\0a"),
    "a dict in itself": Code(b"}q\0" + code("model") + b"h\0s"),
    "a record in itself": Code(b"cmine\nC\n)Rq\0}" + code("_modules") + b"}" + code("x") + b"h\0ssb"),
    "unfinished marks": Code(b"(" * 100_000 + b"N"),
}


@pytest.mark.parametrize("case", DEEP)
def test_deep_and_circular_values_never_crash(write, case):
    for value in (DEEP[case], Code(b"}" + code("model") + DEEP[case] + b"s")):
        with pytest.raises(TorchFileError):
            read_torch_file(write(pickled(value)))


@pytest.mark.parametrize("opening", [b"\x85", b"\x91"], ids=["tuple", "frozenset"])
def test_deep_keys_are_refused(write, opening):
    value = nest(b"(" if opening == b"\x91" else b"", opening)
    for around in (Code(b"}" + value + b"Ns"), Code(b"\x8f(" + value + b"\x90")):
        with pytest.raises(TorchFileError, match="as a key|damaged"):
            read_torch_file(write(pickled(around)))


def doubled(levels: int, *, module: bool) -> Code:
    """2**levels paths through `levels` values, each of which holds the next one twice."""
    inner = b"N"
    for _ in range(levels):
        pair = b"}(" + code("a") + b"%s" + code("b") + b"h\0u"
        around = b"cmine\nC\n)R}" + code("_modules") + pair + b"sb" if module else pair
        inner = around.replace(b"%s", inner + b"q\0")
    return Code(inner)


def test_sharing_does_not_multiply_the_work(write):
    start = time.perf_counter()
    with pytest.raises(TorchFileError, match="nested"):
        read_torch_file(write(pickled(doubled(60, module=True))))
    with pytest.raises(TorchFileError, match="no named tensors"):
        read_torch_file(write(pickled({"model": doubled(60, module=False), "net": doubled(60, module=False)})))
    chain = Code(b"N")
    for _ in range(150):
        chain = instance("mine", "C", {"_modules": {"a": chain}})
    with pytest.raises(TorchFileError, match="nested more than 100 deep"):
        read_torch_file(write(pickled(chain)))
    copies = b"](" + b"N" * 5000 + b"eq\0" + b"cbuiltins\nset\nq\1" + b"h\1h\0\x85R0" * 5000  # 25 million elements
    with pytest.raises(TorchFileError, match="steps"):
        read_torch_file(write(pickled(Code(copies))))
    assert time.perf_counter() - start < 20


def test_keys_with_chosen_hashes_are_limited(write):
    values = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") for i in range(1, 25_000))
    with pytest.raises(TorchFileError, match="20,000 keys"):
        read_torch_file(write(pickled(Code(b"\x8f(" + values + b"\x90"))))


def test_nested_files_are_limited_in_depth_and_work(write):
    load = named("torch.storage", "_load_from_bytes")
    content = pickled(1)
    for _ in range(10):
        content = pickled({"w": call(load, content)})
    with pytest.raises(TorchFileError, match="files inside files"):
        read_torch_file(write(content))
    many_steps = pickled(Code(b"N" + b"0N" * 10_000))
    much_data = legacy(storage("Float", 2**20), {"0": bytes(2**22)})
    for content in (many_steps, much_data):
        repeated = Code(load + b"q\0" + code(content) + b"q\1" + b"h\0h\1\x85R" * 1000)
        with pytest.raises(TorchFileError, match="steps"):
            read_torch_file(write(pickled(repeated)))


# Zip archives


def test_zip_may_have_any_root_or_none(write):
    for root in ("", "a/", "some name/deeper/"):
        assert list(read_torch_file(write(zipped({"w": vector()}, root=root)))) == ["w"]


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a//b", "..", "a\\..\\b"])
def test_zip_members_outside_the_archive_are_refused(write, name):
    with pytest.raises(TorchFileError, match="outside the archive"):
        read_torch_file(write(zipped({"w": vector()}, extra=[(name, b"")])))


def test_zip_with_two_members_of_one_name_is_refused(write):
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped({"w": vector()}, extra=[("archive/data/0", b"other")])
    with pytest.raises(TorchFileError, match="two members named archive/data/0"):
        read_torch_file(write(content))


def test_compressed_zip_is_refused_unopened(write):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({"w": vector(2**22)}))
        archive.writestr("archive/data/0", bytes(2**24))
    assert_refused_cheaply(write(out.getvalue()), "compressed")


def directory_entry(content: bytes, name: str) -> int:
    """The position of a member's entry in the directory at the end of an archive."""
    return content.rindex(name.encode()) - 46


@pytest.mark.parametrize("size", [2**20, 2**32 - 1])
def test_zip_sizes_beyond_the_file_are_refused(write, size):
    content = bytearray(zipped({"w": vector()}))
    struct.pack_into("<II", content, directory_entry(content, "archive/data/0") + 20, size, size)
    with pytest.raises(TorchFileError, match="overlaps|damaged"):
        read_torch_file(write(bytes(content)))


def test_overlapping_zip_members_are_refused(write):
    content = bytearray(zipped({"w": vector(key="10")}, {"10": FLOATS, "11": FLOATS}))
    first, second = directory_entry(content, "archive/data/10"), directory_entry(content, "archive/data/11")
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # the same local header for both
    with pytest.raises(TorchFileError, match="not where the archive says"):
        read_torch_file(write(bytes(content)))
    content = bytearray(zipped({"w": vector()}, {"0": FLOATS}))
    struct.pack_into("<II", content, directory_entry(content, "archive/version") + 20, 40, 40)  # reaches into the next
    with pytest.raises(TorchFileError, match="overlaps"):
        read_torch_file(write(bytes(content)))


def test_other_zip_archives_are_described(write):
    for names, words in [
        (["unet.pth"], "0 data.pkl.*unet.pth"),
        (["a/data.pkl", "b/data.pkl"], "2 data.pkl"),
        (["a/data.pkl", "a/constants.pkl"], "TorchScript"),
    ]:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        with pytest.raises(TorchFileError, match=words):
            read_torch_file(write(out.getvalue()))
    with pytest.raises(TorchFileError, match="byte order 'middle'"):
        read_torch_file(write(zipped({"w": vector()}, order=b"middle")))


# Files that are something else


OTHERS = {
    "empty": (b"", "the file is empty"),
    "html": (b"\n<!DOCTYPE html><html>sign in</html>", "this is an HTML page, not weights: the download was probably"),
    "html in capitals": (b"<HTML><head>", "HTML page"),
    "text": (b"Not found.\n", "is a text file, not weights; it starts with b'Not found"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\0", "unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "safetensors": (struct.pack("<Q", 200) + b'{"a":{}}', "safetensors"),
    "empty zip": (b"PK\5\6" + bytes(18), "empty zip"),
    "tar": (bytes(257) + b"ustar\x0000", "tar archive"),
    "bytes": (b"\xff\xd8\xff\xe0 picture", "is not a weights file; it starts with"),
    "old": (legacy({"w": vector()}).replace(b"I1001\n", b"I1000\n"), "unknown format"),
    "not magic": (legacy({"w": vector()}, magic=12345), "holds a int"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_named(write, case):
    content, words = OTHERS[case]
    with pytest.raises(TorchFileError, match=f"weights.pth: .*{words}"):
        read_torch_file(write(content))


def test_folders_pipes_and_missing_files(tmp_path):
    with pytest.raises(TorchFileError, match="is a folder"):
        read_torch_file(tmp_path)
    with pytest.raises(TorchFileError, match="device or pipe"):
        read_torch_file("/dev/null")
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "absent.pth")


def test_names_from_the_file_are_shown_without_control_characters(write):
    with pytest.raises(TorchFileError) as caught:
        read_torch_file(write(pickled(Code(code("os") + code("\x1b[31m" + "x" * 1000) + b"\x93"))))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


# Damaged files


TREE = {"model": {"w": vector(), "v": tensor(storage("Float", 4), (2, 2), (1, 2))}, "epoch": 3}
SMALL = {
    "zip": zipped(TREE),
    "legacy": legacy(TREE),
    "plain": pickled(
        {0: tensor(call(named("torch.storage", "_load_from_bytes"), legacy(storage("Float", 4))), (4,), (1,))}
    ),
    "module": zipped(instance("mine", "Net", {"_parameters": {"w": vector()}, "_modules": {}})),
    "python": pickle.dumps({"a": [1, (2.5, "x")], "b": {1, 2}, "c": frozenset([b"y"])}, 4),
}


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        for array in read_torch_file(path).values():
            array.tobytes()
    except TorchFileError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "damaged.pth"


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return [*SMALL.values(), *(path.read_bytes() for path in sorted(CHECKPOINTS.iterdir()))]


@pytest.mark.parametrize("name", SMALL)
def test_small_files_cut_at_every_byte(place, name):
    for end in range(len(SMALL[name])):
        read_or_refuse(place, SMALL[name][:end])


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_mutated_files(place, originals, data):
    content = bytearray(data.draw(st.sampled_from(originals)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        removed = data.draw(st.integers(0, 8))
        content[start : start + removed] = data.draw(st.binary(max_size=8))
        content = content or bytearray(1)
    read_or_refuse(place, bytes(content))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2), st.floats(0, 1))
def test_checkpoints_cut_anywhere(place, originals, which, share):
    content = originals[len(SMALL) + which]
    read_or_refuse(place, content[: int(share * (len(content) - 1))])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02(", b"\x80\x02N]}\x8f)"]), st.binary(max_size=400))
def test_random_bytes(place, start, content):
    read_or_refuse(place, start + content + b".")


PARTS = [
    code(value) for value in (0, 3, 0.5, "a", "storage", b"b", (), [], (1,), None, "model", "_modules", "_parameters")
]
PARTS += [
    b"(t",
    b"]",
    b"}",
    b"\x8f",
    b"(",
    b"0",
    b"1",
    b"2",
    b"a",
    b"e",
    b"s",
    b"u",
    b"d",
    b"l",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
]
PARTS += [
    b"\x90",
    b"\x91",
    b"q\0",
    b"q\1",
    b"h\0",
    b"h\1",
    b"\x94",
    b"R",
    b"b",
    b"o",
    b"\x81",
    b"\x92",
    b"\x93",
    b"Q",
    b"Q",
]
PARTS += [vector(), storage("Float", 4), code((4,)), named("mine", "C"), b"(imine\nC\n"]
PARTS += [named("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")]
PARTS += [named("torch._tensor", "_rebuild_from_type_v2"), named("torch.storage", "_load_from_bytes")]
PARTS += [named("torch", name) for name in ("Size", "float32", "FloatStorage")]
PARTS += [named("collections", name) for name in ("OrderedDict", "defaultdict", "deque", "Counter")]
PARTS += [named("copyreg", name) for name in ("_reconstructor", "__newobj__", "__newobj_ex__")]
PARTS += [named("builtins", name) for name in ("set", "list", "tuple", "dict")] + [named("_codecs", "encode")]


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([zipped, legacy]), st.lists(st.sampled_from(PARTS), max_size=40))
def test_random_programs(place, save, parts):
    read_or_refuse(place, save(Code(b"".join(parts))))


def test_checkpoint_that_ends_too_early_says_so(write):
    content = (CHECKPOINTS / "scm_tiny_whole_module_legacy.pt").read_bytes()
    with pytest.raises(TorchFileError, match="download was probably interrupted"):
        read_torch_file(write(content[:-1]))
    with pytest.raises(TorchFileError, match="damaged or incomplete zip"):
        read_torch_file(write((CHECKPOINTS / "dae_tiny_lightning.ckpt").read_bytes()[:-30]))
