"""Objects of other classes become inert records, plain Python values stay; nothing is imported."""

import collections
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
from torch_pickles import zipped
from torch_writer import Code, call, code, named, pickled

from jaxseg.weights.torch_file import Record, load_torch_file


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
