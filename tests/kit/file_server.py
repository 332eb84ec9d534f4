"""A server on this machine with one file, for the tests of downloads."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxseg.weights.download import DownloadError, download

BODY = bytes(range(256)) * 4000  # 1,024,000 bytes
HALF = len(BODY) // 2
HASH = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.asked.append(dict(self.headers))
        site.paths.append(self.path)
        status, headers, body = site.answer(self.headers)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        stop = site.cuts.pop(0) if site.cuts else len(body)
        self.wfile.write(body[:stop])
        if stop < len(body) and site.hold is not None:
            self.wfile.flush()
            site.hold.wait(10)

    def log_message(self, *args):
        pass


class Site(ThreadingHTTPServer):
    """Serves one file; tests change its content, the length of its answers and the answers themselves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        self.body, self.version, self.ranges = BODY, {"ETag": '"v1"'}, True
        self.cuts = []  # numbers of bytes after which the next answers stop
        self.hold = None  # an event to wait for before a cut connection is closed
        self.asked, self.paths = [], []  # the headers and paths of the requests
        self.answer = self.file

    def file(self, headers):
        total = len(self.body)
        start = headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        expected = headers.get("If-Range")
        if not start or not self.ranges or (expected and expected not in self.version.values()):
            return 200, {"Content-Length": total, **self.version}, self.body
        if int(start) >= total:
            return 416, {"Content-Range": f"bytes */{total}", "Content-Length": 0}, b""
        span = {"Content-Range": f"bytes {start}-{total - 1}/{total}", "Content-Length": total - int(start)}
        return 206, span | self.version, self.body[int(start) :]

    def ranges_asked(self):
        return [headers.get("Range") for headers in self.asked]

    def handle_error(self, request, client_address):
        pass  # a client that closes the connection early


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def interrupted(site, target, size=HALF):
    """Writes the first bytes of the file to the .part file, as an interrupted download leaves it."""
    target.parent.mkdir(exist_ok=True)
    target.with_name("weights.pth.part").write_bytes(site.body[:size])
    validator = next(iter(site.version.values()), "")
    notes = {"url": site.url, "validator": validator, "total": len(site.body)}
    target.with_name("weights.pth.part.json").write_text(json.dumps(notes))


def refused(site, target, message, **options):
    with pytest.raises(DownloadError, match=message) as error:
        download(site.url, target, **options)
    assert site.url in str(error.value)
    assert str(target) in str(error.value)
    assert not target.exists()
