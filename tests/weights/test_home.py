"""Where published weights are searched, and the messages if there are none."""

import numpy as np
import pytest
from torch_writer import save

from jaxseg import registry
from jaxseg.files import user_cache
from jaxseg.weights.home import default_weights, places

CXAS = registry.find("cxas")


@pytest.fixture(autouse=True)
def _empty_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "jaxseg"))
    for name in ("CXAS_PATH", "XDG_CACHE_HOME", "JAXSEG_WEIGHTS_URL"):
        monkeypatch.delenv(name, raising=False)


def put(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def test_our_cache_comes_before_the_originals(tmp_path, monkeypatch):
    monkeypatch.setenv("CXAS_PATH", str(tmp_path / "cxas"))
    file = CXAS.weights_file
    wanted = [
        tmp_path / "jaxseg" / "cxas" / file,
        tmp_path / "cxas" / ".cxas" / "weights" / file,
        tmp_path / "user" / ".cxas" / "weights" / file,
    ]
    assert places(CXAS) == wanted
    for path in reversed(wanted):
        put(path)
        assert default_weights(CXAS, url="http://127.0.0.1:1/never") == path


def test_without_jaxseg_home_the_users_cache_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXSEG_HOME")
    assert user_cache() == tmp_path / "user" / ".cache" / "jaxseg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert user_cache() == tmp_path / "x" / "jaxseg"


def test_weights_are_downloaded_once_and_the_licence_is_reported_once(site, caplog, tmp_path):
    site.body = save(tmp_path / "small.pth", {"w": np.ones((300, 300), np.float32)}).read_bytes()
    seen = []
    path = default_weights(CXAS, url=site.url, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "jaxseg" / "cxas" / CXAS.weights_file
    assert path.read_bytes() == site.body
    assert seen[-1] == (len(site.body), len(site.body))
    assert [r.getMessage() for r in caplog.records if "CC BY-NC-SA" in r.getMessage()] == [
        "weights of cxas: CC BY-NC-SA 4.0: not for commercial use"
    ]
    requests = len(site.asked)
    assert default_weights(CXAS, url=site.url) == path
    assert len(site.asked) == requests


def test_no_network_is_one_message_with_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(OSError, match="refused") as error:
        default_weights(CXAS, url="http://127.0.0.1:9/none")
    text = str(error.value)
    assert CXAS.weights_page in text
    assert str(tmp_path / "jaxseg" / "cxas" / CXAS.weights_file) in text
    assert "--weights" in text


def test_a_drive_folder_is_named_with_the_file_to_fetch():
    with pytest.raises(FileNotFoundError, match=r"ckpt_epoch_best.pth from https://github.com/.*paxray.*put it at"):
        default_weights(registry.find("paxray"))


@pytest.mark.parametrize("name", ["post_dae", "cmvae", "prob_unet"])
def test_models_without_published_weights_say_what_to_do(name):
    with pytest.raises(ValueError, match=rf"{name}.*train it.*--weights"):
        default_weights(registry.find(name))


def test_a_mirror_serves_every_model_under_its_own_name(site, monkeypatch, tmp_path):
    site.body = save(tmp_path / "small.pth", {"w": np.ones(3, np.float32)}).read_bytes()
    monkeypatch.setenv("JAXSEG_WEIGHTS_URL", site.url.rsplit("/", 1)[0] + "/")
    assert default_weights(registry.find("paxray")).name == "ckpt_epoch_best.pth"
    assert site.paths == ["/ckpt_epoch_best.pth"]


def test_a_download_that_is_not_a_weights_file_is_removed(site):
    with pytest.raises(OSError, match="not a weights file and was removed"):
        default_weights(CXAS, url=site.url)
    assert not places(CXAS)[0].exists()


def test_a_cache_that_cannot_be_made_is_one_clear_message(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"could not download .*UNet_ResNet50_default.pth"):
        default_weights(CXAS, url="http://127.0.0.1:9/none")


def test_a_user_without_a_home_needs_jaxseg_home_only_for_published_weights(monkeypatch, tmp_path):
    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    assert user_cache() == tmp_path / "jaxseg"
    assert places(CXAS) == [tmp_path / "jaxseg" / "cxas" / CXAS.weights_file]
    monkeypatch.delenv("JAXSEG_HOME")
    assert (user_cache(), places(CXAS)) == (None, [])
    with pytest.raises(FileNotFoundError, match="this user has no home directory: set JAXSEG_HOME to a folder"):
        default_weights(CXAS)
    monkeypatch.setenv("CXAS_PATH", str(tmp_path / "original"))
    path = put(tmp_path / "original/.cxas/weights" / CXAS.weights_file)
    assert default_weights(CXAS) == path
