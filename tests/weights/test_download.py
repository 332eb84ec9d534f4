"""Downloads from a local server: complete, interrupted, changed and refused."""

import errno
import threading
import time
import urllib.error
import urllib.request

import pytest
from file_server import BODY, HALF, HASH, interrupted, left, refused

from jaxseg.weights import download as module
from jaxseg.weights.download import DownloadError, download, google_drive_url


def test_a_file_arrives_complete_and_leaves_nothing_else(site, target):
    assert download(site.url, target, sha256=HASH.upper()) == target
    assert target.read_bytes() == BODY
    assert left(target) == ["weights.pth"]
    assert site.ranges_asked() == [None]


def test_progress_grows_from_zero_to_the_total(site, target):
    calls = []
    download(site.url, target, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, len(BODY))
    assert calls[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_server_that_sends_no_length_gives_no_total(site, target):
    site.answer = lambda headers: (200, {}, BODY)
    calls = []
    download(site.url, target, progress=lambda *call: calls.append(call))
    assert target.read_bytes() == BODY
    assert calls[-1] == (len(BODY), None)


def test_a_new_file_replaces_an_old_one_and_a_failure_leaves_it(site, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    site.answer = lambda headers: (404, {}, b"")
    with pytest.raises(DownloadError):
        download(site.url, target)
    assert target.read_bytes() == b"old"
    site.answer = site.file
    download(site.url, target)
    assert target.read_bytes() == BODY


def test_a_cut_connection_resumes_where_it_stopped(site, target):
    site.cuts = [300_000, 200_000]
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [None, "bytes=300000-", "bytes=500000-"]
    assert site.asked[1]["If-Range"] == '"v1"'


def test_without_range_support_a_cut_connection_starts_again(site, target):
    site.ranges, site.cuts = False, [300_000]
    download(site.url, target, sha256=HASH)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [None, "bytes=300000-"]


def test_after_too_many_cuts_the_part_is_kept_for_the_next_call(site, target):
    site.cuts = [100_000] * (module.RETRIES + 1)
    refused(site, target, "600,000 of 1024000 bytes")
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.ranges_asked()[-1] == "bytes=600000-"


def test_a_server_error_is_retried_and_then_reported(site, target):
    site.answer = lambda headers: (503, {}, b"")
    refused(site, target, "503 Service Unavailable")
    assert len(site.asked) == module.RETRIES + 1


def test_an_earlier_part_is_resumed(site, target):
    interrupted(site, target)
    calls = []
    download(site.url, target, progress=lambda *call: calls.append(call))
    assert target.read_bytes() == BODY
    assert calls[0] == (HALF, len(BODY))
    assert site.ranges_asked() == [f"bytes={HALF}-"]
    assert left(target) == ["weights.pth"]


def test_a_date_names_the_version_if_there_is_no_strong_tag(site, target):
    site.version = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    interrupted(site, target)
    site.version["ETag"] = 'W/"weak"'
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.asked[0]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize("known", [True, False], ids=["hash", "no_hash"])
def test_without_a_version_a_part_is_resumed_only_with_a_known_hash(site, target, known):
    site.version = {}
    interrupted(site, target)
    download(site.url, target, sha256=HASH if known else None)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [f"bytes={HALF}-" if known else None]


def test_a_changed_file_starts_again(site, target):
    interrupted(site, target)
    site.body, site.version = BODY[::-1], {"ETag": '"v2"'}
    download(site.url, target)
    assert target.read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"v2"', "Content-Range": f"bytes {HALF}-{len(BODY) - 1}/{len(BODY)}"},
        {"ETag": '"v1"', "Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"},
        {"ETag": '"v1"', "Content-Range": f"bytes {HALF}-{len(BODY)}/{len(BODY) + 1}"},
        {"ETag": '"v1"'},
    ],
    ids=["version", "start", "total", "no_range"],
)
def test_a_partial_answer_of_something_else_is_not_used(site, target, headers):
    interrupted(site, target)
    site.answer = lambda asked: (206, headers, b"wrong") if "Range" in asked else site.file(asked)
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [f"bytes={HALF}-", None]


