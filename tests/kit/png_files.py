"""Writes PNG files from their chunks, of kinds that Pillow does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # number of channels -> colour type


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, rows: bytes, *, colour=0, bits=8, extra=b"", after=b"") -> bytes:
    """Returns a file of any declared size; `extra` and `after` are chunks before and after the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return SIGNATURE + chunk(b"IHDR", header) + extra + pixels + after + chunk(b"IEND", b"")


def write_png(path: Path, array: np.ndarray, **chunks: bytes) -> Path:
    """Writes (H, W) or (H, W, channels) uint8 or uint16, each row with the filter of PNG that its number chooses."""
    planes = array if array.ndim == 3 else array[..., None]
    height, width, channels = planes.shape
    step = channels * planes.dtype.itemsize  # bytes per pixel
    lines = planes.astype(planes.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    left = np.pad(lines, ((0, 0), (step, 0)))[:, : lines.shape[1]]
    above = np.pad(lines, ((1, 0), (0, 0)))[:height]
    average = ((left.astype(int) + above) // 2).astype(np.uint8)
    filtered = [lines, lines - left, lines - above, lines - average]
    rows = b"".join(bytes([i % 4]) + filtered[i % 4][i].tobytes() for i in range(height))
    bits = 8 * planes.dtype.itemsize
    path.write_bytes(png(height, width, rows, colour=COLOURS[channels], bits=bits, **chunks))
    return path
