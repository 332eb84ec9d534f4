"""Tests that every output type holds the same masks in the original's layout, is complete and stays in its folder."""

import dataclasses
import errno
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO

from jaxseg.masks.write import WRITERS, encode_bits, file_names, merge_coco, output_path

FORMATS = [kind for kind in WRITERS if kind != "dicom-seg"]  # DICOM SEG has its own tests

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools raises it
HOSTILE = ("../../x", "a/b", "", "CON", "x" * 300, "x" * 301, "a_b", "A/B", "..", ".", "a\nb", "a\0b", "/etc", "~")


@dataclasses.dataclass
class FakeMasks:
    """(K, H, W) bool masks with the attributes that the writers need."""

    masks: np.ndarray
    names: tuple[str, ...]
    indices: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.masks.shape[1:]

    def mask(self, k: int) -> np.ndarray:
        return self.masks[k]

    def packed_mask(self, k: int) -> np.ndarray:
        return np.packbits(self.masks[k], axis=1)


def discs(names=("heart", "empty", "right lung", "spine"), size=(203, 317), indices=None) -> FakeMasks:
    """Returns one disc per name and an empty mask for "empty"; discs are smooth, so that JPEG errors show at edges."""
    y, x = np.ogrid[: size[0], : size[1]]
    centres = np.random.default_rng(0).integers(40, 160, (len(names), 2))
    masks = [(y - cy) ** 2 + (x - cx) ** 2 < 60**2 for cy, cx in centres]
    masks = np.stack([mask & (name != "empty") for mask, name in zip(masks, names, strict=True)])
    return FakeMasks(masks, tuple(names), tuple(indices or range(len(names))))


def write(masks, base, output_type, categories=None):
    categories = categories or [f"class {i}" for i in range(max(masks.indices) + 1)]
    path = WRITERS[output_type](masks, base, source="some/dir/study.001.png", categories=categories)
    assert path == output_path(base, output_type)
    return path


def read_back(path, masks, output_type) -> np.ndarray:
    if output_type == "npy":
        return np.load(path)
    if output_type == "npz":
        with np.load(path) as archive:
            assert archive.files == ["arr_0"]
            return archive["arr_0"]
    if output_type == "json":
        entries = {a["category_id"]: a for a in json.loads(path.read_text())["annotations"]}
        empty = np.zeros(masks.size, bool)
        rles = [entries[i]["segmentation"] if i in entries else None for i in masks.indices]
        return np.stack([empty if rle is None else reference.decode(rle).astype(bool) for rle in rles])
    pictures = []
    for name in masks.names:
        with Image.open(path / f"{name}.{output_type}") as image:
            pictures.append(np.asarray(image) if output_type == "png" else np.asarray(image) >= 128)
    return np.stack(pictures)


@pytest.mark.parametrize("output_type", FORMATS)
@pytest.mark.parametrize("size", [(203, 317), (300, 256)])
def test_every_output_type_is_read_back_as_the_same_masks(tmp_path, output_type, size):
    masks = discs(size=size, indices=(7, 3, 0, 12))
    path = write(masks, tmp_path / "study.001", output_type)
    np.testing.assert_array_equal(read_back(path, masks, output_type), masks.masks)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("output_type", FORMATS)
def test_a_second_write_replaces_the_first_as_a_whole(tmp_path, output_type):
    write(discs(("heart", "empty", "right lung", "spine")), tmp_path / "a", output_type)
    masks = discs(("spine",))
    path = write(masks, tmp_path / "a", output_type)
    np.testing.assert_array_equal(read_back(path, masks, output_type), masks.masks)
    if path.is_dir():
        assert os.listdir(path) == [f"spine.{output_type}"]


@pytest.mark.slow
def test_files_equal_those_of_the_original(kit, tmp_path):
    golden = json.loads((kit.folder / "goldens" / "cxas_writers.json").read_text())
    phantom = json.loads((kit.folder / "phantoms" / "phantoms.json").read_text())["awkward"]
    labels = json.loads((kit.folder / "facts" / "cxas_labels.json").read_text())["labels"]
    shapes = [phantom["shapes"].get(str(i), []) for i in range(159)]
    masks = FakeMasks(kit.fill.rasterise(shapes, phantom["height"], phantom["width"]), tuple(labels), tuple(range(159)))
    for output_type, expected in golden["writers"].items():
        folder = tmp_path / output_type
        folder.mkdir()
        path = write(masks, folder / "study.001", output_type)
        found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        assert len(found) == expected["n_files"]
        assert found[: len(expected["first"])] == expected["first"]
        if "pillow_mode" in expected:
            with Image.open(folder / found[0]) as image:
                assert image.mode == expected["pillow_mode"]
                assert list(image.size) == expected["size"]
        else:
            content = read_back(path, masks, output_type)
            assert content.dtype == expected["dtype"]
            assert content.shape == (159, 512, 512)
        if expected.get("values") == [0, 1]:
            np.testing.assert_array_equal(read_back(path, masks, output_type), masks.masks)
    document = json.loads(write(masks, tmp_path / "study.001", "json", labels).read_text())
    assert golden["json"]["file_written"] == ["study.001.json"]
    assert list(document) == golden["json"]["top_level_keys"]
    assert document["annotations"] == golden["json"]["annotations"]
    assert len(document["categories"]) == golden["json"]["n_categories"]
    assert document["categories"][:2] == golden["json"]["categories_first2"]
    (original,) = golden["json"]["images"][0]  # nested in the original, flat here as COCO's readers need it
    assert document["images"] == [original | {"height": 512, "width": 512}]


