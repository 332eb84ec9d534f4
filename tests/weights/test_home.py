"""Where published weights are searched, from where they are fetched, and the messages if there are none."""

import dataclasses
import hashlib
import threading

import numpy as np
import pytest
from file_server import Site
from torch_writer import save

import jaxseg
from jaxseg import registry
from jaxseg.files import user_cache
from jaxseg.weights import home
from jaxseg.weights.fill import torch_tensors
from jaxseg.weights.home import default_weights, download_weights, places

CXAS = registry.find("cxas")
FILE, RELEASE = "UNet_ResNet50_default.pth", "baseline_models_cxas_UNet_ResNet50_default_repack.pth"
TINY = {"num_classes": 3, "backbone": "resnet18", "width": 4}
# The model as if a narrow network had been published, which is smaller to download.
SMALL = dataclasses.replace(CXAS, config=tuple(TINY.items()))


@pytest.fixture(scope="module")
def weights(shallow, tmp_path_factory) -> bytes:
    """Returns the content of a PyTorch file with the weights of the narrow network."""
    model = jaxseg.create("cxas", **TINY)
    tensors = torch_tensors(model, model.torch_names(model.cfg))
    return save(tmp_path_factory.mktemp("made") / "x.pth", tensors, under="model").read_bytes()


@pytest.fixture(autouse=True)
def _empty_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path / "jaxseg"))
    for name in ("CXAS_PATH", "XDG_CACHE_HOME", "JAXSEG_WEIGHTS_URL"):
        monkeypatch.delenv(name, raising=False)


