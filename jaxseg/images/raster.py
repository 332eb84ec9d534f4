"""Opens PNG and JPEG files of any origin, and reads X-rays from them: metadata, orientation, 16 bits per channel."""

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from jaxseg.images.picture import MAX_PIXELS, ImageError, Picture, check_grey, check_size, luminance
from jaxseg.images.remarks import without_remarks

MAX_METADATA = 2**20  # bytes of one text, profile or other metadata chunk of a PNG file, also after inflating
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # first bytes of the files

_MAX_KEPT = 2**23  # bytes of all metadata of a PNG file
_MAX_FILE = 10 * MAX_PIXELS  # bytes of a PNG file without its large metadata: 16-bit RGBA, and its filters
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # chunks with a small first letter that are no metadata

# How Pillow reads 16 bits per channel: it keeps the high byte. The name on the right makes it keep the low byte, or
# for grey with opacity all four bytes as four channels.
_DEEP = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}

# EXIF orientation -> how the stored picture lies, and the function that turns it upright.
_TURNS: dict[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    2: ("mirrored", lambda x: x[:, ::-1]),
    3: ("upside down", lambda x: x[::-1, ::-1]),
    4: ("mirrored and upside down", lambda x: x[::-1]),
    5: ("mirrored and on its side", lambda x: x.swapaxes(0, 1)),
    6: ("on its side", lambda x: x[::-1].swapaxes(0, 1)),
    7: ("mirrored and on its side", lambda x: x[::-1, ::-1].swapaxes(0, 1)),
    8: ("on its side", lambda x: x[:, ::-1].swapaxes(0, 1)),
}


@contextlib.contextmanager
def open_raster(path: Path, formats: tuple[str, ...] = ("PNG", "JPEG")) -> Iterator[tuple[ImageFile, list[str]]]:
    """Opens a PNG or JPEG file whose size is allowed; its pixels are decoded when they are used.

    Args:
      path: the file.
      formats: those of Pillow that are accepted.

    Yields:
      The picture, and a list with notes for the user: metadata that were skipped, and Pillow's warnings, which
      are added also while the file is open.

    Raises:
      ImageError: the file is of another format, damaged or too large; the message does not name it. Errors in the body
        of the `with` statement that Pillow raises on damaged files become ImageError as well.
      OSError: the file cannot be read.
    """
    try:
        with (
            without_remarks() as notes,
            path.open("rb") as file,
            Image.open(_slim(file, notes), formats=formats) as image,
        ):
            check_size(image.height, image.width)
            yield image, notes
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a {' or '.join(formats).lower().replace('jpeg', 'jpg')} file, or damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the image is too large; at most {MAX_PIXELS:,} pixels can be read") from None
    except Exception as error:  # on damaged files Pillow raises errors of almost any type
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(f"damaged picture ({error})") from None


def read_raster(path: Path, intensity: str = "original", *, turn: bool | None = None) -> Picture:
    """Reads an X-ray from a PNG or JPEG file.

    Args:
      path: the file. Of several pictures in a JPEG (MPO) file, as telephones write them, the first is read.
      intensity: "clinical" turns the picture upright as its EXIF orientation says, and keeps the values of 16 bits per
        channel, colours as their brightness. All others read as the original does: the orientation is ignored, 16-bit
        grey is clipped at 255, and of 16-bit colours the high byte is kept; notes say so.
      turn: whether to apply the EXIF orientation; None: only if the intensity is "clinical".

    Returns:
      Pixels of (H, W, 3) uint8, or (H, W) uint16 or float32 with 16 bits per channel and "clinical".

    Raises:
      ImageError, OSError: as `open_raster`; also if a PNG file is animated.
    """
    clinical = intensity == "clinical"
    with open_raster(path) as (image, notes):
        notes += _of_several(image)
        raw = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
        image.load()
        image.info.pop("transparency", None)  # converting drops it with a warning
        if clinical and image.mode.startswith("I"):
            pixels = check_grey(np.asarray(image))
        elif clinical and raw in _DEEP:
            pixels = check_grey(_deep(path, np.asarray(image), raw))
        else:
            pixels = np.asarray(image.convert("RGB"))
            notes += _lost_bits(image, raw)
        orientation = _orientation(image, notes)
    if pixels.dtype == np.uint8 and (pixels == pixels[0, 0]).all():
        opacity = "; the file has an opacity channel, which is not read" if image.mode in ("LA", "RGBA") else ""
        notes.append(f"every pixel is the same{opacity}")
    turned = orientation in _TURNS and (clinical if turn is None else turn)
    if turned:
        pixels = np.ascontiguousarray(_TURNS[orientation][1](pixels))
    elif orientation in _TURNS:
        notes.append(
            f"by its EXIF orientation ({orientation}) the stored picture is {_TURNS[orientation][0]}; it was read as "
            "stored, as the original does, and its masks fit the stored pixels; --intensity clinical turns it upright"
        )
    return Picture(pixels, tuple(notes), turned=turned)