def test_numpy_files_can_be_memory_mapped(tmp_path):
    masks = discs()
    mapped = np.load(write(masks, tmp_path / "a", "npy"), mmap_mode="r")
    np.testing.assert_array_equal(mapped[2], masks.masks[2])


@pytest.mark.parametrize("output_type", FORMATS)
def test_hostile_labels_stay_in_the_folder_and_distinct(tmp_path, output_type):
    masks = discs(HOSTILE, size=(64, 64))
    base = tmp_path / "in" / "here" / "study"
    base.parent.mkdir(parents=True)
    path = write(masks, base, output_type, categories=HOSTILE)
    assert [p.name for p in base.parent.iterdir()] == [path.name]
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == ["here"]
    if path.is_dir():
        assert len(list(path.iterdir())) == len(HOSTILE)
        np.testing.assert_array_equal(
            read_back(path, dataclasses.replace(masks, names=file_names(HOSTILE)), output_type), masks.masks
        )
    else:
        np.testing.assert_array_equal(read_back(path, masks, output_type), masks.masks)


def test_colliding_labels_get_numbers_and_others_stay():
    assert file_names(["heart", "rib_cartilage", "C7"]) == ["heart", "rib_cartilage", "C7"]
    assert file_names(["a/b", "a_b", "A\\B", "a_b_2"]) == ["a_b", "a_b_2", "A_B_3", "a_b_2_2"]
    names = file_names(["x" * 300] * 200)
    assert len({name.lower() for name in names}) == 200
    assert max(map(len, names)) < 210


def test_a_merged_file_has_unique_ids_and_loads_in_pycocotools(tmp_path):
    categories = [f"class {i}" for i in range(13)]
    sets = [discs(indices=(7, 3, 0, 12)), discs(("spine",), size=(190, 180), indices=(11,)), discs(("empty",))]
    parts = [write(masks, tmp_path / f"{i}", "json", categories) for i, masks in enumerate(sets)]
    path = merge_coco(parts, tmp_path / "all.json", categories)
    document = json.loads(path.read_text())
    assert list(document) == list(json.loads(parts[0].read_text()))
    loaded = COCO(str(path))
    assert sorted(loaded.imgs) == [1, 2, 3]
    assert len(loaded.anns) == len(document["annotations"]) == 4
    for i, masks in enumerate(sets, 1):
        for k, index in enumerate(masks.indices):
            found = [loaded.annToMask(a) for a in loaded.imgToAnns[i] if a["category_id"] == index]
            assert len(found) == masks.masks[k].any()
            if found:
                np.testing.assert_array_equal(found[0].astype(bool), masks.masks[k])
    nothing = json.loads(merge_coco([], tmp_path / "none.json", categories).read_text())
    assert (nothing["images"], nothing["annotations"]) == ([], [])


FULL_DISK = """
import pathlib, resource, signal, sys
sys.path.insert(0, sys.argv[3])
from test_write import discs, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
masks = discs(tuple("abcdefgh"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    write(masks, pathlib.Path(sys.argv[1]) / "a", sys.argv[2])
except OSError as error:
    sys.exit(error.errno)
"""


OTHER_LIMITS = [("npz", 999), ("json", 99), ("png", 99), ("jpg", 999)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output_type", "limit"), [("npy", 9000), *(pytest.param(*case, marks=pytest.mark.full) for case in OTHER_LIMITS)]
)
def test_if_a_file_cannot_grow_nothing_is_left_and_the_old_result_stays(tmp_path, output_type, limit):
    here = os.path.dirname(__file__)
    for expected in ([], [output_path(tmp_path / "a", output_type).name]):
        command = [sys.executable, "-c", FULL_DISK, tmp_path, output_type, here, str(limit)]
        assert subprocess.run(command, check=False).returncode == errno.EFBIG
        assert os.listdir(tmp_path) == expected
        write(discs(), tmp_path / "a", output_type)
    read_back(output_path(tmp_path / "a", output_type), discs(), output_type)


@pytest.mark.parametrize("output_type", FORMATS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_if_the_disk_is_full_at_the_end_nothing_is_left(tmp_path, monkeypatch, output_type, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(discs(), tmp_path / "a", output_type)
    assert os.listdir(tmp_path) == []


def test_writers_in_many_threads_are_independent(tmp_path):
    masks = [discs((f"{i}",)) for i in range(16)]
    threads = [
        threading.Thread(target=write, args=(masks[i], tmp_path / f"{i}", output_type))
        for i in range(16)
        for output_type in ("npy", "png")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(os.listdir(tmp_path)) == 32
    for i in range(16):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), masks[i].masks)


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.mode == "1"
        return np.asarray(image)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.02, 0.5, 1]))
def test_pillow_reads_one_bit_png_files_back(height, width, seed, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    np.testing.assert_array_equal(decoded(encode_bits(np.packbits(mask, axis=1), width)), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (1, 9), (5, 7), (300, 1), (1, 3000), (2373, 2371)])
def test_one_bit_png_files_of_extreme_sizes_are_read_back(shape):
    mask = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 3 == 0
    np.testing.assert_array_equal(decoded(encode_bits(np.packbits(mask, axis=1), shape[1])), mask)


def test_bits_beyond_the_width_are_ignored():
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
    with pytest.raises(ValueError, match="2 bytes per row do not hold"):
        encode_bits(np.zeros((4, 2), np.uint8), width)
