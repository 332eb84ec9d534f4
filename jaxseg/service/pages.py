"""What the service has besides results: its page, examples, models, health, numbers, and the description of the API."""

import contextlib
import importlib.resources
import io
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxseg import __version__
from jaxseg.anatomy.measure.features import FEATURES
from jaxseg.card import Card
from jaxseg.datasets import phantom
from jaxseg.images.read import INTENSITIES
from jaxseg.service import formats, openapi
from jaxseg.service.engine import Engine
from jaxseg.service.limits import Refused
from jaxseg.vocabulary import labels, organs

_SCRIPTS = ("requests.js", "downloads.js", "viewer.js", "queue.js", "masks.js", "page.js")
FILES = {  # address -> (package, file, media type); the page shows an image with the code of reports
    "/": ("jaxseg.service", "page.html", "text/html"),
    "/page.css": ("jaxseg.service", "page.css", "text/css"),
    "/shared.css": ("jaxseg.report", "shared.css", "text/css"),
    "/shared.js": ("jaxseg.report", "shared.js", "text/javascript"),
    **{f"/{name}": ("jaxseg.service", name, "text/javascript") for name in _SCRIPTS},
}
EXAMPLES = {f"phantom-{seed + 1}.png": seed for seed in range(3)}
_SIDE = 512  # pixels of an example


class Pages:
    """Answers requests that need no model.

    Args:
      engine: of the service.
      models: what `GET /v1/models` answers, as `describe` returns it.
    """

    def __init__(self, engine: Engine, models: dict[str, Any]):
        self.engine, self.models = engine, models
        self.examples = {name: _example(seed) for name, seed in EXAMPLES.items()}
        self.description = openapi.document(FILES)

    async def file(self, address: str, request: Request) -> Response:
        """`GET /` and the files of the page, by their address in `FILES`."""
        package, name, kind = FILES[address]
        place = importlib.resources.files(package).joinpath(name)
        if not place.is_file():
            raise Refused(404, "this installation has no page; use the addresses below /v1, see /openapi.json")
        return Response(place.read_bytes(), media_type=kind)

    async def example(self, request: Request) -> Response:
        """`GET /examples/{name}`: the X-ray of a phantom."""
        name = request.path_params["name"]
        if name not in self.examples:
            raise Refused(404, f"there is no such example; there are {', '.join(self.examples)}")
        return Response(self.examples[name], media_type="image/png")

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`: the models, limits and formats."""
        return JSONResponse(self.models)

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 if requests are answered, 503 while the models load or the service ends."""
        state = self.engine.state
        return JSONResponse({"status": state, "version": __version__}, 200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: numbers for Prometheus."""
        content, kind = self.engine.metrics.text()
        return Response(content, headers={"Content-Type": kind})

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: the description of the API."""
        return JSONResponse(self.description)


def describe(engine: Engine, segmenter: Any, denoiser: Any, scorer: Any) -> dict[str, Any]:
    """Returns what clients may know about the models, limits and formats of a service, as JSON values.

    Args:
      engine: of the service.
      segmenter, denoiser, scorer: the models; the last two may be None.
    """
    limits = engine.limits
    segment = _of_card(segmenter.card) | {
        "classes": list(segmenter.names),
        "groups": _groups(segmenter.names),
        "threshold": segmenter.threshold,
        "intensity": segmenter.intensity,
        "confidence": segmenter.confidence,
    }
    return {
        "segment": segment,
        "denoise": None
        if denoiser is None
        else _of_card(denoiser.card) | {"classes": list(denoiser.card.class_names), "channels": denoiser.channels},
        "score": None
        if scorer is None
        else _of_card(scorer.card) | {"canonical": scorer.canonical, "organs": _organs(scorer)},
        "limits": {
            name: getattr(limits, name) for name in ("bytes", "pixels", "voxels", "seconds", "queue", "result_seconds")
        },
        "formats": list(formats.SEGMENT),
        "features": [feature.name for feature in FEATURES],
        "intensities": list(INTENSITIES),
        "examples": [f"/examples/{name}" for name in EXAMPLES],
        "version": __version__,
    }


def _of_card(card: Card | None) -> dict[str, Any]:
    """Returns what the card of a model says; the name of a file of weights is left out, since it is not public."""
    if card is None:
        return {"title": "", "weights": {}}
    return {
        "title": card.title,
        "model": card.model,
        "input_size": list(card.input_size),
        "dtype": dict(card.config).get("dtype", "float32"),
        "weights": {"sha256": card.params_sha256 or card.source_sha256, "licence": card.licence},
        "note": card.note,
    }


def _groups(names: tuple[str, ...]) -> list[str]:
    """Returns the groups of classes that a request may name."""
    if not set(names) <= set(labels.CXAS):
        return []
    return [group for group, members in labels.CXAS_GROUPS.items() if any(labels.CXAS[k] in names for k in members)]


def _organs(scorer: Any) -> list[str]:
    """Returns the names of the organs whose masks can be scored."""
    found = []
    for organ in organs.ORGANS:
        with contextlib.suppress(ValueError):  # the model has no text embedding of it
            found.append(scorer.organ(organ.id).name)
    return found


def _example(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(phantom.draw(seed, _SIDE)[0]).save(content, "PNG")
    return content.getvalue()