def test_a_range_outside_the_answer_starts_again(site, target):
    interrupted(site, target)
    site.body, site.answer = BODY[:1000], lambda asked: (416, {}, b"") if "Range" in asked else site.file(asked)
    download(site.url, target)
    assert target.read_bytes() == BODY[:1000]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, b"<p>Quota exceeded"),
        ({}, b"\n<!DOCTYPE html><html>"),
        ({}, b"<html><head>"),
    ],
)
def test_a_web_page_is_not_the_file_and_the_part_is_kept(site, target, headers, body):
    interrupted(site, target)
    site.answer = lambda asked: (200, headers, body)
    refused(site, target, "web page, not the file.*Google Drive.*open the link in a browser")
    site.answer = site.file
    download(site.url, target)
    assert site.ranges_asked()[-1] == f"bytes={HALF}-"


def test_a_missing_file_is_reported(site, target):
    site.answer = lambda headers: (404, {}, b"")
    refused(site, target, "404 Not Found")
    assert len(site.asked) == 1


def test_a_wrong_hash_is_reported_and_nothing_is_kept(site, target):
    refused(site, target, f"sha256 is {HASH} and must be {'0' * 64}", sha256="0" * 64)
    assert left(target) == []


def test_a_file_above_the_limit_is_refused_before_and_while_it_arrives(site, target):
    refused(site, target, "1,024,000 bytes and at most 1,023,999", max_bytes=len(BODY) - 1)
    site.answer = lambda headers: (200, {}, BODY)
    refused(site, target, "longer than announced", max_bytes=len(BODY) - 1)
    assert left(target) == []
    download(site.url, target, max_bytes=len(BODY))


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_a_redirection_to_other_protocols_is_refused(site, target, place):
    site.answer = lambda headers: (302, {"Location": place}, b"")
    refused(site, target, "302")


def test_a_redirection_is_followed_with_the_range(site, target):
    interrupted(site, target)
    moved = iter([(302, {"Location": "/elsewhere", "Content-Length": 0}, b"")])
    site.answer = lambda headers: next(moved, None) or site.file(headers)
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.ranges_asked() == [f"bytes={HALF}-"] * 2


def test_a_redirection_from_https_to_http_is_refused():
    handler, request = module._Redirects(), urllib.request.Request("https://example.org/a")
    with pytest.raises(urllib.error.HTTPError, match="leads to http://example.org/b, refused") as error:
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/b")
    error.value.close()
    follows = handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b")
    assert follows.full_url == "https://example.org/b"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "weights.pth", ""])
def test_only_http_addresses_are_fetched(target, url):
    with pytest.raises(DownloadError, match="only http and https"):
        download(url, target)
    assert not target.parent.exists()


def test_a_missing_server_is_reported_at_once(site, target):
    site.shutdown()
    site.server_close()
    start = time.monotonic()
    refused(site, target, "cannot be reached.*refused.*check the network")
    assert time.monotonic() - start < 2


def test_a_silent_server_is_reported(site, target):
    site.hold, site.cuts = threading.Event(), [1000] * 10
    refused(site, target, "timed out", timeout_s=0.05)


def test_a_length_that_is_too_long_ends_in_an_error(site, target):
    site.answer = lambda headers: (200, {"Content-Length": len(BODY) + 1}, BODY)
    refused(site, target, "1,024,000 of 1024001 bytes")


def test_a_length_that_is_too_short_is_found_by_the_hash(site, target):
    site.answer = lambda headers: (200, {"Content-Length": 1000}, BODY)
    refused(site, target, "sha256", sha256=HASH)


def test_an_empty_answer_is_not_a_file(site, target):
    site.answer = lambda headers: (200, {"Content-Length": 0}, b"")
    refused(site, target, "cut after 0")


def test_a_full_disk_is_reported_before_and_while_writing(site, target, monkeypatch):
    usage = module.shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        refused(site, target, "disk is full: 1,024,000 more bytes are needed and 1,000 are free")

    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", no_space)
        refused(site, target, "the disk is full")


def test_a_folder_that_cannot_be_created_is_reported(site, tmp_path):
    (tmp_path / "file").write_text("")
    refused(site, tmp_path / "file" / "weights.pth", "cannot write there")


def test_another_opener_can_be_given(site, target):
    seen = []

    def opener(request, timeout):
        seen.append((request.full_url, timeout))
        return module._open(request, timeout)

    download(site.url, target, opener=opener, timeout_s=7.0)
    assert seen == [(site.url, 7.0)]


def test_the_address_of_a_google_drive_file():
    url = google_drive_url("1aB-c_9")
    assert url == "https://drive.usercontent.google.com/download?id=1aB-c_9&export=download&confirm=t"
    with pytest.raises(ValueError, match="take the part after /d/"):
        google_drive_url("https://drive.google.com/file/d/1aB/view")