def put(path, content=b"weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_our_cache_comes_before_the_originals(tmp_path, monkeypatch):
    monkeypatch.setenv("CXAS_PATH", str(tmp_path / "cxas"))
    wanted = [
        tmp_path / "jaxseg" / "cxas" / FILE,
        tmp_path / "jaxseg" / "cxas" / RELEASE,
        tmp_path / "cxas" / ".cxas" / "weights" / FILE,
        tmp_path / "user" / ".cxas" / "weights" / FILE,
        tmp_path / "user" / ".torchxrayvision" / "models_data" / RELEASE,
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


def test_weights_are_downloaded_once_and_the_licence_is_reported_once(site, weights, caplog, tmp_path):
    site.body, seen = weights, []
    path = default_weights(SMALL, url=site.url, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "jaxseg" / "cxas" / CXAS.weights_file
    assert path.read_bytes() == site.body
    assert seen[-1] == (len(site.body), len(site.body))
    assert [r.getMessage() for r in caplog.records if "CC BY-NC-SA" in r.getMessage()] == [
        "weights of cxas: CC BY-NC-SA 4.0: not for commercial use"
    ]
    requests = len(site.asked)
    assert default_weights(SMALL, url=site.url) == path
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


def test_a_mirror_serves_every_model_under_its_own_name(site, weights, monkeypatch):
    site.body = weights
    monkeypatch.setenv("JAXSEG_WEIGHTS_URL", site.url.rsplit("/", 1)[0] + "/")
    paxray = dataclasses.replace(registry.find("paxray"), config=SMALL.config)
    assert default_weights(paxray).name == "ckpt_epoch_best.pth"
    assert default_weights(SMALL).name == FILE  # the mirror has no file of the release
    assert site.paths == ["/ckpt_epoch_best.pth", f"/{FILE}"]


def test_a_download_that_is_not_a_weights_file_is_removed(site):
    with pytest.raises(OSError, match=r"is not the weights of 'cxas' and was removed \(it is not a weights file"):
        default_weights(CXAS, url=site.url)
    assert not places(CXAS)[0].exists()


@pytest.mark.parametrize("change", ["missing", "shape", "more"])
def test_a_download_of_other_tensors_is_removed(site, weights, tmp_path, change):
    tensors = {name: np.array(array) for name, array in jaxseg.read_torch_file(put(tmp_path / "w", weights)).items()}
    if change == "missing":
        del tensors["head.out.conv.bias"]
    else:
        tensors[{"shape": "head.out.conv.bias", "more": "more"}[change]] = np.zeros(4, np.float32)
    site.body = save(tmp_path / "other.pth", tensors).read_bytes()
    words = {
        "missing": "missing head.out.conv.bias",
        "shape": "mis-shaped head.out.conv.bias",
        "more": "unexpected more",
    }
    with pytest.raises(OSError, match=rf"and was removed \(1 tensors do not fit, such as: {words[change]}"):
        default_weights(SMALL, url=site.url)
    assert not places(SMALL)[0].exists()


@pytest.fixture
def sources(site, monkeypatch):
    """Returns the model with both sources on this machine: the release, and the file that replaces Google Drive's."""
    drive = Site()
    thread = threading.Thread(target=drive.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(home, "google_drive_url", lambda number: f"{drive.url}?id={number}")
    release = site.url.replace("weights.pth", f"v1/{RELEASE}")
    yield dataclasses.replace(SMALL, release_url=release), site, drive
    drive.shutdown()
    thread.join()
    drive.server_close()


def test_the_release_is_tried_first_and_then_google_drive(sources, weights, tmp_path):
    entry, release, drive = sources
    release.body = drive.body = weights
    assert default_weights(entry) == tmp_path / "jaxseg" / "cxas" / RELEASE
    assert (release.paths, drive.paths) == ([f"/v1/{RELEASE}"], [])
    (tmp_path / "jaxseg" / "cxas" / RELEASE).unlink()
    release.answer = lambda headers: (404, {}, b"")
    assert default_weights(entry) == tmp_path / "jaxseg" / "cxas" / FILE
    assert drive.paths == [f"/weights.pth?id={CXAS.drive_file}"]
    assert default_weights(entry) == tmp_path / "jaxseg" / "cxas" / FILE  # nothing is fetched again
    assert len(release.paths) == 2


def test_a_release_that_does_not_fit_leads_to_google_drive(sources, weights, tmp_path):
    entry, release, drive = sources
    release.body, drive.body = save(tmp_path / "x.pth", {"w": np.ones(3, np.float32)}).read_bytes(), weights
    assert default_weights(entry) == tmp_path / "jaxseg" / "cxas" / FILE
    assert sorted(path.name for path in (tmp_path / "jaxseg" / "cxas").iterdir()) == [FILE]


def test_if_both_fail_both_reasons_are_named(sources):
    entry, release, drive = sources
    release.answer = drive.answer = lambda headers: (404, {}, b"")
    drive.answer = lambda headers: (200, {"Content-Type": "text/html"}, b"<p>Quota exceeded")
    with pytest.raises(OSError, match="2 sources of the weights of 'cxas' failed") as error:
        default_weights(entry)
    first, second, third = str(error.value).split("\n")
    assert RELEASE in second
    assert "404 Not Found" in second
    assert "quota or confirmation page" in third
    assert CXAS.weights_page in third


def test_the_weights_of_the_release_load_with_a_card_that_names_the_file_and_its_hash(sources, weights, monkeypatch):
    entry, release, _ = sources
    release.body = weights
    model = jaxseg.load("cxas", default_weights(entry), class_names=["a", "b", "c"])
    digest = hashlib.sha256(weights).hexdigest()
    assert (model.card.source, model.card.source_sha256) == (RELEASE, digest)
    assert model.card.licence.startswith("CC BY-NC-SA 4.0")


def test_a_folder_is_filled_and_its_file_only_checked_later(sources, weights, tmp_path):
    entry, release, _ = sources
    release.body, folder, digest = weights, tmp_path / "to" / "go", hashlib.sha256(weights).hexdigest()
    with pytest.raises(OSError, match="2 sources.*failed.*\n.*its sha256 is") as error:
        download_weights(entry, folder, sha256="0" * 64)
    assert "must be 0000" in str(error.value)
    assert list(folder.iterdir()) == []
    path = download_weights(entry, folder, sha256=digest.upper())
    assert path == folder / RELEASE
    requests = len(release.asked)
    assert download_weights(entry, folder) == download_weights(entry, folder, sha256=digest) == path
    for content, sha256, reason in (
        (weights, "1" * 64, "its sha256 is not 111"),
        (b"mine", None, "not a weights file"),
    ):
        path.write_bytes(content)
        with pytest.raises(OSError, match=rf"is not the weights of 'cxas' \(.*{reason}.*\); move it away"):
            download_weights(entry, folder, sha256=sha256)
        assert path.read_bytes() == content  # the user's file stays
    assert len(release.asked) == requests


def test_an_interrupted_download_into_a_folder_is_resumed(sources, weights, tmp_path, monkeypatch):
    entry, release, drive = sources
    release.body = weights
    release.cuts, drive.answer = [len(weights) // 2] + [0] * 5, lambda headers: (404, {}, b"")
    with pytest.raises(OSError, match="call again to resume"):
        download_weights(entry, tmp_path / "to")
    release.asked.clear()
    path = download_weights(entry, tmp_path / "to")
    assert release.ranges_asked() == [f"bytes={len(weights) // 2}-"]
    assert path.read_bytes() == weights


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
    assert places(CXAS) == [tmp_path / "jaxseg" / "cxas" / name for name in (FILE, RELEASE)]
    monkeypatch.delenv("JAXSEG_HOME")
    assert (user_cache(), places(CXAS)) == (None, [])
    with pytest.raises(FileNotFoundError, match="this user has no home directory: set JAXSEG_HOME to a folder"):
        default_weights(CXAS)
    monkeypatch.setenv("CXAS_PATH", str(tmp_path / "original"))
    path = put(tmp_path / "original/.cxas/weights" / CXAS.weights_file)
    assert default_weights(CXAS) == path
