"""X-rays over HTTP: masks, measurements, and the results of earlier requests in other formats."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from jaxseg.anatomy.segment import Prepared, Segmenter
from jaxseg.images.elements import check_elements, check_scans
from jaxseg.images.read import INTENSITIES, kind_of, stored_size
from jaxseg.masks.read import select
from jaxseg.service import formats
from jaxseg.service.device import Kind
from jaxseg.service.engine import Engine, Held, refusing
from jaxseg.service.limits import Limits, Refused
from jaxseg.service.results import Found, chosen
from jaxseg.service.upload import Received, Upload

SubjectOf = Callable[[Found, Path], formats.Subject]
KIND = "segment"
FIELDS = ("classes", "intensity", "threshold")


def segment_kind(segmenter: Segmenter) -> Kind:
    """Returns how the device segments.

    Raises:
      ValueError: the Segmenter keeps probabilities, which are too large to keep for many clients.
    """
    if segmenter.probabilities or segmenter.edges == "smooth":
        raise ValueError(
            "a service keeps the masks of many X-rays, and no probabilities; give a Segmenter without probabilities "
            "and with the edges 'original'"
        )
    return Kind(segmenter.predict, segmenter.batch_size, segmenter.compile)


class XRays:
    """Answers requests about X-rays.

    Args:
      engine: does the work.
      segmenter: segments.
    """

    def __init__(self, engine: Engine, segmenter: Segmenter):
        self.engine, self.segmenter = engine, segmenter
        self._one_seg = asyncio.Lock()  # it takes one byte per pixel and class, so only one is written at a time

    async def segment(self, request: Request) -> Held:
        """`POST /v1/segment`: the masks of an X-ray, in the format that the client accepts."""
        kind = formats.accepted(request.headers.get("accept", ""), tuple(formats.SEGMENT))

        async def job(upload: Upload) -> Response:
            if kind == formats.SEG and kind_of(upload.file("image").path) != "dicom":
                raise Refused(406, "a DICOM SEG refers to a DICOM image, and this is none; accept another format")
            found = await self._found(upload)
            answer = await self._answer(found, kind)
            name = self.engine.results.keep(found)
            answer.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/results/{name}"
            return answer

        return await self.engine.work(request, job, kind=KIND, files={"image": 1}, fields=FIELDS)

    async def result(self, request: Request) -> Held:
        """`GET /v1/results/{id}`: an earlier result, in the format that the client accepts."""
        kind = formats.accepted(request.headers.get("accept", ""), tuple(formats.SEGMENT))
        found = self.engine.results.get(request.path_params["id"])
        return await self.engine.work(request, lambda _: self._answer(found, kind))

    async def extract(self, request: Request) -> Held:
        """`POST /v1/extract`: measurements of an X-ray, as JSON or CSV."""
        kind = formats.accepted(request.headers.get("accept", ""), (formats.JSON, formats.CSV))

        async def job(upload: Upload) -> Response:
            features = upload.fields.get("features", "")
            formats.check_features(features, self.segmenter.groups)
            found = await self._found(upload)
            with self.engine.temporary() as folder, refusing(found.path.name, status=422):
                measure = functools.partial(_measured, self._subject, found, folder, features, kind)
                answer = await self.engine.in_pool("encode", measure)
            return _response(answer, found.name)

        return await self.engine.work(request, job, kind=KIND, files={"image": 1}, fields=(*FIELDS, "features"))

    async def _found(self, upload: Upload) -> Found:
        """Returns the masks of the X-ray that a client sent."""
        received, classes = upload.file("image"), upload.fields.get("classes", "")
        intensity = upload.fields.get("intensity") or self.segmenter.intensity
        self._check_fields(upload.fields, classes, intensity)
        with refusing(received.path.name):
            prepare = functools.partial(_prepare, self.segmenter, received, intensity, self.engine.limits)
            prepared = await self.engine.in_pool("decode", prepare)
        masks = await self.engine.device.compute(KIND, prepared)
        make = functools.partial(Found.of, chosen(masks, classes), received.path, received.name, intensity)
        return await self.engine.in_pool("encode", make)

    def _check_fields(self, fields: dict[str, str], classes: str, intensity: str) -> None:
        if intensity not in INTENSITIES:
            raise Refused(422, f"intensity is {intensity[:50]!r}; allowed: {', '.join(INTENSITIES)}")
        if classes:
            with refusing(status=422):
                select(self.segmenter.names, classes)
        threshold = fields.get("threshold", "")
        if threshold and threshold != f"{self.segmenter.threshold:g}":
            text = f"the threshold of this service is {self.segmenter.threshold:g}, for all requests; leave it out"
            raise Refused(422, text)

    async def _answer(self, found: Found, kind: str) -> Response:
        with self.engine.temporary() as folder, refusing(found.path.name):
            encode = functools.partial(_encoded, self._subject, found, folder, kind, self.engine.limits)
            if kind == formats.SEG:
                answer = await self.engine.one_by_one(self._one_seg, "encode", encode)
            else:
                answer = await self.engine.in_pool("encode", encode)
        return _response(answer, found.name)

    def _subject(self, found: Found, folder: Path) -> formats.Subject:
        card = self.segmenter.card
        masks = found.masks((card.input_size[0], card.input_size[1]))
        of_model: Any = {"groups": self.segmenter.groups, "title": card.title, "class_names": card.class_names}
        return formats.Subject(masks, found.path, found.name, folder, found.intensity, **of_model)


def _prepare(segmenter: Segmenter, received: Received, intensity: str, limits: Limits) -> Prepared:
    """Returns an X-ray for the network, after its kind and size are checked."""
    kind = kind_of(received.path)
    if kind not in ("dicom", "raster"):
        what = "a DICOMDIR, which lists files" if kind == "dicomdir" else "neither PNG, JPEG nor DICOM"
        raise Refused(400, f"the file is {what}; its first bytes decide, not its name: send an X-ray of these formats")
    check = check_elements if kind == "dicom" else check_scans
    check(received.path)
    height, width = stored_size(received.path)
    if height * width > limits.pixels:
        text = f"the image is {height} x {width}; up to {limits.pixels:,} pixels are allowed: send a smaller one"
        raise Refused(413, text)
    return segmenter.prepare(received.path, intensity=intensity)


def _encoded(subject_of: SubjectOf, found: Found, folder: Path, kind: str, limits: Limits) -> formats.Answer:
    return formats.SEGMENT[kind](subject_of(found, folder), limits)


def _measured(subject_of: SubjectOf, found: Found, folder: Path, features: str, kind: str) -> formats.Answer:
    subject = subject_of(found, folder)
    measured = formats.measured(subject, features)
    if kind == formats.CSV:
        return formats.Answer(formats.measured_csv(measured, subject), formats.CSV, ".csv")
    content = formats.table.to_json(measured) | {"filename": formats.printable(subject.name), "warnings": subject.notes}
    return formats.Answer(formats.as_json(content), formats.JSON, ".json")


def _response(answer: formats.Answer, name: str) -> Response:
    headers = {"Content-Disposition": formats.disposition(name, answer)}
    return Response(answer.body, media_type=answer.kind, headers=headers)
