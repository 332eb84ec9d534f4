"""A DICOMweb server whose answers a test chooses: well-formed ones, and every kind of fault."""

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pacs_kit import image_of

from jaxseg.pacs.exchange import Image

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"


def entry(**values) -> dict:
    """Returns an entry of DICOM JSON; names are tags without "t"."""
    return {name[1:]: {"vr": "UI", "Value": [value]} for name, value in values.items()}


def multipart(*parts: bytes, boundary: str = "b0") -> tuple[str, bytes]:
    """Returns the content type and the content of a multipart answer."""
    kind = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return kind, b"".join(head + part for part in parts) + f"\r\n--{boundary}--\r\n".encode()


class Server(ThreadingHTTPServer):
    """Offers files; the answers to the next requests can be replaced.

    Attributes:
      files: by identifiers.
      studies: number of made-up studies that it lists besides, each with one X-ray.
      page: most entries of an answer, even if more were asked for.
      ignores_offset: whether every page is the first one.
      faults: answers of the next requests to a path that holds the key: (status, headers, content).
      requests: (method, path with query, headers, content).
      stored: contents that were posted.
    """

    daemon_threads = True

    def __init__(self, *paths: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {image_of(path): path for path in paths}
        self.studies, self.page, self.ignores_offset = 0, 100, False
        self.faults: dict[str, list[tuple[int, dict, bytes]]] = {}
        self.requests: list[tuple] = []
        self.stored: list[bytes] = []
        self.answer_of_store = (200, {"00081199": {"vr": "SQ", "Value": [{}]}})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"

    def images(self) -> list[Image]:
        return [*self.files, *(Image(f"1.2.{k}", f"1.2.{k}.1", f"1.2.{k}.1.1") for k in range(1, self.studies + 1))]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def do_GET(self):
        self._serve(b"")

    def do_POST(self):
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, content: bytes) -> None:
        server, parts = self.server, urllib.parse.urlsplit(self.path)
        server.requests.append((self.command, self.path, dict(self.headers), content))
        for key, waiting in server.faults.items():
            if key in self.path and waiting:
                return self._send(*waiting.pop(0))
        words, query = parts.path.split("/")[2:], dict(urllib.parse.parse_qsl(parts.query))
        if self.command == "POST":
            server.stored.append(content)
            status, answer = server.answer_of_store
            return self._json(answer, status)
        if len(words) == 6:
            (path,) = (path for image, path in server.files.items() if image.sop_uid == words[5])
            kind, body = multipart(path.read_bytes())
            return self._send(200, {"Content-Type": kind}, body)
        if words == ["studies"]:
            found = [entry(t0020000D=image.study_uid, t00201208=1) for image in server.images()]
        else:
            mine = [image for image in server.images() if image.study_uid == words[1]]
            found = [entry(t0020000E=image.series_uid, t00080018=image.sop_uid, t00080016=CR) for image in mine]
            found += [entry(t0020000E="1.9", t00080018="1.9.9", t00080016=CT)] if mine else []
        begin = 0 if server.ignores_offset else int(query.get("offset", 0))
        return self._json(found[begin:][: min(int(query.get("limit", 100)), server.page)])

    def _json(self, value, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/dicom+json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict, content: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)
            self.wfile.flush()
            if headers.get("Content-Length", str(len(content))) != str(len(content)):
                self.close_connection = True

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def dicomweb(*paths: Path) -> Iterator[Server]:
    """Runs a server on this machine."""
    server = Server(*paths)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
