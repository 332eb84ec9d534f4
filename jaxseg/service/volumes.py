"""Volumes over HTTP: a SegAE predicts how good the mask of an organ in a CT is."""

import asyncio
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from jaxseg.images.elements import check_elements
from jaxseg.images.read import kind_of, stored_size
from jaxseg.segae import scorer as segae
from jaxseg.segae.crop import SLICES, slices_with, spread
from jaxseg.segae.score import checked_pair
from jaxseg.segae.scorer import MaskScore, Scorer
from jaxseg.service import formats
from jaxseg.service.device import Kind
from jaxseg.service.engine import Engine, Held, refusing
from jaxseg.service.limits import Limits, Refused
from jaxseg.service.upload import Upload
from jaxseg.vocabulary.organs import Organ
from jaxseg.volumes.nifti import need_nibabel, read_shape
from jaxseg.volumes.read import read_volume
from jaxseg.volumes.volume import Volume

KIND = "score"
_BATCH = 4  # masks that share batches of the network at most
_MAX_SLICES = 1024
_MAX_ELEMENTS = 1_000_000  # of all slices of a CT; a slice has some hundreds
_GZIP, _NIFTI = b"\x1f\x8b", (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")


def score_kind(scorer: Scorer) -> Kind:
    """Returns how the device scores masks.

    Raises:
      ValueError: nibabel is not installed, without which no volume can be read.
    """
    need_nibabel()

    def compute(requests: list[segae.Request]) -> list[MaskScore]:
        return list(scorer.scores(requests))

    def warm() -> None:
        cube = np.zeros((1, 32, 32), np.float32)
        compute([segae.Request(cube, np.ones(cube.shape, bool), _any_organ(scorer))])

    return Kind(compute, min(_BATCH, max(1, scorer.batch_size // SLICES)), warm)


class Volumes:
    """Answers requests about volumes.

    Args:
      engine: does the work.
      scorer: predicts; None: requests are refused.
    """

    def __init__(self, engine: Engine, scorer: Scorer | None):
        self.engine, self.scorer = engine, scorer
        self._one_pair = asyncio.Lock()  # a CT may take a gigabyte, so only one is read at a time

    async def score(self, request: Request) -> Held:
        """`POST /v1/score`: the predicted Dice of a mask, as JSON or CSV."""
        scorer = self.scorer
        if scorer is None:
            raise Refused(404, "this service has no model that scores masks; start it with --score")
        kind = formats.accepted(request.headers.get("accept", ""), (formats.JSON, formats.CSV))

        async def job(upload: Upload) -> Response:
            if "organ" not in upload.fields:
                raise Refused(422, "the field 'organ' is missing; send the name of the organ that the mask shows")
            with refusing(status=422):
                organ = scorer.organ(upload.fields["organ"])
            with refusing():
                read = functools.partial(_read, scorer, upload, self.engine.limits)
                ct, mask, places, notes = await self.engine.one_by_one(self._one_pair, "decode", read)
            dice = await self._dice(scorer, ct, mask, organ)
            answer = _encoded(MaskScore(organ, tuple(places), dice), notes, kind)
            headers = {"Content-Disposition": formats.disposition(upload.file("mask").name, answer)}
            return Response(answer.body, media_type=answer.kind, headers=headers)

        files = {"ct": _MAX_SLICES, "mask": 1}
        return await self.engine.work(request, job, kind=KIND, files=files, fields=("organ",))

    async def _dice(self, scorer: Scorer, ct: np.ndarray, mask: np.ndarray, organ: Organ) -> tuple[float, ...]:
        """Returns the predicted Dice of each slice.

        The device computes one batch of slices at a time. Between them it serves other requests, and it stops if this
        one is cancelled.
        """
        dice: list[float] = []
        step = scorer.batch_size
        for start in range(0, len(ct), step):
            part = segae.Request(ct[start : start + step], mask[start : start + step], organ)
            dice.extend((await self.engine.device.compute(KIND, part)).dice)
        return tuple(dice)


def _read(scorer: Scorer, upload: Upload, limits: Limits) -> tuple[np.ndarray, np.ndarray, list[int], list[str]]:
    """Returns the slices of a CT and its mask that are scored, their numbers, and remarks.

    The other slices are dropped, so that requests that wait take little memory.
    """
    canonical = scorer.canonical
    scan, found, notes = checked_pair(
        _volume([file.path for file in upload.files["ct"]], "ct", limits, canonical=canonical),
        _volume([upload.file("mask").path], "mask", limits, canonical=canonical),
    )
    places = slices_with(found.array)
    if scorer.slices is not None:
        places = places[spread(len(places), scorer.slices)]
    return scan.array[places], found.array[places], places.tolist(), list(notes)


def _volume(paths: list[Path], name: str, limits: Limits, *, canonical: bool) -> Volume:
    """Reads a NIfTI file, or the DICOM slices of a series, under a name that says what it is."""
    if len(paths) > 1:
        if any(kind_of(path) != "dicom" for path in paths):
            raise Refused(
                400, f"{name}: several files must be the DICOM slices of one series; send these, or a NIfTI file"
            )
        _check_elements(paths)
        _check_voxels(name, sum(math.prod(stored_size(path)) for path in paths), limits)
        folder = paths[0].parent / name
        folder.mkdir()
        for path in paths:
            path.rename(folder / f"{path.name}.dcm")
        return read_volume(folder, canonical=canonical)
    with paths[0].open("rb") as file:
        head = file.read(4)
    if not head.startswith((_GZIP, *_NIFTI)):
        raise Refused(400, f"{name}: the file is not NIfTI; its first bytes decide, not its name")
    suffix = ".nii.gz" if head.startswith(_GZIP) else ".nii"
    path = paths[0].rename(paths[0].with_name(f"{name}{suffix}"))
    _check_voxels(name, math.prod(read_shape(path)), limits)
    return read_volume(path, canonical=canonical)


def _check_elements(paths: list[Path]) -> None:
    count = 0
    for path in paths:
        count += check_elements(path)
        if count > _MAX_ELEMENTS:
            text = f"the slices have more than {_MAX_ELEMENTS:,} DICOM elements together; send a NIfTI file instead"
            raise Refused(400, text)


def _check_voxels(name: str, count: int, limits: Limits) -> None:
    if count > limits.voxels:
        raise Refused(413, f"{name}: the volume has {count:,} voxels; up to {limits.voxels:,} are allowed")


def _encoded(found: MaskScore, notes: list[str], kind: str) -> formats.Answer:
    if kind == formats.CSV:
        return formats.Answer(formats.scores_csv(found.slices, found.dice), formats.CSV, ".csv")
    content: dict[str, Any] = {"organ": found.organ.name, "mean": found.mean}
    content |= {"slices": list(found.slices), "dice": list(found.dice), "warnings": notes}
    return formats.Answer(formats.as_json(content), formats.JSON, ".json")


def _any_organ(scorer: Scorer) -> Any:
    """Returns an organ for which the model has a text embedding, to prepare the device."""
    from jaxseg.vocabulary import organs

    for organ in organs.ORGANS:
        try:
            return scorer.organ(organ.id)
        except ValueError:
            continue
    raise ValueError("the model that scores masks has no text embedding of any organ")
