"""A server on this machine that speaks the few endpoints of the Hugging Face Hub that downloads need."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_LIST = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Serves repositories.

    Attributes:
      repositories: name ("owner/name") -> revision ("main") -> path of a file -> content.
      closed: names of repositories whose owner has not granted access to the files.
      broken: answers every request with the status 500.
      asked: method and path of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.closed, self.broken, self.asked = {}, set(), False, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def fetched(self) -> list[str]:
        """Returns the paths of the files whose content was requested."""
        found = (_FILE.fullmatch(path) for method, path in self.asked if method == "GET")
        return [match[3] for match in found if match]

    def handle_error(self, request, client_address):
        pass  # a client that closes the connection early


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def log_message(self, *_):
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        status, headers, body = self._found(urlsplit(self.path).path)
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _found(self, path: str) -> tuple[int, dict, bytes]:
        """Returns status, headers and body of the answer."""
        if self.server.broken:
            return 500, {}, b""
        listed, wanted = _LIST.fullmatch(path), _FILE.fullmatch(path)
        if not listed and not wanted:
            return 404, {}, b""
        name, revision = (unquote(part or "main") for part in (listed or wanted).groups()[:2])
        if name in self.server.closed and wanted:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.server.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        revisions = self.server.repositories[name]
        if revision not in revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = revisions[revision]
        if listed:
            body = {"id": name, "siblings": [{"rfilename": path} for path in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        content, commit = files.get(unquote(wanted[3])), {"X-Repo-Commit": _hash(repr(sorted(files.items())).encode())}
        if content is None:
            return 404, commit | {"X-Error-Code": "EntryNotFound"}, b""
        return 200, commit | {"ETag": f'"{_hash(content)}"'}, content


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
