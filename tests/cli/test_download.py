"""`jaxseg download`: into a folder or the cache, with its digest, its licence, and errors in one line."""

import dataclasses
import hashlib
import threading

import pytest
from file_server import Site
from torch_writer import save

import jaxseg
from jaxseg import registry
from jaxseg.weights.fill import torch_tensors

TINY = {"num_classes": 3, "backbone": "resnet18", "width": 4}


@pytest.fixture(scope="module")
def weights(shallow, tmp_path_factory) -> bytes:
    """Returns the content of a PyTorch file of a narrow network."""
    model = jaxseg.create("cxas", **TINY)
    tensors = torch_tensors(model, model.torch_names(model.cfg))
    return save(tmp_path_factory.mktemp("made") / "x.pth", tensors).read_bytes()


@pytest.fixture
def site(weights, monkeypatch, tmp_path):
    """Serves the weights, makes them those of the registry, and gives the user an empty cache."""
    server = Site()
    server.body = weights
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    entry = dataclasses.replace(
        registry.find("cxas"), config=tuple(TINY.items()), release_url=f"{server.url}/repack.pth", drive_file=None
    )
    monkeypatch.setitem(registry.BY_NAME, "cxas", entry)
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("JAXSEG_WEIGHTS_URL", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_for_another_machine(jaxseg_command, site, weights, tmp_path):
    digest = hashlib.sha256(weights).hexdigest()
    code, out, err = jaxseg_command("download", "cxas", "--to", tmp_path / "stick", "--sha256", digest)
    path = tmp_path / "stick" / "repack.pth"
    assert (code, path.read_bytes()) == (0, weights)
    assert out == f"{path}: {len(weights):,} bytes, sha256 {digest}\n"
    licence, place = err.splitlines()
    assert licence == "licence of the weights: CC BY-NC-SA 4.0: not for commercial use"
    assert place.startswith(
        "On the other machine, put it at $JAXSEG_HOME/cxas/repack.pth or ~/.cache/jaxseg/cxas/repack"
    )
    assert not (tmp_path / "cache").exists()
    assert jaxseg_command("download", "cxas", "--to", tmp_path / "stick")[:2] == (0, out)
    assert len(site.asked) == 1


def test_into_the_cache_where_the_weights_are_found(jaxseg_command, site, tmp_path):
    code, out, _ = jaxseg_command("download", "CXAS")
    path = tmp_path / "cache" / "cxas" / "repack.pth"
    assert (code, out.startswith(f"{path}: ")) == (0, True)
    from jaxseg.weights.home import default_weights

    assert default_weights(registry.find("cxas")) == path
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["cxsa"], 2, "MODEL: unknown model 'cxsa'; did you mean 'cxas'?"),
        (["post_dae"], 1, "model 'post_dae' has no published weights: train it"),
        (["paxray"], 1, "the weights of 'paxray' cannot be fetched directly: fetch ckpt_epoch_best.pth from https://"),
        (["cxas", "--sha256", "abc"], 2, "--sha256: it has 64 hexadecimal digits"),
        (["cxas", "--sha256", "0" * 64], 1, "its sha256 is "),
        (["cxas", "--to", "FILE"], 2, "FILE"),
    ],
)
def test_wrong_words_are_one_line_errors(jaxseg_command, site, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    found, out, err = jaxseg_command("download", *words)
    assert (found, out) == (code, "")
    errors = [line for line in err.splitlines() if not line.startswith("licence of the weights")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.rglob("*.pth"))


def test_a_missing_server_is_one_line(jaxseg_command, site, tmp_path):
    site.answer = lambda headers: (404, {}, b"")
    code, _, err = jaxseg_command("download", "cxas", "--to", tmp_path / "to")
    assert (code, "404 Not Found" in err, "You can also fetch it with a browser" in err) == (1, True, True)


def test_a_user_without_a_home_needs_a_folder(jaxseg_command, site, monkeypatch, tmp_path):
    monkeypatch.setattr("jaxseg.cli.download.user_cache", lambda: None)
    code, _, err = jaxseg_command("download", "cxas")
    assert (code, "name a folder with --to" in err) == (2, True)
    assert jaxseg_command("download", "cxas", "--to", tmp_path / "to")[0] == 0
