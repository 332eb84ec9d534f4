"""Hostile pickles: nothing in them runs, and none takes much memory, time or recursion."""

import os
import pickle
import struct
import subprocess
import time

import pytest
from torch_pickles import assert_refused_cheaply, instance, legacy, vector, zipped
from torch_writer import Code, call, code, named, pickled, storage

from jaxseg.weights.torch_file import TorchFileError, read_torch_file


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


@pytest.mark.full
@pytest.mark.parametrize("case", DEEP)
def test_deep_and_circular_values_never_crash(write, case):
    for value in (DEEP[case], Code(b"}" + code("model") + DEEP[case] + b"s")):
        with pytest.raises(TorchFileError):
            read_torch_file(write(pickled(value)))


@pytest.mark.slow
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


@pytest.mark.slow
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
    spent = b"(" + b"N" * 5000 + b"tq\0cbuiltins\nlist\nq\1" + b"h\1h\0\x85R" * 900  # 4.5 of 5 million steps, quickly
    many_steps = pickled(Code(b"N" + b"0N" * 10_000))
    much_data = legacy(storage("Float", 2**20), {"0": bytes(2**22)})
    for content in (many_steps, much_data):
        repeated = Code(spent + load + b"q\0" + code(content) + b"q\1" + b"h\0h\1\x85R" * 1000)
        with pytest.raises(TorchFileError, match="steps"):
            read_torch_file(write(pickled(repeated)))
