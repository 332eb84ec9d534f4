"""Damaged and random weights files are read or refused with a sentence; nothing else ever happens."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pickles import CHECKPOINTS, instance, legacy, vector, zipped
from torch_writer import Code, call, code, named, pickled, storage, tensor

from jaxseg.weights.torch_file import TorchFileError, read_torch_file

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


@pytest.mark.slow
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
PARTS += [bytes([opcode]) for opcode in b"]}\x8f(012aesudlt\x85\x86\x87\x90\x91\x94Rbo\x81\x92\x93QQ"]
PARTS += [b"(t", b"q\0", b"q\1", b"h\0", b"h\1"]
PARTS += [vector(), storage("Float", 4), code((4,)), named("mine", "C"), b"(imine\nC\n"]
PARTS += [named("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")]
PARTS += [named("torch._tensor", "_rebuild_from_type_v2"), named("torch.storage", "_load_from_bytes")]
PARTS += [named("torch", name) for name in ("Size", "float32", "FloatStorage")]
PARTS += [named("collections", name) for name in ("OrderedDict", "defaultdict", "deque", "Counter")]
PARTS += [named("copyreg", name) for name in ("_reconstructor", "__newobj__", "__newobj_ex__")]
PARTS += [named("builtins", name) for name in ("set", "list", "tuple", "dict")] + [named("_codecs", "encode")]


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([zipped, legacy]), st.lists(st.sampled_from(PARTS), max_size=40))
def test_random_programs(place, torch_save, parts):
    read_or_refuse(place, torch_save(Code(b"".join(parts))))


def test_checkpoint_that_ends_too_early_says_so(write):
    content = (CHECKPOINTS / "scm_tiny_whole_module_legacy.pt").read_bytes()
    with pytest.raises(TorchFileError, match="download was probably interrupted"):
        read_torch_file(write(content[:-1]))
    with pytest.raises(TorchFileError, match="damaged or incomplete zip"):
        read_torch_file(write((CHECKPOINTS / "dae_tiny_lightning.ckpt").read_bytes()[:-30]))
