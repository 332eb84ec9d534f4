"""The application of the service: its addresses, and the predictors behind them."""

import contextlib
import functools
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jaxseg.anatomy.segment import Segmenter
from jaxseg.files import printable
from jaxseg.post_dae.denoise import Denoiser
from jaxseg.segae.scorer import Scorer
from jaxseg.service import masks, pages, volumes, xrays
from jaxseg.service.engine import Engine
from jaxseg.service.gate import Gate, refused
from jaxseg.service.limits import Limits, Refused

MIN_TOKEN = 16  # characters


def create_app(
    segmenter: Segmenter,
    denoiser: Denoiser | None = None,
    scorer: Scorer | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    limits: Limits | None = None,
    threads: int = 2,
    folder: str | Path | None = None,
) -> Starlette:
    """Returns the ASGI application that `jaxseg serve` runs, for any ASGI server, or to be mounted in another one.

    All predictors compute in one thread, which prepares them when the application starts. An application that mounts
    this one must run its lifespan, `app.router.lifespan_context(app)`, so that threads and the temporary folder end
    with it.

    Args:
      segmenter: segments X-rays; its batch size is the largest number of requests that are computed together.
      denoiser: restores masks; None: `/v1/denoise` is refused.
      scorer: scores masks of CTs; None: `/v1/score` is refused.
      token: what clients must send as `Authorization: Bearer TOKEN`, at least 16 characters. None: nothing, which is
        only right if the server listens on the loopback interface.
      hosts: names under which clients reach the service, besides `localhost` and IP addresses.
      limits: what one client may cost the service; None: the usual ones.
      threads: number of threads that decode files and encode answers.
      folder: where the service makes its one temporary folder; None: the system's place for temporary files.

    Returns:
      The application. `app.state.engine` is its `jaxseg.service.engine.Engine`.

    Raises:
      ValueError: the token is too short, or the Segmenter keeps probabilities.
      OSError: the temporary folder cannot be made.

    Example:
      >>> import jaxseg, jaxseg.service
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> app = jaxseg.service.create_app(jaxseg.Segmenter(model))
      >>> app.state.engine.limits.queue
      32
      >>> app.state.engine.workspace.close()
    """
    check_token(token)
    kinds = {xrays.KIND: xrays.segment_kind(segmenter)}
    if denoiser is not None:
        kinds[masks.KIND] = masks.denoise_kind(denoiser)
    if scorer is not None:
        kinds[volumes.KIND] = volumes.score_kind(scorer)
    engine = Engine(kinds, limits or Limits(), threads=threads, folder=None if folder is None else Path(folder))
    routes = _routes(engine, segmenter, denoiser, scorer)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.close()

    guards: Any = {"metrics": engine.metrics, "paths": {route.path for route in routes}, "token": token, "hosts": hosts}
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Gate, **guards)],
        exception_handlers={HTTPException: _http_error, Refused: _refused},
    )
    app.state.engine = engine
    app.router.redirect_slashes = False
    return app


def check_token(token: str | None) -> None:
    """Raises ValueError if a token is too short, or has characters that a header cannot hold.

    Args:
      token: the token; None: there is none.
    """
    if token is None:
        return
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("a token has only printable ASCII characters without spaces")
    if len(token) < MIN_TOKEN:
        raise ValueError(f"a token has at least {MIN_TOKEN} characters, this one has {len(token)}: make a longer one")


def _routes(engine: Engine, segmenter: Segmenter, denoiser: Denoiser | None, scorer: Scorer | None) -> list[Route]:
    page = pages.Pages(engine, pages.describe(engine, segmenter, denoiser, scorer))
    images = xrays.XRays(engine, segmenter)
    gets: dict[str, Any] = {path: functools.partial(page.file, path) for path in pages.FILES}
    gets |= {"/health": page.health, "/metrics": page.metrics, "/openapi.json": page.openapi}
    gets |= {"/examples/{name}": page.example, "/v1/models": page.list_models, "/v1/results/{id}": images.result}
    posts = {"/v1/segment": images.segment, "/v1/extract": images.extract}
    posts |= {"/v1/denoise": masks.Masks(engine, denoiser).denoise, "/v1/score": volumes.Volumes(engine, scorer).score}
    return [Route(path, function, methods=["GET"]) for path, function in gets.items()] + [
        Route(path, function, methods=["POST"]) for path, function in posts.items()
    ]


async def _http_error(request: Request, error: Exception) -> Response:
    """Answers to an address or a method that does not exist."""
    status = getattr(error, "status_code", 404)
    path = printable(request.url.path)[:100]
    if status == 405:
        text = f"{request.method} is not possible for {path}; /openapi.json lists what is"
    else:
        text = f"there is no address {path}; /openapi.json lists all"
    answer = refused(Refused(status, text))
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


async def _refused(request: Request, error: Exception) -> Response:
    return refused(error) if isinstance(error, Refused) else refused(Refused(500, "the service failed to answer"))