def check_upright(image: Image.Image) -> None:
    """Checks that the loaded picture of a mask or a slice, whose stored pixels are used, has no EXIF orientation.

    Raises:
      ImageError: it has one, so that other programs show it turned.
    """
    orientation = _orientation(image, [])
    if orientation != 1:
        raise ImageError(f"has the EXIF orientation {orientation}, with which viewers turn it; save it without")


def _of_several(image: Image.Image) -> list[str]:
    """Returns a note if a file holds several pictures, of which the first is the picture itself."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"the file has {frames} frames; an X-ray is one picture")
    return [f"the file holds {frames} pictures; the first was read"] * (frames > 1)


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """Returns the EXIF orientation of a loaded picture, 1 to 8; 1 if it is absent or not valid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception as error:  # Pillow does not check damaged EXIF data
        notes.append(
            f"the EXIF data are damaged and were ignored ({' '.join(str(error).split()) or type(error).__name__})"
        )
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _deep(path: Path, high: np.ndarray, raw: str) -> np.ndarray:
    """Returns the brightness of 16 bits per channel, (H, W); `high` holds the high bytes."""
    with open_raster(path) as (image, _):
        image.tile = [tile._replace(args=_DEEP[raw]) for tile in image.tile]
        low = np.asarray(image)
    if raw == "LA;16B":
        return low[..., 0].astype(np.uint16) << 8 | low[..., 1]
    return luminance(high[..., :3].astype(np.uint16) << 8 | low[..., :3])


def _lost_bits(image: Image.Image, raw: str) -> list[str]:
    """Returns a note if the values of a loaded picture have more bits than the original reads."""
    if raw in _DEEP:
        top = int(np.asarray(image)[..., :3].max())
        return [
            f"16 bits per channel were reduced to their high byte, of which the brightest is {top}, as the original "
            "does; --intensity clinical scales them by their range"
        ]
    top = int(np.asarray(image).max()) if image.mode.startswith("I") else 0
    if top <= 255:
        return []
    return [
        f"16-bit grey values up to {top} were clipped at 255, as the original does; --intensity clinical keeps them"
    ]


def _slim(file: BinaryIO, notes: list[str]) -> BinaryIO:
    """Returns a PNG file without large and damaged metadata, which Pillow refuses; any other file unchanged."""
    unread = _unread_metadata(file)
    size = file.seek(0, io.SEEK_END) - sum(end - start for start, end, _ in unread)
    file.seek(0)
    if not unread:
        return file
    if size > _MAX_FILE:
        raise ImageError(f"the file is too large; at most {_MAX_FILE:,} bytes besides its metadata can be read")
    content = io.BytesIO()
    for start, end, _ in unread:
        content.write(file.read(start - file.tell()))
        file.seek(end)
    content.write(file.read())
    content.seek(0)
    names = ", ".join(sorted({name for _, _, name in unread}))
    notes.append(f"metadata that are damaged or have more than {MAX_METADATA:,} bytes were skipped (PNG: {names})")
    return content


def _unread_metadata(file: BinaryIO) -> list[tuple[int, int, str]]:
    """Returns first byte, byte after the last, and name of the chunks of a PNG file with large or damaged metadata."""
    found, total, at, end = [], 0, len(PNG), file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(PNG)) != PNG:
        return []
    while at + 12 <= end:
        file.seek(at)
        head = file.read(8)
        name, start, at = head[4:], at, min(at + 12 + int.from_bytes(head[:4], "big"), end)
        if not name[:1].islower() or name in _OF_PIXELS:
            continue
        size = _inflated(file, name, at - start - 12)
        if size > MAX_METADATA or total + size > _MAX_KEPT:
            found.append((start, at, name.decode("latin-1")))
        else:
            total += size
    return found


def _inflated(file: BinaryIO, name: bytes, length: int) -> int:
    """Returns the size in bytes of a chunk, whose content comes next in the file, after inflating what is compressed.

    It is any number above `MAX_METADATA` if the chunk is larger than that, or is damaged.
    """
    if length > MAX_METADATA:
        return length
    content = file.read(length)
    if zlib.crc32(name + content) != int.from_bytes(file.read(4), "big"):
        return MAX_METADATA + 1
    if name not in (b"zTXt", b"iTXt", b"iCCP"):
        return length
    _, _, content = content.partition(b"\0")  # keyword
    if name == b"iTXt":  # compressed or not, method, language, translated keyword
        if content[:1] != b"\1":
            return length
        content = content[1:2] + content[2:].split(b"\0", 2)[-1]
    if content[:1] != b"\0":  # the only method
        return MAX_METADATA + 1
    try:
        return length + len(zlib.decompressobj().decompress(content[1:], MAX_METADATA + 1))
    except zlib.error:
        return MAX_METADATA + 1
