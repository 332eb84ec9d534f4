"""Writes pictures to files, whole or not at all."""

import io
from pathlib import Path

from PIL import Image

from jaxseg.files import atomic_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture as its suffix says, one of `FORMATS`; a file at `path` is replaced."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} must end in {', '.join(FORMATS)}")
    content = io.BytesIO()  # Pillow, given a file, passes over short writes: a full disk would cut the picture
    picture.save(content, kind, **({"quality": 92} if kind == "JPEG" else {}))
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.getvalue())
