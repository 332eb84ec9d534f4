"""Weights files are read bit-exactly in every format and layout; other files are refused by their kind."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch_pickles import CHECKPOINTS, FLOATS, instance, legacy, vector, zipped
from torch_writer import Code, call, code, named, pickled, storage, tensor

from jaxseg.weights.torch_file import TorchFileError, load_torch_file, read_torch_file


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
def test_layouts(write, torch_save, wrapper, whole):
    tree = {"module.b": vector(), "module.a": vector()}
    if whole:
        inner = instance("mine", "Net", {"_parameters": {"b": vector(), "a": vector(), "bias": None}})
        tree = instance("mine", "Wrap", {"_parameters": {}, "_buffers": {}, "_modules": {"module": inner}})
    if wrapper:
        options = instance("argparse", "Namespace", {"lr": 0.1})
        tree = {"opt": options, "epoch": 3, "optimizer": {"state": {0: {"m": vector()}}}, wrapper: tree}
    got = read_torch_file(write(torch_save(tree)))
    assert list(got) == ["module.b", "module.a"]  # names and their order as in the file
    np.testing.assert_array_equal(got["module.a"], [0, 1, 2, 3])


def test_module_leaves_out_buffers_that_are_not_persistent(write, torch_save):
    hidden = call(named("__builtin__", "set"), ["h"])
    buffers = {"h": vector(), "mean": vector()}
    state = {"_parameters": {"w": vector()}, "_buffers": buffers, "_non_persistent_buffers_set": hidden}
    assert list(read_torch_file(write(torch_save(instance("mine", "Net", state))))) == ["w", "mean"]


def test_state_dict_in_an_unknown_dict_class(write, torch_save):
    entries = Code(named("easydict", "EasyDict") + b")\x81(" + code("w") + vector() + b"u")
    assert list(read_torch_file(write(torch_save({"model": entries})))) == ["w"]


def test_nested_files_in_a_plain_pickle(write):
    def nested(content: bytes) -> Code:
        return tensor(call(named("torch.storage", "_load_from_bytes"), content), (2, 2), (1, 2))

    tree = {0: nested(legacy(storage("Float", 4))), 7: nested(zipped(storage("Float", 4)))}
    got = read_torch_file(write(pickled(tree)))
    assert list(got) == ["0", "7"]
    for array in got.values():
        np.testing.assert_array_equal(array, [[0, 2], [1, 3]])


def test_file_without_named_tensors_says_what_it_holds(write, torch_save):
    for tree, words in [
        ({"epoch": 3, "encoder": {"w": vector()}}, "epoch.*encoder"),
        (vector(), "shape .4,."),
        ([], "list"),
    ]:
        with pytest.raises(TorchFileError, match=f"weights.pth: no named tensors.*{words}"):
            read_torch_file(write(torch_save(tree, {"0": FLOATS} if "F" in str(code(tree)) else {})))


def test_two_keys_with_the_same_text_are_refused(write):
    with pytest.raises(TorchFileError, match="twice"):
        read_torch_file(write(zipped({1: vector(), "1": vector()})))


def test_torch_is_not_needed():
    text = "import sys; sys.modules['torch'] = None; from jaxseg.weights.torch_file import read_torch_file as r; "
    text += f"assert r({str(CHECKPOINTS / 'dae_tiny_lightning.ckpt')!r}) and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", text], check=True, cwd=Path(__file__).resolve().parents[2])


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
    "jpeg": (b"\xff\xd8\xff\xe0 picture", "is a JPEG picture"),
    "bytes": (b"\xff\xfe\xfd bytes", "is not a weights file; it starts with"),
    "old": (legacy({"w": vector()}).replace(code(1001), code(1000)), "unknown format"),
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
