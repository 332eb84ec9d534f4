"""Masks over HTTP: a denoising autoencoder restores the shape of a mask."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from jaxseg.images.elements import check_scans
from jaxseg.images.raster import JPEG, PNG
from jaxseg.masks.read import open_masks
from jaxseg.post_dae.denoise import Denoiser
from jaxseg.post_dae.mask_files import FileDenoiser, Loaded, Restored
from jaxseg.service import formats
from jaxseg.service.device import Kind
from jaxseg.service.engine import Engine, Held, refusing
from jaxseg.service.limits import Limits, Refused
from jaxseg.service.upload import Received, Upload
from jaxseg.volumes.nifti import read_nifti, read_shape
from jaxseg.volumes.pair import check_mask

KIND = "denoise"
FORMATS = (formats.PNG, formats.NPZ, formats.VIEW)
_STARTS = {PNG: ".png", JPEG: ".jpg", b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz"}
_NIFTI = (b"\x1f\x8b", b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")


def denoise_kind(denoiser: Denoiser) -> Kind:
    """Returns how the device restores masks."""
    mask = np.zeros(denoiser.size, bool)
    mask[: max(1, denoiser.size[0] // 2)] = True
    return Kind(
        FileDenoiser(denoiser).restore,
        denoiser.batch_size,
        lambda: denoiser.probabilities([mask] * denoiser.channels),
    )


class Masks:
    """Answers requests about masks.

    Args:
      engine: does the work.
      denoiser: restores; None: requests are refused.
    """

    def __init__(self, engine: Engine, denoiser: Denoiser | None):
        self.engine = engine
        self.reader = None if denoiser is None else FileDenoiser(denoiser)

    async def denoise(self, request: Request) -> Held:
        """`POST /v1/denoise`: the restored mask, in the format that the client accepts."""
        reader = self.reader
        if reader is None:
            raise Refused(404, "this service has no model that restores masks; start it with --denoise")
        kind = formats.accepted(request.headers.get("accept", ""), FORMATS)

        async def job(upload: Upload) -> Response:
            received = upload.file("mask")
            with refusing(received.path.name):
                read = functools.partial(_read, reader, received, self.engine.limits)
                loaded = await self.engine.in_pool("decode", read)
            restored = await self.engine.device.compute(KIND, loaded)
            answer = await self.engine.in_pool("encode", _ENCODERS[kind], loaded, restored)
            headers = {"Content-Disposition": formats.disposition(received.name, answer)}
            return Response(answer.body, media_type=answer.kind, headers=headers)

        return await self.engine.work(request, job, kind=KIND, files={"mask": 1})


def _read(reader: FileDenoiser, received: Received, limits: Limits) -> Loaded:
    """Returns the masks of a file, whose kind and size are checked before it is decoded."""
    path = _named(received.path)
    if path.suffix == ".nii":
        path = _flat(path, limits)
    check_scans(path)
    size = open_masks(path).size
    if size[0] * size[1] > limits.pixels:
        text = f"the mask is {size[0]} x {size[1]}; up to {limits.pixels:,} pixels are allowed: send a smaller one"
        raise Refused(413, text)
    return reader.read(path)


def _named(path: Path) -> Path:
    """Returns a file under a name whose suffix says what its first bytes are."""
    with path.open("rb") as file:
        head = file.read(8)
    suffix = next((suffix for start, suffix in _STARTS.items() if head.startswith(start)), "")
    suffix = suffix or (".nii" if head.startswith(_NIFTI) else "")
    if not suffix:
        raise Refused(400, "the file is neither PNG, JPEG, NumPy nor NIfTI; its first bytes decide, not its name")
    return path.rename(path.with_name(f"{path.name}{suffix}"))


def _flat(path: Path, limits: Limits) -> Path:
    """Writes the one slice of a NIfTI file as a NumPy file, and returns its path."""
    shape = read_shape(path)
    if min(shape) != 1 or shape[0] != 1 or shape[1] * shape[2] > limits.pixels:
        raise Refused(422, f"the NIfTI file is {' x '.join(map(str, shape))}; a mask of one slice is needed")
    found = path.with_suffix(".npy")
    np.save(found, check_mask(read_nifti(path)).array[0])
    return found


def _only(restored: dict[int, np.ndarray], loaded: Loaded, restoration: Restored) -> np.ndarray:
    """Returns the restored mask if the file holds one, and (K, H, W) otherwise; raises Refused if nothing was."""
    if not restored:
        raise Refused(422, "; ".join(restoration.notes) or "nothing was restored")
    masks = [restored.get(k, mask) for k, mask in loaded.chosen.items()]
    return masks[0] if len(masks) == 1 else np.stack(masks)


def _png(loaded: Loaded, restored: Restored) -> formats.Answer:
    mask = _only(restored.masks, loaded, restored)
    if mask.ndim == 3:
        raise Refused(406, f"a PNG file holds one mask, these are {len(mask)}; accept {formats.NPZ}")
    return formats.Answer(formats.mask_png(mask), formats.PNG, ".png")


def _npz(loaded: Loaded, restored: Restored) -> formats.Answer:
    return formats.Answer(formats.mask_npz(_only(restored.masks, loaded, restored)), formats.NPZ, ".npz")


def _view(loaded: Loaded, restored: Restored) -> formats.Answer:
    from jaxseg.report.view import change_view

    names = dict(enumerate(loaded.names)) if len(loaded.chosen) > 1 else dict.fromkeys(loaded.chosen, "mask")
    before = {names[k]: mask > 0 for k, mask in loaded.chosen.items()}
    after = {names[k]: mask for k, mask in restored.masks.items()}
    return formats.Answer(formats.as_json(change_view(before, after, restored.notes)), formats.VIEW, ".json")


_ENCODERS: dict[str, Callable[[Loaded, Restored], formats.Answer]] = {
    formats.PNG: _png,
    formats.NPZ: _npz,
    formats.VIEW: _view,
}
