"""The gate before all addresses: who may ask, what every answer says, and one line in the log for each request.

No name of a file, no value of a tag and no text of an exception is logged, because they may identify a patient.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import time
import traceback
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from jaxseg.files import is_full, printable
from jaxseg.service.limits import ClientGone, Refused
from jaxseg.service.metrics import Metrics

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
GONE = 499  # as nginx logs it

access_log = logging.getLogger("jaxseg.service.access")
_log = logging.getLogger(__name__)


class Gate:
    """An ASGI middleware that checks requests and completes answers.

    Args:
      app: the application behind the gate.
      metrics: counts the requests.
      paths: patterns of the addresses that exist, such as "/v1/results/{id}".
      token: what clients must send as `Authorization: Bearer TOKEN`; None: nothing.
      hosts: names under which clients reach the service, besides `localhost` and IP addresses.
    """

    def __init__(
        self, app: Callable, *, metrics: Metrics, paths: Collection[str], token: str | None, hosts: Collection[str]
    ):
        self.app, self.metrics, self.paths = app, metrics, paths
        self.digest = None if token is None else _digest(token.encode("utf-8"))
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, received = time.perf_counter(), 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, counted, completed)
        except ClientGone:
            status = GONE
        except Exception as error:
            if status:  # a part of the answer is on its way, so that it cannot be replaced
                _report(error)
                raise RuntimeError("an answer was cut off") from None
            await _refusal(error)(scope, receive, completed)
        finally:
            self._record(scope, status or GONE, time.perf_counter() - start, received)

    def _check(self, scope: Scope) -> None:
        """Raises Refused if the request comes from another page, or has no token."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self._knows(host):
            raise Refused(
                403,
                f"the host {printable(host)[:100]!r} is unknown; use localhost, an IP address or a name that the "
                "service was started with (--allow-host)",
            )
        origin = headers.get("origin")
        if origin is not None and _authority(origin) != host:
            raise Refused(403, f"requests from pages of {printable(origin)[:100]} are not answered")
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        opens = scope["method"] in ("GET", "HEAD") and mode == "navigate"
        if site in ("cross-site", "same-site") and not (opens and _path(scope) == "/"):
            raise Refused(403, "requests from pages of other sites are not answered")
        if self.digest is not None and self._is_private(_path(scope)):
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(_digest(given.strip().encode("utf-8", "replace")), self.digest)
            if kind.lower() != "bearer" or not right:
                text = "a token is needed: send the header 'Authorization: Bearer TOKEN' with the right token"
                raise Refused(401, text, WWW_Authenticate="Bearer")

    def _knows(self, host: str) -> bool:
        """Returns whether a Host is allowed. A name that is not known may be that of an attacker (DNS rebinding)."""
        name = _authority_name(host)
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_private(self, path: str) -> bool:
        return path.startswith("/v1/") or path == "/metrics"

    def _record(self, scope: Scope, status: int, seconds: float, received: int) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        path = self._pattern(_path(scope))
        self.metrics.answered(method, path, status, seconds, received)
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "method": method, "path": path}
        line |= {"status": status, "seconds": round(seconds, 4), "bytes": received}
        line |= {"client": (scope.get("client") or ("",))[0]}
        access_log.info("%s", json.dumps(line))

    def _pattern(self, path: str) -> str:
        if path in self.paths:
            return path
        start = path.rpartition("/")[0]
        return next((one for one in self.paths if "{" in one and one.rpartition("/")[0] == start), "other")


def refused(error: Refused) -> JSONResponse:
    """Returns the answer of a request that is not served."""
    return JSONResponse({"error": error.text}, error.status, headers=error.headers)


def _refusal(error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return refused(error)
    _report(error)
    if is_full(error):
        return refused(Refused(503, "the disk of the service is full; try again later", Retry_After="30"))
    return refused(Refused(500, "the service failed to answer; its log says where"))


def _report(error: BaseException) -> None:
    """Logs where an exception was raised, and its type. Its text may quote a file, so it is left out."""
    places = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s in the service at\n%s", type(error).__name__, places.rstrip())


def _digest(token: bytes) -> bytes:
    """Returns a hash of a token: comparing hashes takes the same time for tokens of any length."""
    return hashlib.sha256(token).digest()


def _path(scope: Scope) -> str:
    """Returns the path of a request below the place where the application is mounted."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def _authority(origin: str) -> str:
    """Returns the host and port of an Origin, as the header Host states them."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return ""
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return name if port is None else f"{name}:{port}"


def _authority_name(host: str) -> str:
    """Returns the name or address in a header Host, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
