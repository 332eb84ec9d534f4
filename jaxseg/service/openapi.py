"""The description of the API, OpenAPI 3.1, which programs read at `/openapi.json`."""

from collections.abc import Mapping
from typing import Any

from jaxseg import __version__
from jaxseg.images.read import INTENSITIES
from jaxseg.service import formats

_TEXT = {"type": "string"}
_ERROR = {"$ref": "#/components/schemas/Error"}
_ERRORS = {
    "400": "The file or the body cannot be read.",
    "401": "The token is missing or wrong.",
    "403": "The header Host or Origin is not allowed.",
    "404": "There is no such address, model or result.",
    "406": "There is no answer in a format that Accept allows.",
    "408": "The request did not arrive in time.",
    "413": "The body, the image or the volume is larger than the limits in /v1/models.",
    "415": "The body is not multipart/form-data.",
    "422": "A field is missing, unknown or has a value that is not allowed.",
    "429": "The service is busy; Retry-After says when to try again.",
    "503": "The service ends or was too slow; Retry-After says when to try again.",
}
_CLASSES = _TEXT | {"description": "Labels or groups, separated by commas; without it, all classes."}
_INTENSITY = {"type": "string", "enum": list(INTENSITIES), "description": "How grey values are read."}
_THRESHOLD = _TEXT | {"description": "That of the service, see /v1/models; another one is refused."}
_XRAY = _TEXT | {"format": "binary", "description": "An X-ray: PNG, JPEG or DICOM. Its content decides, not its name."}
_FEATURES = _TEXT | {"description": "Features, separated by commas, such as CTR,SCD,area; /v1/models lists all."}


def document(files: Mapping[str, tuple[str, str, str]]) -> dict[str, Any]:
    """Returns the description as JSON values.

    Args:
      files: address of each file of the page -> its package, name and media type.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jaxseg serve",
            "version": __version__,
            "summary": "Segments and measures X-rays, restores masks, and scores masks of CTs. Not for clinical use.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": _of_page(files) | _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": _TEXT | {"description": "What was given, what is allowed, and what to do."}
                    },
                }
            },
        },
    }


def _of_page(files: Mapping[str, tuple[str, str, str]]) -> dict[str, Any]:
    what = {"/": "Show the page."}
    return {
        path: {"get": _get(what.get(path, "Get a file of the page."), kind, public=True)}
        for path, (_, _, kind) in files.items()
    }


def _paths() -> dict[str, Any]:
    xray = {"image": _XRAY, "classes": _CLASSES, "intensity": _INTENSITY, "threshold": _THRESHOLD}
    score = {
        "ct": {"type": "array", "items": _TEXT | {"format": "binary"}, "description": "A NIfTI file, or DICOM slices."},
        "mask": _TEXT | {"format": "binary", "description": "A NIfTI file with the values 0 and 1."},
        "organ": _TEXT | {"description": "Name of the organ that the mask shows."},
    }
    mask = {"mask": _TEXT | {"format": "binary", "description": "A mask: PNG, JPEG, NumPy or NIfTI."}}
    name = {"name": "id", "in": "path", "required": True, "schema": _TEXT | {"pattern": "^[0-9a-f]{32}$"}}
    example = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    location = {"Location": {"schema": _TEXT, "description": "Address of the result, for other formats."}}
    results, parts = tuple(formats.SEGMENT), ("page", "shared")
    return {
        "/": {"get": _get("Show the page.", "text/html", public=True)},
        **{f"/{name}.css": {"get": _get("Get a style of the page.", "text/css", public=True)} for name in parts},
        **{f"/{name}.js": {"get": _get("Get a script of the page.", "text/javascript", public=True)} for name in parts},
        "/v1/models": {"get": _get("List models, limits and formats.", formats.JSON)},
        "/v1/segment": {"post": _post("Segment an X-ray.", results, xray, ("image",), location)},
        "/v1/results/{id}": {"get": _get("Fetch a result again, in any format.", *results, parameters=[name])},
        "/v1/extract": {
            "post": _post(
                "Measure an X-ray.",
                (formats.JSON, formats.CSV),
                xray | {"features": _FEATURES},
                ("image", "features"),
            )
        },
        "/v1/denoise": {"post": _post("Restore a mask.", (formats.PNG, formats.NPZ, formats.VIEW), mask, ("mask",))},
        "/v1/score": {
            "post": _post("Score a mask of a CT.", (formats.JSON, formats.CSV), score, ("ct", "mask", "organ"))
        },
        "/health": {"get": _get("Ask whether requests are answered.", formats.JSON, public=True)},
        "/metrics": {"get": _get("Get numbers for Prometheus.", "text/plain")},
        "/openapi.json": {"get": _get("Get this description.", formats.JSON, public=True)},
        "/examples/{name}": {"get": _get("Get an example.", formats.PNG, parameters=[example], public=True)},
    }


def _get(summary: str, *kinds: str, parameters: list | None = None, public: bool = False) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "responses": _responses(kinds, {})}
    if parameters:
        operation["parameters"] = parameters
    return operation | ({"security": [{}]} if public else {})


def _post(
    summary: str, kinds: tuple[str, ...], fields: dict[str, Any], required: tuple[str, ...], headers: dict | None = None
) -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": fields, "additionalProperties": False}
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"summary": summary, "requestBody": body, "responses": _responses(kinds, headers or {})}


def _responses(kinds: tuple[str, ...], headers: dict[str, Any]) -> dict[str, Any]:
    """Returns the answers of an address: its formats, and the errors."""
    good: dict[str, Any] = {"description": "The answer, in the format that Accept prefers."}
    good["content"] = {kind: {} for kind in kinds}
    if headers:
        good["headers"] = headers
    errors = {
        status: {"description": text, "content": {formats.JSON: {"schema": _ERROR}}} for status, text in _ERRORS.items()
    }
    return {"200": good} | errors
