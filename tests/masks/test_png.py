"""One-bit PNG files hold the mask that was packed, for Pillow and for any strict reader."""

import io
import struct
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from jaxseg.masks.png import encode_bits


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.mode == "1"
        return np.asarray(image)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.02, 0.5, 1]))
def test_pillow_reads_the_mask_back(height, width, seed, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    np.testing.assert_array_equal(decoded(encode_bits(np.packbits(mask, axis=1), width)), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (1, 9), (5, 7), (300, 1), (1, 3000), (2373, 2371)])
def test_sizes_at_the_edges_are_read_back(shape):
    mask = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 3 == 0
    np.testing.assert_array_equal(decoded(encode_bits(np.packbits(mask, axis=1), shape[1])), mask)


def test_bits_beyond_the_width_do_not_show():
    packed = np.full((3, 2), 255, np.uint8)
    assert decoded(encode_bits(packed, 9)).shape == (3, 9)
    assert decoded(encode_bits(packed, 9)).all()


def test_rows_that_are_not_contiguous_in_memory_are_written_too():
    mask = np.random.default_rng(0).random((20, 40)) < 0.5
    packed = np.packbits(mask, axis=1)
    np.testing.assert_array_equal(decoded(encode_bits(np.asfortranarray(packed), 40)), mask)
    np.testing.assert_array_equal(decoded(encode_bits(packed[::-2], 40)), mask[::-2])


def test_every_chunk_has_its_check_sum_and_the_data_its_exact_length():
    content = encode_bits(np.packbits(np.eye(13, 21, dtype=bool), axis=1), 21)
    kinds, place = [], 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", content, place + 8 + length) == (zlib.crc32(kind + data),)
        kinds.append(kind)
        if kind == b"IDAT":
            assert len(zlib.decompress(data)) == 13 * (1 + 3)
        place += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize("width", [0, 8, 17, 100])
def test_a_width_that_does_not_fit_the_rows_is_refused(width):
    with pytest.raises(ValueError, match="2 bytes a row do not hold"):
        encode_bits(np.zeros((4, 2), np.uint8), width)
