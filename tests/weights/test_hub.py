"""Weights on the Hugging Face Hub: addresses, one file per download, the cache, and every error in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from child_commands import run_commands
from hub_server import Hub
from PIL import Image
from small_models import SMALL
from torch_writer import save

import jaxseg
from jaxseg.weights.fill import torch_tensors
from jaxseg.weights.hub import Address, is_address, local_path, parse_address

# A new process, since huggingface_hub reads the environment when it is imported.
PROGRAM = """
import json, sys
from jaxseg.weights.hub import local_path
for address in json.loads(sys.stdin.read()):
    calls = []
    try:
        path = local_path(address, progress=lambda *call: calls.append(call))
        answer = {"path": str(path), "content": path.read_bytes().hex(), "calls": calls}
    except (ValueError, OSError) as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(answer))
"""
WEIGHTS, OTHER = b"weights" * 1000, b"older weights"


@pytest.fixture
def hub():
    with Hub() as found:
        found.repositories = {
            "owner/name": {
                "main": {"README.md": b"text", "model.safetensors": WEIGHTS, "more/second.safetensors": b"2"},
                "v1.0": {"model.safetensors": OTHER},
                "refs/pr/1": {"model.safetensors": b"pull"},
            },
            "owner/one": {"main": {"README.md": b"text", "deep/only.PTH": b"p", "notes.pkl": b"n"}},
            "owner/two": {"main": {"a.ckpt": b"a", "b.ckpt": b"b"}},
            "owner/none": {"main": {"README.md": b"text"}},
            "owner/closed": {"main": {"model.safetensors": b"x"}},
        }
        found.closed = {"owner/closed"}
        yield found


@pytest.fixture
def fetch(hub, tmp_path):
    """Returns a function that fetches addresses in a new process, each with its path, its content or its error."""

    def run(*addresses, **environment) -> list[dict]:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "no_proxy": "127.0.0.1"}
        own |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_TELEMETRY": "1"}
        own |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(addresses),
            capture_output=True,
            text=True,
            env=os.environ | own | environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://owner/name", ("owner/name", None, None)),
        ("hf://owner/name@main", ("owner/name", "main", None)),
        ("hf://owner/name/a.pth", ("owner/name", None, "a.pth")),
        ("hf://o-1/n.a_m-e@v1.0/x/y z.safetensors", ("o-1/n.a_m-e", "v1.0", "x/y z.safetensors")),
        ("hf://owner/name@refs%2Fpr%2F1/a.pth", ("owner/name", "refs/pr/1", "a.pth")),
        (Path("hf://owner/name/a.pth"), ("owner/name", None, "a.pth")),
    ],
)
def test_addresses_are_read_and_written(text, parts):
    assert is_address(text)
    assert parse_address(text) == Address(*parts)
    assert parse_address(str(Address(*parts))) == Address(*parts)


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://owner",
        "hf://owner/",
        "hf:///",
        "hf://owner/name/",
        "hf://owner/name@/a.pth",
        "hf://owner/name@v1@v2/a.pth",
        "hf://owner/name/../x.pth",
        "hf://owner/name/a//b.pth",
        "hf://../name/x.pth",
        "hf://own er/name",
        "hf://owner/näme",
        "hf://datasets/owner/name@v1/x\x1b[31m@",
    ],
)
def test_wrong_addresses_are_refused_with_the_right_form(text):
    with pytest.raises(
        ValueError, match="is no address on the Hugging Face Hub: write hf://owner/name, hf://"
    ) as error:
        local_path(text)
    assert "\x1b" not in str(error.value)


def test_paths_stay_paths():
    assert local_path("~/x.pth") == Path("~/x.pth").expanduser()
    assert not is_address("owner/name")
    assert not is_address("/hf:/x")


def test_only_the_wanted_file_is_downloaded_once_into_the_cache(fetch, hub, tmp_path):
    first, second = fetch("hf://owner/name/model.safetensors", "hf://owner/name/model.safetensors")
    assert bytes.fromhex(first["content"]) == WEIGHTS
    assert Path(first["path"]).is_relative_to(tmp_path / "home" / "hub")
    assert Path(first["path"]).name == "model.safetensors"
    assert first["calls"][-1] == [len(WEIGHTS), len(WEIGHTS)]
    assert (second["path"], second["calls"]) == (first["path"], [])
    assert hub.fetched() == ["model.safetensors"]
    assert not [path for method, path in hub.asked if path.startswith("/api/models")]  # a named file needs no list


def test_a_file_is_chosen_if_the_address_names_none(fetch, hub):
    named, single, several, none = fetch("hf://owner/name", "hf://owner/one", "hf://owner/two", "hf://owner/none")
    assert bytes.fromhex(named["content"]) == WEIGHTS
    assert bytes.fromhex(single["content"]) == b"p"
    assert (
        "hf://owner/two has several files of weights; name one, as in hf://owner/two/a.ckpt: a.ckpt, b.ckpt"
        in (several["error"])
    )
    assert none["error"] == "hf://owner/none has no file that ends in .safetensors, .pth, .pt, .ckpt"
    assert {several["kind"], none["kind"]} == {"ValueError"}
    assert hub.fetched() == ["model.safetensors", "deep/only.PTH"]


def test_a_revision_is_a_branch_a_tag_or_a_reference(fetch):
    tag, pull, file = fetch(
        "hf://owner/name@v1.0",
        "hf://owner/name@refs%2Fpr%2F1/model.safetensors",
        "hf://owner/name/more/second.safetensors",
    )
    assert [bytes.fromhex(one["content"]) for one in (tag, pull, file)] == [OTHER, b"pull", b"2"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://owner/absent/x.pth", "there is no {url}/owner/absent, or it is private: log in with `hf auth login`"),
        ("hf://owner/absent", "there is no {url}/owner/absent, or it is private: log in with `hf auth login`"),
        ("hf://owner/name@v9/model.safetensors", "{url}/owner/name has no revision 'v9'"),
        ("hf://owner/name@v9", "{url}/owner/name has no revision 'v9'"),
        ("hf://owner/name/absent.pth", "{url}/owner/name has no file absent.pth"),
        ("hf://owner/closed/model.safetensors", "its owner must grant access: ask at {url}/owner/closed, then log in"),
        ("hf://owner/closed", "its owner must grant access: ask at {url}/owner/closed, then log in"),
    ],
)
def test_what_the_server_refuses_is_one_line_that_says_what_to_do(fetch, hub, address, reason):
    (found,) = fetch(address)
    assert found["kind"] == "OSError"
    assert found["error"].startswith(address)
    assert reason.format(url=hub.url) in found["error"]
    assert "\n" not in found["error"]


def test_without_a_network_the_cache_is_used_and_else_named(fetch, hub, tmp_path):
    fetch("hf://owner/name/model.safetensors")
    before = len(hub.asked)
    offline = {"HF_HUB_OFFLINE": "1"}
    named, chosen, absent, other = fetch(
        "hf://owner/name/model.safetensors",
        "hf://owner/name",
        "hf://owner/name/absent.pth",
        "hf://owner/one",
        **offline,
    )
    assert bytes.fromhex(named["content"]) == bytes.fromhex(chosen["content"]) == WEIGHTS
    (again,) = fetch("hf://owner/name", HF_ENDPOINT="http://127.0.0.1:9")  # the network is down, nobody said so
    assert bytes.fromhex(again["content"]) == WEIGHTS
    for found in (absent, other):
        assert f"HF_HUB_OFFLINE is set, and it is not in the cache {tmp_path / 'home' / 'hub'}" in found["error"]
    assert len(hub.asked) == before


@pytest.mark.parametrize("address", ["hf://owner/one", pytest.param("hf://owner/one/x.pth", marks=pytest.mark.full)])
def test_a_server_that_does_not_answer_is_named(fetch, address):
    """huggingface_hub tries to get a named file for 15 seconds."""
    for found in fetch(address, HF_ENDPOINT="http://127.0.0.1:9"):
        assert found["kind"] == "OSError"
        assert "http://127.0.0.1:9 cannot be reached: check the network, https_proxy and HF_ENDPOINT" in found["error"]


@pytest.mark.parametrize("address", ["hf://owner/one", pytest.param("hf://owner/one/x.pth", marks=pytest.mark.full)])
def test_a_server_with_an_error_is_one_line(fetch, hub, address):
    hub.broken = True
    for found in fetch(address):
        assert found["kind"] == "OSError"
        assert "\n" not in found["error"]
        assert found["error"].startswith("hf://owner/one")


@pytest.mark.slow
def test_every_command_takes_an_address(hub, tmp_path, shallow):
    model = jaxseg.create("prob_unet", **SMALL["prob_unet"])
    tensors = torch_tensors(model, model.torch_names(model.cfg))
    own = jaxseg.weights.store.save_model_file(model, tmp_path / "own.safetensors", model.card)
    safetensors.numpy.save_file({name: array.copy() for name, array in tensors.items()}, tmp_path / "other.safetensors")
    files = {"own.safetensors": own, "other.safetensors": tmp_path / "other.safetensors"}
    files["x.pth"] = save(tmp_path / "x.pth", {name: array.copy() for name, array in tensors.items()})
    hub.repositories["owner/unet"] = {"main": {name: path.read_bytes() for name, path in files.items()}}
    for name in ("slices", "xrays"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "slices" / "a.npy", np.zeros((16, 16), np.float32))
    Image.new("L", (16, 16)).save(tmp_path / "xrays" / "a.png")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "no_proxy": "127.0.0.1"}
    commands = [
        ["sample", "-i", "slices", "-o", f"out{i}", "--weights", f"hf://owner/unet/{name}", "-n", "2"]
        for i, name in enumerate(files)
    ]
    commands += [["convert", "hf://owner/unet/x.pth", "converted.safetensors"]]
    commands += [["export", "--weights", "hf://owner/unet/own.safetensors", "--platforms", "cpu", "-o", "x.stablehlo"]]
    commands += [
        ["segment", "-i", "xrays", "-o", "masks", "--weights", "hf://owner/unet/absent.pth"],
        ["segment", "-i", "xrays", "-o", "masks", "--weights", "hf://owner"],
        ["denoise", "-i", "slices", "-o", "masks", "--weights", "hf://owner/two"],
        ["score", "--dataset", "slices", "-o", "x.csv", "--weights", "hf://owner/absent"],
    ]
    found = run_commands(*commands, folder=tmp_path, **environment)
    assert [code for code, _ in found] == [0, 0, 0, 0, 0, 1, 2, 2, 1], found
    words = [
        "owner/unet has no file absent.pth",
        "--weights: 'hf://owner' is no address",
        "--weights: hf://owner/two has",
    ]
    words += ["there is no "]
    for (_, said), wanted in zip(found[5:], words, strict=True):
        assert wanted in said
        assert said.count("\n") == 1
    assert (tmp_path / "converted.safetensors").is_file()
    assert "owner/unet" not in (tmp_path / "out1" / "summary.json").read_text()  # results name the file and its digest
